"""Debian's own packages of the other engines, unpacked beside the system and never installed into it.

`python -m bench.peers` makes a root folder of Debian sid with Docker Engine, Podman, containerd, runc and
crun in the cache, and beside it a registry and skopeo from the host's own release. The mirror is the one that
this machine's apt uses; SAMPAN_BENCH_MIRROR names another one, for machines whose distribution is not Debian.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = [
    "docker.io",
    "docker-cli",
    "containerd",
    "runc",
    "podman",
    "crun",
    "conmon",
    "netavark",
    "aardvark-dns",
    "iptables",
    "nftables",
    "iproute2",
    "procps",
    "ca-certificates",
    "uidmap",
    "mount",
]
SUITE = "sid"
TOOLS = ("docker-registry", "skopeo", "docker-compose")
SID_TOOLS = ("docker-compose",)
"""Of which SUITE has another generation: there Compose is written in Go."""


def cache_dir() -> Path:
    """Where everything large is kept; outside the source tree, safe to delete at any time."""
    chosen = os.environ.get("SAMPAN_BENCH_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base) / "sampan-bench" if base else Path("/var/cache/sampan-bench")


def mirror() -> str:
    """The archive that serves SUITE, from apt's own configuration."""
    chosen = os.environ.get("SAMPAN_BENCH_MIRROR")
    if chosen:
        return chosen
    listing = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE) $(SUITE) $(ORIGIN)", "Created-By: Packages"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for line in listing.splitlines():
        site, suite, origin = line.split(" ", 2)
        if origin == "Debian" and "security" not in suite and "security" not in site:
            return site
    raise SystemExit("apt knows no Debian archive here: set SAMPAN_BENCH_MIRROR to one that has " + SUITE)


def root_dir() -> Path:
    return cache_dir() / "peers"


def ensure_peers() -> Path:
    """The root folder of the peers; made once (about a minute, 600 MB), then found again."""
    root = root_dir()
    if root.is_dir():
        return root
    if shutil.which("mmdebstrap") is None:
        raise SystemExit("mmdebstrap is missing: apt-get install --no-install-recommends mmdebstrap")
    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = root.with_name(f"peers.{os.getpid()}")
    command = [
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--variant=essential",
        "--include=" + ",".join(PACKAGES),
        '--aptopt=APT::Install-Recommends "false"',
        '--aptopt=Acquire::Check-Valid-Until "false"',
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        SUITE,
        str(unfinished),
        f"deb {mirror()} {SUITE} main",
    ]
    print("Unpacking the peers into", root, file=sys.stderr)
    try:
        subprocess.run(command, check=True)
        unfinished.rename(root)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return root


def find_tool(name: str) -> Path | None:
    """A program that is here: in PATH, or unpacked by ensure_tool."""
    installed = shutil.which(name)
    unpacked = cache_dir() / name / "usr/bin" / name
    return Path(installed) if installed else unpacked if unpacked.exists() else None


def ensure_tool(name: str) -> Path:
    """A program whose package has its name, from the host's own release; unpacked once, never installed."""
    found = find_tool(name)
    if found is not None:
        return found
    cache_dir().mkdir(parents=True, exist_ok=True)
    plan = ["apt-get", "install", "--simulate", "--no-install-recommends", name]
    listing = subprocess.run(plan, check=True, capture_output=True, text=True).stdout
    packages = [line.split()[1] for line in listing.splitlines() if line.startswith("Inst ")]
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=cache_dir()) as folder:
        subprocess.run(["apt-get", "download", "-qq", *packages], cwd=folder, check=True)
        unpacked = Path(folder) / "root"
        for package in sorted(Path(folder).glob("*.deb")):
            subprocess.run(["dpkg-deb", "--extract", package, unpacked], check=True)
        unpacked.rename(cache_dir() / name)
    return cache_dir() / name / "usr/bin" / name


def find_sid_tool(name: str) -> Path | None:
    """A program that ensure_sid_tool has unpacked."""
    found = cache_dir() / f"{name}-{SUITE}" / "usr/bin" / name
    return found if found.exists() else None


def ensure_sid_tool(name: str) -> Path:
    """A program of SUITE's package of that name, unpacked once beside the one of the host's own release. Its
    libraries are the host's: for packages that need hardly any."""
    found = find_sid_tool(name)
    if found is not None:
        return found
    target = cache_dir() / f"{name}-{SUITE}"
    target.parent.mkdir(parents=True, exist_ok=True)
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=cache_dir()) as text:
        folder = Path(text)
        (folder / "sources").write_text(f"deb [signed-by={keys}] {mirror()} {SUITE} main\n")
        (folder / "state/lists/partial").mkdir(parents=True)
        options = [
            f"Dir::State={folder}/state",
            f"Dir::Cache={folder}/cache",
            f"Dir::Etc::sourcelist={folder}/sources",
            "Dir::Etc::sourceparts=-",
        ]
        apt = ["apt-get", "-qq", *(word for option in options for word in ("-o", option))]
        subprocess.run([*apt, "update"], check=True)
        subprocess.run([*apt, "download", name], cwd=folder, check=True)
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", package, folder / "root"], check=True)
        (folder / "root").rename(target)
    return target / "usr/bin" / name


def tool_environment(program: Path) -> dict[str, str]:
    """The environment in which an unpacked program finds the libraries and modules that came with it."""
    libraries = [str(folder) for folder in program.parents[1].glob("lib/*-linux-gnu")]
    modules = [str(folder) for folder in program.parents[1].glob("lib/python3/dist-packages")]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(libraries),
        **({"PYTHONPATH": ":".join(modules)} if modules else {}),
    }


def versions() -> dict[str, str]:
    """Package name to version, for the report's heading."""
    names = ["docker.io", "containerd", "runc", "podman", "crun"]
    listing = subprocess.run(
        [
            "dpkg-query",
            f"--admindir={root_dir()}/var/lib/dpkg",
            "-W",
            "-f",
            "${Package} ${Version}\n",
            *names,
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return dict(line.split(" ", 1) for line in listing.splitlines())


if __name__ == "__main__":
    print(ensure_peers(), *map(ensure_tool, TOOLS), *map(ensure_sid_tool, SID_TOOLS), sep="\n")
    for package, version in versions().items():
        print(f"{package} {version}")
