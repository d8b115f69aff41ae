"""The log writer: buffering of unfinished lines, rotation, compression, and a disk that is full."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from sampan.kernel.logfile import JsonFileWriter


def texts(path: Path | str) -> list[str]:
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "rb") as file:
        return [json.loads(line)["log"] for line in file.read().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "c-json.log")


def test_a_line_waits_for_its_newline_on_each_stream_apart(path: str) -> None:
    writer = JsonFileWriter(path)
    writer.write(b"one\ntw", "stdout")
    writer.write(b"err", "stderr")
    writer.write(b"o\n", "stdout")
    assert texts(path) == ["one\n", "two\n"]
    writer.close()
    assert texts(path) == ["one\n", "two\n", "err"]


def test_a_line_of_exactly_16_kib_is_logged_at_once_and_its_newline_later(path: str) -> None:
    writer = JsonFileWriter(path)
    writer.write(b"a" * 16383, "stdout")
    assert texts(path) == []
    writer.write(b"a", "stdout")
    assert texts(path) == ["a" * 16384]
    writer.write(b"\n", "stdout")
    writer.close()
    assert texts(path) == ["a" * 16384, "\n"]


def test_rotation_keeps_max_files_and_loses_no_line_in_them(path: str) -> None:
    writer = JsonFileWriter(path, max_size_bytes=1000, max_files=3)
    for number in range(100):
        writer.write(b"line %d\n" % number, "stdout")
    writer.close()
    assert sorted(os.listdir(os.path.dirname(path))) == ["c-json.log", "c-json.log.1", "c-json.log.2"]
    kept = texts(path + ".2") + texts(path + ".1") + texts(path)
    assert kept == [f"line {number}\n" for number in range(100 - len(kept), 100)]
    assert 1000 <= os.path.getsize(path + ".1") < 1100


def test_one_chunk_larger_than_several_files_is_cut_between_lines(path: str) -> None:
    writer = JsonFileWriter(path, max_size_bytes=1000, max_files=100)
    writer.write(b"".join(b"line %d\n" % number for number in range(100)), "stdout")
    writer.close()
    count = len(os.listdir(os.path.dirname(path)))
    kept = [text for index in range(count - 1, 0, -1) for text in texts(f"{path}.{index}")] + texts(path)
    assert kept == [f"line {number}\n" for number in range(100)]


def test_one_file_only_is_begun_again(path: str) -> None:
    writer = JsonFileWriter(path, max_size_bytes=200, max_files=1)
    for number in range(10):
        writer.write(b"line %d\n" % number, "stdout")
    writer.close()
    assert os.listdir(os.path.dirname(path)) == ["c-json.log"]
    assert texts(path)[-1] == "line 9\n"
    assert os.path.getsize(path) < 400


def test_rotated_files_are_compressed(path: str) -> None:
    writer = JsonFileWriter(path, max_size_bytes=1000, max_files=3, compress=True)
    for number in range(100):
        writer.write(b"line %d\n" % number, "stdout")
    writer.close()
    assert sorted(os.listdir(os.path.dirname(path))) == ["c-json.log", "c-json.log.1.gz", "c-json.log.2.gz"]
    kept = texts(path + ".2.gz") + texts(path + ".1.gz") + texts(path)
    assert kept == [f"line {number}\n" for number in range(100 - len(kept), 100)]


def test_a_torn_last_line_does_not_swallow_the_next(path: str) -> None:
    Path(path).write_bytes(b'{"log":"torn')
    writer = JsonFileWriter(path)
    writer.write(b"whole\n", "stdout")
    writer.close()
    assert json.loads(Path(path).read_bytes().splitlines()[1])["log"] == "whole\n"


def test_reopen_follows_a_file_that_was_moved_away(path: str) -> None:
    writer = JsonFileWriter(path)
    writer.write(b"old\n", "stdout")
    os.rename(path, path + ".moved")
    writer.reopen()
    writer.write(b"new\n", "stdout")
    writer.close()
    assert (texts(path + ".moved"), texts(path)) == (["old\n"], ["new\n"])


def test_a_full_disk_drops_lines_and_says_how_many(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = JsonFileWriter(path)
    writer.write(b"before\n", "stdout")
    real_write, calls = os.write, 0

    def short_then_full(fd: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            return real_write(fd, data[: len(data) // 2])  # as the kernel does before it says ENOSPC
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", short_then_full)
    writer.write(b"lost 1\nlost 2\nlost 3\n", "stdout")
    writer.write(b"lost 4\n", "stdout")
    monkeypatch.setattr(os, "write", real_write)
    assert texts(path) == ["before\n", "lost 1\n"]
    assert writer.dropped_lines == 3
    writer.write(b"after\n", "stdout")
    writer.close()
    notice = "[sampan: 3 lines of this log were lost: No space left on device]\n"
    assert texts(path) == ["before\n", "lost 1\n", notice, "after\n"]
