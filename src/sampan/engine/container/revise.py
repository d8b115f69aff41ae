"""``rename`` and ``update``: changes to the record of a container."""

from __future__ import annotations

import errno
from collections.abc import Callable

import msgspec

from sampan.base.errors import Conflict, InvalidArgument, NotFound, SystemFailure
from sampan.engine.locks import KeyedLocks
from sampan.engine.ports import Cgroups, Networks
from sampan.engine.spec.validate import check_restart_policy
from sampan.model.container import Container, HostConfig
from sampan.model.oci import Resources

from .create import Creator
from .ledger import Ledger
from .links import parse_link
from .names import InvalidName, NameTaken, require_valid_name
from .registry import Entry
from .views import HostConfigUpdate

ResourcesOf = Callable[[HostConfig], Resources]


class CannotUpdate(InvalidArgument):
    def __init__(self, container_id: str, why: str) -> None:
        super().__init__(f"Cannot update container {container_id}: {why}")


class Reviser:
    def __init__(
        self,
        ledger: Ledger,
        creator: Creator,
        cgroups: Cgroups,
        networks: Networks,
        validate: Callable[[HostConfig], list[str]],
        resources_of: ResourcesOf,
        locks: KeyedLocks,
    ) -> None:
        self._ledger = ledger
        self._creator = creator
        self._cgroups = cgroups
        self._networks = networks
        self._validate = validate
        self._resources_of = resources_of
        self._locks = locks

    async def rename(self, entry: Entry, new_name: str) -> None:
        """Raises InvalidArgument for an unusable name, Conflict for one that is taken."""
        wanted = new_name.strip()
        if not wanted.removeprefix("/"):
            raise InvalidArgument("Neither old nor new names may be empty")
        async with self._locks.hold("container", entry.id):
            if wanted.removeprefix("/") == entry.name:
                raise InvalidArgument("Renaming a container with the same name as its current name")
            try:
                bare = require_valid_name(wanted)
                self._creator.require_free(bare)
            except NameTaken as error:
                raise Conflict(f"Error when allocating new name: {error.message}") from error
            except InvalidName as error:
                raise InvalidArgument(f"Error when allocating new name: {error.message}") from error
            old = entry.name
            self._ledger.replace_record(entry, msgspec.structs.replace(entry.record, name=bare))
            if entry.run is not None:
                endpoints = {**entry.run.endpoints, **self._networks.rename(entry.id, old, bare)}
                self._ledger.replace_run(entry, msgspec.structs.replace(entry.run, endpoints=endpoints))
            self._ledger.publish(entry, "rename", {"oldName": f"/{old}"})

    async def unlink(self, name: str) -> None:
        """``rm --link PARENT/ALIAS``: forget one legacy link. Raises Conflict, NotFound."""
        parent_name, slash, alias = name.removeprefix("/").rpartition("/")
        if not slash:
            raise Conflict("Conflict, cannot remove the default link name of the container")
        parent = self._ledger.registry.find(parent_name)
        if parent is None:
            raise NotFound(f"Cannot get parent /{parent_name} for link name /{parent_name}/{alias}")
        async with self._locks.hold("container", parent.id):
            host = parent.record.host
            links = [text for text in host.links or () if parse_link(text)[1] != alias]
            host = msgspec.structs.replace(host, links=links or None)
            self._ledger.replace_record(parent, msgspec.structs.replace(parent.record, host=host))

    async def update(self, entry: Entry, changes: HostConfigUpdate) -> list[str]:
        """Warnings. Raises InvalidArgument or Conflict; then the container is as it was."""
        async with self._locks.hold("container", entry.id):
            if entry.life.phase in ("removing", "dead"):
                raise Conflict(
                    f"Cannot update container {entry.id}: "
                    'container is marked for removal and cannot be "update"'
                )
            warnings = self._validate(_as_host(changes))
            if changes.restart_policy is not None:
                check_restart_policy(changes.restart_policy)
            host = apply_update(entry.record, changes)
            if entry.run is not None:
                try:
                    self._cgroups.update(entry.run.cgroup_path, self._resources_of(host))
                except (FileNotFoundError, ProcessLookupError) as error:
                    # it has ended, which its watcher records once it has this lock
                    raise Conflict(
                        f"Cannot update container {entry.id}: it is not running any more"
                    ) from error
                except OSError as error:
                    if error.errno == errno.ENODEV:  # the file of a group that is being removed
                        raise Conflict(
                            f"Cannot update container {entry.id}: it is not running any more"
                        ) from error
                    raise SystemFailure(f"Cannot update container {entry.id}: {error}") from error
            self._ledger.replace_record(entry, msgspec.structs.replace(entry.record, host=host))
            self._ledger.publish(entry, "update")
            return warnings


TAKEN_OVER = (
    "cpu_shares",
    "nano_cpus",
    "cgroup_parent",
    "blkio_weight",
    "blkio_weight_device",
    "blkio_device_read_bps",
    "blkio_device_write_bps",
    "blkio_device_read_iops",
    "blkio_device_write_iops",
    "cpu_period",
    "cpu_quota",
    "cpu_realtime_period",
    "cpu_realtime_runtime",
    "cpuset_cpus",
    "cpuset_mems",
    "memory_reservation",
)
"""Fields of an update that replace the container's when they are not zero."""


def _as_host(changes: HostConfigUpdate) -> HostConfig:
    """For validation: what was asked for, alone."""
    fields = {
        name: value
        for name in (field.name for field in msgspec.structs.fields(HostConfigUpdate))
        if (value := getattr(changes, name)) is not None
    }
    return HostConfig(**fields)


def apply_update(record: Container, changes: HostConfigUpdate) -> HostConfig:
    """The host configuration after an update. Raises InvalidArgument with Docker's texts."""
    host = record.host
    id_ = record.id
    given = {name: value for name in TAKEN_OVER if (value := getattr(changes, name))}
    if changes.nano_cpus and (host.cpu_period or changes.cpu_period):
        raise CannotUpdate(
            id_, "Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set"
        )
    if changes.nano_cpus and (host.cpu_quota or changes.cpu_quota):
        raise CannotUpdate(
            id_, "Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set"
        )
    for name, label in (("cpu_quota", "CPU Quota"), ("cpu_period", "CPU Period")):
        if getattr(changes, name) and host.nano_cpus:
            raise CannotUpdate(
                id_, f"Conflicting options: {label} cannot be updated as NanoCPUs has already been set"
            )
    given |= _memory(record, changes)
    if changes.memory_swappiness is not None:
        given["memory_swappiness"] = changes.memory_swappiness
    if changes.oom_kill_disable is not None:
        given["oom_kill_disable"] = changes.oom_kill_disable
    if changes.pids_limit:
        given["pids_limit"] = changes.pids_limit if changes.pids_limit > 0 else None
    if changes.ulimits is not None:
        given["ulimits"] = changes.ulimits
    policy = changes.restart_policy
    if policy is not None and policy.name:
        if host.auto_remove and policy.name != "no":
            raise CannotUpdate(
                id_, "Restart policy cannot be updated because AutoRemove is enabled for the container"
            )
        given["restart_policy"] = policy
    return msgspec.structs.replace(host, **given)


def _memory(record: Container, changes: HostConfigUpdate) -> dict[str, object]:
    """Memory and swap depend on each other: a new memory limit above the swap limit needs both."""
    host = record.host
    given: dict[str, object] = {}
    if changes.memory:
        if changes.memory > host.memory_swap > 0 and changes.memory_swap == 0:
            raise CannotUpdate(
                record.id,
                "Memory limit should be smaller than already set memoryswap limit, "
                "update the memoryswap at the same time",
            )
        given["memory"] = changes.memory
    if changes.memory_swap:
        given["memory_swap"] = changes.memory_swap
    return given
