"""The kernel floor: what floor.c measures, compiled here and run where it can leave nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from bench.scenario import Samples, Settings

SOURCE = Path(__file__).with_name("floor.c")
CYCLES = 40


def measure(settings: Settings, samples: Samples) -> None:
    """CYCLES cycles for each kind of network, in a mount and network namespace of their own."""
    cycles = min(CYCLES, settings.rounds * 6)
    with tempfile.TemporaryDirectory(prefix="floor-", dir=settings.archives.parent) as folder:
        program = Path(folder) / "floor"
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-o", program, SOURCE], check=True)
        lower = Path(folder) / "lower"
        (lower / "bin").mkdir(parents=True)
        busybox = shutil.which("busybox")
        if busybox is None:
            raise SystemExit("busybox is missing: apt-get install busybox-static")
        shutil.copy(busybox, lower / "bin/busybox")
        (lower / "bin/true").symlink_to("busybox")
        for name in ("proc", "sys", "dev", "etc"):
            (lower / name).mkdir()
        for network in ("bridge", "none", "host"):
            command = ["unshare", "--mount", "--net", str(program), folder, network, str(cycles)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            for line in output.splitlines():
                cycle = json.loads(line)
                samples.add(f"api_{network}.wall_ms", "floor", cycle["wall_ms"])
                samples.add(f"api_{network}.cpu_ms", "floor", cycle["cpu_ms"])
