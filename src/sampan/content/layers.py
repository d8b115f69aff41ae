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
from collections.abc import Callable, Iterable, Iterator

import msgspec

from sampan.base.crashpoints import crash_point
from sampan.formats.tar_reader import TarReader
from sampan.kernel.fileflags import spread_directories
from sampan.kernel.syscalls import check, libc

from .blobs import sync_directory
from .compression import Decompressor, Read
from .errors import DigestMismatch
from .recipe import RecipeWriter
from .unpack import ArchiveLimits, TreeWriter, UnpackPolicy, UnpackResult, bounded

DEFAULT_LIMITS = ArchiveLimits()
Recorded = Callable[[str], bool]
"""Whether a layer that comes in this compression gets a recipe."""
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
    compression: str
    """Of what it came in, as :func:`.compression.detect` has it."""
    recorded: bool
    """Whether the plain archive can be written again from it."""


def never(_compression: str) -> bool:
    """For layers whose blob is kept: nothing is recorded."""
    return False


class LayerStore:
    """All methods may be called from any thread; they block on the disk."""

    def __init__(self, root: str, temporary: str, limits: ArchiveLimits = DEFAULT_LIMITS) -> None:
        """``temporary`` is a directory on the same file system. Both are made when missing."""
        self.root = root
        self._temporary = temporary
        self._limits = limits
        # overlayfs needs to walk through them as the container's user; what is inside has its own modes
        os.makedirs(root, mode=0o711, exist_ok=True)
        os.makedirs(temporary, mode=0o700, exist_ok=True)
        # layers are unpacked there
        spread_directories(temporary)

    def path(self, chain_id: str) -> str:
        """The directory with the layer's files."""
        return os.path.join(self.root, chain_id.removeprefix("sha256:"), "diff")

    def exists(self, chain_id: str) -> bool:
        return os.path.isdir(self.path(chain_id))

    def stage(
        self, source: Read, diff_id: str = "", *, trusted: bool = False, wanted: Recorded = never
    ) -> StagedLayer:
        """Unpack a layer, plain or compressed, out of sight; with a recipe if ``wanted`` says so of its
        compression.

        With ``trusted`` the caller has verified a plain archive's digest already, so it is not computed
        again. Raises DigestMismatch, HostileArchive, BadTar, DiskFull; then nothing is left.
        """
        path = tempfile.mkdtemp(prefix=_TEMPORARY, dir=self._temporary)
        try:
            diff = os.path.join(path, "diff")
            os.mkdir(diff, 0o755)
            os.chmod(path, 0o711)
            plain = Decompressor(source, hashed=not trusted)
            recorded = wanted(plain.kind)
            result = self._unpack(path, plain, recorded)
            actual = diff_id if trusted else plain.digest
            if diff_id and actual != diff_id:
                raise DigestMismatch(
                    f"wrong diff id calculated on extraction {actual!r}, expected {diff_id!r}"
                )
        except BaseException:
            shutil.rmtree(path)
            raise
        return StagedLayer(
            path=path, diff_id=actual, result=result, compression=plain.kind, recorded=recorded
        )

    def _unpack(self, path: str, plain: Decompressor, recorded: bool) -> UnpackResult:
        read = bounded(plain, self._limits)
        policy = UnpackPolicy(limits=self._limits)
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
        """Give a staged and synced layer its name. When another load was faster, that one stays."""
        target = os.path.dirname(self.path(chain_id))
        crash_point("layer.publish.synced")
        try:
            os.rename(staged.path, target)
        except OSError:
            if not os.path.isdir(target):
                raise
            self.discard(staged)
            return
        sync_directory(self.root)

    def discard(self, staged: StagedLayer) -> None:
        """Remove a staged layer that will not be published. Idempotent."""
        shutil.rmtree(staged.path, ignore_errors=not os.path.exists(staged.path))

    def bury(self, chain_id: str) -> str:
        """Take a layer away at once; the directory that :func:`shutil.rmtree` then deletes, or ""."""
        grave = tempfile.mkdtemp(prefix=_REMOVED, dir=self._temporary)
        try:
            os.rename(os.path.dirname(self.path(chain_id)), os.path.join(grave, "layer"))
        except FileNotFoundError:
            os.rmdir(grave)
            return ""
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


def _open_directory(opened: contextlib.ExitStack, path: str) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    opened.callback(os.close, fd)
    return fd
