"""A log and its rotated predecessors as one sequence of lines, read in blocks, from either end."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator

BLOCK_BYTES = 256 * 1024
_TAIL_BYTES = 64 * 1024
_ATTEMPTS = 20


class LogPart:
    """One open file. A plain one is read up to the size it had when it was opened, or further with
    :meth:`follow_to_end`; a compressed one has ended for good."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd
        status = os.fstat(fd)
        self.identity = (status.st_dev, status.st_ino)
        self.position = 0
        self._size = status.st_size
        self._unpacked: bytes | None = None
        self.compressed = path.endswith(".gz")

    def close(self) -> None:
        os.close(self.fd)

    def follow_to_end(self) -> None:
        """Take in what was appended since. A file that shrank was truncated: begin again."""
        self._size = os.fstat(self.fd).st_size
        if self._size < self.position:
            self.position = 0

    def blocks(self) -> Iterator[bytes]:
        """Whole lines from the position on, advancing it. A last line without newline stays unread."""
        limit = BLOCK_BYTES
        while self.position < self._end():
            data = self._read(self.position, min(limit, self._end() - self.position))
            whole = data.rfind(b"\n") + 1
            if whole:
                self.position += whole
                limit = BLOCK_BYTES
                yield data[:whole]
            elif len(data) < limit:
                return
            else:
                limit *= 2

    def seek_tail(self, lines: int) -> int:
        """Put the position before the last ``lines`` whole lines. Answers how many there are from there."""
        if lines <= 0:
            self.position = self._end()
            return 0
        end = self._end()
        found = -1  # the newline that ends the last line begins none
        while end > 0:
            start = max(0, end - _TAIL_BYTES)
            data = self._read(start, end - start)
            count = data.count(b"\n")
            if found + count >= lines:
                cut = len(data)
                for _ in range(lines - found):
                    cut = data.rfind(b"\n", 0, cut)
                self.position = start + cut + 1
                return lines
            found += count
            end = start
        self.position = 0
        return found + 1

    def _end(self) -> int:
        return len(self._unpack()) if self.compressed else self._size

    def _read(self, start: int, size: int) -> bytes:
        if self.compressed:
            return self._unpack()[start : start + size]
        return os.pread(self.fd, size, start)

    def _unpack(self) -> bytes:
        if self._unpacked is None:
            unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
            parts = []
            offset = 0
            while data := os.pread(self.fd, BLOCK_BYTES, offset):
                offset += len(data)
                parts.append(unpacker.decompress(data))
            self._unpacked = b"".join(parts)
        return self._unpacked


def open_part(path: str) -> LogPart | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    return LogPart(path, fd)


def open_all(path: str) -> list[LogPart]:
    """Oldest first, the current file last; empty when there is no log. Raises OSError.

    A rotation in between would show one file twice or not at all, so the current file has to be the same
    before and after.
    """
    for _ in range(_ATTEMPTS):
        current = open_part(path)
        rotated = [part for name in rotated_paths(path) if (part := open_part(name)) is not None]
        parts = [*rotated, *([current] if current is not None else [])]
        unmoved = _identity(path) == (current.identity if current is not None else None)
        if unmoved and len({part.identity for part in parts}) == len(parts):
            return parts
        for part in parts:
            part.close()
    raise OSError(f"{path} is rotated faster than it can be read")


def rotated_paths(path: str) -> list[str]:
    """Oldest first. A number with both forms is being compressed; the plain one is whole."""
    directory, base = os.path.split(path)
    found: dict[int, str] = {}
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []  # the container was removed meanwhile
    for name in names:
        match = re.fullmatch(re.escape(base) + r"\.([0-9]+)(\.gz)?", name)
        if match and (match[2] is None or int(match[1]) not in found):
            found[int(match[1])] = name
    return [f"{directory}/{found[number]}" for number in sorted(found, reverse=True)]


def successor(path: str, part: LogPart) -> LogPart | None:
    """The file that was begun after ``part`` was moved aside, or None while ``part`` is the current one.

    When ``part`` is no longer to be found (compressed, or rotated out), the oldest that is left.
    """
    following = open_part(path)
    if following is None or following.identity == part.identity:
        if following is not None:
            following.close()
        return None
    for name in reversed(rotated_paths(path)):
        older = open_part(name)
        if older is None:
            continue
        if older.identity == part.identity:
            older.close()
            return following
        following.close()
        following = older
    return following


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
