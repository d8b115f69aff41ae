"""When a suite was published."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest

from sampan.content.distribution import BootstrapFailed, release_date_s, run_program

DAY_S = 86400
SUITE = "sampan-has-no-such-suite"


@pytest.fixture
def mirror() -> Iterator[tuple[str, list[bytes]]]:
    """A mirror's address, and what it says of any suite."""
    said: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if said else 404)
            self.send_header("Content-Length", str(sum(map(len, said))))
            self.end_headers()
            self.wfile.write(b"".join(said))

        def log_message(self, *_: object) -> None:
            """The test looks at the result alone."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/debian/", said
    server.shutdown()
    thread.join()
    server.server_close()


def test_failures_name_what_apt_says() -> None:
    script = (
        "echo 'Reading...' >&2; echo 'E: Unable to locate package x' >&2; echo 'E: apt failed' >&2; exit 25"
    )
    with pytest.raises(BootstrapFailed) as raised:
        run_program(["sh", "-c", script], 30)
    assert raised.value.message == "sh failed (25): E: Unable to locate package x"
    with pytest.raises(BootstrapFailed, match=r"sh failed \(3\): one / two"):
        run_program(["sh", "-c", "printf 'one\\ntwo\\n' >&2; exit 3"], 30)


def test_the_date_of_a_suite_is_the_mirrors(mirror: tuple[str, list[bytes]]) -> None:
    address, said = mirror
    told: list[str] = []
    assert release_date_s(SUITE, address, told.append) % DAY_S == 0, "nobody knows: midnight"
    assert told == [f"no mirror tells when {SUITE} was published: times are today's"]
    said.append(b"Suite: x\nDate: Sat, 14 Nov 2026 09:30:00 UTC\nSHA256:\n" + b" 0\n" * 100_000)
    assert release_date_s(SUITE, address, told.append) == 1794648600
    said[0] = b"Date: the day before\n"
    assert release_date_s(SUITE, address, told.append) % DAY_S == 0
    assert len(told) == 2
