"""Base images from the distribution's own packages, for machines without a registry.

Everything here runs in a thread. The same packages give the same bytes, so the same image id: times are the
package's, owners and order are fixed. An image's labels say what it was made of.
"""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import msgspec

from sampan.base.errors import InvalidArgument
from sampan.formats.tar import DIRECTORY, END, FILE, HARD_LINK, SYMLINK, TarEntry, encode_header, padding
from sampan.formats.tar_reader import TarReader

from .assembly import Assembled, assemble_new
from .compression import CHUNK, Read
from .distribution import (
    APT_TIMEOUT_S,
    BootstrapFailed,
    host_suite,
    installed_version,
    package_versions,
    release_date_s,
    run_program,
)
from .images import ImageStore, Lease
from .layer_intake import TakenLayer, held, take_layer, take_packed
from .pack import PackPolicy, pack_tree

Say = Callable[[str], None]

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
}
_MMDEBSTRAP_TIMEOUT_S = 1800


class BootstrapOptions(msgspec.Struct, frozen=True, kw_only=True):
    suite: str = ""
    """Of Debian or Ubuntu; the host's own when empty."""
    variant: str = "minbase"
    mirror: str = ""
    packages: list[str] = []
    directory: str = ""
    """For ``from-dir``: absolute path on the daemon's host."""
    tag: str = ""
    """Name of the image instead of the recipe's own."""
    command: list[str] = []
    epoch_s: int = 0
    """No time in the image is later (SOURCE_DATE_EPOCH); what packages and files say when 0."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What an image is made of besides its layer."""

    name: str
    packages: list[str] = []
    command: list[str] = []
    ports: list[str] = []
    stop_signal: str = ""
    links: dict[str, str] = {}
    """Paths that become symbolic links."""


RECIPES = {
    "debian": Recipe(name="debian", command=["bash"]),
    "python": Recipe(
        name="python", packages=["python3", "python-is-python3", "ca-certificates"], command=["python3"]
    ),
    "nginx": Recipe(
        name="nginx",
        packages=["nginx-light"],
        command=["nginx", "-g", "daemon off;"],
        ports=["80/tcp"],
        stop_signal="SIGQUIT",
        links={"var/log/nginx/access.log": "/dev/stdout", "var/log/nginx/error.log": "/dev/stderr"},
    ),
}


def architecture() -> str:
    """This machine's, by Go's names."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def bootstrap(store: ImageStore, lease: Lease, name: str, options: BootstrapOptions, say: Say) -> Assembled:
    """Make the image ``name`` (``busybox``, a recipe or ``from-dir``).

    Raises InvalidArgument for an unknown name, BootstrapFailed when the distribution's tools fail.
    """
    if name == "busybox":
        return _busybox(store, lease, options, say)
    if name == "from-dir":
        return _from_directory(store, lease, options, say)
    recipe = RECIPES.get(name)
    if recipe is None:
        known = ", ".join(["busybox", *RECIPES, "from-dir"])
        raise InvalidArgument(f"no recipe to bootstrap {name!r}: choose one of {known}")
    return _debootstrap(store, lease, recipe, options, say)


# busybox

_USERS = (
    ("root", 0, 0, "/root", "/bin/sh"),
    ("daemon", 1, 1, "/usr/sbin", "/bin/false"),
    ("bin", 2, 2, "/bin", "/bin/false"),
    ("sys", 3, 3, "/dev", "/bin/false"),
    ("sync", 4, 100, "/bin", "/bin/sync"),
    ("mail", 8, 8, "/var/spool/mail", "/bin/false"),
    ("www-data", 33, 33, "/var/www", "/bin/false"),
    ("operator", 37, 37, "/var", "/bin/false"),
    ("nobody", 65534, 65534, "/home", "/bin/false"),
)
_GROUPS = (
    ("root", 0), ("daemon", 1), ("bin", 2), ("sys", 3), ("adm", 4), ("tty", 5), ("disk", 6), ("wheel", 10),
    ("mail", 8), ("users", 100), ("www-data", 33), ("operator", 37), ("nobody", 65534),
)  # fmt: skip
_DIRECTORIES = {
    "bin": 0o755, "dev": 0o755, "etc": 0o755, "home": 0o755, "mnt": 0o755, "proc": 0o555, "root": 0o700,
    "run": 0o755, "sbin": 0o755, "sys": 0o555, "tmp": 0o1777, "usr": 0o755, "usr/bin": 0o755,
    "usr/sbin": 0o755, "usr/local": 0o755, "usr/local/bin": 0o755, "usr/local/sbin": 0o755,
    "var": 0o755, "var/log": 0o755, "var/spool": 0o755, "var/spool/mail": 0o755, "var/tmp": 0o1777,
    "var/www": 0o755,
}  # fmt: skip


class _Member(msgspec.Struct, frozen=True, kw_only=True):
    entry: TarEntry
    data: bytes = b""


def _busybox(store: ImageStore, lease: Lease, options: BootstrapOptions, say: Say) -> Assembled:
    program, mtime_ns, version = _find_busybox(say)
    applets = _applets(program)
    say(f"busybox-static {version}: {len(applets)} applets")
    labels = {
        "org.opencontainers.image.title": "busybox",
        "org.opencontainers.image.description": "Base image made by Sampan from Debian's busybox-static",
        "org.opencontainers.image.version": version,
        "io.sampan.bootstrap.recipe": "busybox",
        "io.sampan.bootstrap.packages": f"busybox-static={version}",
    }
    archive = _encode(_busybox_tree(program, applets, mtime_ns))
    return _image(
        store,
        lease,
        lambda: take_layer(store, lease, archive),
        created_ns=mtime_ns,
        names=[options.tag or "busybox:latest"],
        labels=labels,
        command=options.command or ["sh"],
        created_by=f"sampan image bootstrap busybox (busybox-static {version})",
    )


def _find_busybox(say: Say) -> tuple[bytes, int, str]:
    """The static program, its time and its version: the installed one, or one fetched through apt."""
    for path in ("/usr/bin/busybox", "/bin/busybox"):
        version = installed_version("busybox-static")
        if version and os.path.isfile(path):
            with open(path, "rb") as file:
                program = file.read()
            return program, os.stat(path).st_mtime_ns // 10**9 * 10**9, version
    say("downloading busybox-static from the distribution")
    with tempfile.TemporaryDirectory(prefix="sampan-bootstrap-") as directory:
        run_program(["apt-get", "download", "-q", "busybox-static"], APT_TIMEOUT_S, cwd=directory)
        packages = [name for name in os.listdir(directory) if name.endswith(".deb")]
        if not packages:
            raise BootstrapFailed("apt-get download busybox-static brought nothing: run apt-get update first")
        package = os.path.join(directory, packages[0])
        version = run_program(["dpkg-deb", "--field", package, "Version"], APT_TIMEOUT_S).decode().strip()
        return *_from_package(package), version


def _from_package(path: str) -> tuple[bytes, int]:
    data = run_program(["dpkg-deb", "--fsys-tarfile", path], APT_TIMEOUT_S)
    reader = TarReader(_source(data))
    for entry in reader:
        if entry.name.rpartition(b"/")[2] == b"busybox" and entry.kind == FILE and entry.mode & 0o111:
            return reader.read_all(64 << 20), entry.mtime_ns
    raise BootstrapFailed("the package busybox-static has no busybox")


def _applets(program: bytes) -> list[str]:
    """Where each applet belongs, as the program itself says: ``bin/ash``."""
    with tempfile.TemporaryDirectory(prefix="sampan-bootstrap-") as directory:
        path = os.path.join(directory, "busybox")
        with open(path, "wb") as file:
            file.write(program)
        os.chmod(path, 0o700)
        listed = run_program([path, "--list-full"], APT_TIMEOUT_S).decode().split()
    return sorted({name for name in listed if name not in ("bin/busybox", "linuxrc")})


def _busybox_tree(program: bytes, applets: list[str], mtime_ns: int) -> list[_Member]:
    def directory(path: str, mode: int) -> _Member:
        entry = TarEntry(name=path.encode() + b"/", kind=DIRECTORY, mode=mode, mtime_ns=mtime_ns)
        return _Member(entry=entry)

    def file(path: str, data: bytes, mode: int = 0o644) -> _Member:
        entry = TarEntry(name=path.encode(), mode=mode, size=len(data), mtime_ns=mtime_ns)
        return _Member(entry=entry, data=data)

    def link(path: str) -> _Member:
        return _Member(
            entry=TarEntry(
                name=path.encode(), kind=HARD_LINK, mode=0o755, linkname=b"bin/busybox", mtime_ns=mtime_ns
            )
        )

    passwd = "".join(f"{name}:x:{uid}:{gid}:{name}:{home}:{sh}\n" for name, uid, gid, home, sh in _USERS)
    group = "".join(f"{name}:x:{gid}:\n" for name, gid in _GROUPS)
    shadow = "".join(f"{name}:*:10933:0:99999:7:::\n" for name, *_ in _USERS)
    release = 'NAME="BusyBox (Debian busybox-static)"\nID=busybox\nPRETTY_NAME="BusyBox from Debian"\n'
    return [
        *(directory(path, mode) for path, mode in sorted(_DIRECTORIES.items())),
        file("bin/busybox", program, 0o755),
        *(link(path) for path in applets),
        file("etc/passwd", passwd.encode()),
        file("etc/group", group.encode()),
        file("etc/shadow", shadow.encode(), 0o600),
        file("etc/nsswitch.conf", b"passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"),
        file("etc/os-release", release.encode()),
        _Member(
            entry=TarEntry(name=b"var/run", kind=SYMLINK, mode=0o777, linkname=b"../run", mtime_ns=mtime_ns)
        ),
    ]


def _encode(members: list[_Member]) -> Read:
    parts = []
    for member in members:
        parts += [encode_header(member.entry), member.data, padding(len(member.data))]
    return _source(b"".join((*parts, END)))


def _source(data: bytes) -> Read:
    position = 0

    def read() -> bytes:
        nonlocal position
        chunk = data[position : position + CHUNK]
        position += len(chunk)
        return chunk

    return read


# Debian


_VOLATILE = (
    "/var/lib/apt/lists/*", "/var/cache/apt/*.bin", "/var/log/*.log", "/var/log/apt/*",
    "/var/cache/ldconfig/aux-cache", "/etc/hostname", "/etc/resolv.conf",
)  # fmt: skip
"""What apt needs only for its next run, or what differs between two runs with the same packages."""


def _debootstrap(
    store: ImageStore, lease: Lease, recipe: Recipe, options: BootstrapOptions, say: Say
) -> Assembled:
    suite = options.suite or host_suite()
    packages = [*recipe.packages, *options.packages]
    say(f"mmdebstrap {suite} ({options.variant}) {' '.join(packages)}".rstrip())
    with tempfile.TemporaryDirectory(prefix="sampan-bootstrap-") as directory:
        archive = os.path.join(directory, "root.tar")
        # mmdebstrap clamps every time to this, and the tools it runs use it for the dates they write
        epoch_s = options.epoch_s or release_date_s(suite, options.mirror, say)
        run_program(
            _mmdebstrap(suite, options, packages, recipe.links, archive),
            _MMDEBSTRAP_TIMEOUT_S,
            environment={**os.environ, "SOURCE_DATE_EPOCH": str(epoch_s)},
        )
        with open(archive, "rb") as file:
            versions = package_versions(TarReader(lambda: file.read(CHUNK)))
            file.seek(0)
            say(f"{len(versions)} packages")
            return _image(
                store,
                lease,
                lambda: take_layer(store, lease, lambda: file.read(CHUNK)),
                created_ns=epoch_s * 10**9,
                names=_names(recipe, suite, options),
                labels=_labels(recipe, suite, versions),
                command=options.command or recipe.command,
                ports=recipe.ports,
                stop_signal=recipe.stop_signal,
                created_by=f"sampan image bootstrap {recipe.name} (mmdebstrap {suite} {options.variant})",
            )


def _names(recipe: Recipe, suite: str, options: BootstrapOptions) -> list[str]:
    if options.tag or options.suite:
        return [options.tag or f"{recipe.name}:{suite}"]
    return [f"{recipe.name}:latest", f"{recipe.name}:{suite}"]


def _labels(recipe: Recipe, suite: str, versions: Mapping[str, str]) -> dict[str, str]:
    listed = ",".join(f"{package}={version}" for package, version in sorted(versions.items()))
    return {
        "org.opencontainers.image.title": recipe.name,
        "org.opencontainers.image.description": f"Made by Sampan with mmdebstrap from packages of {suite}",
        "io.sampan.bootstrap.recipe": recipe.name,
        "io.sampan.bootstrap.suite": suite,
        "io.sampan.bootstrap.packages-digest": hashlib.sha256(listed.encode()).hexdigest(),
    }


def _mmdebstrap(
    suite: str, options: BootstrapOptions, packages: list[str], links: dict[str, str], archive: str
) -> list[str]:
    command = ["mmdebstrap", f"--variant={options.variant}", "--format=tar", "--quiet"]
    if packages:
        command.append(f"--include={','.join(packages)}")
    command += [f'--customize-hook=rm -rf "$1"{pattern}' for pattern in _VOLATILE]
    command += [f'--customize-hook=ln -sf {to} "$1/{path}"' for path, to in sorted(links.items())]
    command += [suite, archive]
    if options.mirror:
        command.append(options.mirror)
    return command


# any directory


def _from_directory(store: ImageStore, lease: Lease, options: BootstrapOptions, say: Say) -> Assembled:
    directory = options.directory
    if not os.path.isabs(directory) or not os.path.isdir(directory):
        raise InvalidArgument(f"from-dir needs the absolute path of a directory, got {directory!r}")
    if not options.tag:
        raise InvalidArgument("from-dir needs a name for the image: give one with --tag")
    say(f"packing {directory}")
    clamp_ns = options.epoch_s * 10**9 or None
    policy = PackPolicy(one_file_system=True, clamp_mtime_ns=clamp_ns)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _image(
            store,
            lease,
            lambda: take_packed(store, lease, lambda write: pack_tree(fd, write, policy)),
            created_ns=clamp_ns or os.fstat(fd).st_mtime_ns,
            names=[options.tag],
            labels={"io.sampan.bootstrap.recipe": "from-dir"},
            command=options.command or ["sh"],
            created_by="sampan image bootstrap from-dir",
        )
    finally:
        os.close(fd)


# common parts


def _image(
    store: ImageStore,
    lease: Lease,
    take: Callable[[], TakenLayer],
    *,
    created_ns: int,
    names: list[str],
    labels: dict[str, str],
    command: list[str],
    created_by: str,
    ports: list[str] | None = None,
    stop_signal: str = "",
) -> Assembled:
    """The image of one layer, which ``take`` takes in."""
    created = datetime.fromtimestamp(created_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    runs: dict[str, object] = {"Env": [PATH], "Cmd": command, "Labels": labels}
    if ports:
        runs["ExposedPorts"] = {port: {} for port in ports}
    if stop_signal:
        runs["StopSignal"] = stop_signal
    with held(store, take()) as layer:
        config: dict[str, object] = {
            "created": created,
            "architecture": architecture(),
            "os": "linux",
            "config": runs,
            "rootfs": {"type": "layers", "diff_ids": [layer.staged.diff_id]},
            "history": [{"created": created, "created_by": created_by}],
        }
        return assemble_new(store, lease, config, [layer.blob], names=names, ready={0: layer.staged})
