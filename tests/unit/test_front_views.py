"""What inspect and list show, field for field as Docker Engine 28.5 does for API 1.51."""

from __future__ import annotations

import msgspec
import pytest
from front_engine import CREATED_NS, make_view

from sampan.engine.container.views import StateView
from sampan.engine.image.views import ImageInspect, ImageSummary
from sampan.formats.durations import human_duration
from sampan.front.docker.container_views import (
    SummaryCache,
    render_command,
    render_inspect,
    render_status,
    render_summary,
)
from sampan.front.docker.events import render_event
from sampan.front.docker.image_views import render_image, render_image_summary
from sampan.front.docker.replies import encode
from sampan.model.container import ContainerConfig, HealthState, HostConfig
from sampan.model.event import Event
from sampan.model.image import Image, ImageConfig, RootFS

INSPECT = """\
Id Created Path Args State Image ResolvConfPath HostnamePath HostsPath LogPath Name RestartCount Driver
Platform MountLabel ProcessLabel AppArmorProfile ExecIDs HostConfig GraphDriver Mounts Config
NetworkSettings"""
STATE = """\
Status Running Paused Restarting OOMKilled Dead Pid ExitCode Error StartedAt FinishedAt"""
HOST = """\
Binds ContainerIDFile LogConfig NetworkMode PortBindings RestartPolicy AutoRemove VolumeDriver
VolumesFrom ConsoleSize CapAdd CapDrop CgroupnsMode Dns DnsOptions DnsSearch ExtraHosts GroupAdd IpcMode
Cgroup Links OomScoreAdj PidMode Privileged PublishAllPorts ReadonlyRootfs SecurityOpt UTSMode
UsernsMode ShmSize Runtime Isolation CpuShares Memory NanoCpus CgroupParent BlkioWeight
BlkioWeightDevice BlkioDeviceReadBps BlkioDeviceWriteBps BlkioDeviceReadIOps BlkioDeviceWriteIOps
CpuPeriod CpuQuota CpuRealtimePeriod CpuRealtimeRuntime CpusetCpus CpusetMems Devices DeviceCgroupRules
DeviceRequests MemoryReservation MemorySwap MemorySwappiness OomKillDisable PidsLimit Ulimits CpuCount
CpuPercent IOMaximumIOps IOMaximumBandwidth MaskedPaths ReadonlyPaths"""
CONFIG = """\
Hostname Domainname User AttachStdin AttachStdout AttachStderr ExposedPorts Tty OpenStdin StdinOnce Env
Cmd Image Volumes WorkingDir Entrypoint OnBuild Labels"""
NETWORK = """\
Bridge SandboxID SandboxKey Ports HairpinMode LinkLocalIPv6Address LinkLocalIPv6PrefixLen
SecondaryIPAddresses SecondaryIPv6Addresses EndpointID Gateway GlobalIPv6Address GlobalIPv6PrefixLen
IPAddress IPPrefixLen IPv6Gateway MacAddress Networks"""
ENDPOINT = """\
IPAMConfig Links Aliases MacAddress DriverOpts GwPriority NetworkID EndpointID Gateway IPAddress
IPPrefixLen IPv6Gateway GlobalIPv6Address GlobalIPv6PrefixLen DNSNames"""
SUMMARY = (
    """Id Names Image ImageID Command Created Ports Labels State Status HostConfig NetworkSettings Mounts"""
)
IMAGE = """\
Id RepoTags RepoDigests Parent Comment Created DockerVersion Author Config Architecture Os Size
GraphDriver RootFS Metadata"""


def test_inspect_has_dockers_fields_in_dockers_order() -> None:
    shown = render_inspect(make_view(), 51)
    assert list(shown) == INSPECT.split()
    assert list(shown["State"]) == STATE.split()
    assert list(shown["HostConfig"]) == HOST.split()
    assert list(shown["Config"]) == CONFIG.split()
    assert list(shown["NetworkSettings"]) == NETWORK.split()
    assert list(shown["NetworkSettings"]["Networks"]["bridge"]) == ENDPOINT.split()


def test_empty_is_null_list_or_absent_as_in_docker() -> None:
    shown = render_inspect(make_view(), 51)
    host = shown["HostConfig"]
    assert (shown["ExecIDs"], host["Binds"], host["CapAdd"], host["Links"]) == (None, None, None, None)
    assert (host["PortBindings"], host["LogConfig"]["Config"], shown["Config"]["Labels"]) == ({}, {}, {})
    assert shown["Config"]["Volumes"] is None
    assert shown["State"]["FinishedAt"] == "0001-01-01T00:00:00Z"


def test_optional_fields_appear_when_they_are_set() -> None:
    view = make_view()
    host = HostConfig(network_mode="host", init=False, tmpfs={"/t": ""}, sysctls={"a": "1"}, privileged=True)
    config = ContainerConfig(stop_signal="SIGINT", stop_timeout=0, shell=["sh"])
    record = msgspec.structs.replace(view.record, host=host, config=config)
    shown = render_inspect(msgspec.structs.replace(view, record=record, size_rw=5, size_root_fs=7), 51)
    assert shown["HostConfig"]["Init"] is False
    assert shown["HostConfig"]["MaskedPaths"] is None
    assert {"Tmpfs", "Sysctls"} <= set(shown["HostConfig"])
    assert (shown["Config"]["StopSignal"], shown["Config"]["StopTimeout"]) == ("SIGINT", 0)
    assert (shown["SizeRw"], shown["SizeRootFs"]) == (5, 7)


def test_ports_are_shown_while_the_container_runs() -> None:
    running, stopped = make_view(), make_view(running=False)
    ports = render_inspect(running, 51)["NetworkSettings"]["Ports"]
    assert ports == {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "81/udp": None}
    assert render_inspect(stopped, 51)["NetworkSettings"]["Ports"] == {}
    assert render_summary(running, 51, "i", "s")["Ports"] == [
        {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"PrivatePort": 81, "Type": "udp"},
    ]


def test_summary_has_dockers_fields() -> None:
    assert list(render_summary(make_view(), 51, "busybox", "Up")) == SUMMARY.split()


def test_arguments_with_spaces_are_quoted() -> None:
    assert render_command(make_view().record) == "sh -c 'sleep 1'"


NOW_NS = CREATED_NS + 300_000_000_000


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (StateView(status="created"), "Created"),
        (StateView(status="running", running=True, started_ns=CREATED_NS), "Up 5 minutes"),
        (
            StateView(status="paused", running=True, paused=True, started_ns=CREATED_NS),
            "Up 5 minutes (Paused)",
        ),
        (
            StateView(
                status="restarting", running=True, restarting=True, exit_code=2, finished_ns=CREATED_NS
            ),
            "Restarting (2) 5 minutes ago",
        ),
        (
            StateView(status="running", running=True, started_ns=CREATED_NS, health=HealthState()),
            "Up 5 minutes (health: starting)",
        ),
        (
            StateView(
                status="running", running=True, started_ns=CREATED_NS, health=HealthState(status="healthy")
            ),
            "Up 5 minutes (healthy)",
        ),
        (
            StateView(status="exited", exit_code=1, started_ns=1, finished_ns=CREATED_NS),
            "Exited (1) 5 minutes ago",
        ),
        (StateView(status="dead", dead=True), "Dead"),
        (StateView(status="removing"), "Removal In Progress"),
    ],
)
def test_status(state: StateView, text: str) -> None:
    assert render_status(state, NOW_NS) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (120, "2 minutes"),
        (3600, "About an hour"),
        (2 * 3600, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (15 * 86400, "2 weeks"),
        (90 * 86400, "3 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def test_summaries_are_rendered_again_only_when_something_changed() -> None:
    calls = []

    def counting(value: object) -> bytes:
        calls.append(value)
        return encode(value)

    cache = SummaryCache(counting)
    views = [make_view(1), make_view(2)]
    first = cache.render(views, 51, {})
    assert cache.render(views, 51, {}) == first
    assert len(calls) == 2
    cache.render([views[0], make_view(2, revision=77)], 51, {})
    assert len(calls) == 3
    assert msgspec.json.decode(cache.render([], 51, {})) == []


def test_old_clients_see_short_id_and_hostname_as_aliases_of_user_networks() -> None:
    view = make_view()
    view = msgspec.structs.replace(view, endpoints={"mine": view.endpoints["bridge"]})
    aliases = render_inspect(view, 44)["NetworkSettings"]["Networks"]["mine"]["Aliases"]
    assert aliases == [view.record.id[:12]]
    assert render_inspect(view, 45)["NetworkSettings"]["Networks"]["mine"]["Aliases"] is None


# --- images ------------------------------------------------------------------------------------------------


def make_image() -> ImageInspect:
    image = Image(
        id="sha256:" + "1" * 64,
        config=ImageConfig(
            architecture="amd64",
            os="linux",
            created="2024-01-02T03:04:05Z",
            rootfs=RootFS(diff_ids=["sha256:2"]),
        ),
        manifest_digest="sha256:3",
        repo_tags=["a:latest"],
        repo_digests=[],
        chain_ids=[],
        layer_sizes=[],
        size_bytes=5,
        created_ns=0,
    )
    return ImageInspect(image=image, config={"Cmd": ["sh"], "Hostname": "x"}, graph={"a": "b"}, comment="")


def test_image_has_dockers_fields() -> None:
    shown = render_image(make_image(), 51)
    assert list(shown) == IMAGE.split()
    assert shown["Config"] == {
        "Cmd": ["sh"],
        "Entrypoint": None,
        "Env": None,
        "Labels": None,
        "OnBuild": None,
        "User": "",
        "Volumes": None,
        "WorkingDir": "",
    }
    assert shown["RootFS"] == {"Type": "layers", "Layers": ["sha256:2"]}
    assert shown["Metadata"] == {"LastTagTime": "0001-01-01T00:00:00Z"}


def test_image_for_older_clients() -> None:
    shown = render_image(make_image(), 43)
    assert shown["VirtualSize"] == 5
    assert shown["ContainerConfig"]["Cmd"] is None
    assert shown["Config"]["Hostname"] == ""


def test_untagged_images_for_older_clients() -> None:
    image = ImageSummary(id="sha256:1", size=3, containers=2)
    assert render_image_summary(image, 51)["Containers"] == 2
    shown = render_image_summary(image, 42)
    assert (shown["RepoTags"], shown["VirtualSize"], shown["Containers"]) == (["<none>:<none>"], 3, -1)


def test_events_of_networks_have_no_legacy_fields() -> None:
    event = Event(type="network", action="create", actor_id="n", attributes={}, time_ns=1_500_000_000)
    assert render_event(event) == {
        "Type": "network",
        "Action": "create",
        "Actor": {"ID": "n", "Attributes": {}},
        "scope": "local",
        "time": 1,
        "timeNano": 1_500_000_000,
    }
