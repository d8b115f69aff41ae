"""The key sequence that detaches a client: bytes in, bytes to pass on out. No I/O."""

from __future__ import annotations

DEFAULT_KEYS = b"\x10\x11"
"""ctrl-p, ctrl-q."""

_CONTROL = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}
_NAMED = {"del": 127}


def parse_detach_keys(text: str) -> bytes:
    """``ctrl-p,ctrl-q`` or ``a,b`` as bytes; an empty text is the default.

    Raises ValueError for a key that no terminal can send.
    """
    if not text:
        return DEFAULT_KEYS
    return bytes(_key(part) for part in text.split(","))


def _key(part: str) -> int:
    if len(part) == 1 and part.isascii():
        return ord(part)
    lowered = part.lower()
    if lowered in _NAMED:
        return _NAMED[lowered]
    if lowered.startswith("ctrl-") and len(part) == 6:
        letter = lowered[5]
        if "a" <= letter <= "z":
            return ord(letter) - ord("a") + 1
        if letter in _CONTROL:
            return _CONTROL[letter]
    raise ValueError(f"Unknown character: '{part}'")


class DetachFilter:
    """Holds back what may be the beginning of the sequence until it is or is not."""

    def __init__(self, keys: bytes) -> None:
        """``keys`` is not empty."""
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What to pass on, and whether the sequence was completed (what follows it is dropped)."""
        if not self._matched and self._keys[0] not in data:
            return data, False
        out = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    self._matched = 0
                    return bytes(out), True
                continue
            out += self._mismatch(byte)
        return bytes(out), False

    def _mismatch(self, byte: int) -> bytes:
        """The longest end of (held bytes + byte) that still begins the sequence stays held."""
        seen = self._keys[: self._matched] + bytes((byte,))
        for length in range(min(len(seen), len(self._keys)), 0, -1):
            if seen.endswith(self._keys[:length]):
                self._matched = length
                return seen[:-length]
        self._matched = 0
        return seen
