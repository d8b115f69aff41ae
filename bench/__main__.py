"""`python -m bench`: see --help."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import floor, images, peers, registry, report
from bench.engines import ENGINES, Engine, own_block_groups
from bench.hub import KINDS, Hub
from bench.scenario import Samples, Scenario, Settings
from bench.scenarios import SCENARIOS
from bench.travel import load


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure Sampan beside Docker Engine and Podman. Needs root, gcc, mmdebstrap, "
        "busybox-static and a docker client; the peers come from Debian's packages, "
        "into a cache and never into the system.",
    )
    parser.add_argument("--engines", default=",".join(ENGINES), help="which of: " + ",".join(ENGINES))
    parser.add_argument("--only", default="", help="which of: floor,registry," + ",".join(SCENARIOS))
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each scenario (long ones do fewer)")
    parser.add_argument("--json", metavar="FILE", help="write every sample there")
    parser.add_argument(
        "--client", default=shutil.which("docker"), help="the docker client, the same for all"
    )
    parser.add_argument(
        "--registry", choices=KINDS, default=KINDS[0], help="the registry of pull and push, the same for all"
    )
    parser.add_argument("--smoke", action="store_true", help="one small round: does the harness work?")
    parser.add_argument("--check", action="store_true", help="fail when a target is not reached")
    return parser.parse_args()


def _settings(arguments: argparse.Namespace, hub: Hub) -> Settings:
    if not arguments.client:
        raise SystemExit("no docker client in PATH: apt-get install docker-cli, or --client FILE")
    settings = Settings(arguments.client, peers.cache_dir() / "archives", hub, arguments.rounds)
    if arguments.smoke:
        settings.rounds, settings.hundred, settings.crowd_first = 1, 4, 2
        settings.log_lines, settings.list_seconds = 10_000, 0.3
    return settings


def _rounds(scenario: Scenario, engines: list[Engine], rounds: int) -> None:
    """Interleaved: in every round each engine has its turn, and the first turn goes around."""
    for engine in engines:
        scenario.prepare(engine)
    for number in range(min(rounds, scenario.rounds_max)):
        turn = number % len(engines)
        scenario.floor()
        for engine in engines[turn:] + engines[:turn]:
            print(f"{scenario.name} {number + 1}: {engine.name}", file=sys.stderr)
            scenario.run(engine)


def _measure(arguments: argparse.Namespace, settings: Settings, samples: Samples, work: Path) -> None:
    chosen = arguments.only.split(",") if arguments.only else ["floor", "registry", *SCENARIOS]
    if arguments.smoke and not arguments.only:
        chosen = [name for name in chosen if name not in ("load", "pull", "push")]
    known = {"floor", "registry", *SCENARIOS}
    unknown = set(chosen) - known | set(arguments.engines.split(",")) - set(ENGINES)
    if unknown:
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}")
    if "registry" in chosen:
        registry.measure(samples, settings.rounds, smoke=arguments.smoke)
    if chosen == ["registry"]:
        return
    engines: list[Engine] = []
    try:
        for name in arguments.engines.split(","):
            engine = ENGINES[name](work)
            engines.append(engine)
            samples.add("start_0_s", name, engine.start())
            load(engine, images.busybox_archive(settings.archives))
        if "floor" in chosen:
            floor.measure(settings, samples)
        for name, kind in SCENARIOS.items():
            if name in chosen:
                scenario = kind(settings, samples)
                try:
                    _rounds(scenario, engines, settings.rounds)
                finally:
                    scenario.end()
    finally:
        settings.hub.close()
        for engine in engines:
            engine.close()


def main() -> None:
    arguments = _arguments()
    archives = peers.cache_dir() / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="run-", dir=archives.parent))
    own_block_groups(work)
    samples = Samples()
    try:
        settings = _settings(arguments, Hub(work / "hub", arguments.registry))
        _measure(arguments, settings, samples, work)
    finally:
        subprocess.run(["rm", "-rf", work], check=True)
    print(report.table(samples.values))
    needs_peers = set(arguments.engines.split(",")) & {"docker", "podman"}
    versions = peers.versions() if needs_peers else {}
    print(", ".join(f"{key} {value}" for key, value in {**versions, **report.machine()}.items()))
    if arguments.json:
        Path(arguments.json).write_text(report.document(samples.values, versions, settings.rounds))
    missed = report.missed(samples.values)
    if missed:
        print("Not reached:", *missed, sep="\n  ")
        if arguments.check:
            sys.exit(1)


if __name__ == "__main__":
    main()
