"""Unpacked layers: ``<root>/<chain id hex>/diff``, whiteouts as overlayfs wants them.

A directory appears under its chain id by one rename, after everything in it was synced, so whatever is there
is whole. The chain id names a layer together with those below it (image-spec, config.md "Layer ChainID").
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from sampan.base.crashpoints import crash_point
from sampan.formats.tar_reader import TarReader
from sampan.kernel.fileflags import spread_directories
from sampan.kernel.syscalls import check, libc

from .blobs import sync_directory
from .compression import PLAIN, Decompressor, Read
from .errors import DigestMismatch
from .packing import is_ours
from .recipe import ASIDE_NAME, FILE_NAME, RecipeWriter, archive_length
from .space import Space
from .unpack import ArchiveLimits, TreeWriter, UnpackPolicy, UnpackResult, bounded

DEFAULT_LIMITS = ArchiveLimits()
LayerBlobPolicy = Literal["auto", "keep", "drop"]
"""Which layer blobs are stored beside the unpacked layer: those that cannot be written again from it byte for
byte (auto), all (keep), or none (drop)."""
_TEMPORARY = "layer-"
_REMOVED = "removed-"


def chain_ids(diff_ids: Iterable[str]) -> list[str]:
    """The chain id of every layer of a stack, bottom first."""
    chains: list[str] = []
    for diff_id in diff_ids:
        if chains:
            text = f"{chains[-1]} {diff_id}"
            chains.append("sha256:" + hashlib.sha256(text.encode()).hexdigest())
        else:
            chains.append(diff_id)
    return chains


class StagedLayer(msgspec.Struct, frozen=True, kw_only=True):
    """An unpacked layer that is not visible yet."""

    path: str
    diff_id: str
    result: UnpackResult
    archive_bytes: int | None = None
    """Length of the plain archive, if it can be written again from the unpacked layer."""


class WrittenLayer(msgspec.Struct, frozen=True, kw_only=True):
    """A directory whose recipe tells the plain archive, and the archive's length."""

    directory: str
    archive_bytes: int


class LayerStore:
    """All methods may be called from any thread; they block on the disk."""

    def __init__(
        self,
        root: str,
        temporary: str,
        limits: ArchiveLimits = DEFAULT_LIMITS,
        policy: LayerBlobPolicy = "auto",
        reserve_bytes: int = 0,
    ) -> None:
        """``temporary`` is a directory on the same file system. Both are made when missing.
        ``reserve_bytes`` of it stay free."""
        self.root = root
        self.space = Space(temporary, reserve_bytes)
        self.policy = policy
        self._homes: dict[str, WrittenLayer] = {}
        """By diff id: where layers with a recipe are that this process has staged."""
        self._temporary = temporary
        self.limits = limits
        # overlayfs needs to walk through them as the container's user; what is inside has its own modes
        os.makedirs(root, mode=0o711, exist_ok=True)
        os.makedirs(temporary, mode=0o700, exist_ok=True)
        # layers are unpacked there
        spread_directories(temporary)

    def path(self, chain_id: str) -> str:
        """The directory with the layer's files."""
        return os.path.join(self.directory(chain_id), "diff")

    def directory(self, chain_id: str) -> str:
        """The directory with everything that belongs to the layer."""
        return os.path.join(self.root, chain_id.removeprefix("sha256:"))

    def exists(self, chain_id: str) -> bool:
        return os.path.isdir(self.path(chain_id))

    def replaces(self, compression: str) -> bool:
        """Whether a layer that comes like this is its own blob once it is unpacked."""
        return self.policy == "drop" or (self.policy == "auto" and compression == PLAIN)

    def _records(self, plain: Decompressor) -> bool:
        """Whether a layer gets a recipe: also one whose blob will show to be of no use only later."""
        return self.replaces(plain.kind) or (self.policy == "auto" and is_ours(plain.start))

    def stage(self, source: Read, diff_id: str = "", *, trusted: bool = False) -> StagedLayer:
        """Unpack a layer, plain or compressed, out of sight.

        With ``trusted`` the caller has verified a plain archive's digest already, so it is not computed
        again. Raises DigestMismatch, HostileArchive, BadTar, DiskFull; then nothing is left.
        """
        path = tempfile.mkdtemp(prefix=_TEMPORARY, dir=self._temporary)
        try:
            diff = os.path.join(path, "diff")
            os.mkdir(diff, 0o755)
            os.chmod(path, 0o711)
            plain = Decompressor(source, hashed=not trusted)
            recorded = self._records(plain)
            result = self._unpack(path, plain, recorded)
            actual = diff_id if trusted else plain.digest
            if diff_id and actual != diff_id:
                raise DigestMismatch(
                    f"wrong diff id calculated on extraction {actual!r}, expected {diff_id!r}"
                )
        except BaseException:
            shutil.rmtree(path)
            raise
        if recorded:
            self._homes[actual] = WrittenLayer(directory=path, archive_bytes=plain.bytes_out)
        return StagedLayer(
            path=path, diff_id=actual, result=result, archive_bytes=plain.bytes_out if recorded else None
        )

    def find_written(self, diff_id: str) -> WrittenLayer | None:
        """A layer staged by this process that can be written as an archive again, published or not."""
        return self._homes.get(diff_id)

    def _unpack(self, path: str, plain: Decompressor, recorded: bool) -> UnpackResult:
        read = bounded(plain, self.limits, self.space.watch())
        policy = UnpackPolicy(limits=self.limits)
        with contextlib.ExitStack() as opened:
            layer_fd = _open_directory(opened, path)
            root_fd = _open_directory(opened, os.path.join(path, "diff"))
            recipe = opened.enter_context(RecipeWriter(layer_fd)) if recorded else None
            reader = TarReader(read, recipe.copy if recipe is not None else None)
            with TreeWriter(root_fd, policy, recipe=recipe) as writer:
                result = writer.unpack(reader)
            reader.drain()
            if recipe is not None and recipe.finish() != plain.bytes_out:
                raise AssertionError("a recipe must describe every byte of its archive")
        return result

    def sync(self) -> None:
        """Make everything staged so far durable, with one syncfs(2) instead of an fsync per file."""
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            check(libc.syncfs(ctypes.c_int(fd)), self.root)
        finally:
            os.close(fd)

    def publish(self, staged: StagedLayer, chain_id: str) -> None:
        """Give a staged and synced layer its name. When another load was faster, that one stays, and gets
        the recipe of this one if it has none."""
        target = self.directory(chain_id)
        crash_point("layer.publish.synced")
        try:
            os.rename(staged.path, target)
        except OSError:
            if not os.path.isdir(target):
                raise
            if staged.archive_bytes is not None and archive_length(target) is None:
                _move_recipe(staged.path, target)
            self._settle(staged, target)
            self.discard(staged)
            return
        self._settle(staged, target)
        sync_directory(self.root)

    def _settle(self, staged: StagedLayer, directory: str) -> None:
        if staged.archive_bytes is not None:
            home = WrittenLayer(directory=directory, archive_bytes=staged.archive_bytes)
            self._homes[staged.diff_id] = home

    def discard(self, staged: StagedLayer) -> None:
        """Remove a staged layer that will not be published. Idempotent."""
        home = self._homes.get(staged.diff_id)
        if home is not None and home.directory == staged.path:
            del self._homes[staged.diff_id]
        # two pulls that shared it may remove it at the same time
        while os.path.lexists(staged.path):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(staged.path)

    def bury(self, chain_id: str) -> str:
        """Take a layer away at once; the directory that :func:`shutil.rmtree` then deletes, or ""."""
        grave = tempfile.mkdtemp(prefix=_REMOVED, dir=self._temporary)
        try:
            os.rename(self.directory(chain_id), os.path.join(grave, "layer"))
        except FileNotFoundError:
            os.rmdir(grave)
            return ""
        for diff_id, home in list(self._homes.items()):
            if home.directory == self.directory(chain_id):
                self._homes.pop(diff_id, None)
        return grave

    def chains(self) -> Iterator[str]:
        """Every layer that is there."""
        with os.scandir(self.root) as entries:
            for entry in entries:
                yield f"sha256:{entry.name}"

    def sweep(self) -> None:
        """Remove what a process that died has left half unpacked or half removed. Only at start."""
        with os.scandir(self._temporary) as entries:
            leftovers = [entry.path for entry in entries if entry.name.startswith((_TEMPORARY, _REMOVED))]
        for path in leftovers:
            shutil.rmtree(path)


def _move_recipe(source: str, target: str) -> None:
    """The same archive was unpacked to both, so what describes the one describes the other."""
    aside = os.path.join(target, ASIDE_NAME)
    if os.path.exists(aside):
        # of a process that died below
        shutil.rmtree(aside)
    with contextlib.suppress(FileNotFoundError):
        os.rename(os.path.join(source, ASIDE_NAME), aside)
    crash_point("recipe.move.aside")
    with contextlib.suppress(FileNotFoundError):
        # somebody else who published the same staged layer has moved it just now
        os.rename(os.path.join(source, FILE_NAME), os.path.join(target, FILE_NAME))
    sync_directory(target)


def _open_directory(opened: contextlib.ExitStack, path: str) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    opened.callback(os.close, fd)
    return fd
