"""Images for tests, made on this machine: no registry is asked."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from bench import images as archives

BUSYBOX = "busybox:latest"
NGINX = "nginx:latest"


def cache_dir() -> Path:
    """Where images that take long to make are kept between sessions."""
    base = os.environ.get("SAMPAN_TEST_CACHE") or os.environ.get("XDG_CACHE_HOME")
    folder = Path(base) if base else Path("/var/cache")
    folder = folder / "sampan-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def busybox_archive() -> Path:
    """As `docker save` writes it; loads as bench.images.BUSYBOX."""
    return archives.busybox_archive(cache_dir())


def nginx_root_tar() -> Path:
    """Debian with nginx from its package, its log linked to standard output, as is usual for images."""
    target = cache_dir() / "nginx.tar"
    if not target.exists():
        if shutil.which("mmdebstrap") is None:
            raise RuntimeError("mmdebstrap is missing: run tests through ./run-tests")
        unfinished = target.with_name(f"nginx-{os.getpid()}.tar")
        subprocess.run(
            [
                *("mmdebstrap", "--quiet", "--mode=root", "--variant=essential", "--include=nginx-light"),
                '--aptopt=APT::Install-Recommends "false"',
                "--customize-hook=ln -sf /dev/stdout $1/var/log/nginx/access.log",
                *("--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*"),
                *(codename(), str(unfinished)),
            ],
            check=True,
        )
        unfinished.rename(target)
    return target


def codename() -> str:
    """The distribution's suite, from os-release."""
    for line in Path("/etc/os-release").read_text().splitlines():
        key, _, value = line.partition("=")
        if key == "VERSION_CODENAME":
            return value.strip('"')
    raise RuntimeError("os-release names no suite")


def tar_of(files: dict[str, bytes]) -> bytes:
    """A tar of regular files, for `docker import` and `docker cp`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
