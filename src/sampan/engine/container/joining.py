"""Containers whose namespaces another one shares: ``--network``, ``--pid`` and ``--ipc container:ID``."""

from __future__ import annotations

from sampan.base.errors import Conflict, InvalidArgument
from sampan.model.container import Container

from .lifecycle import NotRunning, restarting_conflict
from .registry import Entry, NoSuchContainer, Registry

UNSHAREABLE_IPC = ("private", "none")


def shared_with(mode: str) -> str:
    """The container that a mode such as ``container:ID`` names; empty for every other mode."""
    prefix, _, ref = mode.partition(":")
    return ref if prefix == "container" else ""


def joined_pids(record: Container, registry: Registry) -> dict[str, int]:
    """Host pids of the containers that are joined, by ``network``, ``pid`` and ``ipc``.

    Raises NoSuchContainer, Conflict (not running, restarting) or InvalidArgument with Docker's texts.
    """
    host = record.host
    pids: dict[str, int] = {}
    for kind, mode in (("network", host.network_mode), ("pid", host.pid_mode), ("ipc", host.ipc_mode)):
        ref = shared_with(mode)
        if not ref:
            continue
        other = registry.find(ref)
        if other is None:
            raise NoSuchContainer(ref)
        _require_joinable(record, kind, other)
        pids[kind] = other.life.pid
    return pids


def _require_joinable(record: Container, kind: str, other: Entry) -> None:
    phase = other.life.phase
    if other.id == record.id:
        raise InvalidArgument(f"cannot join own {kind} namespace")
    if phase == "restarting":
        raise restarting_conflict(other.id)
    if phase not in ("running", "paused"):
        if kind == "network":
            raise Conflict(
                f"cannot join network namespace of a non running container: container {other.name} is {phase}"
            )
        raise NotRunning(f"container {other.id} is not running")
    if kind == "ipc" and other.record.host.ipc_mode in UNSHAREABLE_IPC:
        raise InvalidArgument(
            f"container {other.id}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
        )
