"""The container service: one method for each of Docker's verbs, each a few lines over its own module."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence

import msgspec

from sampan.base.errors import Conflict, InvalidArgument, SystemFailure
from sampan.engine.files.sizes import tree_size_bytes
from sampan.engine.streams.attach import AttachSession
from sampan.engine.streams.attachments import Attachments
from sampan.engine.streams.detach import parse_detach_keys
from sampan.engine.streams.logreader import LogReader
from sampan.model.container import ContainerConfig, EndpointConfig, HostConfig

from .create import Creator
from .ledger import Ledger
from .lifecycle import NotRemovable, NotRunning
from .listing import ImageMatcher, Listing
from .registry import Entry
from .remove import Remover
from .revise import Reviser
from .stop import Stopper
from .supervision import Supervision
from .top import Top
from .views import ContainerView, HostConfigUpdate, PruneResult, TopResult, WaitResult


class Verbs(msgspec.Struct, frozen=True, kw_only=True):
    """The modules behind the service."""

    creator: Creator
    supervision: Supervision
    stopper: Stopper
    remover: Remover
    reviser: Reviser
    top: Top
    logs: LogReader


class Containers:
    """``ref`` is a full id, a name, or a unique prefix of an id; unknown ones raise NotFound."""

    def __init__(
        self, ledger: Ledger, verbs: Verbs, attachments: Attachments, ancestors: ImageMatcher
    ) -> None:
        self._ledger = ledger
        self._verbs = verbs
        self._attachments = attachments
        self._ancestors = ancestors
        verbs.supervision.auto_remove = verbs.remover.auto_remove
        verbs.supervision.sweep_group = verbs.stopper.sweep_group

    def require(self, ref: str) -> Entry:
        """For the services beside this one (archive, stats): the entry. Raises NotFound."""
        return self._ledger.registry.require(ref)

    async def create(
        self,
        name: str,
        config: ContainerConfig,
        host: HostConfig,
        networks: dict[str, EndpointConfig],
        platform: str = "",
    ) -> tuple[str, list[str]]:
        """The id and warnings."""
        return await self._verbs.creator.create(name, config, host, networks, platform)

    async def inspect(self, ref: str, size: bool = False) -> ContainerView:
        view = self._ledger.view(self.require(ref))
        return await self.with_size(view) if size else view

    @property
    def generation(self) -> int:
        """Another number after each change of any container: what was listed at the same one still holds."""
        return Entry.generation

    def list(
        self,
        all: bool = False,  # noqa: A002
        limit: int = 0,
        size: bool = False,
        filters: Mapping[str, Sequence[str]] | None = None,
    ) -> list[ContainerView]:
        """Newest first. ``size`` measures here and now: for many containers, await :meth:`with_size`."""
        listing = Listing(self._ledger.registry, filters or {}, self._ancestors, all_=all)
        views = [self._ledger.view(entry) for entry in listing.select(limit)]
        if listing.aliases:
            views = [_with_aliases(view, listing.aliases) for view in views]
        return [self._sized(view, self._size_rw(view)) for view in views] if size else views

    async def with_size(self, view: ContainerView) -> ContainerView:
        """The view with its sizes, measured in a thread."""
        return self._sized(view, await asyncio.to_thread(self._size_rw, view))

    def _size_rw(self, view: ContainerView) -> int:
        return tree_size_bytes(self._ledger.layout.upper(view.record.id))

    def _sized(self, view: ContainerView, size_rw: int) -> ContainerView:
        entry = self._ledger.registry.find_id(view.record.id)
        image_size = entry.image_size_bytes if entry is not None else 0
        return msgspec.structs.replace(view, size_rw=size_rw, size_root_fs=size_rw + image_size)

    async def start(self, ref: str, detach_keys: str = "") -> None:
        await self._verbs.supervision.start(self.require(ref))

    async def stop(self, ref: str, timeout_s: int | None = None, signal: str = "") -> None:
        await self._verbs.stopper.stop(self.require(ref), timeout_s, signal)

    async def restart(self, ref: str, timeout_s: int | None = None, signal: str = "") -> None:
        await self._verbs.stopper.restart(self.require(ref), timeout_s, signal)

    async def kill(self, ref: str, signal: str = "") -> None:
        await self._verbs.stopper.kill(self.require(ref), signal)

    async def pause(self, ref: str) -> None:
        await self._verbs.stopper.pause(self.require(ref))

    async def unpause(self, ref: str) -> None:
        await self._verbs.stopper.unpause(self.require(ref))

    async def rename(self, ref: str, new_name: str) -> None:
        if not ref.strip().removeprefix("/"):
            raise InvalidArgument("Neither old nor new names may be empty")
        await self._verbs.reviser.rename(self.require(ref), new_name)

    async def update(self, ref: str, changes: HostConfigUpdate) -> Sequence[str]:
        return await self._verbs.reviser.update(self.require(ref), changes)

    async def remove(
        self, ref: str, *, force: bool = False, volumes: bool = False, link: bool = False
    ) -> None:
        if link:
            await self._verbs.reviser.unlink(ref)
            return
        entry = self.require(ref)
        try:
            await self._verbs.remover.remove(entry, force=force, volumes=volumes)
        except (NotRemovable, SystemFailure) as error:
            error.message = f'cannot remove container "{ref}": {error.message}'
            raise

    async def prune(self, filters: Mapping[str, Sequence[str]]) -> PruneResult:
        return await self._verbs.remover.prune(filters)

    async def wait(self, ref: str, condition: str = "not-running") -> Awaitable[WaitResult]:
        """Two steps: once this returns the caller is registered; awaiting the answer waits. Cancel it to
        stop waiting."""
        return self._ledger.wait(self.require(ref), condition or "not-running")

    async def top(self, ref: str, ps_args: str = "") -> TopResult:
        return await self._verbs.top.top(self.require(ref), ps_args)

    async def resize(self, ref: str, height: int, width: int) -> None:
        entry = self.require(ref)
        if entry.process is None:
            raise NotRunning(f"container {entry.id} is not running")
        await entry.process.resize(height, width)
        self._ledger.publish(entry, "resize", {"height": str(height), "width": str(width)})

    async def attach(
        self,
        ref: str,
        *,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
        stream: bool = True,
        logs: bool = False,
        detach_keys: str = "",
    ) -> AttachSession:
        """A session on a running container, or one that the next start connects."""
        try:
            keys = parse_detach_keys(detach_keys)
        except ValueError:
            raise InvalidArgument(f"Invalid detach keys ({detach_keys}) provided") from None
        entry = self.require(ref)
        if entry.life.phase == "paused":
            raise Conflict(f"container {ref} is paused, unpause the container before attach")
        if entry.life.phase == "restarting":
            raise Conflict(f"container {ref} is restarting, wait until the container is running")
        config = entry.record.config
        session = AttachSession(
            tty=config.tty,
            stdin=stdin and config.open_stdin,
            stdout=stdout,
            stderr=stderr,
            detach_keys=keys if config.tty else b"",
            prelude=self._verbs.logs.everything(entry, stdout=stdout, stderr=stderr) if logs else None,
            stream=stream,
        )
        session.on_detach = lambda: self._ledger.publish(entry, "detach")
        self._ledger.publish(entry, "attach")
        if stream and entry.process is not None:
            await session.attach_to(entry.process)
        elif stream:
            self._attachments.add(entry.id, session)
        return session

    def logs(
        self,
        ref: str,
        *,
        stdout: bool,
        stderr: bool,
        since_ns: int = 0,
        until_ns: int = 0,
        timestamps: bool = False,
        tail: int | None = None,
        follow: bool = False,
        details: bool = False,
        merged: bool = False,
    ) -> AsyncIterator[bytes]:
        """Chunks of the log, framed unless the container has a tty. Raises at once, not while reading."""
        return self._verbs.logs.read(
            self.require(ref),
            stdout=stdout,
            stderr=stderr,
            since_ns=since_ns,
            until_ns=until_ns,
            timestamps=timestamps,
            tail=tail,
            follow=follow,
            details=details,
            merged=merged,
        )

    async def close(self) -> None:
        """The daemon ends; containers do not."""
        await self._verbs.supervision.close()


def _with_aliases(view: ContainerView, aliases: dict[str, list[str]]) -> ContainerView:
    found = aliases.get(view.record.id)
    return msgspec.structs.replace(view, aliases=found, revision=0) if found else view
