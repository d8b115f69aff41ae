"""What is asked about containers and about the runtime itself: list, ps, events, features, spec."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import msgspec

import sampan
from sampan.kernel import capabilities
from sampan.kernel.cgroup.usage import read_usage
from sampan.kernel.process import NAMESPACE_FLAGS
from sampan.model.oci import (
    CapabilitySets,
    DeviceRule,
    IDMapping,
    Linux,
    Namespace,
    OCIMount,
    Process,
    Resources,
    Rlimit,
    Root,
    RuntimeSpec,
)
from sampan.runtime import mountoptions
from sampan.security.capabilities import DEFAULT

from .errors import WrongState
from .lifecycle import Containers


def listing(containers: Containers, *, quiet: bool, as_json: bool) -> str:
    rows = []
    for container_id in containers.store.ids():
        record = containers.store.require(container_id)
        status = containers.store.status(record, containers.layout)
        pid = 0 if status == "stopped" else record.pid
        rows.append(
            {
                "id": record.id,
                "pid": pid,
                "status": status,
                "bundle": record.bundle,
                "rootfs": record.rootfs,
                "created": record.created,
                "owner": record.owner,
            }
        )
    if as_json:
        return msgspec.json.format(msgspec.json.encode(rows)).decode()
    if quiet:
        return "\n".join(str(row["id"]) for row in rows)
    titles = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")
    return table([titles, *(tuple(str(row[title.lower()]) for title in titles) for row in rows)])


def table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def processes(containers: Containers, container_id: str, *, as_json: bool) -> str:
    record = containers.store.require(container_id)
    if not record.cgroups_path:
        raise WrongState("the container has no cgroup to list processes of")
    pids = sorted(containers.groups.processes(record.cgroups_path))
    if as_json:
        return msgspec.json.encode(pids).decode()
    if not pids:
        return "PID"
    done = subprocess.run(
        ["ps", "-f", "-p", ",".join(map(str, pids))], capture_output=True, text=True, check=False
    )
    return done.stdout.rstrip("\n") if not done.returncode else table([("PID",), *((str(p),) for p in pids)])


def statistics(containers: Containers, container_id: str) -> str:
    """One event of runc's ``events --stats``."""
    record = containers.store.require(container_id)
    usage = read_usage(containers.layout, record.cgroups_path)
    return msgspec.json.encode({"type": "stats", "id": record.id, "data": usage}).decode()


def features() -> dict[str, Any]:
    """runtime-spec features.md; features-linux.md."""
    last = capabilities.last_capability()
    known = {*mountoptions.FLAGS, *mountoptions.PROPAGATION, "rro", "tmpcopyup", "idmap", "ridmap"}
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": RuntimeSpec().oci_version,
        "hooks": [
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop",
        ],
        "mountOptions": sorted(known),
        "linux": {
            "namespaces": sorted(NAMESPACE_FLAGS),
            "capabilities": list(capabilities.NAMES[: last + 1]),
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False},
            "seccomp": {
                "enabled": True,
                "actions": [
                    "SCMP_ACT_ALLOW",
                    "SCMP_ACT_ERRNO",
                    "SCMP_ACT_KILL",
                    "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD",
                    "SCMP_ACT_LOG",
                    "SCMP_ACT_NOTIFY",
                    "SCMP_ACT_TRACE",
                    "SCMP_ACT_TRAP",
                ],
                "operators": [
                    "SCMP_CMP_NE",
                    "SCMP_CMP_LT",
                    "SCMP_CMP_LE",
                    "SCMP_CMP_EQ",
                    "SCMP_CMP_GE",
                    "SCMP_CMP_GT",
                    "SCMP_CMP_MASKED_EQ",
                ],
                "archs": [
                    "SCMP_ARCH_AARCH64",
                    "SCMP_ARCH_ARM",
                    "SCMP_ARCH_X32",
                    "SCMP_ARCH_X86",
                    "SCMP_ARCH_X86_64",
                ],
            },
            "apparmor": {"enabled": os.path.exists("/sys/kernel/security/apparmor")},
            "selinux": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
        "annotations": {"io.sampan.version": sampan.__version__},
    }


def starting_spec(*, rootless: bool = False) -> RuntimeSpec:
    """A config.json that starts a shell, to be changed."""
    caps = [name for name in DEFAULT if name in ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")]
    flags = ["nosuid", "noexec", "nodev"]
    kinds = ["pid", "network", "ipc", "uts", "mount", "cgroup"]
    maps = [IDMapping(container_id=0, host_id=os.getuid(), size=1)] if rootless else []
    return RuntimeSpec(
        process=Process(
            terminal=True,
            args=["sh"],
            env=["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            capabilities=CapabilitySets(bounding=caps, effective=caps, permitted=caps),
            rlimits=[Rlimit(type="RLIMIT_NOFILE", hard=1024, soft=1024)],
            no_new_privileges=True,
        ),
        root=Root(path="rootfs", readonly=True),
        hostname="sampan",
        mounts=[
            OCIMount(destination="/proc", type="proc", source="proc"),
            OCIMount(
                destination="/dev",
                type="tmpfs",
                source="tmpfs",
                options=["nosuid", "strictatime", "mode=755", "size=65536k"],
            ),
            OCIMount(
                destination="/dev/pts",
                type="devpts",
                source="devpts",
                options=["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            ),
            OCIMount(
                destination="/dev/shm",
                type="tmpfs",
                source="shm",
                options=[*flags, "mode=1777", "size=65536k"],
            ),
            OCIMount(destination="/dev/mqueue", type="mqueue", source="mqueue", options=flags),
            OCIMount(destination="/sys", type="sysfs", source="sysfs", options=[*flags, "ro"]),
            OCIMount(
                destination="/sys/fs/cgroup",
                type="cgroup",
                source="cgroup",
                options=[*flags, "relatime", "ro"],
            ),
        ],
        linux=Linux(
            resources=Resources(devices=[DeviceRule(allow=False, access="rwm")]),
            namespaces=[Namespace(type=kind) for kind in (*kinds, *(["user"] if rootless else []))],
            uid_mappings=maps,
            gid_mappings=maps,
            masked_paths=["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            readonly_paths=["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        ),
    )
