"""What the distribution's tools and package lists tell about suites and packages."""

from __future__ import annotations

import glob
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from sampan.base.errors import FailedPrecondition
from sampan.formats.tar import FILE
from sampan.formats.tar_reader import TarReader

APT_TIMEOUT_S = 300
_FETCH_TIMEOUT_S = 30
_RELEASE_BYTES = 1 << 16
_ARCHIVES = ("http://deb.debian.org/debian", "http://archive.ubuntu.com/ubuntu")
"""Where mmdebstrap goes for a suite when it is told no mirror."""


class BootstrapFailed(FailedPrecondition):
    """A program of the distribution that makes the image is missing or failed."""


def run_program(
    command: list[str], timeout_s: float, cwd: str | None = None, environment: dict[str, str] | None = None
) -> bytes:
    try:
        done = subprocess.run(
            command, capture_output=True, check=False, timeout=timeout_s, cwd=cwd, env=environment
        )
    except FileNotFoundError:
        raise BootstrapFailed(f"{command[0]} is not installed: apt-get install {command[0]}") from None
    except subprocess.TimeoutExpired:
        raise BootstrapFailed(f"{command[0]} did not finish within {timeout_s:.0f} s") from None
    if done.returncode:
        raise BootstrapFailed(f"{command[0]} failed ({done.returncode}): {_complaint(done.stderr)}")
    return done.stdout


def _complaint(stderr: bytes) -> str:
    """What apt says is wrong; all callers above it add only that they failed as well."""
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    telling = [line for line in lines if line.startswith("E: ") and "failed" not in line]
    return " / ".join(telling[:5] or lines[-5:])


def installed_version(package: str) -> str:
    try:
        shown = subprocess.run(
            ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Version}", package],
            capture_output=True,
            check=False,
            timeout=APT_TIMEOUT_S,
        )
    except FileNotFoundError:
        return ""
    status, _, version = shown.stdout.decode().strip().partition(" ")
    return version if shown.returncode == 0 and status == "installed" else ""


def package_versions(reader: TarReader) -> dict[str, str]:
    """Installed packages, by dpkg's own list."""
    versions: dict[str, str] = {}
    for entry in reader:
        if entry.kind != FILE or entry.name.removeprefix(b"./") != b"var/lib/dpkg/status":
            continue
        text = reader.read_all(64 << 20).decode("utf-8", "replace")
        for paragraph in text.split("\n\n"):
            fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line[:40])
            if "Package" in fields:
                versions[fields["Package"]] = fields.get("Version", "")
    return versions


def release_date_s(suite: str, mirror: str, say: Callable[[str], None]) -> int:
    """When the suite was last published: by the host's package lists, else by the mirror, else today (UTC).

    It is the same until there are other packages, so the image is the same as well.
    """
    newest = 0
    for path in glob.glob(f"/var/lib/apt/lists/*_dists_{glob.escape(suite)}*_InRelease"):
        with open(path, "rb") as file:
            newest = max(newest, _date_s(file.read(_RELEASE_BYTES)))
    if newest:
        return newest
    for site in (mirror,) if mirror.startswith(("http://", "https://")) else _ARCHIVES:
        try:
            with urllib.request.urlopen(  # noqa: S310 - http or https, see above
                f"{site.rstrip('/')}/dists/{suite}/InRelease", timeout=_FETCH_TIMEOUT_S
            ) as answer:
                newest = _date_s(answer.read(_RELEASE_BYTES))
        except (urllib.error.URLError, OSError):
            continue  # mmdebstrap will say what is wrong with it, if anything is
        if newest:
            return newest
    say(f"no mirror tells when {suite} was published: times are today's")
    return int(time.time()) // 86400 * 86400


def _date_s(release: bytes) -> int:
    """The field Date of an InRelease file; 0 when there is none."""
    from email.utils import parsedate_to_datetime  # slow to import, rarely needed

    for line in release.decode("utf-8", "replace").splitlines():
        if line.startswith("Date: "):
            try:
                return int(parsedate_to_datetime(line[6:].strip()).timestamp())
            except ValueError:
                return 0
    return 0


def host_suite() -> str:
    """The code name of the host's own release. Raises BootstrapFailed when it has none."""
    with open("/etc/os-release", encoding="utf-8") as file:
        for line in file:
            key, _, value = line.strip().partition("=")
            if key == "VERSION_CODENAME" and value:
                return value.strip('"')
    raise BootstrapFailed("this host's /etc/os-release names no suite: give one with --suite")
