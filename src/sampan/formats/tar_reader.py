"""A tar archive as a stream of entries, from chunks of bytes that somebody else reads.

The reader holds one chunk at a time and hands out views of it, so that file data is not copied on its way
from the source to ``write(2)``. Every entry that leaves here is complete: long names, pax records and
sparse maps are applied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .tar import (
    BLOCK,
    FILE,
    GNU_LONG_LINK,
    GNU_LONG_NAME,
    GNU_SPARSE,
    PAX,
    PAX_GLOBAL,
    BadTar,
    TarEntry,
    apply_pax,
    check_sparse,
    decimal,
    octal,
    parse_header,
    parse_old_sparse,
    parse_pax,
    parse_pax_sparse,
)

MAX_EXTENSION = 1 << 20
"""Bytes of one pax header or long name; Go's archive/tar draws the same line."""
_MAX_SPARSE_PIECES = 1 << 16
_WITHOUT_DATA = frozenset((b"1", b"2", b"3", b"4", b"5", b"6"))
_IGNORED = frozenset((b"V",))
"""GNU volume labels: they name the tape, not a file."""


class TarReader:
    """Iterate to get the entries; between two, :meth:`data` gives the current one's bytes.

    ``read`` returns the next chunk of any length, ``b""`` at the end. What is not read of an entry is
    skipped. Raises BadTar on malformed or truncated archives.
    """

    def __init__(
        self, read: Callable[[], bytes | memoryview], copy: Callable[[memoryview], None] | None = None
    ) -> None:
        """``copy`` gets every byte of the archive that :meth:`data` does not give, in order."""
        self._read = read
        self._copy = copy
        self._copied = 0
        """How far the chunk went to ``copy``, or out as data."""
        self._chunk: memoryview = memoryview(b"")
        self._position = 0
        self._left = 0
        self._padding = 0
        self._global: list[tuple[bytes, bytes]] = []

    def __iter__(self) -> Iterator[TarEntry]:
        return self

    def __next__(self) -> TarEntry:
        if self._left or self._padding:
            self._skip()
        entry = self._next_entry()
        if entry is None:
            raise StopIteration
        self._left = entry.stored_size
        self._padding = -entry.stored_size % BLOCK
        return entry

    def data(self) -> Iterator[memoryview]:
        """The stored bytes of the current entry; of a sparse file only its pieces, one after the other."""
        if self._copy is not None and self._left:
            self._copy(self._chunk[self._copied : self._position])
            self._copied = self._position
        while self._left:
            available = len(self._chunk) - self._position
            if not available:
                self._fill()
                continue
            count = min(available, self._left)
            start = self._position
            self._position = self._copied = start + count
            self._left -= count
            yield self._chunk[start : start + count]

    def read_all(self, limit: int) -> bytes:
        """The current entry's data in one piece. Raises BadTar when it is longer than ``limit``."""
        if self._left > limit:
            raise BadTar(f"archive/tar: member of {self._left} bytes where at most {limit} are expected")
        return b"".join(self.data())

    def drain(self) -> None:
        """Read the source to its end: what follows an archive still counts for its digest."""
        self._left = self._padding = 0
        while self._next_chunk():
            pass

    def _next_chunk(self) -> bool:
        """Go on to the next chunk, whatever is left of this one; False at the end of the source."""
        if self._copy is not None:
            self._copy(self._chunk[self._copied :])
        chunk = self._read()
        self._chunk = memoryview(chunk)
        self._position = self._copied = 0
        return bool(chunk)

    def _fill(self) -> None:
        if not self._next_chunk():
            raise BadTar("unexpected EOF")

    def _skip(self) -> None:
        left = self._left + self._padding
        while left:
            available = len(self._chunk) - self._position
            if not available:
                self._fill()
                continue
            count = min(available, left)
            self._position += count
            left -= count
        self._left = self._padding = 0

    def _take(self, size: int) -> bytes:
        stop = self._position + size
        if stop <= len(self._chunk):
            piece = self._chunk[self._position : stop].tobytes()
            self._position = stop
            return piece
        pieces = []
        while size:
            available = len(self._chunk) - self._position
            if not available:
                self._fill()
                continue
            count = min(available, size)
            pieces.append(self._chunk[self._position : self._position + count].tobytes())
            self._position += count
            size -= count
        return b"".join(pieces)

    def _header(self) -> TarEntry | None:
        """The next header; None at two zero blocks or where the source ends between entries."""
        if self._position == len(self._chunk) and not self._next_chunk():
            return None
        block = self._take(BLOCK)
        entry = parse_header(block)
        if entry is not None and entry.kind == GNU_SPARSE:
            self._old_sparse(entry, block)
        return entry

    def _extension(self, entry: TarEntry) -> bytes:
        if entry.stored_size > MAX_EXTENSION:
            raise BadTar("archive/tar: header field too long")
        data = self._take(entry.stored_size)
        self._padding = -entry.stored_size % BLOCK
        self._skip()
        return data

    def _next_entry(self) -> TarEntry | None:
        records: list[tuple[bytes, bytes]] = []
        name = link = b""
        while True:
            entry = self._header()
            if entry is None:
                return None
            kind = entry.kind
            if kind == PAX:
                records = parse_pax(self._extension(entry))
            elif kind == PAX_GLOBAL:
                self._global = parse_pax(self._extension(entry))
            elif kind == GNU_LONG_NAME:
                name = self._extension(entry).split(b"\0", 1)[0]
            elif kind == GNU_LONG_LINK:
                link = self._extension(entry).split(b"\0", 1)[0]
            elif kind in _IGNORED:
                self._left, self._padding = entry.stored_size, -entry.stored_size % BLOCK
                self._skip()
            else:
                break
        if name:
            entry.name = name
        if link:
            entry.linkname = link
        if self._global:
            records = self._global + records
        if records:
            apply_pax(entry, records)
            if any(key.startswith(b"GNU.sparse.") for key, _ in records):
                self._pax_sparse(entry, records)
        if kind in _WITHOUT_DATA:
            # some writers store the size of the target for links, or a size for directories
            entry.size = entry.stored_size = 0
        return entry

    def _old_sparse(self, entry: TarEntry, block: bytes) -> None:
        """GNU's old format: the map goes on in extension blocks between header and data."""
        entry.size = octal(block[483:495])
        pieces, more = parse_old_sparse(block, extension=False)
        while more:
            following, more = parse_old_sparse(self._take(BLOCK), extension=True)
            pieces += following
            if len(pieces) > _MAX_SPARSE_PIECES:
                raise BadTar("archive/tar: sparse map too long")
        entry.kind = FILE
        self._set_sparse(entry, pieces)

    def _pax_sparse(self, entry: TarEntry, records: list[tuple[bytes, bytes]]) -> None:
        values = dict(records)
        if b"GNU.sparse.name" in values:
            entry.name = values[b"GNU.sparse.name"].split(b"\0", 1)[0]
        size = values.get(b"GNU.sparse.realsize") or values.get(b"GNU.sparse.size")
        pieces = parse_pax_sparse(records)
        if values.get(b"GNU.sparse.major") == b"1" and values.get(b"GNU.sparse.minor") == b"0":
            pieces = self._map_in_data(entry)
        if pieces is None or size is None:
            return
        entry.size = decimal(size)
        self._set_sparse(entry, pieces)

    def _map_in_data(self, entry: TarEntry) -> list[tuple[int, int]]:
        """Format 1.0: decimal numbers, one a line, in whole blocks before the data."""
        text = b""
        wanted = -1
        while wanted < 0 or text.count(b"\n") < wanted:
            if len(text) > MAX_EXTENSION or entry.stored_size < BLOCK:
                raise BadTar("archive/tar: invalid tar header: sparse map breaks off")
            text += self._take(BLOCK)
            entry.stored_size -= BLOCK
            if wanted < 0 and b"\n" in text:
                count = decimal(text.split(b"\n", 1)[0])
                if not 0 <= count <= _MAX_SPARSE_PIECES:
                    raise BadTar("archive/tar: sparse map too long")
                wanted = 1 + 2 * count
        numbers = [decimal(line) for line in text.split(b"\n", wanted)[1:wanted]]
        return list(zip(numbers[::2], numbers[1::2], strict=True))

    @staticmethod
    def _set_sparse(entry: TarEntry, pieces: list[tuple[int, int]]) -> None:
        # the last piece of an archive may be empty and mark the end
        check_sparse(pieces, entry.size, entry.stored_size)
        entry.sparse = [piece for piece in pieces if piece[1]]
