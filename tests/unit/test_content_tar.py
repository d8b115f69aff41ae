"""The tar reader and writer against Python's tarfile, GNU tar, and nonsense."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.formats import tar
from sampan.formats.tar import BadTar, TarEntry, encode_header, padding
from sampan.formats.tar_reader import TarReader


def reader_of(data: bytes, chunk: int = 1 << 16) -> TarReader:
    stream = io.BytesIO(data)
    return TarReader(lambda: stream.read(chunk))


def everything(data: bytes, chunk: int = 1 << 16) -> list[tuple[TarEntry, bytes]]:
    reader = reader_of(data, chunk)
    return [(entry, b"".join(reader.data())) for entry in reader]


def written(*members: tuple[TarEntry, bytes]) -> bytes:
    parts = []
    for entry, data in members:
        parts += [encode_header(entry), data, padding(len(data))]
    return b"".join((*parts, tar.END))


names = st.binary(min_size=1, max_size=300).filter(lambda name: b"\0" not in name and not name.endswith(b"/"))
xattrs = st.dictionaries(
    st.binary(min_size=1, max_size=30).filter(lambda key: b"=" not in key and b"\0" not in key),
    st.binary(max_size=50),
    max_size=3,
)


@settings(deadline=None)
@given(
    name=names,
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 2**33),
    gid=st.integers(0, 2**33),
    mtime_ns=st.integers(-(10**18), 2**40 * 10**9),
    data=st.binary(max_size=2000),
    attributes=xattrs,
    chunk=st.integers(1, 3000),
)
def test_what_is_written_is_read_back(
    name: bytes,
    mode: int,
    uid: int,
    gid: int,
    mtime_ns: int,
    data: bytes,
    attributes: dict[bytes, bytes],
    chunk: int,
) -> None:
    entry = TarEntry(
        name=name, mode=mode, uid=uid, gid=gid, mtime_ns=mtime_ns, size=len(data), xattrs=attributes or None
    )
    [(read, content)] = everything(written((entry, data)), chunk)
    assert content == data
    assert (read.name, read.mode, read.uid, read.gid) == (name, mode, uid, gid)
    assert (read.mtime_ns, read.xattrs, read.kind) == (mtime_ns, attributes or None, tar.FILE)


@pytest.mark.parametrize("layout", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_reads_what_tarfile_writes(layout: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=layout) as archive:
        long = "d/" * 60 + "f" * 20
        for name, kind, link in (
            ("dir", tarfile.DIRTYPE, ""),
            (long, tarfile.REGTYPE, ""),
            ("soft", tarfile.SYMTYPE, "../x" if layout == tarfile.USTAR_FORMAT else "t" * 150),
            ("hard", tarfile.LNKTYPE, "dir/file"),
            ("fifo", tarfile.FIFOTYPE, ""),
            ("null", tarfile.CHRTYPE, ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.uid, member.mtime = kind, link, 1000, 1_600_000_000
            member.devmajor, member.devminor = 1, 3
            member.size = 700 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(b"x" * 700))
    entries = {entry.name.decode(): (entry, data) for entry, data in everything(buffer.getvalue(), 100)}
    assert entries["dir/"][0].kind == tar.DIRECTORY
    assert entries[long][1] == b"x" * 700
    assert entries["soft"][0].linkname.startswith((b"../x", b"ttt"))
    assert entries["hard"][0].kind == tar.HARD_LINK
    assert (entries["null"][0].major, entries["null"][0].minor) == (1, 3)
    assert all(entry.uid == 1000 and entry.mtime_ns == 1_600_000_000 * 10**9 for entry, _ in entries.values())


def test_tarfile_reads_what_is_written() -> None:
    big = TarEntry(name="ü".encode() * 120, uid=2**31, size=5, mtime_ns=1_500_000_000)
    data = written(
        (TarEntry(name=b"a/", kind=tar.DIRECTORY, mode=0o1777), b""),
        (big, b"hello"),
        (TarEntry(name=b"l", kind=tar.SYMLINK, linkname=b"x" * 130), b""),
    )
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        directory, file, link = archive
        assert (directory.isdir(), directory.mode) == (True, 0o1777)
        assert (file.name, file.uid, file.mtime) == ("ü" * 120, 2**31, 1.5)
        assert archive.extractfile(file).read() == b"hello"  # type: ignore[union-attr]
        assert link.linkname == "x" * 130


@pytest.mark.skipif(shutil.which("tar") is None, reason="no GNU tar")
@pytest.mark.parametrize("layout", ["gnu", "posix", "posix-0.0", "posix-0.1"])
def test_sparse_files_of_gnu_tar(tmp_path: Path, layout: str) -> None:
    pieces = {0: b"start", 1 << 20: b"middle" * 3000, 5 << 20: b"end"}
    with (tmp_path / "sparse").open("wb") as file:
        for offset, data in pieces.items():
            file.seek(offset)
            file.write(data)
        file.truncate(9 << 20)
    fmt, _, version = layout.partition("-")
    options = [f"--sparse-version={version}"] if version else []
    packed = subprocess.run(
        ["tar", "--sparse", f"--format={fmt}", *options, "-cf", "-", "sparse"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    ).stdout
    [(entry, data)] = everything(packed, 777)
    assert (entry.name, entry.size) == (b"sparse", 9 << 20)
    assert entry.sparse is not None
    assert sum(length for _, length in entry.sparse) == len(data) < 1 << 20
    content = bytearray(entry.size)
    position = 0
    for offset, length in entry.sparse:
        content[offset : offset + length] = data[position : position + length]
        position += length
    assert bytes(content) == (tmp_path / "sparse").read_bytes()


def test_attributes_of_schily_and_libarchive() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("f")
        member.pax_headers = {"SCHILY.xattr.user.a": "b=c", "LIBARCHIVE.xattr.user.%41": "aGVsbG8"}
        archive.addfile(member)
    [(entry, _)] = everything(buffer.getvalue())
    assert entry.xattrs == {b"user.a": b"b=c", b"user.A": b"hello"}


def test_global_headers_apply_to_what_follows() -> None:
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"uid": "4711", "comment": "x"}
    ) as archive:
        archive.addfile(tarfile.TarInfo("f"))
    [(entry, _)] = everything(buffer.getvalue())
    assert entry.uid == 4711


def test_unread_data_is_skipped_and_the_rest_is_drained() -> None:
    data = written((TarEntry(name=b"a", size=1500), b"a" * 1500), (TarEntry(name=b"b", size=1), b"b"))
    stream = io.BytesIO(data + b"trailer")
    reader = TarReader(lambda: stream.read(64))
    assert [entry.name for entry in reader] == [b"a", b"b"]
    reader.drain()
    assert stream.read() == b""


@pytest.mark.parametrize("cut", [100, 511, 513, 1023, 1400])
def test_truncated_archives_are_refused(cut: int) -> None:
    data = written((TarEntry(name=b"a", size=1000), b"a" * 1000))
    with pytest.raises(BadTar, match="unexpected EOF"):
        everything(data[:cut])


def test_an_archive_may_end_without_its_mark() -> None:
    data = written((TarEntry(name=b"a", size=3), b"abc"))
    assert len(everything(data[: -len(tar.END)])) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [("size", "-1"), ("size", "x"), ("uid", "1e9"), ("mtime", "1.x"), ("GNU.sparse.map", "1,2,3")],
)
def test_bad_pax_records_are_refused(key: str, value: str) -> None:
    record = f" {key}={value}\n"
    text = f"{len(record) + 2}{record}".encode()
    assert len(text) == int(text.split(b" ")[0])
    pax = TarEntry(name=b"p", kind=tar.PAX, size=len(text))
    with pytest.raises(BadTar):
        everything(written((pax, text), (TarEntry(name=b"a"), b"")))


def test_sparse_map_that_overlaps_is_refused() -> None:
    with pytest.raises(BadTar, match="out of order"):
        tar.check_sparse([(0, 10), (5, 10)], 100, 20)
    with pytest.raises(BadTar, match="out of order"):
        tar.check_sparse([(95, 10)], 100, 10)
    with pytest.raises(BadTar, match="does not fit"):
        tar.check_sparse([(0, 10)], 100, 20)


def test_header_extension_is_bounded() -> None:
    pax = TarEntry(name=b"p", kind=tar.PAX, size=64 << 20)
    with pytest.raises(BadTar, match="too long"):
        everything(encode_header(pax) + bytes(1024))


@settings(deadline=None, max_examples=300)
@given(data=st.binary(max_size=4000), chunk=st.integers(1, 700))
def test_nonsense_is_refused_or_empty(data: bytes, chunk: int) -> None:
    try:
        entries = everything(data, chunk)
    except BadTar:
        return
    assert sum(len(content) for _, content in entries) <= len(data)


@settings(deadline=None, max_examples=300)
@given(
    position=st.integers(0, 1535),
    value=st.integers(0, 255),
    fix=st.booleans(),
)
def test_a_changed_byte_does_no_harm(position: int, value: int, fix: bool) -> None:
    good = bytearray(written((TarEntry(name=b"n" * 120, size=40, xattrs={b"user.x": b"y"}), b"d" * 40)))
    good[position] = value
    if fix:
        start = position // 512 * 512
        block = good[start : start + 512]
        block[148:156] = b"        "
        good[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    try:
        entries = everything(bytes(good), 99)
    except BadTar:
        return
    assert sum(len(data) for _, data in entries) <= len(good)


def test_numbers_in_base_256() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        member = tarfile.TarInfo("f")
        member.uid, member.mtime = 2**40, -5
        archive.addfile(member)
    [(entry, _)] = everything(buffer.getvalue())
    assert (entry.uid, entry.mtime_ns) == (2**40, -5_000_000_000)


def test_pax_record_lengths_count_themselves() -> None:
    for size in range(80, 120):
        data = written((TarEntry(name=b"a", xattrs={b"k": os.urandom(size)}), b""))
        [(entry, _)] = everything(data)
        assert len((entry.xattrs or {})[b"k"]) == size
