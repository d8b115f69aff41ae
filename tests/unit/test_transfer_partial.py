"""A file that grows while it is read."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.base.errors import Cancelled
from sampan.transfer.partial_file import BytesReplaced, PartialFile, Reader

DATA = os.urandom(3_000_000)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[PartialFile]:
    made = PartialFile(str(tmp_path / "blob"))
    yield made
    made.close()


class Reading:
    """Somebody who reads to the end in a thread."""

    def __init__(self, reader: Reader) -> None:
        self.seen = b""
        self.error: Exception | None = None
        self._reader = reader
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while chunk := self._reader.read():
                self.seen += chunk
        except Exception as error:
            self.error = error

    def ended(self, timeout_s: float = 10) -> bool:
        self._thread.join(timeout_s)
        return not self._thread.is_alive()


def test_bytes_are_read_as_they_come(file: PartialFile) -> None:
    reader = file.reader()
    file.write(DATA[:10])
    assert reader.read() == DATA[:10]
    reading = Reading(reader)
    for start in range(10, len(DATA), 100_000):
        file.write(DATA[start : start + 100_000])
    # however much there is, the end shows only when it is known to be right
    assert not reading.ended(0.05)
    file.end(whole=True)
    assert reading.ended()
    assert (reading.seen, reading.error) == (DATA[10:], None)


def test_what_is_there_already_is_read_first(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(DATA[:1000])
    file = PartialFile(str(tmp_path / "blob"))
    reading = Reading(file.reader())
    file.recover(len(DATA))
    file.write(DATA[1000:2000])
    file.end(whole=True)
    assert reading.ended()
    assert reading.seen == DATA[:2000]
    file.close()


def test_replaced_bytes_are_told(file: PartialFile) -> None:
    file.write(b"wrong")
    reader, late = file.reader(), file.reader()
    assert reader.read() == b"wrong"
    readings = Reading(reader), Reading(late)
    file.reset()
    file.write(b"right")
    assert all(one.ended() for one in readings)
    assert all(isinstance(one.error, BytesReplaced) for one in readings)
    again = Reading(file.reader())
    file.end(whole=True)
    assert again.ended()
    assert again.seen == b"right"


def test_nobody_waits_for_what_never_comes(file: PartialFile) -> None:
    readers = file.reader(), file.reader()
    readings = [Reading(one) for one in readers]
    readers[0].cancel()
    assert readings[0].ended()
    assert isinstance(readings[0].error, Cancelled)
    assert not readings[1].ended(0.05)
    file.end(whole=False)
    assert readings[1].ended()
    assert isinstance(readings[1].error, Cancelled)


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "blob").symlink_to("target")
    with pytest.raises(OSError, match="symbolic links"):
        PartialFile(str(tmp_path / "blob"))
