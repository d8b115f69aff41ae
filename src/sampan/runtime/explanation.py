"""A program for the sandbox in words: what ``sampan debug explain`` shows.

The operations are the lists that :mod:`.planner` makes and :mod:`.sandbox` runs. One without words here is
shown as it is, so that nothing that happens is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sampan.kernel import capabilities, process
from sampan.kernel import mount as mnt

Lines = Iterator[str]

_MOUNT_WORDS = (
    (mnt.MS_RDONLY, "ro"),
    (mnt.MS_NOSUID, "nosuid"),
    (mnt.MS_NODEV, "nodev"),
    (mnt.MS_NOEXEC, "noexec"),
    (mnt.MS_SYNCHRONOUS, "sync"),
    (mnt.MS_DIRSYNC, "dirsync"),
    (mnt.MS_NOATIME, "noatime"),
    (mnt.MS_NODIRATIME, "nodiratime"),
    (mnt.MS_RELATIME, "relatime"),
    (mnt.MS_STRICTATIME, "strictatime"),
    (mnt.MS_LAZYTIME, "lazytime"),
)
_SPREAD_WORDS = (
    (mnt.MS_SHARED, "shared"),
    (mnt.MS_SLAVE, "slave"),
    (mnt.MS_PRIVATE, "private"),
    (mnt.MS_UNBINDABLE, "unbindable"),
)


def _mount_flags(flags: int) -> str:
    return ",".join(word for bit, word in _MOUNT_WORDS if flags & bit)


def _propagation(flags: int) -> str:
    recursive = "r" if flags & mnt.MS_REC else ""
    return "".join(f"{recursive}{word}" for bit, word in _SPREAD_WORDS if flags & bit)


def _namespaces(flags: int) -> str:
    names = [name for name, bit in process.NAMESPACE_FLAGS.items() if flags & bit]
    return ", ".join(names) or "none of its own"


def _options(*texts: str) -> str:
    shown = ",".join(text for text in texts if text)
    return f" ({shown})" if shown else ""


def _create_cgroup(steps: Sequence[Sequence[str]]) -> Lines:
    for kind, path, *values in steps:
        if kind == "write":
            for value in values:
                yield f"write {value} to {path}"
        elif kind == "mkdir":
            yield f"make the group {path}"
        else:
            yield f"{kind} {path} {' '.join(values)}".rstrip()


def _enter_cgroup(files: Sequence[str], *_: Any) -> Lines:
    for file in files:
        yield f"enter the group of {file}"


def _overlay(lower: Sequence[str], upper: str, work: str, options: str, *_: Any) -> Lines:
    yield f"mount the overlay root, written to {upper}{_options(options)}"
    for layer in lower:
        yield f"    over {layer}"


def _mount(source: str, target: str, kind: str, flags: int, data: str, spread: int, *_: Any) -> Lines:
    yield f"mount {kind} at {target}{_options(_mount_flags(flags), data, _propagation(spread))}"


def _bind(source: str, target: str, recursive: bool, add: int, clear: int, spread: int, *_: Any) -> Lines:
    words = _options("recursive" if recursive else "", _mount_flags(add), _propagation(spread))
    yield f"bind {source} to {target}{words}"


def _cgroup_views(target: str, binds: Sequence[Sequence[str]], *_: Any) -> Lines:
    for source, name in binds:
        yield f"bind {source} to {target}/{name}"


def _devices(nodes: Sequence[Sequence[Any]]) -> Lines:
    for path, mode, major, minor, *owner in nodes:
        kind = "c" if mode & 0o170000 == 0o020000 else "b"
        yield f"make the device {path} {kind} {major}:{minor} {mode & 0o7777:04o} of {owner[0]}:{owner[1]}"


def _symlinks(links: Sequence[Sequence[str]]) -> Lines:
    for target, path in links:
        yield f"link {path} to {target}"


def _network(name: str, addresses: Sequence[str], gateway4: str, gateway6: str, *_: Any) -> Lines:
    gateways = " and ".join(gateway for gateway in (gateway4, gateway6) if gateway)
    yield f"set up {name} with {', '.join(addresses)}" + (f" via {gateways}" if gateways else "")


def _user(
    name: str | None, extra: Sequence[str], uid: int, gid: int, groups: Sequence[int], *_: Any
) -> Lines:
    named = f"{name!r} of the image" if name else f"{uid}:{gid}"
    more = [*extra, *map(str, groups)]
    yield f"become {named}" + (f" with the groups {', '.join(more)}" if more else "")


def _credentials(sets: dict[str, int], last: int, no_new_privileges: bool, bpf: bytes, *_: Any) -> Lines:
    for name, bits in sets.items():
        held = [word for number, word in enumerate(capabilities.NAMES) if bits >> number & 1]
        everything = len(held) > last
        yield f"{name} capabilities: {'all' if everything else ' '.join(held) or 'none'}"
    if no_new_privileges:
        yield "no new privileges from now on"
    yield f"seccomp filter of {len(bpf) // 8} instructions" if bpf else "no seccomp filter"


def _execute(arguments: Sequence[str], environment: Sequence[str], *_: Any) -> Lines:
    for variable in environment:
        yield f"environment {variable}"
    yield f"execute {list(arguments)}"


_WORDS: dict[str, Callable[..., Lines]] = {
    "create-cgroup": _create_cgroup,
    "enter-cgroup": _enter_cgroup,
    "overlay": _overlay,
    "mount": _mount,
    "bind": _bind,
    "cgroup-views": _cgroup_views,
    "devices": _devices,
    "symlinks": _symlinks,
    "network": _network,
    "user": _user,
    "credentials": _credentials,
    "execute": _execute,
    "propagation": lambda flags: iter((f"make all mounts {_propagation(flags)}",)),
    "unshare": lambda flags: iter((f"a new namespace: {_namespaces(flags)}",)),
    "join": lambda path, *_: iter((f"join the namespace {path}",)),
    "read-only": lambda path: iter((f"make {path} read-only",)),
    "mask": lambda path: iter((f"hide {path}",)),
    "sysctl": lambda key, value: iter((f"set {key} = {value}",)),
    "await": lambda what: iter((f"wait for the {what}",)),
    "loopback": lambda: iter(("bring up lo",)),
    "pivot": lambda read_only, *_: iter((f"make it the root{', read-only' if read_only else ''}",)),
    "resolver": lambda path, *_: iter((f"have the name server at {path} answer 127.0.0.11",)),
    "session": lambda: iter(("lead a session of its own",)),
    "working-directory": lambda path: iter((f"go to {path}",)),
    "oom-score": lambda score: iter((f"OOM score {score}",)),
}


def _plain(name: str, values: Sequence[Any]) -> str:
    parts = [f"<{len(part)} bytes>" if isinstance(part, bytes) else str(part) for part in values]
    return f"{name} {' '.join(parts)}".rstrip()


def describe(program: dict[str, Any]) -> Lines:
    """The plan line by line, for a person."""
    for line in _create_cgroup(program["cgroup_steps"]):
        yield f"monitor: {line}"
    yield f"monitor: clone3 with new namespaces: {_namespaces(program['clone_flags'])}"
    for link in program["links"]:
        yield f"monitor: {link[0]} {link[2]} of {link[1]}, {link[3]} inside"
    for name, *values in program["operations"]:
        words = _WORDS.get(name)
        if words is None:
            yield f"init: {_plain(name, values)}"
            continue
        for line in words(*values):
            yield f"init: {line}"
