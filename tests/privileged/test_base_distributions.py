"""Base images from the distribution's packages: they run, and the same packages make the same image.

Minutes of work, and the distribution's mirror has to be reachable: only with SAMPAN_TEST_DISTRIBUTION=1.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import leftovers
from tests.support.daemon import Daemon
from tests.support.docker import Client

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not os.environ.get("SAMPAN_TEST_DISTRIBUTION"), reason="takes minutes"),
]


@pytest.fixture
def sampan(tmp_path: Path) -> Iterator[Client]:
    """Of a daemon outside of any namespace, which reaches the mirror, without a network of its own."""
    daemon = Daemon(tmp_path, 99, ("--bridge", "none")).start()
    yield Client(daemon.host, str(Path(sys.executable).with_name("sampan")))
    daemon.stop()
    leftovers.end_groups(daemon)


@pytest.mark.parametrize(
    ("recipe", "program"),
    [
        (("debian",), ("bash", "-c", ". /etc/os-release; echo $ID")),
        (
            ("debian", "--suite", "trixie", "--variant", "essential"),
            ("sh", "-c", ". /etc/os-release; echo $ID"),
        ),
        (("python",), ("python", "-c", "import ssl, sqlite3, lzma, ctypes; print('debian')")),
        (("nginx",), ("sh", "-c", "nginx -t 2>/dev/null && echo debian")),
    ],
    ids=lambda words: words[0],
)
def test_recipes(sampan: Client, recipe: tuple[str, ...], program: tuple[str, ...]) -> None:
    ids = set()
    for tag in ("one:1", "one:2"):
        sampan("image", "bootstrap", *recipe, "--tag", tag, timeout_s=600)
        ids.add(sampan.line("inspect", "--format", "{{.Id}}", tag))
    assert len(ids) == 1
    assert sampan.line("run", "--rm", "--network", "none", "one:1", *program) == "debian"
