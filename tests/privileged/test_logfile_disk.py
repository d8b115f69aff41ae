"""The log writer on a disk that really is full."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.kernel import mount
from sampan.kernel.logfile import JsonFileWriter

pytestmark = pytest.mark.root


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount.mount("none", str(tmp_path), "tmpfs", 0, "size=256k")
    yield tmp_path
    mount.unmount(str(tmp_path))


def test_a_full_disk_costs_lines_and_nothing_else(small_disk: Path) -> None:
    path = small_disk / "log"
    (small_disk / "ballast").write_bytes(b"x" * 128 * 1024)
    writer = JsonFileWriter(str(path), max_size_bytes=-1)
    lines = [b"line %06d\n" % number for number in range(5000)]
    for start in range(0, len(lines), 100):
        writer.write(b"".join(lines[start : start + 100]), "stdout")
    assert writer.dropped_lines > 0
    lost = writer.dropped_lines
    (small_disk / "ballast").unlink()
    writer.write(b"room again\n", "stdout")
    writer.close()
    found = [json.loads(line)["log"] for line in path.read_bytes().splitlines()]
    assert found[-2] == f"[sampan: {lost} lines of this log were lost: No space left on device]\n"
    assert found[-1] == "room again\n"
    kept = len(found) - 2
    assert kept + lost == len(lines)
    assert found[:kept] == [line.decode() for line in lines[:kept]]
