"""Whatever an archive says, nothing outside the root is touched: archives made up at random."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sampan.base.errors import SampanError
from sampan.content.unpack import TreeWriter, UnpackPolicy
from sampan.formats.tar_reader import TarReader
from sampan.kernel.mount import detached

pytestmark = pytest.mark.root

part = st.sampled_from(["a", "b", "c", "..", ".", "out", ".wh.a", ".wh..wh..opq", ""])
path = st.lists(part, min_size=1, max_size=4).map("/".join) | st.sampled_from(
    ["/", "/out", "..", "../out/canary", "/proc/self/root", "a/../../out/canary"]
)
kind = st.sampled_from(
    [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]
)
members = st.lists(st.tuples(path, kind, path, st.integers(0, 0o7777)), max_size=12)


@pytest.fixture(scope="module")
def place() -> Iterator[str]:
    fd = detached("tmpfs", [])
    yield f"/proc/self/fd/{fd}"
    os.close(fd)


def packed(entries: list[tuple[str, bytes, str, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, type_, link, mode in entries:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.mode, member.uid = type_, link, mode, 12345
            member.size = 4 if type_ == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(b"evil"))
    return buffer.getvalue()


def outside(top: str) -> list[tuple[object, ...]]:
    """Everything below ``top`` but the inside of ``root``, with all that could be changed."""
    found = []
    for folder, folders, files in os.walk(top):
        if folder == top:
            folders.remove("root")
        for name in (*folders, *files):
            status = os.lstat(os.path.join(folder, name))
            found.append((folder, name, status.st_mode, status.st_uid, status.st_nlink, status.st_mtime_ns))
    with open(os.path.join(top, "out/canary"), "rb") as file:
        return [*sorted(found, key=str), (file.read(),)]


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=members, strict=st.booleans(), base=st.sampled_from([b"", b"in", b"link"]))
def test_nothing_outside_is_touched(
    place: str, entries: list[tuple[str, bytes, str, int]], strict: bool, base: bytes
) -> None:
    top = tempfile.mkdtemp(dir=place)
    try:
        os.makedirs(f"{top}/root/in")
        os.symlink("/in", f"{top}/root/link")
        os.mkdir(f"{top}/out")
        with open(f"{top}/out/canary", "wb") as file:
            file.write(b"untouched")
        os.symlink(f"{top}/out", f"{top}/root/in/out")
        before = outside(top)
        descriptors = len(os.listdir("/proc/self/fd"))
        stream = io.BytesIO(packed(entries))
        root = os.open(f"{top}/root", os.O_RDONLY | os.O_DIRECTORY)
        try:
            policy = UnpackPolicy(strict=strict and not base, overlay_whiteouts=strict)
            with TreeWriter(root, policy, base) as writer:
                writer.unpack(TarReader(lambda: stream.read(512)))
        except SampanError:
            pass
        finally:
            os.close(root)
        assert outside(top) == before
        assert len(os.listdir("/proc/self/fd")) == descriptors
    finally:
        shutil.rmtree(top)
