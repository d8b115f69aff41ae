"""Images on their way: load, pull, push and remove of 540 MB in 20,000 files."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from bench import hub, images
from bench.accounting import machine_busy_s
from bench.engines import Cost, Engine, Meter, own_block_groups
from bench.scenario import Samples, Scenario, Settings, run_client


class Large(Scenario):
    """A scenario that needs another large image in each round, so that nothing of it is there yet."""

    rounds_max = 3
    first_number = 0

    def __init__(self, settings: Settings, samples: Samples) -> None:
        super().__init__(settings, samples)
        self._rounds: dict[str, int] = {}
        self._unpacked: list[Path] = []

    def numbers(self) -> list[int]:
        rounds = min(self.settings.rounds, self.rounds_max)
        return list(range(self.first_number, self.first_number + rounds))

    def prepare(self, engine: Engine) -> None:
        for number in self.numbers():
            images.large_archive(self.settings.archives, number)

    def end(self) -> None:
        """What was unpacked for the floor goes only now: ext4 is slow where much was deleted lately."""
        for folder in self._unpacked:
            _run(self.samples, "remove", ["rm", "-rf", str(folder)])

    def next_number(self, engine: Engine) -> int:
        number = self._rounds.get(engine.name, self.first_number)
        self._rounds[engine.name] = number + 1
        return number

    def client(self, engine: Engine, metric: str, *words: str) -> None:
        """Measure one command of the client, from a disk at rest until the engine is at rest."""
        os.sync()
        with engine.measure_until_calm() as meter:
            cpu_s, _ = run_client(self.settings, engine, *words)
        self.samples.add_cost(metric, engine.name, meter, client_cpu_s=cpu_s)


class Load(Large):
    """POST /images/load; `tar -x` of the layer is the floor."""

    name = "load"

    def floor(self) -> None:
        images.large_archive(self.settings.archives, 0)
        layer = images.large_layer(self.settings.archives)
        self._unpacked.append(_unpack(self.settings, self.samples, "load", layer))

    def run(self, engine: Engine) -> None:
        archive = images.large_archive(self.settings.archives, self.next_number(engine))
        os.sync()
        with engine.measure_until_calm() as meter:
            load(engine, archive)
        self.samples.add_cost("load", engine.name, meter)
        with engine.connect() as connection:
            connection.call("DELETE", f"/v1.41/images/{images.LARGE}?force=1")


class Pull(Large):
    """`docker pull` from a registry, `docker rmi`; the floor is `tar -x` of the same layer and `rm -r`."""

    name = "pull"

    def prepare(self, engine: Engine) -> None:
        super().prepare(engine)
        self.settings.hub.ensure_beside(engine, self.settings.archives, self.numbers())

    def floor(self) -> None:
        layer = images.large_blobs(self.settings.archives, 0).layer
        self._unpacked.append(_unpack(self.settings, self.samples, "pull", layer))

    def run(self, engine: Engine) -> None:
        name = f"{hub.PULLED}:{self.next_number(engine)}"
        self.client(engine, "pull", "pull", name)
        self.client(engine, "remove", "rmi", name)


class Push(Large):
    """`docker push` of an image that was loaded, to a repository that has nothing, and once more."""

    name = "push"
    first_number = Large.rounds_max  # engines remember where the layers are that they have pulled

    def prepare(self, engine: Engine) -> None:
        super().prepare(engine)
        self.settings.hub.ensure_beside(engine, self.settings.archives, [])

    def run(self, engine: Engine) -> None:
        number = self.next_number(engine)
        load(engine, images.large_archive(self.settings.archives, number))
        name = f"{hub.ADDRESS}/push/{engine.name}:{number}"
        run_client(self.settings, engine, "tag", images.LARGE, name)
        self.client(engine, "push", "push", name)
        self.client(engine, "push_again", "push", name)
        run_client(self.settings, engine, "rmi", name, images.LARGE)


def load(engine: Engine, archive: Path) -> None:
    """Load an archive and raise RuntimeError when the progress stream tells of a failure."""
    with engine.connect() as connection, archive.open("rb") as source:
        answer = connection.upload("/v1.41/images/load?quiet=1", source, archive.stat().st_size)
    for line in answer.splitlines():
        if line.strip() and "error" in (told := json.loads(line)):
            raise RuntimeError(f"{engine.name}: load: {told['error']}")


def _unpack(settings: Settings, samples: Samples, metric: str, layer: Path) -> Path:
    """What unpacking a layer costs by itself; the folder with what came out of it."""
    folder = Path(tempfile.mkdtemp(prefix="floor-", dir=settings.archives.parent))
    own_block_groups(folder)
    target = folder / "layer"
    target.mkdir()
    _run(samples, metric, ["tar", "-x", "-C", str(target), "-f", str(layer)])
    return folder


def _run(samples: Samples, metric: str, command: list[str]) -> None:
    """One program as the floor; of several runs the cheapest counts, as disturbances only add."""
    os.sync()
    before, machine, began = os.times(), machine_busy_s(), time.perf_counter()
    subprocess.run(command, check=True)
    wall_s = time.perf_counter() - began
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    samples.add_cost(metric, "floor", Meter(Cost(wall_s, cpu_s, machine_busy_s() - machine)))
    samples.keep_lowest(metric, "floor")
