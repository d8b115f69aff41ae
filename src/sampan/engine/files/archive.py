"""Copy files in and out of containers, running or not, show what they changed, and export them."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import TypeVar

from sampan.base.errors import InvalidArgument, NotFound, ResourceExhausted, SystemFailure
from sampan.content.compression import Read
from sampan.content.container_files import (
    PathStat,
    clean,
    extract,
    pack_path,
    pack_root,
    resolve_link,
    stat_path,
)
from sampan.content.streams import Workers
from sampan.content.tree_changes import Change, changes
from sampan.engine.container.ledger import Ledger
from sampan.engine.container.registry import Entry
from sampan.kernel.paths import open_in_root
from sampan.model.container import Container

from .container_root import ContainerRoots

Result = TypeVar("Result")


class FileNotInContainer(NotFound):
    def __init__(self, path: str, ref: str) -> None:
        super().__init__(f"Could not find the file {path} in container {ref}")


class UnknownUser(InvalidArgument):
    """The container's user is in none of its files."""


class Archive:
    def __init__(self, ledger: Ledger, roots: ContainerRoots, workers: Workers) -> None:
        self._ledger = ledger
        self._roots = roots
        self._workers = workers

    async def stat(self, ref: str, path: str) -> PathStat:
        """Raises NoSuchContainer, FileNotInContainer."""
        entry = self._ledger.registry.require(ref)
        return await self._workers.run(lambda: self._stat(entry, ref, path))

    def _stat(self, entry: Entry, ref: str, path: str) -> PathStat:
        return _told(ref, path, lambda: self._roots.run(entry, False, lambda root: stat_path(root, path)))

    async def get(self, ref: str, path: str) -> tuple[AsyncIterator[bytes], PathStat]:
        """A tar of the file or directory. Raises as :meth:`stat`."""
        entry = self._ledger.registry.require(ref)
        stat = await self._workers.run(lambda: self._stat(entry, ref, path))

        def work(write: Callable[[bytes], None]) -> None:
            _told(
                ref,
                path,
                lambda: self._roots.run(entry, False, lambda root: pack_path(root, path, write)),
            )

        self._ledger.publish(entry, "archive-path")
        return self._workers.produce(work), stat

    async def put(
        self,
        ref: str,
        path: str,
        body: AsyncIterator[bytes],
        *,
        no_overwrite_dir_non_dir: bool = False,
        copy_uid_gid: bool = False,
    ) -> None:
        """Unpack an archive into a directory of the container. Raises NoSuchContainer, FileNotInContainer,
        InvalidArgument for what is read-only or no directory, and what unpacking raises."""
        entry = self._ledger.registry.require(ref)

        def action(root: int, read: Read) -> None:
            require_writable(entry.record, resolve_link(root, path))
            owner = _owner(root, entry.record) if copy_uid_gid else None
            extract(root, path, read, keep_directory_kind=no_overwrite_dir_non_dir, owner=owner)

        def work(read: Read) -> None:
            _told(ref, path, lambda: self._roots.run(entry, True, lambda root: action(root, read)))

        await self._workers.consume(body, work)
        self._ledger.publish(entry, "extract-to-dir")

    async def changes(self, ref: str) -> Sequence[Change]:
        """Raises NoSuchContainer."""
        entry = self._ledger.registry.require(ref)
        return await self._workers.run(lambda: self._roots.with_changes(entry.record, changes))

    async def export(self, ref: str) -> AsyncGenerator[bytes, None]:
        """A tar of the whole root, without volumes. Raises NoSuchContainer, Conflict at its first step."""
        entry = self._ledger.registry.require(ref)
        self._roots.require_present(entry, "export")

        def work(write: Callable[[bytes], None]) -> None:
            self._roots.without_mounts(entry, lambda root: pack_root(root, write))

        async for chunk in self._workers.produce(work):
            yield chunk
        self._ledger.publish(entry, "export")


def _told(ref: str, path: str, action: Callable[[], Result]) -> Result:
    """Errors of the kernel as answers to the caller."""
    try:
        return action()
    except FileNotFoundError:
        raise FileNotInContainer(path, ref) from None
    except OSError as error:
        text = os.strerror(error.errno or 0).lower()
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceExhausted(f"{path}: {text}") from error
        raise SystemFailure(f"{path} in container {ref}: {text}") from error


def require_writable(record: Container, path: str) -> None:
    """Raises InvalidArgument when the volume or the root that ``path`` is on is read-only."""
    cleaned = clean(path)
    for point in sorted(record.mounts, key=lambda point: -len(point.destination)):
        destination = point.destination.rstrip("/")
        if cleaned == destination or cleaned.startswith(destination + "/"):
            if point.rw:
                return
            raise InvalidArgument("mounted volume is marked read-only")
    if record.host.readonly_rootfs:
        raise InvalidArgument("container rootfs is marked read-only")


def _owner(root: int, record: Container) -> tuple[int, int] | None:
    """uid and gid of the container's user by its own files; None when it runs as what the image says."""
    user, _, group = record.config.user.partition(":")
    if not user:
        return None
    uid, gid = _lookup(root, "etc/passwd", user)
    if group:
        gid = _lookup(root, "etc/group", group)[0]
    return uid, gid


def _lookup(root: int, path: str, name: str) -> tuple[int, int]:
    """The numbers in columns three and four of the row that ``name`` (or a number) names."""
    try:
        fd = open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        text = ""
    else:
        with os.fdopen(fd, "rb") as file:
            text = file.read(1 << 20).decode("utf-8", "replace")
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) >= 4 and name in (fields[0], fields[2]) and fields[2].isdigit():
            return int(fields[2]), int(fields[3]) if fields[3].isdigit() else 0
    if name.isdigit():
        return int(name), 0
    raise UnknownUser(f"unable to find user {name}: no matching entries in {path}")
