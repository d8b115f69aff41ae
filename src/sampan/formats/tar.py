"""The tar format: header blocks to entries and back. No I/O and no policy; see ``tar_reader`` for streams.

Read: v7, ustar (POSIX.1-1988), pax (POSIX.1-2001) and GNU (long names, base-256 numbers, old sparse maps,
sparse maps in pax records). Written: ustar, with a pax header where ustar cannot say it.
Names are bytes, as the kernel has them. Layout: POSIX pax(1) "EXTENDED DESCRIPTION", GNU tar manual
"Basic Tar Format" and "Storing Sparse Files".
"""

from __future__ import annotations

import zlib

import msgspec

from sampan.base.errors import InvalidArgument

BLOCK = 512
END = bytes(2 * BLOCK)
"""Two zero blocks end an archive."""

FILE = b"0"
HARD_LINK = b"1"
SYMLINK = b"2"
CHAR_DEVICE = b"3"
BLOCK_DEVICE = b"4"
DIRECTORY = b"5"
FIFO = b"6"
CONTIGUOUS = b"7"
PAX = b"x"
PAX_GLOBAL = b"g"
GNU_LONG_NAME = b"L"
GNU_LONG_LINK = b"K"
GNU_SPARSE = b"S"

XATTR_PREFIX = b"SCHILY.xattr."
LIBARCHIVE_XATTR_PREFIX = b"LIBARCHIVE.xattr."

_ZERO = bytes(BLOCK)
_MOD_ADLER = 65521
_MAX_OCTAL_11 = 0o77777777777
_MAX_OCTAL_7 = 0o7777777


class BadTar(InvalidArgument):
    """The bytes are not a tar archive, or break off."""


class TarEntry(msgspec.Struct, kw_only=True, gc=False):
    """One member. ``size`` is the length of the data as it will be on disk (holes included)."""

    name: bytes
    kind: bytes = FILE
    mode: int = 0o644
    """Permission bits with set-id and sticky bits (07777)."""
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    linkname: bytes = b""
    uname: bytes = b""
    gname: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: dict[bytes, bytes] | None = None
    sparse: list[tuple[int, int]] | None = None
    """(offset, length) of each piece of data of a sparse file, ascending; None for a plain one."""
    stored_size: int = 0
    """Length of the data in the archive, without padding."""


def checksum_matches(block: bytes) -> bool:
    """Whether the header's checksum is right, as unsigned sum or (old Sun tars) as signed sum."""
    try:
        stored = octal(block[148:156])
    except BadTar:
        return False
    # adler32's low half is 1 + the sum of the bytes modulo 65521: far faster than a sum in Python
    field = sum(block[148:156])
    if zlib.adler32(block) & 0xFFFF == (1 + stored - 256 + field) % _MOD_ADLER:
        return True
    signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + block[156:]) + 256
    return signed == stored


def starts_archive(head: bytes) -> bool:
    """Whether the first 512 bytes of something are a header, or the end of an archive without entries."""
    return len(head) >= BLOCK and (head[:BLOCK] == _ZERO or checksum_matches(head[:BLOCK]))


def octal(field: bytes) -> int:
    """A numeric field: octal digits ended by NUL or space, or GNU's base-256. Raises BadTar."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big")
        if field[0] & 0x40:
            return value - (1 << (8 * len(field)))
        return value & ((1 << (8 * len(field) - 1)) - 1)
    digits = field.split(b"\0", 1)[0].strip()
    if not digits:
        return 0
    try:
        return int(digits, 8)
    except ValueError:
        raise BadTar(f"archive/tar: invalid tar header: bad number {field!r}") from None


def parse_header(block: bytes) -> TarEntry | None:
    """The entry of one 512-byte header; None for a block of zeros. Raises BadTar.

    What pax records and GNU long names say is not applied; sparse maps of GNU's old format are not either.
    """
    if block == _ZERO:
        return None
    if not checksum_matches(block):
        raise BadTar("archive/tar: invalid tar header")
    name = block[:100].split(b"\0", 1)[0]
    kind = block[156:157]
    major = minor = 0
    if block[257:263] == b"ustar\0":
        if block[345]:
            name = block[345:500].split(b"\0", 1)[0] + b"/" + name
    elif kind == b"\0" and name.endswith(b"/"):
        kind = DIRECTORY
    if kind in (b"\0", CONTIGUOUS):
        kind = FILE
    if kind in (CHAR_DEVICE, BLOCK_DEVICE):
        major, minor = octal(block[329:337]), octal(block[337:345])
    size = octal(block[124:136])
    if size < 0:
        raise BadTar("archive/tar: invalid tar header: negative size")
    return TarEntry(
        name=name,
        kind=kind,
        mode=octal(block[100:108]) & 0o7777,
        uid=octal(block[108:116]),
        gid=octal(block[116:124]),
        size=size,
        stored_size=size,
        mtime_ns=octal(block[136:148]) * 1_000_000_000,
        linkname=block[157:257].split(b"\0", 1)[0] if block[157] else b"",
        uname=block[265:297].split(b"\0", 1)[0],
        gname=block[297:329].split(b"\0", 1)[0],
        major=major,
        minor=minor,
    )


def parse_pax(data: bytes) -> list[tuple[bytes, bytes]]:
    """The records ``LENGTH KEY=VALUE\\n`` of a pax header, in order, repeated keys kept. Raises BadTar."""
    records = []
    position = 0
    end = len(data)
    while position < end:
        space = data.find(b" ", position, position + 20)
        if space < 0:
            if data[position:].strip(b"\0") == b"":
                break
            raise BadTar("archive/tar: invalid tar header: pax record without a length")
        digits = data[position:space]
        if not digits.isdigit():
            raise BadTar("archive/tar: invalid tar header: pax record with a bad length")
        stop = position + int(digits)
        if stop > end or stop <= space + 1 or data[stop - 1] != 0x0A:
            raise BadTar("archive/tar: invalid tar header: pax record breaks off")
        key, equals, value = data[space + 1 : stop - 1].partition(b"=")
        if not equals or not key:
            raise BadTar("archive/tar: invalid tar header: pax record without a value")
        records.append((key, value))
        position = stop
    return records


def decimal(value: bytes) -> int:
    """A number of a pax record. Raises BadTar."""
    text = value[1:] if value[:1] == b"-" else value
    if not text.isdigit() or len(text) > 20:
        raise BadTar(f"archive/tar: invalid tar header: bad number {value!r}")
    return int(value)


def pax_time_ns(value: bytes) -> int:
    """``1350244992.0239601`` and ``-1.5``. Raises BadTar."""
    whole, _, fraction = value.partition(b".")
    if fraction and not fraction.isdigit():
        raise BadTar(f"archive/tar: invalid tar header: bad time {value!r}")
    seconds = decimal(whole) if whole not in (b"", b"-") else 0
    nanos = int(fraction[:9].ljust(9, b"0")) if fraction else 0
    return seconds * 1_000_000_000 + (-nanos if value[:1] == b"-" else nanos)


def apply_pax(entry: TarEntry, records: list[tuple[bytes, bytes]]) -> None:
    """Let pax records overrule the header's fields, in place. Raises BadTar."""
    xattrs: dict[bytes, bytes] = {}
    for key, value in records:
        if key == b"path":
            entry.name = _no_nul(value)
        elif key == b"linkpath":
            entry.linkname = _no_nul(value)
        elif key == b"size":
            entry.size = entry.stored_size = _positive(value)
        elif key == b"uid":
            entry.uid = decimal(value)
        elif key == b"gid":
            entry.gid = decimal(value)
        elif key == b"mtime":
            entry.mtime_ns = pax_time_ns(value)
        elif key == b"uname":
            entry.uname = value
        elif key == b"gname":
            entry.gname = value
        elif key.startswith(XATTR_PREFIX):
            xattrs[key[len(XATTR_PREFIX) :]] = value
        elif key.startswith(LIBARCHIVE_XATTR_PREFIX):
            _libarchive_xattr(xattrs, key, value)
    if xattrs:
        entry.xattrs = xattrs


def _libarchive_xattr(xattrs: dict[bytes, bytes], key: bytes, value: bytes) -> None:
    """libarchive URL-encodes the name and base64-encodes the value, and writes the SCHILY form as well."""
    import base64
    import binascii
    from urllib.parse import unquote_to_bytes

    name = unquote_to_bytes(key[len(LIBARCHIVE_XATTR_PREFIX) :])
    try:
        decoded = base64.b64decode(value + b"=" * (-len(value) % 4))
    except binascii.Error:
        raise BadTar("archive/tar: invalid tar header: bad extended attribute") from None
    xattrs.setdefault(name, decoded)


def _no_nul(value: bytes) -> bytes:
    if b"\0" in value:
        raise BadTar("archive/tar: invalid tar header: name with a NUL")
    return value


def _positive(value: bytes) -> int:
    number = decimal(value)
    if number < 0:
        raise BadTar("archive/tar: invalid tar header: negative size")
    return number


def parse_old_sparse(block: bytes, extension: bool) -> tuple[list[tuple[int, int]], bool]:
    """The map in a GNU sparse header (4 places) or an extension block (21): pieces, more follow."""
    start, count, flag = (0, 21, 504) if extension else (386, 4, 482)
    pieces = []
    for place in range(count):
        field = block[start + 24 * place : start + 24 * place + 24]
        if not field[0]:
            break
        pieces.append((octal(field[:12]), octal(field[12:])))
    return pieces, block[flag] != 0


def parse_pax_sparse(records: list[tuple[bytes, bytes]]) -> list[tuple[int, int]] | None:
    """The map of GNU pax formats 0.0 and 0.1; None when the records hold none. Raises BadTar."""
    numbers: list[int] = []
    for key, value in records:
        if key == b"GNU.sparse.map":
            numbers = [_positive(part) for part in value.split(b",")] if value else []
        elif key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            numbers.append(_positive(value))
    has_map = any(
        key in (b"GNU.sparse.map", b"GNU.sparse.offset", b"GNU.sparse.numblocks") for key, _ in records
    )
    if not has_map:
        return None
    if len(numbers) % 2:
        raise BadTar("archive/tar: invalid tar header: odd sparse map")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def check_sparse(pieces: list[tuple[int, int]], size: int, stored_size: int) -> None:
    """A map must ascend without overlap, end within the file and account for the stored bytes."""
    position = total = 0
    for offset, length in pieces:
        if offset < position or length < 0 or offset + length > size:
            raise BadTar("archive/tar: invalid tar header: sparse map out of order")
        position = offset + length
        total += length
    if total != stored_size:
        raise BadTar("archive/tar: invalid tar header: sparse map does not fit the data")


def padding(size: int) -> bytes:
    """What follows ``size`` bytes of data up to the next block."""
    return bytes(-size % BLOCK)


def _number(value: int, width: int) -> bytes | None:
    text = b"%0*o" % (width - 1, value) if value >= 0 else b""
    return text + b"\0" if text and len(text) < width else None


def _pax_record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + len(str(len(body)))
    if len(str(length)) + len(body) != length:
        length += 1
    return str(length).encode() + body


def _ustar(entry: TarEntry, name: bytes, prefix: bytes, linkname: bytes) -> bytes:
    block = b"".join(
        (
            name.ljust(100, b"\0"),
            b"%07o\0" % (entry.mode & 0o7777),
            _number(entry.uid, 8) or b"0000000\0",
            _number(entry.gid, 8) or b"0000000\0",
            _number(entry.size, 12) or b"00000000000\0",
            _number(entry.mtime_ns // 1_000_000_000, 12) or b"00000000000\0",
            b"        ",
            entry.kind,
            linkname.ljust(100, b"\0"),
            b"ustar\x0000",
            entry.uname[:32].ljust(32, b"\0"),
            entry.gname[:32].ljust(32, b"\0"),
            _number(entry.major, 8) or b"0000000\0",
            _number(entry.minor, 8) or b"0000000\0",
            prefix.ljust(155, b"\0"),
            bytes(12),
        )
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _split_name(name: bytes) -> tuple[bytes, bytes] | None:
    """(prefix, name) that fit ustar's 155 and 100 bytes, or None."""
    if len(name) <= 100:
        return b"", name
    if len(name) > 256:
        return None
    cut = name.rfind(b"/", 0, min(156, len(name) - 1))
    if cut <= 0 or len(name) - cut - 1 > 100:
        return None
    return name[:cut], name[cut + 1 :]


def encode_header(entry: TarEntry) -> bytes:
    """The header blocks of an entry: one ustar block, behind a pax header if that cannot hold everything.

    Times keep whole seconds unless the entry has a fraction. Sparse maps are not written: the data that
    follows must be the whole ``size`` bytes.
    """
    records: list[bytes] = []
    split = _split_name(entry.name)
    if split is None or not entry.name.isascii():
        records.append(_pax_record(b"path", entry.name))
        split = split or (b"", entry.name[:100])
    linkname = entry.linkname
    if len(linkname) > 100 or not linkname.isascii():
        records.append(_pax_record(b"linkpath", linkname))
        linkname = linkname[:100]
    if entry.size > _MAX_OCTAL_11:
        records.append(_pax_record(b"size", b"%d" % entry.size))
    if not 0 <= entry.uid <= _MAX_OCTAL_7:
        records.append(_pax_record(b"uid", b"%d" % entry.uid))
    if not 0 <= entry.gid <= _MAX_OCTAL_7:
        records.append(_pax_record(b"gid", b"%d" % entry.gid))
    seconds, nanos = divmod(entry.mtime_ns, 1_000_000_000)
    if nanos or not 0 <= seconds <= _MAX_OCTAL_11:
        records.append(_pax_record(b"mtime", _pax_seconds(entry.mtime_ns)))
    records += [_pax_record(XATTR_PREFIX + key, value) for key, value in sorted((entry.xattrs or {}).items())]
    header = _ustar(entry, split[1], split[0], linkname)
    if not records:
        return header
    data = b"".join(records)
    base = entry.name.rstrip(b"/").rpartition(b"/")[2][:80]
    pax = TarEntry(name=b"PaxHeaders.0/" + base, kind=PAX, mode=0, size=len(data))
    return b"".join((_ustar(pax, pax.name, b"", b""), data, padding(len(data)), header))


def _pax_seconds(time_ns: int) -> bytes:
    sign = "-" if time_ns < 0 else ""
    seconds, nanos = divmod(abs(time_ns), 1_000_000_000)
    text = f"{sign}{seconds}.{nanos:09d}".rstrip("0").rstrip(".")
    return text.encode()
