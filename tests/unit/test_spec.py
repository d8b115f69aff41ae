"""From a record to the OCI specification: what Docker's process sees."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest

from sampan.base.errors import FailedPrecondition, InvalidArgument
from sampan.engine.collaborators import LaunchFacts
from sampan.engine.container.views import ExecConfig
from sampan.engine.spec import devices, security_options
from sampan.engine.spec.hostfacts import HostFacts, kernel_version, parse_cpu_list
from sampan.engine.spec.rootmounts import tmpfs_options
from sampan.engine.spec.spec import MASKED_PATHS, Specs, SpecSettings
from sampan.engine.streams.logsink import log_sink
from sampan.model.container import (
    BindOptions,
    Container,
    ContainerConfig,
    DeviceMapping,
    HostConfig,
    LogConfig,
    Mount,
    MountPoint,
    TmpfsOptions,
    Ulimit,
)
from sampan.model.launch import LaunchRequest
from sampan.model.oci import DeviceRule, OCIMount
from sampan.security import capabilities
from sampan.store.containers import RunRecord

FACTS = LaunchFacts(
    run_dir="/run/x",
    container_dir="/data/x",
    lower=["/layers/2", "/layers/1"],
    upper="/data/x/upper",
    work="/data/x/work",
    log_path="/data/x/log",
    hostname_path="/data/x/hostname",
    hosts_path="/data/x/hosts",
    resolv_conf_path="/data/x/resolv.conf",
)
CONFIG = ContainerConfig(hostname="box", working_dir="/srv", env=["A=1"], user="app")
HOST = HostConfig(network_mode="bridge", ipc_mode="private", cgroupns_mode="host", shm_size=1 << 26)
ID = "f" * 64


def record(
    config: ContainerConfig = CONFIG, mounts: list[MountPoint] | None = None, **host: Any
) -> Container:
    return Container(
        id=ID,
        name="box",
        created_ns=0,
        image_id="sha256:" + "0" * 64,
        image_ref="busybox",
        path="sh",
        args=["-c", "true"],
        config=config,
        host=msgspec.structs.replace(HOST, **host),
        networks={},
        mounts=mounts or [],
        layer_ids=[],
    )


def specs(settings: SpecSettings | None = None, **facts: Any) -> Specs:
    return Specs(msgspec.structs.replace(HostFacts(), **facts), settings or SpecSettings())


def launch(
    container: Container,
    settings: SpecSettings | None = None,
    launch_facts: LaunchFacts = FACTS,
    **facts: Any,
) -> LaunchRequest:
    return specs(settings, **facts).launch(container, launch_facts)


def mounts(request: LaunchRequest) -> dict[str, OCIMount]:
    return {mount.destination: mount for mount in request.spec.mounts}


def kinds(request: LaunchRequest) -> dict[str, str]:
    return {namespace.type: namespace.path for namespace in request.spec.linux.namespaces}


def test_an_ordinary_container() -> None:
    request = launch(record())
    process = request.spec.process
    assert process is not None
    assert process.args == ["sh", "-c", "true"]
    assert process.cwd == "/srv"
    assert process.env[1:] == ["HOSTNAME=box", "A=1"]
    assert process.env[0].startswith("PATH=/usr/local/sbin:")
    assert process.capabilities is not None
    assert len(process.capabilities.bounding) == 14
    assert (process.capabilities.inheritable, process.capabilities.ambient) == ([], [])
    assert request.user == "app"
    assert request.spec.linux.cgroups_path == f"/docker/{ID}"
    assert request.root is not None
    assert request.root.lower == ["/layers/2", "/layers/1"]
    assert kinds(request) == dict.fromkeys(("mount", "network", "pid", "ipc", "uts"), "")
    assert len(request.seccomp_bpf) > 1000


def test_default_mounts_and_the_files_of_name_resolution() -> None:
    found = mounts(launch(record()))
    assert list(found)[:7] == [
        "/proc",
        "/dev",
        "/dev/pts",
        "/sys",
        "/sys/fs/cgroup",
        "/dev/mqueue",
        "/dev/shm",
    ]
    assert "size=67108864" in found["/dev/shm"].options
    assert "ro" in found["/sys"].options
    assert found["/etc/hosts"].source == "/data/x/hosts"
    assert found["/etc/hosts"].options == ["rbind", "rprivate"]


def test_masked_and_read_only_paths() -> None:
    linux = launch(record()).spec.linux
    assert linux.masked_paths == MASKED_PATHS
    assert "/proc/sys" in linux.readonly_paths
    own = launch(record(masked_paths=[], readonly_paths=["/proc/bus"])).spec.linux
    assert (own.masked_paths, own.readonly_paths) == ([], ["/proc/bus"])
    unconfined = launch(record(security_opt=["systempaths=unconfined"])).spec.linux
    assert (unconfined.masked_paths, unconfined.readonly_paths) == ([], [])


def test_privileged() -> None:
    request = launch(record(privileged=True))
    linux = request.spec.linux
    found = mounts(request)
    assert request.seccomp_bpf == b""
    assert linux.masked_paths == linux.readonly_paths == []
    assert linux.resources is not None
    assert linux.resources.devices == [DeviceRule(allow=True, access="rwm")]
    assert "ro" not in found["/sys"].options + found["/sys/fs/cgroup"].options
    assert {device.path for device in linux.devices} >= {"/dev/null"}
    process = request.spec.process
    assert process is not None
    assert process.capabilities is not None
    assert process.capabilities.effective == list(capabilities.available())


@pytest.mark.parametrize(
    ("add", "drop", "has", "lacks"),
    [
        (["NET_ADMIN"], None, "CAP_NET_ADMIN", "CAP_SYS_ADMIN"),
        (["cap_net_admin"], ["ALL"], "CAP_NET_ADMIN", "CAP_CHOWN"),
        (None, ["chown"], "CAP_KILL", "CAP_CHOWN"),
        (["ALL"], ["MKNOD"], "CAP_CHOWN", "CAP_MKNOD"),
    ],
)
def test_capabilities_added_and_dropped(
    add: list[str] | None, drop: list[str] | None, has: str, lacks: str
) -> None:
    names = capabilities.effective_set(add, drop, privileged=False)
    assert has in names
    assert lacks not in names
    assert len(names) == len(set(names))


def test_unknown_capability() -> None:
    with pytest.raises(InvalidArgument, match='unknown capability: "CAP_FLY"'):
        capabilities.effective_set(["fly"], None, privileged=False)


def test_namespaces_of_the_host_and_of_others() -> None:
    shared = record(network_mode="host", pid_mode="host", ipc_mode="host", uts_mode="host")
    request = launch(shared)
    assert kinds(request) == {"mount": ""}
    assert request.spec.hostname == ""
    assert request.spec.linux.sysctl == {}
    assert mounts(request)["/dev/shm"].source == "/dev/shm"
    joined = msgspec.structs.replace(FACTS, joined_pids={"network": 7, "pid": 8, "ipc": 9})
    modes = {f"{kind}_mode": "container:abc" for kind in ("network", "pid", "ipc")}
    request = launch(record(**modes), launch_facts=joined)
    found = kinds(request)
    assert found["network"] == "/proc/7/ns/net"
    assert found["pid"] == "/proc/8/ns/pid"
    assert found["ipc"] == "/proc/9/ns/ipc"
    assert mounts(request)["/dev/shm"].source == "/proc/9/root/dev/shm"
    private = launch(record(cgroupns_mode="private", ipc_mode="none"))
    assert "cgroup" in kinds(private)
    assert "/dev/shm" not in mounts(private)


def test_sysctls_come_after_the_defaults() -> None:
    key = "net.ipv4.ip_unprivileged_port_start"
    linux = launch(record(sysctls={key: "1024"})).spec.linux
    assert linux.sysctl == {"net.ipv4.ping_group_range": "0 2147483647", key: "1024"}


def test_environment_is_replaced_and_taken_away() -> None:
    config = msgspec.structs.replace(CONFIG, tty=True, env=["PATH=/bin", "TERM", "B=x=y"])
    facts = msgspec.structs.replace(FACTS, link_env=["DB_NAME=/box/db"])
    process = launch(record(config), launch_facts=facts).spec.process
    assert process is not None
    assert process.env == ["PATH=/bin", "HOSTNAME=box", "DB_NAME=/box/db", "B=x=y"]
    assert process.terminal


def test_limits() -> None:
    resources = launch(
        record(memory=1 << 25, memory_swap=-1, nano_cpus=1_500_000_000, pids_limit=0, cpuset_cpus="0")
    ).spec.linux.resources
    assert resources is not None
    assert resources.memory is not None
    assert (resources.memory.limit, resources.memory.swap) == (1 << 25, -1)
    assert resources.cpu is not None
    assert (resources.cpu.period, resources.cpu.quota, resources.cpu.cpus) == (100_000, 150_000, "0")
    assert resources.pids is not None
    assert resources.pids.limit == -1


def test_limits_that_the_host_lacks_are_left_out() -> None:
    container = record(memory=1 << 25, memory_swap=1 << 26, blkio_weight=500, cpuset_cpus="0")
    lacking = launch(container, swap_limit=False, blkio_weight=False, cpuset=False).spec.linux.resources
    assert lacking is not None
    assert lacking.memory is not None
    assert lacking.memory.swap is None
    assert lacking.cpu is None
    assert lacking.block_io is not None
    assert lacking.block_io.weight is None


def test_ulimits_override_the_daemons() -> None:
    settings = SpecSettings(
        ulimits=[Ulimit(name="nofile", soft=1, hard=2), Ulimit(name="core", soft=0, hard=0)]
    )
    process = launch(record(ulimits=[Ulimit(name="nofile", soft=10, hard=20)]), settings).spec.process
    assert process is not None
    assert [(limit.type, limit.soft, limit.hard) for limit in process.rlimits] == [
        ("RLIMIT_NOFILE", 10, 20),
        ("RLIMIT_CORE", 0, 0),
    ]
    with pytest.raises(InvalidArgument, match="invalid ulimit type"):
        launch(record(ulimits=[Ulimit(name="wings", soft=1, hard=2)]))
    with pytest.raises(InvalidArgument, match="soft limit must be less"):
        launch(record(ulimits=[Ulimit(name="nofile", soft=3, hard=2)]))


def test_cgroup_parent_cannot_climb() -> None:
    assert specs().cgroup_path(record(cgroup_parent="/a/b")) == f"/a/b/{ID}"
    assert specs().cgroup_path(record(cgroup_parent="../../x")) == f"/x/{ID}"


def test_init_wraps_the_command_in_a_pid_namespace_of_its_own() -> None:
    settings = SpecSettings(init_path="/usr/bin/tini")
    request = launch(record(init=True), settings)
    assert request.spec.process is not None
    assert request.spec.process.args[:3] == ["/sbin/docker-init", "--", "sh"]
    assert mounts(request)["/sbin/docker-init"].source == "/usr/bin/tini"
    shared = launch(record(init=True, pid_mode="host"), settings)
    assert shared.spec.process is not None
    assert shared.spec.process.args[0] == "sh"
    with pytest.raises(FailedPrecondition):
        launch(record(init=True))


def test_read_only_root_leaves_runtime_directories_alone() -> None:
    request = launch(record(readonly_rootfs=True))
    assert request.spec.root is not None
    assert request.spec.root.readonly
    found = mounts(request)
    assert "ro" not in found["/dev"].options + found["/dev/shm"].options + found["/proc"].options
    assert "ro" in found["/etc/hosts"].options


def bind(target: str, **fields: Any) -> MountPoint:
    return MountPoint(type="bind", source="/host", destination=target, **fields)


def test_binds() -> None:
    points = [
        bind("/data/deep"),
        bind("/data", rw=False),
        bind("/s", propagation="rshared"),
        bind(
            "/flat",
            rw=False,
            spec=Mount(bind_options=BindOptions(non_recursive=True, read_only_non_recursive=True)),
        ),
    ]
    request = launch(record(mounts=points))
    found = mounts(request)
    assert found["/data"].options == ["rbind", "rro", "rprivate"]
    assert found["/flat"].options == ["bind", "ro", "rprivate"]
    assert found["/s"].options == ["rbind", "rshared"]
    assert request.spec.linux.rootfs_propagation == "shared"
    order = list(found)
    assert order.index("/data") < order.index("/data/deep")
    old = mounts(launch(record(mounts=points), kernel=(5, 4)))
    assert old["/data"].options == ["rbind", "ro", "rprivate"]


def test_own_mounts_replace_the_default_ones() -> None:
    found = mounts(launch(record(mounts=[bind("/dev"), bind("/etc/hosts")])))
    assert found["/etc/hosts"].source == "/host"
    assert [target for target in found if target.startswith("/dev")] == ["/dev"]


def test_tmpfs() -> None:
    point = MountPoint(
        type="tmpfs",
        destination="/scratch",
        spec=Mount(type="tmpfs", tmpfs_options=TmpfsOptions(size_bytes=4096, mode=0o1770)),
    )
    found = mounts(launch(record(mounts=[point], tmpfs={"/run": "exec,size=1m"})))
    assert found["/scratch"].options == [
        "noexec",
        "nosuid",
        "nodev",
        "rprivate",
        "mode=1770",
        "size=4096",
    ]
    assert found["/run"].options == ["nosuid", "nodev", "rprivate", "exec", "size=1m"]
    assert tmpfs_options("ro,rw") == ["noexec", "nosuid", "nodev", "rprivate", "rw"]
    with pytest.raises(InvalidArgument, match="invalid tmpfs option"):
        tmpfs_options("wings")


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        (["seccomp=unconfined"], "seccomp", "unconfined"),
        (["apparmor:other"], "apparmor", "other"),
        (["no-new-privileges"], "no_new_privileges", True),
        (["no-new-privileges=false"], "no_new_privileges", False),
        (["writable-cgroups"], "writable_cgroups", True),
        (["label=disable", "label=type:x"], "labels", ["disable", "type:x"]),
    ],
)
def test_security_options(options: list[str], field: str, value: object) -> None:
    assert getattr(security_options.parse(options), field) == value


@pytest.mark.parametrize("option", ["wings", "wings=1", "no-new-privileges=maybe", "systempaths=x"])
def test_unknown_security_options(option: str) -> None:
    with pytest.raises(security_options.InvalidSecurityOption, match="invalid --security-opt"):
        security_options.parse([option])


def test_confinement_that_was_asked_away() -> None:
    assert launch(record(security_opt=["seccomp=unconfined"])).seccomp_bpf == b""
    assert launch(record(), SpecSettings(seccomp_profile="unconfined")).seccomp_bpf == b""
    assert launch(record(), seccomp=False).seccomp_bpf == b""
    process = launch(record(), apparmor=True).spec.process
    assert process is not None
    assert process.apparmor_profile == "docker-default"
    assert not process.no_new_privileges
    own = launch(record(security_opt=["no-new-privileges", "apparmor=mine"]), apparmor=True).spec.process
    assert own is not None
    assert (own.apparmor_profile, own.no_new_privileges) == ("mine", True)


def test_devices_are_looked_up_on_the_host(tmp_path: os.PathLike[str]) -> None:
    mapping = DeviceMapping(path_on_host="/dev/null", path_in_container="/dev/nothing")
    found = devices.resolve(record(devices=[mapping]).host)
    assert [(d.path, d.type, d.major, d.minor) for d in found.devices] == [("/dev/nothing", "c", 1, 3)]
    assert found.rules == [DeviceRule(allow=True, type="c", major=1, minor=3, access="rwm")]
    link = os.path.join(tmp_path, "link")
    os.symlink("/dev/zero", link)
    linked = DeviceMapping(path_on_host=link, path_in_container="/dev/x", cgroup_permissions="r")
    found = devices.resolve(record(devices=[linked]).host)
    assert (found.devices[0].minor, found.rules[0].access) == (5, "r")
    for path in ("/dev/not-there", str(tmp_path), "", "/dev/null\0"):
        missing = DeviceMapping(path_on_host=path, path_in_container=path)
        with pytest.raises(FailedPrecondition, match="error gathering device information"):
            devices.resolve(record(devices=[missing]).host)


def test_device_rules() -> None:
    assert devices.parse_rule("c 1:* rw") == DeviceRule(allow=True, type="c", major=1, access="rw")
    with pytest.raises(InvalidArgument, match="invalid device cgroup rule format"):
        devices.parse_rule("c 1 rw")


def test_exec_has_the_containers_world_and_its_own_command() -> None:
    config = ExecConfig(cmd=["id"], env=["A=2", "C=3"], tty=True, user="root", attach_stdin=True)
    request = specs().exec(
        record(), config, exec_id="e", run_dir="/run/e", pid=42, run=RunRecord(cgroup_path="/docker/x")
    )
    assert request.process.args == ["id"]
    assert request.process.env[1:] == ["HOSTNAME=box", "TERM=xterm", "A=2", "C=3"]
    assert request.process.cwd == "/srv"
    assert (request.user, request.container_pid, request.cgroups_path) == ("root", 42, "/docker/x")
    assert request.stdio.open_stdin
    assert request.seccomp_bpf
    privileged = specs().exec(
        record(),
        ExecConfig(cmd=["id"], privileged=True),
        exec_id="e",
        run_dir="/run/e",
        pid=42,
        run=RunRecord(),
    )
    assert privileged.process.capabilities is not None
    assert privileged.process.capabilities.bounding == list(capabilities.available())
    assert privileged.user == "app"
    assert privileged.seccomp_bpf == request.seccomp_bpf


def test_log_sink() -> None:
    config = msgspec.structs.replace(CONFIG, labels={"tier": "web", "other": "x"})
    options = {"max-size": "10m", "max-file": "3", "labels": "tier", "env": "A", "tag": "{{.Name}}/{{.ID}}"}
    container = record(config, log_config=LogConfig(type="json-file", config=options))
    sink = log_sink(container, "/log")
    assert sink is not None
    assert (sink.max_size_bytes, sink.max_files) == (10_000_000, 3)
    assert msgspec.json.decode(sink.attributes) == {"tier": "web", "A": "1", "tag": f"box/{ID[:12]}"}
    assert log_sink(record(log_config=LogConfig(type="none")), "/log") is None
    for bad in ({"max-size": "ten"}, {"wings": "1"}, {"max-file": "0"}):
        with pytest.raises(InvalidArgument):
            log_sink(record(log_config=LogConfig(type="json-file", config=bad)), "/log")
    with pytest.raises(InvalidArgument, match="no log driver named 'wings'"):
        log_sink(record(log_config=LogConfig(type="wings")), "/log")


def test_small_parsers() -> None:
    assert parse_cpu_list("0-2,5") == {0, 1, 2, 5}
    assert kernel_version("6.18.44-fc") == (6, 18)
    with pytest.raises(ValueError, match="invalid range"):
        parse_cpu_list("3-1")
