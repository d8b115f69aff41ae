"""After a restart of the daemon: find what lives, account for what ended, remove what was left half done.

The store says what is wanted, the run root and the kernel say what is. An end that nobody watched goes
through the same step as one that was watched. Nothing here depends on how the last daemon ended.
"""

from __future__ import annotations

import asyncio
import logging
import os

import msgspec

from sampan.base.clock import now_ns
from sampan.base.errors import SampanError
from sampan.base.ids import ID_PATTERN
from sampan.engine.collaborators import ImageSource, MountResolver
from sampan.engine.files.trees import remove_tree
from sampan.engine.ports import Cgroups, Runtime, Supervised
from sampan.engine.streams.execs import Execs, kill_if_alive
from sampan.model.launch import ExitStatus
from sampan.store.containers import StoredContainer

from .connections import Connections
from .ledger import Ledger
from .lifecycle import AutoRemove, Effect, Phase, ScheduleRestart, starts_at_boot
from .registry import Entry
from .supervision import Supervision

log = logging.getLogger(__name__)

UNKNOWN_EXIT = 137
"""Neither the process nor its exit status was found: the machine went down, or everything was killed."""
DOOMED_SUFFIX = ".removing"
KILL_PATIENCE_S = 10.0


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of the engine that hold something of the host for a container."""

    runtime: Runtime
    cgroups: Cgroups
    connections: Connections
    mounts: MountResolver


class Recovery:
    """Run once, before the first request is answered."""

    def __init__(
        self, ledger: Ledger, supervision: Supervision, execs: Execs, images: ImageSource, host: Host
    ) -> None:
        self._ledger = ledger
        self._supervision = supervision
        self._execs = execs
        self._images = images
        self._host = host

    def load(self, stored: list[StoredContainer]) -> None:
        """Fill the registry. Everything else needs it."""
        layout = self._ledger.layout
        for directory in (layout.containers, layout.layers, layout.running, layout.execs):
            os.makedirs(directory, 0o711, exist_ok=True)
        self._ledger.registry.load(stored)

    async def recover(self) -> None:
        """Afterwards the registry agrees with the host. Networks and volumes can then let go of what no
        container holds."""
        await self._finish_removals()
        for entry in self._ledger.registry:
            if entry.run is not None:
                await self._find_again(entry)
        await self._clear_run_root()
        await self._execs.recover(_names(self._ledger.layout.execs))
        await self._recall_images()

    async def _recall_images(self) -> None:
        """Digests and sizes that inspect shows beside the record; an image may be gone."""
        known: dict[str, tuple[str, int]] = {"": ("", 0)}
        for entry in self._ledger.registry:
            image_id = entry.record.image_id
            if image_id not in known:
                try:
                    image = await self._images.resolve(image_id)
                    known[image_id] = (image.manifest_digest, image.size_bytes)
                except SampanError:
                    known[image_id] = ("", 0)
            entry.manifest_digest, entry.image_size_bytes = known[image_id]

    def start_wanted(self) -> None:
        """Start what restart policies want running, in the background; and remove what ``--rm`` meant to."""
        for entry in self._ledger.registry:
            if entry.run is not None or entry.life.phase in ("dead", "removing"):
                continue
            record = entry.record
            waits = entry.life.phase == "restarting"
            if waits or starts_at_boot(record.host.restart_policy, entry.life.exit):
                self._supervision.start_later(entry)
            elif record.host.auto_remove and entry.life.phase == "exited":
                self._supervision.remove_later(entry)

    # --- containers that were running ---------------------------------------------------------------------

    async def _find_again(self, entry: Entry) -> None:
        host = self._host
        assert entry.run is not None
        host.mounts.recovered(entry.record)
        host.connections.recover(entry.record, entry.run)
        found = await host.runtime.recover(entry.id, self._ledger.layout.run_dir(entry.id))
        if found is None:
            log.warning("container %s: neither its process nor its exit status was found", entry.id)
            host.cgroups.kill(entry.run.cgroup_path)
            host.cgroups.remove(entry.run.cgroup_path)
            found = ExitStatus(exit_code=UNKNOWN_EXIT, finished_ns=now_ns())
        if isinstance(found, ExitStatus):
            effects = await self._supervision.ended(entry, found)
            await remove_tree(self._ledger.layout.run_dir(entry.id))
            self._supervision.perform(entry, _not_restarts(effects))
            return
        phase: Phase = "paused" if entry.run.paused else "running"
        if phase == "running":
            host.cgroups.thaw(entry.run.cgroup_path)  # a pause that was never recorded did not take place
        entry.life = msgspec.structs.replace(entry.life, phase=phase, pid=found.pid)
        entry.changed()
        host.connections.naming.launched(entry.id, found.pid)
        self._supervision.watch(entry, found)

    # --- half done things ---------------------------------------------------------------------------------

    async def _finish_removals(self) -> None:
        """Directories: renamed ones belong to removals that had begun, unknown ones to creations that
        never ended, and a container without one was being removed."""
        layout = self._ledger.layout
        present = set(_names(layout.containers))
        for entry in self._ledger.registry:
            if entry.id not in present and entry.run is None:
                log.info("container %s: finishing its removal", entry.id)
                await remove_tree(layout.container(entry.id) + DOOMED_SUFFIX)
                self._ledger.delete(entry)
                anonymous = entry.record.host.auto_remove
                await self._host.mounts.release(entry.id, entry.record.mounts, anonymous=anonymous)
        for name in present:
            bare = name.removesuffix(DOOMED_SUFFIX)
            if not ID_PATTERN.match(bare):
                continue
            entry_or_none = self._ledger.registry.find_id(bare)
            if name != bare or entry_or_none is None:
                await remove_tree(os.path.join(layout.containers, name))

    async def _clear_run_root(self) -> None:
        """Run directories without a running container: a start that was never recorded, or the rest of an
        end that was."""
        layout = self._ledger.layout
        for name in _names(layout.running):
            entry = self._ledger.registry.find_id(name)
            if entry is not None and entry.run is not None:
                continue
            found = await self._host.runtime.recover(name, layout.run_dir(name))
            if found is not None and not isinstance(found, ExitStatus):
                log.info("container %s: ending a start that was never recorded", name)
                await _end(found)
            await remove_tree(layout.run_dir(name))


async def _end(process: Supervised) -> None:
    kill_if_alive(process)
    async with asyncio.timeout(KILL_PATIENCE_S):
        await process.wait()
        await process.released()


def _not_restarts(effects: tuple[Effect, ...]) -> tuple[Effect, ...]:
    """Restarts and removals are decided for all containers together, in ``start_wanted``."""
    return tuple(effect for effect in effects if not isinstance(effect, (ScheduleRestart, AutoRemove)))


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
