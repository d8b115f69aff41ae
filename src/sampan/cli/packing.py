"""A local file or directory as a tar stream, written piece by piece (POSIX.1-2001 pax)."""

from __future__ import annotations

import os
import stat
import tarfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK = 1 << 20
_BLOCK = 512


class Packer:
    """``name`` is what the source is called in the archive; "" packs a directory's contents."""

    def __init__(self, source: str, name: str, *, follow: bool) -> None:
        self._source = source
        self._name = name
        self._follow = follow
        self._links: dict[tuple[int, int], str] = {}
        self.size_bytes = 0

    def chunks(self) -> Iterator[bytes]:
        source = self._source
        if not self._follow and source.rstrip("/") and not source.endswith("/"):
            yield from self._entry(source, self._name)
        else:
            yield from self._entry(os.path.realpath(source), self._name)
        yield bytes(2 * _BLOCK)

    def _entry(self, path: str, name: str) -> Iterator[bytes]:
        status = os.lstat(path)
        if stat.S_ISSOCK(status.st_mode):
            return
        info = self._header(path, name or ".", status)
        data = info.tobuf(tarfile.PAX_FORMAT)
        self.size_bytes += len(data)
        yield data
        if info.isreg():
            yield from self._content(path, info.size)
        elif info.isdir():
            for child in sorted(os.listdir(path)):
                yield from self._entry(os.path.join(path, child), f"{name}/{child}" if name else child)

    def _header(self, path: str, name: str, status: os.stat_result) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.mode = stat.S_IMODE(status.st_mode)
        info.uid, info.gid = status.st_uid, status.st_gid
        # Whole seconds would lose what make and rsync look at.
        info.pax_headers = {"mtime": f"{status.st_mtime_ns // 10**9}.{status.st_mtime_ns % 10**9:09d}"}
        info.mtime = status.st_mtime_ns // 10**9
        if stat.S_ISDIR(status.st_mode):
            info.type = tarfile.DIRTYPE
        elif stat.S_ISLNK(status.st_mode):
            info.type = tarfile.SYMTYPE
            info.linkname = os.readlink(path)
        elif stat.S_ISFIFO(status.st_mode):
            info.type = tarfile.FIFOTYPE
        elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            info.type = tarfile.CHRTYPE if stat.S_ISCHR(status.st_mode) else tarfile.BLKTYPE
            info.devmajor, info.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
        else:
            self._regular(info, status)
        return info

    def _regular(self, info: tarfile.TarInfo, status: os.stat_result) -> None:
        key = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and key in self._links:
            info.type = tarfile.LNKTYPE
            info.linkname = self._links[key]
            return
        self._links[key] = info.name
        info.size = status.st_size

    def _content(self, path: str, size: int) -> Iterator[bytes]:
        """Exactly the announced size: a file that shrinks meanwhile is filled up, one that grows is cut."""
        left = size
        with open(path, "rb") as file:
            while left:
                data = file.read(min(_CHUNK, left)) or bytes(min(_CHUNK, left))
                left -= len(data)
                self.size_bytes += len(data)
                yield data
        if size % _BLOCK:
            yield bytes(_BLOCK - size % _BLOCK)
