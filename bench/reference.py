"""Run a command beside a reference engine: `python -m bench.reference docker -- pytest tests/api`.

The command sees the engine's address in SAMPAN_TEST_HOST, is in the engine's network namespace (published
ports answer on 127.0.0.1) and has a temporary folder that the engine sees under the same name (bind mounts).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import peers
from bench.engines import ENGINES


def main() -> int:
    if len(sys.argv) < 4 or sys.argv[1] not in ENGINES or sys.argv[2] != "--":
        print(__doc__, file=sys.stderr)
        return 2
    peers.cache_dir().mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="reference-", dir=peers.cache_dir()))
    work.chmod(0o755)
    engine = ENGINES[sys.argv[1]](work)
    try:
        engine.start()
        temporary = engine.home / "scratch"
        temporary.mkdir()
        environment = {
            **os.environ,
            "SAMPAN_TEST_HOST": f"unix://{engine.socket}",
            "DOCKER_HOST": f"unix://{engine.socket}",
            "TMPDIR": str(temporary),
        }
        command = ["nsenter", f"--net=/proc/{engine.init_pid()}/ns/net", *sys.argv[3:]]
        return subprocess.run(command, env=environment, check=False).returncode
    finally:
        engine.close()
        subprocess.run(["rm", "-rf", work], check=True)


if __name__ == "__main__":
    sys.exit(main())
