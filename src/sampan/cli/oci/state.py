"""What is kept of a container between two commands: ``<root>/<id>/status`` beside its config.json.

The status is what the container is, never how it is doing: that is asked of the kernel each time.
"""

from __future__ import annotations

import os
import re
import shutil

import msgspec

from sampan.base.errors import InvalidArgument
from sampan.kernel.cgroup import steps as cgroup
from sampan.kernel.cgroup.layout import Layout
from sampan.model.oci import RuntimeSpec

from .errors import NoSuchContainer, WrongState

FIFO = "exec.fifo"
_ID = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    pid: int
    pid_start: int
    """Field 22 of /proc/<pid>/stat: tells the process from a later one with its number."""
    bundle: str
    rootfs: str
    created: str
    """RFC 3339."""
    cgroups_path: str = ""
    cgroup_dirs: list[str] = []
    annotations: dict[str, str] = {}
    owner: str = "root"
    external_descriptors: str = "[]"
    """JSON list of what descriptors 0 to 2 were at create time, for checkpoints."""


def start_ticks(pid: int) -> int:
    """0 for a process that is gone or only waits to be reaped."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


class Store:
    """The directory of all containers."""

    def __init__(self, root: str) -> None:
        self.root = root

    def directory(self, container_id: str) -> str:
        if not _ID.fullmatch(container_id) or container_id in (".", ".."):
            raise InvalidArgument(f"invalid character in the container ID {container_id!r}")
        return os.path.join(self.root, container_id)

    def fifo(self, container_id: str) -> str:
        return os.path.join(self.directory(container_id), FIFO)

    def reserve(self, container_id: str) -> None:
        """A new container's directory. Raises WrongState when the id is taken."""
        path = self.directory(container_id)
        os.makedirs(self.root, 0o700, exist_ok=True)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            raise WrongState(f"container with id {container_id!r} already exists") from None

    def save(self, record: Record, spec_text: bytes = b"") -> None:
        directory = self.directory(record.id)
        if spec_text:
            _replace(os.path.join(directory, "config.json"), spec_text)
        _replace(os.path.join(directory, "status"), msgspec.json.encode(record))

    def require(self, container_id: str) -> Record:
        try:
            with open(os.path.join(self.directory(container_id), "status"), "rb") as file:
                return msgspec.json.decode(file.read(), type=Record)
        except FileNotFoundError:
            raise NoSuchContainer(container_id) from None

    def spec_text(self, container_id: str) -> bytes:
        with open(os.path.join(self.directory(container_id), "config.json"), "rb") as file:
            return file.read()

    def forget(self, container_id: str) -> None:
        shutil.rmtree(self.directory(container_id), ignore_errors=True)

    def ids(self) -> list[str]:
        try:
            with os.scandir(self.root) as entries:
                return sorted(
                    entry.name for entry in entries if os.path.exists(os.path.join(entry.path, "status"))
                )
        except FileNotFoundError:
            return []

    def status(self, record: Record, layout: Layout) -> str:
        """creating, created, running, paused or stopped."""
        if not record.pid or start_ticks(record.pid) != record.pid_start:
            return "stopped"
        if os.path.exists(self.fifo(record.id)):
            return "created"
        return "paused" if _is_frozen(record, layout) else "running"


def _is_frozen(record: Record, layout: Layout) -> bool:
    try:
        if layout.version == 1:
            state = layout.directory("freezer", record.cgroups_path) + "/freezer.state"
            return bool(record.cgroups_path) and cgroup.read(state).strip() != "THAWED"
        return cgroup.read(layout.directory("", record.cgroups_path) + "/cgroup.freeze").strip() == "1"
    except (FileNotFoundError, KeyError):
        return False


def _replace(path: str, data: bytes) -> None:
    with open(path + ".new", "wb") as file:
        file.write(data)
    os.rename(path + ".new", path)


def state_json(record: Record, status: str, pid: int | None = None) -> str:
    """What ``state`` prints and hooks read (runtime-spec runtime.md, "State")."""
    value = {
        "ociVersion": RuntimeSpec().oci_version,
        "id": record.id,
        "pid": (0 if status == "stopped" else record.pid) if pid is None else pid,
        "status": status,
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
        "owner": record.owner,
    }
    if record.annotations:
        value["annotations"] = record.annotations
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
