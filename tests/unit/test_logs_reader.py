"""Reading logs back: everything, tails, times, streams, rotation, and following a writer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.base.clock import parse_ns
from sampan.formats.jsonlog import encode
from sampan.formats.stdcopy import frame, frame_each, header, split
from sampan.kernel.logfile import JsonFileWriter
from sampan.logs.files import LogPart
from sampan.logs.reader import LogReader
from sampan.logs.watch import LogWatcher

DEFAULTS: dict[str, Any] = {
    "stdout": True,
    "stderr": True,
    "since_ns": 0,
    "until_ns": 0,
    "tail": None,
    "timestamps": False,
    "details": False,
    "follow": None,
    "framed": False,
}


async def read(path: Path | str, **options: Any) -> bytes:
    return b"".join([chunk async for chunk in LogReader().read(str(path), **{**DEFAULTS, **options})])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c-json.log"


def at(second: int) -> bytes:
    return b"2026-01-01T00:00:%02d.5Z" % second


async def test_no_log_reads_as_nothing(path: Path) -> None:
    assert await read(path) == b""


async def test_merged_neighbours_of_one_stream_share_a_frame(path: Path) -> None:
    writer = JsonFileWriter(str(path))
    writer.write(b"one\ntwo\n", "stdout")
    writer.close()
    assert list(split(await read(path, framed=True, merged=True))) == [(1, b"one\ntwo\n")]


async def test_merging_changes_frames_but_no_byte_of_a_stream(path: Path) -> None:
    writer = JsonFileWriter(str(path))
    for number in range(50):
        writer.write(b"line %d\n" % number, "stdout" if number % 3 else "stderr")
    writer.close()
    merged, plain = [list(split(await read(path, framed=True, merged=m))) for m in (True, False)]
    for stream in (1, 2):
        joined = [b"".join(data for kind, data in frames if kind == stream) for frames in (merged, plain)]
        assert joined[0] == joined[1] != b""


async def test_each_line_is_a_frame_of_its_stream(path: Path) -> None:
    writer = JsonFileWriter(str(path))
    writer.write(b"one\ntwo\n", "stdout")
    writer.write(b"bad\n", "stderr")
    writer.write(b"x" * 40_000 + b"\n", "stdout")
    writer.close()
    frames = list(split(await read(path, framed=True)))
    assert frames[:3] == [(1, b"one\n"), (1, b"two\n"), (2, b"bad\n")]
    assert b"".join(payload for _, payload in frames[3:]) == b"x" * 40_000 + b"\n"
    assert await read(path, stdout=False) == b"bad\n"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=20))
def test_utf8_text_comes_back_as_it_was_and_other_bytes_as_replacement(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("log") / "c-json.log"
    writer = JsonFileWriter(str(path))
    for chunk in chunks:
        writer.write(chunk, "stdout")
    writer.close()
    got = asyncio.run(read(path)).decode()
    data = b"".join(chunks)
    try:
        assert got == data.decode()
    except UnicodeDecodeError:
        assert "\ufffd" in got


async def test_rotated_and_compressed_files_are_read_oldest_first(path: Path) -> None:
    writer = JsonFileWriter(str(path), max_size_bytes=2000, max_files=50, compress=True)
    for number in range(200):
        writer.write(b"line %d\n" % number, "stdout")
    writer.close()
    everything = [b"line %d\n" % number for number in range(200)]
    assert await read(path) == b"".join(everything)
    for tail in (0, 1, 7, 30, 100, 199, 200, 1000):
        assert await read(path, tail=tail) == b"".join(everything[200 - min(tail, 200) :]), tail


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 40_000), max_size=30), lines=st.integers(0, 35), torn=st.booleans())
def test_a_tail_is_the_last_lines(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], lines: int, torn: bool
) -> None:
    path = tmp_path_factory.mktemp("tail") / "log"
    content = [b"a" * size + b"\n" for size in sizes]
    path.write_bytes(b"".join(content) + (b"torn" if torn else b""))
    with path.open("rb") as file:
        part = LogPart(str(path), file.fileno())
        assert part.seek_tail(lines) == min(lines, len(sizes))
        assert b"".join(part.blocks()) == b"".join(content[len(sizes) - min(lines, len(sizes)) :])


async def test_times_bound_what_is_shown(path: Path) -> None:
    path.write_bytes(b"".join(encode(b"%d\n" % second, "stdout", at(second)) for second in range(10)))
    since, until = parse_ns(at(3).decode()), parse_ns(at(6).decode())
    assert await read(path, since_ns=since, until_ns=until) == b"3\n4\n5\n6\n"
    assert await read(path, since_ns=since + 1) == b"4\n5\n6\n7\n8\n9\n"
    assert await read(path, since_ns=parse_ns(at(20).decode())) == b""
    assert await read(path, tail=2, since_ns=since) == b"8\n9\n"


async def test_timestamps_have_nine_digits_and_details_come_after_them(path: Path) -> None:
    path.write_bytes(
        encode(b"hi\n", "stdout", at(1), b'{"tag":"a b","label":"x"}') + encode(b"x\n", "stdout", at(2))
    )
    assert await read(path, timestamps=True, details=True) == (
        b"2026-01-01T00:00:01.500000000Z label=x,tag=a+b hi\n2026-01-01T00:00:02.500000000Z  x\n"
    )


async def test_lines_that_are_no_records_are_left_out(path: Path) -> None:
    good = encode(b"good\n", "stdout", at(1))
    path.write_bytes(good + b'{"log":"to\n' + b"\x00\x00\n" + good)
    assert await read(path) == b"good\ngood\n"


def ending() -> asyncio.Future[None]:
    """What is done when the container has ended."""
    return asyncio.get_running_loop().create_future()


async def read_to(chunks: AsyncIterator[bytes], suffix: bytes) -> bytes:
    got = b""
    async with asyncio.timeout(10):
        while not got.endswith(suffix):
            got += await anext(chunks)
    return got


async def read_rest(chunks: AsyncIterator[bytes]) -> bytes:
    async with asyncio.timeout(10):
        return b"".join([chunk async for chunk in chunks])


async def test_following_ends_with_the_container_and_misses_nothing_in_rotations(path: Path) -> None:
    writer = JsonFileWriter(str(path), max_size_bytes=3000, max_files=4)
    watcher, ended = LogWatcher(), ending()
    writer.write(b"before\n", "stdout")
    follow = watcher.watch(str(path), ended)
    chunks = LogReader().read(str(path), **{**DEFAULTS, "follow": follow})
    got = await read_to(chunks, b"before\n")
    for number in range(300):
        writer.write(b"line %d\n" % number, "stdout")
        if number % 50 == 0:  # several rotations in between
            got += await read_to(chunks, b"line %d\n" % number)
    writer.write(b"last words", "stdout")
    writer.close()
    ended.set_result(None)
    got += await read_rest(chunks)
    await follow.aclose()
    watcher.close()
    assert got == b"before\n" + b"".join(b"line %d\n" % number for number in range(300)) + b"last words"


async def test_following_goes_on_with_the_oldest_file_when_rotation_overtook_it(path: Path) -> None:
    writer = JsonFileWriter(str(path), max_size_bytes=1000, max_files=3)
    writer.write(b"first\n", "stdout")
    ticks: asyncio.Queue[bool] = asyncio.Queue()

    async def follow() -> AsyncIterator[None]:
        while await ticks.get():
            yield None

    chunks = LogReader().read(str(path), **{**DEFAULTS, "follow": follow()})
    assert await read_to(chunks, b"first\n") == b"first\n"
    for number in range(100):
        writer.write(b"line %d\n" % number, "stdout")
    writer.close()
    ticks.put_nowait(False)
    got = await read_rest(chunks)
    kept = b"".join(path.with_name(path.name + suffix).read_bytes() for suffix in (".2", ".1", ""))
    left = b"".join(json.loads(line)["log"].encode() for line in kept.splitlines())
    assert got.startswith(b"line 0\nline 1\n")  # of the file that was open, though it is gone
    assert got.endswith(left)
    assert left.endswith(b"line 99\n")


async def test_a_slow_follower_loses_nothing_to_rotation(path: Path) -> None:
    """Nothing is read while the log is rotated past everything it keeps, but its ticks are taken."""
    writer = JsonFileWriter(str(path), max_size_bytes=1000, max_files=2)
    writer.write(b"first\n", "stdout")
    ticks: asyncio.Queue[bool] = asyncio.Queue()
    looked = asyncio.Event()

    async def follow() -> AsyncIterator[None]:
        while await ticks.get():
            yield None
            looked.set()

    chunks = LogReader().read(str(path), **{**DEFAULTS, "follow": follow()})
    assert await read_to(chunks, b"first\n") == b"first\n"
    writer.write(b"second\n", "stdout")
    ticks.put_nowait(True)
    assert await read_to(chunks, b"second\n") == b"second\n"
    for number in range(100):
        writer.write(b"line %d\n" % number, "stdout")
        looked.clear()
        ticks.put_nowait(True)
        await asyncio.wait_for(looked.wait(), 30)
    writer.close()
    ticks.put_nowait(False)
    assert await read_rest(chunks) == b"".join(b"line %d\n" % number for number in range(100))


async def test_a_follower_that_leaves_gives_back_its_watch(path: Path) -> None:
    path.touch()
    watcher = LogWatcher()
    followers = [watcher.watch(str(path), ending()) for _ in range(3)]
    assert len(watcher._followers) == 1
    for follower in followers:
        await follower.aclose()
        await follower.aclose()
    assert not watcher._followers
    watcher.close()


def test_frames() -> None:
    assert header(2, 258) == b"\x02\x00\x00\x00\x00\x00\x01\x02"
    payloads = [b"a\n", b"b" * 5000, b""]
    assert frame_each(1, payloads) == b"".join(frame(1, payload) for payload in payloads)
    with pytest.raises(ValueError, match="inside a frame"):
        list(split(frame(1, b"abc")[:-1]))
