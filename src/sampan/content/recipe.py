"""What an unpacked layer does not show of the archive it came from, so that it can be written again.

A recipe holds every byte of the plain archive that is not the data of a regular file: headers, padding, the
end mark and whatever follows it. The data is named by the file that holds it now. File layout: a header
(``_HEADER``), one zstd frame of records, a MessagePack list of what was moved aside. A record is ``_RECORD``,
then bytes to copy, then the path of a file of which ``size`` bytes from ``offset`` follow.

Files that a later entry of the archive replaced are not deleted but moved into a folder beside the layer; the
list says which path meant what until when.
"""

from __future__ import annotations

import bisect
import errno
import operator
import os
import struct
from collections.abc import Iterator

import msgspec
import zstandard

from sampan.formats.tar import BadTar
from sampan.kernel.paths import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, open_in_root

from .blobs import write_all
from .compression import Read, StreamHash, zstd_source
from .errors import ContentDamaged, HostileArchive

FILE_NAME = "recipe"
ASIDE_NAME = "replaced"

_MAGIC = b"sampan-recipe-1\n"
_HEADER = struct.Struct("<16sQQI")
"""Magic, length of the archive, length of the frame, length of the list."""
_RECORD = struct.Struct("<IHQQ")
"""Length of the copied bytes, length of the path, offset and size."""
_BATCH = 256 << 10
_MAX_COPIED = 1 << 20
_LEVEL = 1
_CHUNK = 1 << 20
_OPEN_PARENTS = 64
_MAX_MOVED = 200_000
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
if os.geteuid() == 0:
    # reading a layer leaves its files' times as they are; only their owner and root may ask for that
    _READ |= os.O_NOATIME
_RESOLVE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS


class Moved(msgspec.Struct, frozen=True, array_like=True):
    """Files named below ``path`` by the first ``until`` records lie at ``number`` in the folder aside."""

    until: int
    path: bytes
    number: int


_moved = msgspec.msgpack.Decoder(list[Moved])
_until = operator.attrgetter("until")


class RecipeWriter:
    """Writes the recipe of an archive while it is unpacked; ``layer_fd`` is the directory beside ``diff``."""

    def __init__(self, layer_fd: int) -> None:
        self._layer = layer_fd
        self._fd = os.open(
            FILE_NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=layer_fd
        )
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL).compressobj()
        self._copied: list[bytes] = []
        self._copied_length = 0
        self._out: list[bytes] = []
        self._out_length = 0
        self._records = 0
        self._archive_length = 0
        self._moved: list[Moved] = []
        self._frame_length = 0
        self._aside = -1
        write_all(self._fd, bytes(_HEADER.size))

    def __enter__(self) -> RecipeWriter:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        if self._aside >= 0:
            os.close(self._aside)

    def copy(self, data: memoryview) -> None:
        """The next bytes of the archive, of which no file will remind."""
        self._copied.append(bytes(data))
        self._copied_length += len(data)
        if self._copied_length > _MAX_COPIED:
            self.refer(b"", 0, 0)

    def refer(self, path: bytes, offset: int, size: int) -> None:
        """The archive goes on with ``size`` bytes that now stand in a file of the layer.

        ``path`` leads through no symbolic link. Raises DiskFull.
        """
        out = self._out
        out.append(_RECORD.pack(self._copied_length, len(path), offset, size))
        out += self._copied
        out.append(path)
        self._records += 1
        self._archive_length += self._copied_length + size
        self._out_length += self._copied_length + len(path) + _RECORD.size
        self._copied.clear()
        self._copied_length = 0
        if self._out_length > _BATCH:
            self._flush()

    def take_away(self, parent: int, base: bytes, path: bytes) -> None:
        """Move what is in the way of a later entry aside, a file or a whole directory."""
        if self._aside < 0:
            os.mkdir(ASIDE_NAME, 0o700, dir_fd=self._layer)
            self._aside = os.open(
                ASIDE_NAME, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._layer
            )
        number = len(self._moved)
        if number >= _MAX_MOVED:
            raise HostileArchive(f"archive replaces more than {_MAX_MOVED} of its files: refused as a bomb")
        os.rename(base, str(number), src_dir_fd=parent, dst_dir_fd=self._aside)
        self._moved.append(Moved(self._records, path, number))

    def finish(self) -> int:
        """Complete the file; the length of the archive it describes. Raises DiskFull."""
        if self._copied:
            self.refer(b"", 0, 0)
        self._flush()
        self._write(self._compressor.flush())
        moved = msgspec.msgpack.encode(self._moved)
        frame_length = self._frame_length
        write_all(self._fd, moved)
        os.lseek(self._fd, 0, os.SEEK_SET)
        write_all(self._fd, _HEADER.pack(_MAGIC, self._archive_length, frame_length, len(moved)))
        return self._archive_length

    def _flush(self) -> None:
        self._write(self._compressor.compress(b"".join(self._out)))
        self._out.clear()
        self._out_length = 0

    def _write(self, data: bytes) -> None:
        if data:
            self._frame_length += write_all(self._fd, data)


def archive_length(layer_path: str) -> int | None:
    """Length of the plain archive that the layer in this directory was; None without a recipe."""
    try:
        fd = os.open(os.path.join(layer_path, FILE_NAME), os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        head = os.pread(fd, _HEADER.size, 0)
    finally:
        os.close(fd)
    if len(head) < _HEADER.size or not head.startswith(_MAGIC):
        return None
    length: int = _HEADER.unpack(head)[1]
    return length


class Reproduction:
    """The plain archive of a layer, written again; :meth:`read` is a source as in ``content.compression``.

    Use within ``with``. Raises ContentDamaged when a file of the layer is missing or shorter than it was, and
    at the end when the bytes do not have ``diff_id``.
    """

    def __init__(self, layer_path: str, diff_id: str, *, verified: bool = True) -> None:
        self._diff_id = diff_id
        self._hash = StreamHash() if verified else None
        self._layer = os.open(layer_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._parents: dict[bytes, int] = {}
        try:
            self._file = os.open(FILE_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._layer)
        except BaseException:
            os.close(self._layer)
            raise
        self._moved: dict[bytes, list[Moved]] = {}
        self._frame_left = 0
        self.length = 0
        try:
            self._read_header()
        except BaseException:
            self.close()
            raise
        self._chunks = self._joined()

    def __enter__(self) -> Reproduction:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for fd in (*self._parents.values(), self._file, self._layer):
            os.close(fd)
        self._parents.clear()

    def read(self) -> bytes:
        """The next chunk, ``b""`` at the end."""
        chunk = next(self._chunks, b"")
        if self._hash is not None:
            if chunk:
                self._hash.update(chunk)
            elif "sha256:" + self._hash.hexdigest() != self._diff_id:
                raise self._damaged("its files are not those it was unpacked to")
        return chunk

    def _damaged(self, why: str) -> ContentDamaged:
        return ContentDamaged(
            f"layer {self._diff_id} is damaged on disk, {why}: remove its image, then load or pull it again"
        )

    def _read_header(self) -> None:
        head = os.pread(self._file, _HEADER.size, 0)
        if len(head) < _HEADER.size or not head.startswith(_MAGIC):
            raise self._damaged("its recipe is not readable")
        _, self.length, self._frame_left, moved_length = _HEADER.unpack(head)
        moved = os.pread(self._file, moved_length, _HEADER.size + self._frame_left)
        try:
            for one in _moved.decode(moved):
                self._moved.setdefault(one.path, []).append(one)
        except msgspec.DecodeError as error:
            raise self._damaged("its recipe is not readable") from error
        os.lseek(self._file, _HEADER.size, os.SEEK_SET)

    def _joined(self) -> Iterator[bytes]:
        """What :meth:`_pieces` yields, in large chunks."""
        pieces: list[bytes] = []
        length = 0
        for piece in self._pieces():
            pieces.append(piece)
            length += len(piece)
            if length >= _CHUNK:
                yield b"".join(pieces)
                pieces.clear()
                length = 0
        if pieces:
            yield b"".join(pieces)

    def _pieces(self) -> Iterator[bytes]:
        """Copied bytes and files' data in turn, each of at most a chunk."""
        take = _Frame(self._read_frame).take
        number = 0
        try:
            while head := take(_RECORD.size):
                copied, path_length, offset, size = _RECORD.unpack(head)
                if copied:
                    yield take(copied)
                if path_length:
                    yield from self._data(self._place(take(path_length), number), offset, size)
                number += 1
        except (BadTar, struct.error, EOFError) as error:
            raise self._damaged("its recipe is not readable") from error

    def _read_frame(self) -> bytes:
        data = os.read(self._file, min(_CHUNK, self._frame_left))
        self._frame_left -= len(data)
        return data

    def _place(self, path: bytes, number: int) -> bytes:
        """Where the file lies now, from the layer's directory."""
        if not self._moved:
            return b"diff/" + path
        # of all moves of the file or a directory above it, the first one after the record was written
        first: Moved | None = None
        above = path
        while above:
            moves = self._moved.get(above, [])
            place = bisect.bisect_right(moves, number, key=_until)
            if place < len(moves) and (first is None or moves[place].number < first.number):
                first = moves[place]
            above = above.rpartition(b"/")[0]
        if first is None:
            return b"diff/" + path
        return b"%s/%d%s" % (ASIDE_NAME.encode(), first.number, path[len(first.path) :])

    def _data(self, path: bytes, offset: int, size: int) -> Iterator[bytes]:
        parent, _, base = path.rpartition(b"/")
        try:
            fd = os.open(base, _READ, dir_fd=self._parent(parent))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            raise self._damaged(f"{os.fsdecode(path)!r} is missing") from error
        try:
            if offset:
                os.lseek(fd, offset, os.SEEK_SET)
            while size:
                try:
                    chunk = os.read(fd, min(size, _CHUNK))
                except OSError as error:
                    raise self._damaged(f"{os.fsdecode(path)!r}: {os.strerror(error.errno or 0)}") from error
                if not chunk:
                    raise self._damaged(f"{os.fsdecode(path)!r} is too short")
                yield chunk
                size -= len(chunk)
        finally:
            os.close(fd)

    def _parent(self, path: bytes) -> int:
        fd = self._parents.get(path)
        if fd is None:
            if len(self._parents) >= _OPEN_PARENTS:
                for old in self._parents.values():
                    os.close(old)
                self._parents.clear()
            fd = open_in_root(self._layer, path, os.O_PATH | os.O_DIRECTORY, 0, _RESOLVE)
            self._parents[path] = fd
        return fd


class _Frame:
    """Exact lengths from a zstd frame."""

    def __init__(self, source: Read) -> None:
        self._read = zstd_source(source)
        self._data = b""
        self._position = 0

    def take(self, size: int) -> bytes:
        """``size`` bytes; ``b""`` at the end. Raises EOFError in the middle, BadTar for what is no frame."""
        stop = self._position + size
        while stop > len(self._data):
            data = self._read()
            if not data:
                if self._position == len(self._data):
                    return b""
                raise EOFError
            self._data = self._data[self._position :] + data
            self._position = 0
            stop = size
        piece = self._data[self._position : stop]
        self._position = stop
        return piece
