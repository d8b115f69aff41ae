"""What every byte below the data root belongs to, so that the sum is what du(1) says.

Counted are blocks, as du does: directories too, a file with several links once, no other file systems.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping

import msgspec

from sampan.content.recipe import ASIDE_NAME, FILE_NAME

DATABASE = "database"
IMAGE = "image"
LAYER = "layer"
RECIPE = "recipe"
DOWNLOAD = "download"
CONTAINER = "container"
VOLUME = "volume"
TEMPORARY = "temporary"
OTHER = "other"

_BLOCK = 512


class DiskOwners(msgspec.Struct, frozen=True, kw_only=True):
    """Who is known to need what; everything else that is found belongs to nobody."""

    blobs: Mapping[str, Collection[str]]
    """Digest -> the images, or documents that are none, that consist of it."""
    layers: Mapping[str, Collection[str]]
    """Chain id -> images and containers."""
    needed: Collection[str]
    """Of those owners the ones whose content must stay: containers, and the images they are made of."""
    containers: Mapping[str, bool]
    """Whether they run."""
    volumes: Mapping[str, bool]
    """Whether a container has them."""


class DiskObject(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    kind: str
    id: str = msgspec.field(name="Id")
    """Digest, chain id, container id, name of a volume, or the path from the data root."""
    size: int
    """Bytes on the disk."""
    owners: list[str] = []
    reclaimable: bool = False
    """Nothing that is in use needs it."""


class DiskKind(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    kind: str
    count: int
    size: int
    reclaimable: int


class DataRootUsage(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    path: str
    total: int
    """Bytes; the sum of all objects, and what ``du -sx`` says."""
    kinds: list[DiskKind]
    objects: list[DiskObject]


def measure(data_root: str, owners: DiskOwners) -> DataRootUsage:
    """Walks everything: blocks, call it in a thread. What vanishes meanwhile is not counted."""
    walk = _Walk(data_root)
    objects = sorted(_objects(walk, owners), key=lambda one: (one.kind, -one.size, one.id))
    kinds: dict[str, list[DiskObject]] = {}
    for one in objects:
        kinds.setdefault(one.kind, []).append(one)
    return DataRootUsage(
        path=data_root,
        total=sum(one.size for one in objects),
        kinds=[
            DiskKind(
                kind=kind,
                count=len(found),
                size=sum(one.size for one in found),
                reclaimable=sum(one.size for one in found if one.reclaimable),
            )
            for kind, found in kinds.items()
        ],
        objects=objects,
    )


def _objects(walk: _Walk, owners: DiskOwners) -> Iterator[DiskObject]:
    rest = walk.own("")
    for name in walk.names(""):
        if name == "image":
            rest += sum(walk.own(path) for path in ("image", "image/blobs", "image/blobs/sha256"))
            rest += walk.tree("image/oci-layout")
            for blob in walk.names("image/blobs/sha256"):
                size = walk.tree(f"image/blobs/sha256/{blob}")
                yield _owned(IMAGE, f"sha256:{blob}", size, owners.blobs, owners)
        elif name == "layers":
            rest += walk.own(name)
            for chain in walk.names(name):
                yield from _layer(walk, chain, owners)
        elif name in _FOLDERS:
            rest += walk.own(name)
            for inner in walk.names(name):
                yield _member(_FOLDERS[name], inner, walk.tree(f"{name}/{inner}"), owners)
        elif name.startswith("sampan.db"):
            yield DiskObject(kind=DATABASE, id=name, size=walk.tree(name))
        else:
            yield DiskObject(kind=OTHER, id=name, size=walk.tree(name))
    yield DiskObject(kind=OTHER, id="", size=rest)


_FOLDERS = {"containers": CONTAINER, "downloads": DOWNLOAD, "tmp": TEMPORARY, "volumes": VOLUME}


def _layer(walk: _Walk, name: str, owners: DiskOwners) -> Iterator[DiskObject]:
    chain, path = f"sha256:{name}", f"layers/{name}"
    sizes = {LAYER: walk.own(path), RECIPE: 0}
    for inner in walk.names(path):
        sizes[RECIPE if inner in (FILE_NAME, ASIDE_NAME) else LAYER] += walk.tree(f"{path}/{inner}")
    for kind, size in sizes.items():
        if size:
            yield _owned(kind, chain, size, owners.layers, owners)


def _owned(
    kind: str, identifier: str, size: int, table: Mapping[str, Collection[str]], owners: DiskOwners
) -> DiskObject:
    found = sorted(table.get(identifier, ()))
    needed = any(owner in owners.needed for owner in found)
    return DiskObject(kind=kind, id=identifier, size=size, owners=found, reclaimable=not needed)


def _member(kind: str, name: str, size: int, owners: DiskOwners) -> DiskObject:
    known: Mapping[str, bool] = {CONTAINER: owners.containers, VOLUME: owners.volumes}.get(kind, {})
    return DiskObject(
        kind=kind,
        id=name,
        size=size,
        owners=[name] if name in known else [],
        reclaimable=kind == DOWNLOAD or (kind != TEMPORARY and not known.get(name, False)),
    )


class _Walk:
    """Sizes below a root, each inode counted where it is met first."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._device = os.stat(root).st_dev
        self._seen: set[int] = set()

    def names(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(os.path.join(self._root, path)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def own(self, path: str) -> int:
        """Of a file, or of a directory without what is in it."""
        status = self._look(path)
        return self._count(status) if status is not None else 0

    def tree(self, path: str) -> int:
        """Of a file, or of a directory with everything in it that was not counted before."""
        status = self._look(path)
        if status is None:
            return 0
        total = self._count(status)
        pending = [os.path.join(self._root, path)]
        while pending:
            try:
                with os.scandir(pending.pop()) as entries:
                    for entry in entries:
                        status = entry.stat(follow_symlinks=False)
                        if status.st_dev != self._device:
                            continue
                        total += self._count(status)
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(entry.path)
            except (FileNotFoundError, NotADirectoryError):
                continue
        return total

    def _look(self, path: str) -> os.stat_result | None:
        """None for what is not there, or on another file system."""
        try:
            status = os.lstat(os.path.join(self._root, path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status if status.st_dev == self._device else None

    def _count(self, status: os.stat_result) -> int:
        if status.st_ino in self._seen:
            return 0
        if status.st_nlink > 1:
            self._seen.add(status.st_ino)
        return status.st_blocks * _BLOCK
