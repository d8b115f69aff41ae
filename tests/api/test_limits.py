"""Resource limits and confinement as the Docker client asks for them and the process meets them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from tests.support.docker import Client

from sampan.kernel.cgroup import layout

BUSYBOX = "busybox:latest"
MB = 1 << 20

V1_FILES = {
    "memory": "memory/memory.limit_in_bytes",
    "swap": "memory/memory.memsw.limit_in_bytes",
    "reservation": "memory/memory.soft_limit_in_bytes",
    "shares": "cpu/cpu.shares",
    "quota": "cpu/cpu.cfs_quota_us",
    "pids": "pids/pids.max",
    "cpus": "cpuset/cpuset.cpus",
}

V2_FILES = {
    "memory": "memory.max",
    "swap": "memory.swap.max",
    "reservation": "memory.low",
    "shares": "cpu.weight",
    "quota": "cpu.max",
    "pids": "pids.max",
    "cpus": "cpuset.cpus",
}
VERSION = layout.detect().version
FILES = V1_FILES if VERSION == 1 else V2_FILES
MEMBERSHIP = ":memory:" if VERSION == 1 else "^0::"
"""Its line in /proc/self/cgroup."""


def swap(memory_mb: int, total_mb: int) -> str:
    """v1 limits memory and swap together, v2 swap alone."""
    return str((total_mb if VERSION == 1 else total_mb - memory_mb) * MB)


def quota(microseconds: int) -> str:
    return str(microseconds) if VERSION == 1 else f"{microseconds} 100000"


def run(docker: Client, *words: str) -> str:
    return docker.line("run", "--rm", *words)


def limit(docker: Client, name: str, *options: str) -> str:
    return run(docker, *options, BUSYBOX, "cat", f"/sys/fs/cgroup/{FILES[name]}")


def test_memory_and_swap(docker: Client) -> None:
    options = ("--memory", "64m", "--memory-swap", "96m", "--memory-reservation", "32m")
    assert limit(docker, "memory", *options) == str(64 * MB)
    assert limit(docker, "swap", *options) == swap(64, 96)
    assert limit(docker, "reservation", *options) == str(32 * MB)
    assert limit(docker, "swap", "--memory", "64m") == swap(64, 128)


def test_cpu(docker: Client) -> None:
    # of 2..262144 to 1..10000: in a straight line, as older runtimes have it, or bent so that 1024 is 100
    assert limit(docker, "shares", "--cpu-shares", "512") in (("512",) if VERSION == 1 else ("20", "59"))
    assert limit(docker, "quota", "--cpus", "0.5") == quota(50000)
    assert limit(docker, "cpus", "--cpuset-cpus", "0") == "0"
    found = run(docker, "--cpuset-cpus", "0", BUSYBOX, "grep", "Cpus_allowed_list", "/proc/self/status")
    assert found.split() == ["Cpus_allowed_list:", "0"]


def test_pids_limit_is_felt(docker: Client) -> None:
    script = "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; echo done"
    result = docker("run", "--rm", "--pids-limit", "5", BUSYBOX, "sh", "-c", script, code=2)
    assert "fork" in result.err


def test_too_much_memory_is_an_oom_kill(docker: Client, name: str) -> None:
    script = "x=$(head -c 64m /dev/zero | tail -c 64m); echo $x | wc -c"
    docker(
        "run",
        "--name",
        name,
        "--memory",
        "16m",
        "--memory-swap",
        "16m",
        BUSYBOX,
        "sh",
        "-c",
        script,
        code=None,
    )
    state = json.loads(docker.line("inspect", "--format", "{{json .State}}", name))
    docker("rm", name)
    assert state["OOMKilled"] is True


def test_update_while_it_runs(docker: Client, started: Callable[..., str]) -> None:
    container = started("--memory", "64m", "--memory-swap", "128m")
    docker("update", "--memory", "80m", "--cpus", "0.25", "--pids-limit", "44", container)

    def read(name: str) -> str:
        return docker.line("exec", container, "cat", f"/sys/fs/cgroup/{FILES[name]}")

    assert (read("memory"), read("quota"), read("pids")) == (str(80 * MB), quota(25000), "44")
    docker("update", "--memory", "200m", "--memory-swap", "300m", container)
    assert (read("memory"), read("swap")) == (str(200 * MB), swap(200, 300))
    docker("update", "--cpuset-cpus", "0", container)
    assert docker.line("inspect", "--format", "{{.HostConfig.CpusetCpus}}", container) == "0"


def test_limits_that_make_no_sense(docker: Client) -> None:
    for options, text in (
        (("--memory", "1m"), "Minimum memory limit allowed is 6MB"),
        (("--cpus", "500"), "range of CPUs is from 0.01 to"),
        (("--memory", "64m", "--memory-swap", "32m"), "Minimum memoryswap limit should be larger"),
        (("--cpuset-cpus", "4096"), "Requested CPUs are not available"),
        (("--ipc", "host", "--sysctl", "kernel.msgmax=1"), "not in a separate kernel namespace"),
        (("--cap-add", "FLY"), "unknown capability"),
        (("--security-opt", "wings=1"), "invalid --security-opt"),
        (("--ulimit", "nofile=20:10"), "ulimit soft limit must be less than or equal to hard limit"),
    ):
        result = docker("run", "--rm", *options, BUSYBOX, "true", code=125)
        assert text in result.err, options


def test_custom_seccomp_profile(docker: Client, folder: Path) -> None:
    profile = folder / "profile.json"
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    option = f"seccomp={profile}"
    result = docker("run", "--rm", "--security-opt", option, BUSYBOX, "mkdir", "/x", code=1)
    assert "Read-only file system" in result.err


def test_namespaces_are_not_to_be_had(docker: Client) -> None:
    for flag in ("-U", "-n", "-m"):
        result = docker("run", "--rm", BUSYBOX, "busybox", "unshare", flag, "true", code=1)
        assert "Operation not permitted" in result.err
    docker("run", "--rm", "--cap-add", "SYS_ADMIN", BUSYBOX, "busybox", "unshare", "-n", "true")


def test_device_rules(docker: Client) -> None:
    script = (
        "mknod /tmp/zero c 1 5 && mknod /tmp/kmsg c 1 11 && head -c1 /tmp/zero | wc -c; head -c1 /tmp/kmsg"
    )
    result = docker("run", "--rm", BUSYBOX, "sh", "-c", script, code=1)
    assert result.out == "1\n"
    assert "Operation not permitted" in result.err
    allowed = ("--device-cgroup-rule", "c 1:11 r", "--cap-add", "SYSLOG")
    docker("run", "--rm", *allowed, BUSYBOX, "sh", "-c", "mknod /tmp/kmsg c 1 11 && : < /tmp/kmsg")


def test_device_is_renamed_and_restricted(docker: Client) -> None:
    option = "/dev/zero:/dev/nought:r"
    script = "head -c1 /dev/nought | wc -c"
    assert run(docker, "--device", option, BUSYBOX, "sh", "-c", script) == "1"


def test_device_that_is_not_there(docker: Client) -> None:
    # the client takes any "no such file or directory" for the command's, hence 127
    result = docker("run", "--rm", "--device", "/dev/not-there", BUSYBOX, "true", code=127)
    assert 'while adding custom device "/dev/not-there": no such file or directory' in result.err


def test_privileged_sees_the_hosts_devices(docker: Client) -> None:
    assert run(docker, "--privileged", BUSYBOX, "ls", "/dev").split().count("null") == 1
    script = "grep -c ' /sys/fs/cgroup/memory .*ro,' /proc/mounts || true; grep Seccomp: /proc/self/status"
    lines = docker("run", "--rm", "--privileged", BUSYBOX, "sh", "-c", script).out.split("\n")
    assert lines[0] == "0"
    assert lines[1].split() == ["Seccomp:", "0"]


def test_exec_is_confined_like_the_container(docker: Client, started: Callable[..., str]) -> None:
    container = started("--cap-drop", "ALL", "--security-opt", "no-new-privileges")
    status = docker("exec", container, "cat", "/proc/self/status").out
    fields = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    assert int(fields["CapBnd"], 16) == 0
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    privileged = docker("exec", "--privileged", container, "grep", "CapEff", "/proc/self/status").out
    assert int(privileged.split()[1], 16) > 1 << 30


def test_shared_ipc_namespace_shares_memory(docker: Client, started: Callable[..., str]) -> None:
    first = started("--ipc", "shareable")
    docker("exec", first, "sh", "-c", "echo seen > /dev/shm/file")
    assert run(docker, "--ipc", f"container:{first}", BUSYBOX, "cat", "/dev/shm/file") == "seen"
    assert run(docker, "--ipc", "none", BUSYBOX, "sh", "-c", "ls -d /dev/shm || echo none").endswith("none")


def test_cgroup_parent(docker: Client) -> None:
    parent = f"/sampan-parent-{os.getpid()}"
    try:
        options = ("--cgroup-parent", parent, "--cgroupns", "host")
        found = run(docker, *options, BUSYBOX, "grep", MEMBERSHIP, "/proc/self/cgroup")
        assert f":{parent}/" in found
    finally:
        for directory in layout.detect().directories(parent):
            if os.path.isdir(directory):
                os.rmdir(directory)


def test_private_cgroup_namespace(docker: Client) -> None:
    found = run(docker, "--cgroupns", "private", BUSYBOX, "grep", MEMBERSHIP, "/proc/self/cgroup")
    assert found.endswith(":memory:/" if VERSION == 1 else "0::/")
