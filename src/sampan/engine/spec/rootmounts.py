"""The mounts of a container: those every container has, the three files of name resolution, and its own."""

from __future__ import annotations

from collections.abc import Iterable

from sampan.base.errors import InvalidArgument
from sampan.engine.collaborators import LaunchFacts
from sampan.model.container import Container, HostConfig, MountPoint, TmpfsOptions
from sampan.model.oci import OCIMount

from .security_options import SecurityOptions

_PROC = OCIMount(destination="/proc", type="proc", source="proc", options=["nosuid", "noexec", "nodev"])
_DEV = OCIMount(
    destination="/dev",
    type="tmpfs",
    source="tmpfs",
    options=["nosuid", "strictatime", "mode=755", "size=65536k"],
)
_PTS = OCIMount(
    destination="/dev/pts",
    type="devpts",
    source="devpts",
    options=["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
)
_SYS = OCIMount(destination="/sys", type="sysfs", source="sysfs", options=["nosuid", "noexec", "nodev", "ro"])
_SYS_WRITABLE = OCIMount(
    destination="/sys", type="sysfs", source="sysfs", options=["nosuid", "noexec", "nodev"]
)
_CGROUP = OCIMount(
    destination="/sys/fs/cgroup",
    type="cgroup",
    source="cgroup",
    options=["ro", "nosuid", "noexec", "nodev"],
)
_CGROUP_WRITABLE = OCIMount(
    destination="/sys/fs/cgroup", type="cgroup", source="cgroup", options=["nosuid", "noexec", "nodev"]
)
_MQUEUE = OCIMount(
    destination="/dev/mqueue", type="mqueue", source="mqueue", options=["nosuid", "noexec", "nodev"]
)

TMPFS_DEFAULTS = ("noexec", "nosuid", "nodev", "rprivate")
_TMPFS_FLAG_WORDS = (
    "ro rw exec noexec suid nosuid dev nodev sync async remount mand nomand atime noatime diratime"
    " nodiratime relatime norelatime strictatime nostrictatime bind rbind private rprivate shared"
    " rshared slave rslave unbindable runbindable"
)
_TMPFS_FLAGS = frozenset(_TMPFS_FLAG_WORDS.split())
_TMPFS_VALUES = frozenset(["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"])
_SPREAD = ("shared", "rshared", "slave", "rslave", "private", "rprivate", "unbindable", "runbindable")

_KEPT_WRITABLE = frozenset(("/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"))
"""Default mounts that a read-only root does not touch."""


def container_mounts(
    record: Container, facts: LaunchFacts, options: SecurityOptions, *, recursive_read_only: bool
) -> list[OCIMount]:
    """In the order in which they are made: defaults, then the container's own, parents before children."""
    own = _own_mounts(record, recursive_read_only=recursive_read_only)
    targets = {mount.destination for mount in own}
    own += [mount for mount in _name_files(record.host, facts) if mount.destination not in targets]
    own.sort(key=lambda mount: 0 if mount.destination == "/" else mount.destination.count("/"))
    defaults = _defaults(record.host, facts, options, targets)
    if record.host.readonly_rootfs:
        defaults = [_read_only(mount) for mount in defaults]
    return defaults + own


def _defaults(
    host: HostConfig, facts: LaunchFacts, options: SecurityOptions, targets: set[str]
) -> list[OCIMount]:
    writable = host.privileged if options.writable_cgroups is None else options.writable_cgroups
    mounts = [
        _PROC,
        _DEV,
        _PTS,
        _SYS_WRITABLE if host.privileged else _SYS,
        _CGROUP_WRITABLE if writable else _CGROUP,
        _MQUEUE,
    ]
    shm = _shared_memory(host, facts)
    if shm is not None:
        mounts.append(shm)
    if not targets:
        return mounts
    own_dev = "/dev" in targets
    return [
        mount
        for mount in mounts
        if mount.destination not in targets and not (own_dev and mount.destination.startswith("/dev/"))
    ]


def _shared_memory(host: HostConfig, facts: LaunchFacts) -> OCIMount | None:
    if host.ipc_mode == "none":
        return None
    source = ""
    if host.ipc_mode == "host":
        source = "/dev/shm"
    elif "ipc" in facts.joined_pids:
        source = f"/proc/{facts.joined_pids['ipc']}/root/dev/shm"
    if source:
        return OCIMount(destination="/dev/shm", type="bind", source=source, options=["rbind", "rprivate"])
    return OCIMount(
        destination="/dev/shm",
        type="tmpfs",
        source="shm",
        options=["nosuid", "noexec", "nodev", "mode=1777", f"size={host.shm_size}"],
    )


def _name_files(host: HostConfig, facts: LaunchFacts) -> Iterable[OCIMount]:
    options = ["rbind", "ro", "rprivate"] if host.readonly_rootfs else ["rbind", "rprivate"]
    for source, target in (
        (facts.resolv_conf_path, "/etc/resolv.conf"),
        (facts.hostname_path, "/etc/hostname"),
        (facts.hosts_path, "/etc/hosts"),
    ):
        if source:
            yield OCIMount(destination=target, type="bind", source=source, options=options)


def _read_only(mount: OCIMount) -> OCIMount:
    if mount.destination in _KEPT_WRITABLE or "ro" in mount.options:
        return mount
    return OCIMount(
        destination=mount.destination, type=mount.type, source=mount.source, options=[*mount.options, "ro"]
    )


# --- the container's own ----------------------------------------------------------------------------------


def _own_mounts(record: Container, *, recursive_read_only: bool) -> list[OCIMount]:
    tmpfs = record.host.tmpfs or {}
    mounts = [
        OCIMount(destination=target, type="tmpfs", source="tmpfs", options=tmpfs_options(text))
        for target, text in tmpfs.items()
    ]
    for point in record.mounts:
        if point.type == "tmpfs":
            if point.destination not in tmpfs:
                mounts.append(_tmpfs_point(point))
        elif point.type == "image":
            mounts.append(_image_point(point))
        else:
            mounts.append(_bind_point(point, recursive_read_only))
    return mounts


def _bind_point(point: MountPoint, recursive_read_only: bool) -> OCIMount:
    if point.destination == "/proc" and point.source != "/proc":
        raise InvalidArgument('"/proc" cannot be mounted because it is not of type proc')
    bind = point.spec.bind_options if point.spec else None
    options = ["bind" if bind and bind.non_recursive else "rbind"]
    if not point.rw:
        deep = recursive_read_only
        if bind and bind.read_only_non_recursive:
            if bind.read_only_force_recursive:
                raise InvalidArgument(
                    "mount options conflict: ReadOnlyNonRecursive && ReadOnlyForceRecursive"
                )
            deep = False
        if bind and bind.read_only_force_recursive and not recursive_read_only:
            raise InvalidArgument("recursive read-only mounts need kernel 5.12 or newer")
        options.append("rro" if deep else "ro")
    options.append(point.propagation or "rprivate")
    return OCIMount(destination=point.destination, type="bind", source=point.source, options=options)


def _image_point(point: MountPoint) -> OCIMount:
    """``source`` is layer directories, topmost first; one alone needs no overlay, which would refuse it."""
    if ":" not in point.source:
        options = ["rbind", "ro", "rprivate"]
        return OCIMount(destination=point.destination, type="bind", source=point.source, options=options)
    return OCIMount(
        destination=point.destination,
        type="overlay",
        source="overlay",
        options=["ro", "rprivate", f"lowerdir={point.source}"],
    )


def _tmpfs_point(point: MountPoint) -> OCIMount:
    given = point.spec.tmpfs_options if point.spec else None
    parts = ["ro"] if not point.rw else []
    parts += _tmpfs_parts(given) if given else []
    options = tmpfs_options(",".join(parts))
    return OCIMount(destination=point.destination, type="tmpfs", source="tmpfs", options=options)


def _tmpfs_parts(given: TmpfsOptions) -> list[str]:
    parts = [f"mode={given.mode:o}"] if given.mode else []
    if given.size_bytes:
        parts.append(f"size={given.size_bytes}")
    return parts + ["=".join(option) for option in given.options or ()]


def tmpfs_options(text: str) -> list[str]:
    """The defaults and a comma-separated text; of options that contradict each other the last one stays.

    Raises InvalidArgument for an option that tmpfs(5) does not have.
    """
    chosen: dict[str, str] = {}
    for option in (*TMPFS_DEFAULTS, *(part for part in text.split(",") if part)):
        key, equals, _ = option.partition("=")
        if equals:
            if key not in _TMPFS_VALUES:
                raise InvalidArgument(f"invalid tmpfs option {option!r}")
            chosen[key] = option
        elif option in _TMPFS_FLAGS:
            slot = "propagation" if option in _SPREAD else option.removeprefix("no")
            slot = "read" if slot in ("ro", "rw") else slot
            chosen.pop(slot, None)
            chosen[slot] = option
        else:
            raise InvalidArgument(f"invalid tmpfs option {option!r}")
    return list(chosen.values())


def rootfs_propagation(points: list[MountPoint]) -> str:
    """What the root must be so that the binds can be shared or slaves; "" leaves the runtime's private."""
    kinds = {point.propagation.removeprefix("r") for point in points if point.type != "tmpfs"}
    if "shared" in kinds:
        return "shared"
    return "rslave" if "slave" in kinds else ""
