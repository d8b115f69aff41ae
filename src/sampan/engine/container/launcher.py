"""Brings a container's process to life, and gives back what it held afterwards.

Everything is taken under one undo stack: when any step fails, what the steps before it took is returned.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack

import msgspec

from sampan.base.crashpoints import crash_point
from sampan.base.errors import InvalidArgument, SystemFailure
from sampan.engine.collaborators import LaunchFacts, MountResolver, SpecSource
from sampan.engine.files.trees import remove_tree
from sampan.engine.ports import Attachment, Runtime, Supervised
from sampan.model.container import Container
from sampan.model.launch import LaunchRequest
from sampan.runtime.errors import StartFailed
from sampan.store.containers import RunRecord

from .connections import Connected, Connections
from .joining import joined_pids
from .layout import Layout
from .links import link_environment, resolve_links
from .naming import links_by_name
from .registry import Entry, Registry

EXIT_CANNOT_EXECUTE = 126
EXIT_NOT_FOUND = 127


class StartRejected(InvalidArgument):
    """The command cannot be started: 400, and the client derives its exit status from Docker's words."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StartBroken(SystemFailure):
    """The host could not start it."""


def start_error(failure: StartFailed) -> StartRejected | StartBroken:
    """Docker's words around the runtime's: clients look for "executable file not found" and such."""
    text = (
        "failed to create task for container: failed to create shim task: OCI runtime create failed: "
        f"unable to start container process: error during container init: {failure.message}: unknown"
    )
    if failure.message.endswith("is a directory"):
        text += ": permission denied"  # what Docker adds, because clients look for it
    if failure.exit_code in (EXIT_CANNOT_EXECUTE, EXIT_NOT_FOUND):
        return StartRejected(text, failure.exit_code)
    return StartBroken(text)


class Launcher:
    """Starts processes; keeps no state of its own."""

    def __init__(
        self,
        registry: Registry,
        layout: Layout,
        runtime: Runtime,
        connections: Connections,
        mounts: MountResolver,
        spec: SpecSource,
    ) -> None:
        self._registry = registry
        self._layout = layout
        self._runtime = runtime
        self._connections = connections
        self._mounts = mounts
        self._spec = spec

    async def launch(
        self, entry: Entry, attachments: Sequence[Attachment] = ()
    ) -> tuple[Supervised, RunRecord]:
        """Returns when the container's program runs.

        Raises StartRejected (exit_code 126, 127), StartBroken, what the network drivers and the mounts
        raise, NotFound or Conflict (a container to share with); then nothing is left.
        """
        record = entry.record
        async with AsyncExitStack() as undo:
            taken = undo.enter_context(ExitStack())
            joined = joined_pids(record, self._registry)
            linked = [] if links_by_name(record) else resolve_links(record, self._registry)
            connected = self._connections.connect(record, taken)
            self._connections.publish(record, connected.endpoints, "connect")
            taken.callback(self._connections.publish, record, connected.endpoints, "disconnect")
            crash_point("container.start.connected")
            try:
                resolver = self._connections.naming.describe(record, connected.endpoints, linked)
            except OSError as error:
                raise StartBroken(f"write the files of the network: {error}") from error
            mounts = await self._mounts.prepare(record)
            undo.push_async_callback(self._mounts.finish, record)
            crash_point("container.start.mounted")
            taken.callback(shutil.rmtree, self._layout.run_dir(record.id), ignore_errors=True)
            request = self._request(
                msgspec.structs.replace(record, mounts=mounts),
                connected,
                joined,
                link_environment(record, linked),
                resolver,
            )
            try:
                process = await self._runtime.launch(request, attachments)
            except StartFailed as failure:
                raise start_error(failure) from failure
            taken.pop_all()
            undo.pop_all()
        crash_point("container.start.launched")
        self._mounts.launched(record.id)
        self._connections.naming.launched(record.id, process.pid)
        cgroup_path = request.spec.linux.cgroups_path
        return process, RunRecord(
            cgroup_path=cgroup_path, endpoints=connected.endpoints, ports=connected.ports
        )

    def plan(self, entry: Entry) -> LaunchRequest:
        """What the next start would ask of the runtime, without its networks."""
        record = entry.record
        linked = [] if links_by_name(record) else resolve_links(record, self._registry)
        nowhere = Connected(endpoints={}, links=[], ports={})
        return self._request(
            record, nowhere, joined_pids(record, self._registry), link_environment(record, linked)
        )

    async def release(self, record: Container, run: RunRecord | None) -> None:
        """The process has ended: addresses, ports and mounts are free for the next start."""
        try:
            self._connections.disconnect(record, run)
        finally:
            await self._mounts.finish(record)

    async def clear(self, container_id: str, process: Supervised | None) -> None:
        """Wait for the monitor's own clean-up, then remove the run directory. Idempotent."""
        if process is not None:
            await process.released()
        await remove_tree(self._layout.run_dir(container_id))

    def _request(
        self,
        record: Container,
        connected: Connected,
        joined: dict[str, int],
        link_env: list[str],
        resolver: str = "",
    ) -> LaunchRequest:
        layout = self._layout
        mode = record.host.network_mode
        other = self._registry.find(mode.partition(":")[2]) if mode.startswith("container:") else None
        files_of = record.id
        if other is not None:
            # its name goes with its network: both containers read the same /etc/hosts
            files_of = other.id
            names = {"hostname": other.record.config.hostname, "domainname": other.record.config.domainname}
            config = msgspec.structs.replace(record.config, **names)
            record = msgspec.structs.replace(record, config=config)
        facts = LaunchFacts(
            run_dir=layout.run_dir(record.id),
            container_dir=layout.container(record.id),
            lower=layout.lower(record.layer_ids),
            upper=layout.upper(record.id),
            work=layout.work(record.id),
            log_path=layout.log(record.id),
            hostname_path=layout.hostname(files_of),
            hosts_path=layout.hosts(files_of),
            resolv_conf_path=layout.resolv_conf(files_of),
            links=connected.links,
            resolver=resolver,
            joined_pids=joined,
            link_env=link_env,
        )
        return self._spec.launch(record, facts)
