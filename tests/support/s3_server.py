"""S3-compatible servers on the loopback address: rclone's, and moto's with Amazon's rules."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

ACCESS_KEY, SECRET_KEY = "accesskey1", "secretkey1"
BUCKET = "blobs"
_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")


@contextlib.contextmanager
def rclone_server(folder: Path) -> Iterator[str]:
    """Its URL. Buckets are the folders below ``folder``; keys are files in them."""
    (folder / BUCKET).mkdir(parents=True)
    program = Path(sys.executable).parent / "rclone"
    process = subprocess.Popen(
        [program, "serve", "s3", "--addr", "127.0.0.1:0", "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", folder],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RCLONE_CONFIG": os.devnull},
    )
    assert process.stderr is not None
    reader: threading.Thread | None = None
    try:
        # it says its address when it listens
        found = next((found for line in process.stderr if (found := _ADDRESS.search(line))), None)
        assert found is not None, f"rclone ended with {process.wait()}"
        # read on: it would stand still when nobody takes what it logs
        reader = threading.Thread(target=deque, args=(process.stderr, 0), daemon=True)
        reader.start()
        yield found[0]
    finally:
        process.terminate()
        process.wait(10)
        if reader is not None:
            reader.join(10)
        process.stderr.close()


@contextlib.contextmanager
def moto_server() -> Iterator[str]:
    os.environ["S3_UPLOAD_PART_MIN_SIZE"] = "1"  # Amazon's 5 MiB would make the tests slow
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()
