"""What Docker refuses at create time, in its words, and what it only warns of."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sampan.base.errors import InvalidArgument
from sampan.engine.spec.hostfacts import HostFacts
from sampan.engine.spec.validate import Validator
from sampan.model.container import (
    ContainerConfig,
    HealthConfig,
    HostConfig,
    PortBinding,
    RestartPolicy,
    ThrottleDevice,
)

MB = 1 << 20


def warnings(
    config: dict[str, Any] | None = None, facts: dict[str, Any] | None = None, **host: Any
) -> list[str]:
    validator = Validator(msgspec.structs.replace(HostFacts(), **(facts or {})))
    return validator(ContainerConfig(**(config or {})), HostConfig(**host))


def test_an_ordinary_container_is_fine() -> None:
    assert warnings(memory=64 * MB, memory_swap=128 * MB, cpuset_cpus="0-1", cap_add=["NET_ADMIN"]) == []


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ({"memory": 5 * MB}, "Minimum memory limit allowed is 6MB"),
        ({"cpuset_cpus": "one"}, "Invalid value one for cpuset cpus: invalid format: one"),
        ({"runtime": "runq"}, "unknown or invalid runtime name: runq"),
        ({"storage_opt": {"size": "1G"}}, "--storage-opt is supported only for overlay over xfs"),
        (
            {"memory": 64 * MB, "memory_swap": 32 * MB},
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ),
        (
            {"memory_swap": 32 * MB},
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ),
        ({"memory_swappiness": 101}, "Invalid value: 101, valid memory swappiness range is 0-100"),
        ({"memory_reservation": MB}, "Minimum memory reservation allowed is 6MB"),
        (
            {"memory": 8 * MB, "memory_reservation": 9 * MB},
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ),
        (
            {"nano_cpus": 1, "cpu_period": 1000},
            "Conflicting options: Nano CPUs and CPU Period cannot both be set",
        ),
        (
            {"nano_cpus": 3_000_000_000},
            "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available",
        ),
        (
            {"cpu_period": 999},
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ),
        ({"cpu_quota": 999}, "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
        ({"cpu_shares": -1}, "invalid CPU shares (-1): value must be a positive integer"),
        ({"cpuset_cpus": "0-7"}, "Requested CPUs are not available - requested 0-7, available: 0-1"),
        ({"cpuset_mems": "1"}, "Requested memory nodes are not available - requested 1, available: 0"),
        ({"cpuset_cpus": "x"}, "Invalid value x for cpuset cpus"),
        ({"blkio_weight": 5}, "Range of blkio weight is from 10 to 1000"),
        ({"cpu_realtime_runtime": 5}, "kernel does not support CPU real-time scheduler"),
        ({"shm_size": -1}, "SHM size can not be less than 0"),
        ({"oom_score_adj": 1001}, "Invalid value 1001, range for oom score adj is [-1000, 1000]"),
        ({"ipc_mode": "x"}, "invalid IPC mode: x"),
        ({"pid_mode": "container:"}, "invalid PID mode: container:"),
        ({"uts_mode": "x"}, "invalid UTS mode: x"),
        ({"cgroupns_mode": "x"}, "invalid cgroup namespace mode: x"),
        ({"cap_add": ["FLY"]}, 'invalid CapAdd: unknown capability: "CAP_FLY"'),
        ({"cap_drop": ["FLY"]}, 'invalid CapDrop: unknown capability: "CAP_FLY"'),
        ({"security_opt": ["wings"]}, 'invalid --security-opt 1: "wings"'),
        (
            {"auto_remove": True, "restart_policy": RestartPolicy(name="always")},
            "can't create 'AutoRemove' container with restart policy",
        ),
        (
            {"restart_policy": RestartPolicy(name="always", maximum_retry_count=1)},
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        ),
        ({"restart_policy": RestartPolicy(name="x")}, "invalid restart policy: unknown policy 'x'"),
        ({"extra_hosts": ["x"]}, 'bad format for add-host: "x"'),
        ({"tmpfs": {"/": ""}}, "invalid specification: destination can't be '/'"),
        ({"tmpfs": {"x": ""}}, "invalid mount path: 'x' mount path must be absolute"),
        ({"isolation": "hyperv"}, "invalid isolation (hyperv)"),
        ({"annotations": {"": "x"}}, "the empty string is not permitted as an annotation key"),
        ({"sysctls": {"kernel.panic": "1"}}, 'sysctl "kernel.panic" is not in a separate kernel namespace'),
        (
            {"sysctls": {"net.core.somaxconn": "1"}, "network_mode": "host"},
            "sysctl 'net.core.somaxconn' not allowed in host network namespace",
        ),
        (
            {"sysctls": {"kernel.msgmax": "1"}, "ipc_mode": "host"},
            'sysctl "kernel.msgmax" is not in a separate kernel namespace',
        ),
        ({"network_mode": "container:"}, "invalid network mode: invalid container format"),
        (
            {"network_mode": "container:a", "dns": ["1.1.1.1"]},
            "conflicting options: dns and the network mode",
        ),
        (
            {"network_mode": "container:a", "publish_all_ports": True},
            "conflicting options: port publishing and the container type network mode",
        ),
        ({"network_mode": "host", "links": ["a:b"]}, "conflicting options: host type networking"),
    ],
)
def test_settings_that_are_refused(host: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument) as failure:
        warnings(**host)
    assert text in failure.value.message


@pytest.mark.parametrize(
    ("config", "host", "text"),
    [
        ({"working_dir": "srv"}, {}, "the working directory 'srv' is invalid"),
        ({"env": ["=x"]}, {}, "invalid environment variable: =x"),
        ({"hostname": "x" * 65}, {}, "is too long (maximum 64 bytes)"),
        ({"hostname": "x"}, {"network_mode": "container:a"}, "hostname and the network mode"),
        ({"hostname": "x"}, {"uts_mode": "host"}, "hostname and the UTS mode"),
        ({"healthcheck": HealthConfig(interval=5)}, {}, "Interval in Healthcheck cannot be less than 1ms"),
        ({"healthcheck": HealthConfig(retries=-1)}, {}, "Retries in Healthcheck cannot be negative"),
    ],
)
def test_configurations_that_are_refused(config: dict[str, Any], host: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument) as failure:
        warnings(config, **host)
    assert text in failure.value.message


@pytest.mark.parametrize(
    ("facts", "host", "text"),
    [
        ({"memory_limit": False}, {"memory": 64 * MB}, "does not support memory limit"),
        ({"swap_limit": False}, {"memory": 64 * MB}, "does not support swap limit"),
        ({"blkio_weight": False}, {"blkio_weight": 500}, "does not support Block I/O weight"),
        ({"oom_kill_disable": False}, {"oom_kill_disable": True}, "OomKillDisable discarded"),
        ({}, {"oom_kill_disable": True}, "OOM killer is disabled for the container"),
        ({"pids_limit": False}, {"pids_limit": 5}, "PIDs limit discarded"),
        ({"cpuset": False}, {"cpuset_cpus": "0"}, "Cpuset discarded"),
        (
            {"blkio_throttle": False},
            {"blkio_device_read_bps": [ThrottleDevice(path="/dev/sda", rate=1)]},
            "Block I/O BPS read limit discarded",
        ),
        ({"ipv4_forwarding": False}, {}, "IPv4 forwarding is disabled. Networking will not work."),
        (
            {},
            {"network_mode": "host", "port_bindings": {"80/tcp": [PortBinding()]}},
            "Published ports are discarded when using host network mode",
        ),
    ],
)
def test_what_is_only_warned_of(facts: dict[str, Any], host: dict[str, Any], text: str) -> None:
    found = warnings(facts=facts, **host)
    assert len(found) == 1
    assert text in found[0]


def test_update_checks_resources_alone() -> None:
    validator = Validator(HostFacts())
    assert validator.update(HostConfig(memory_swap=64 * MB, ipc_mode="x")) == []
    with pytest.raises(InvalidArgument, match="6MB"):
        validator.update(HostConfig(memory=MB))
