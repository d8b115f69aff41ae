"""What clients read: inspect, ps with its filters, events, stats, info, version."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from typing import Any

import docker as docker_py
import pytest
from bench.http import Connection, Refused
from tests.support.docker import Client
from tests.support.eventually import eventually

BUSYBOX = "busybox:latest"


def inspect(docker: Client, container: str) -> dict[str, Any]:
    return dict(json.loads(docker.line("inspect", container))[0])


def connect(docker: Client) -> Connection:
    return Connection(docker.host.removeprefix("unix://"))


def test_inspect_says_what_run_was_told(docker: Client, name: str) -> None:
    docker(
        *("create", "--name", name, "--hostname", "h", "--user", "1:2", "-e", "A=b", "-w", "/w", "-t", "-i"),
        *("--label", "k=v", "--memory", "64m", "--cpus", "0.5", "--cpu-shares", "512", "--pids-limit", "50"),
        *("--cap-add", "NET_ADMIN", "--cap-drop", "CHOWN", "--read-only", "--init", "--shm-size", "8m"),
        *("--ulimit", "nofile=10:20", "--tmpfs", "/t:size=1m", "--restart", "on-failure:3"),
        *(
            "--entrypoint",
            "sh",
            "--stop-signal",
            "INT",
            "--stop-timeout",
            "3",
            "-p",
            "127.0.0.1:34000:80/udp",
        ),
        *("--expose", "90", "--security-opt", "no-new-privileges", "--sysctl", "net.ipv4.ip_forward=1"),
        *(BUSYBOX, "-c", "true"),
    )
    seen = inspect(docker, name)
    config, host = seen["Config"], seen["HostConfig"]
    expected_config = {
        "Hostname": "h", "User": "1:2", "WorkingDir": "/w", "Tty": True, "OpenStdin": True, "StdinOnce": True,
        "Labels": {"k": "v"}, "Entrypoint": ["sh"], "Cmd": ["-c", "true"], "StopSignal": "INT",
        "StopTimeout": 3,
        "Image": BUSYBOX, "ExposedPorts": {"80/udp": {}, "90/tcp": {}},
    }  # fmt: skip
    expected_host = {
        "Memory": 64 << 20, "NanoCpus": 500_000_000, "CpuShares": 512, "PidsLimit": 50,
        "CapDrop": ["CAP_CHOWN"],
        "CapAdd": ["CAP_NET_ADMIN"], "ReadonlyRootfs": True, "Init": True, "ShmSize": 8 << 20,
        "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}], "Tmpfs": {"/t": "size=1m"},
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}, "NetworkMode": "bridge",
        "PortBindings": {"80/udp": [{"HostIp": "127.0.0.1", "HostPort": "34000"}]},
        "SecurityOpt": ["no-new-privileges"], "Sysctls": {"net.ipv4.ip_forward": "1"}, "AutoRemove": False,
    }  # fmt: skip
    assert {key: config[key] for key in expected_config} == expected_config
    assert {key: host[key] for key in expected_host} == expected_host
    assert "A=b" in config["Env"]
    assert (seen["Path"], seen["Args"], seen["Name"]) == ("sh", ["-c", "true"], f"/{name}")


def test_fields_are_dockers(docker: Client, started: Callable[..., str]) -> None:
    seen = inspect(docker, started())
    assert set(seen) >= {
        "Id", "Created", "Path", "Args", "State", "Image", "ResolvConfPath", "HostnamePath", "HostsPath",
        "LogPath", "Name", "RestartCount", "Driver", "Platform", "MountLabel", "ProcessLabel",
        "AppArmorProfile", "ExecIDs", "HostConfig", "GraphDriver", "Mounts", "Config", "NetworkSettings",
    }  # fmt: skip
    assert set(seen["State"]) >= {
        "Status", "Running", "Paused", "Restarting", "OOMKilled", "Dead", "Pid", "ExitCode", "Error",
        "StartedAt", "FinishedAt",
    }  # fmt: skip
    assert len(seen["HostConfig"]) >= 60
    assert seen["GraphDriver"]["Name"] == "overlay2"
    assert seen["Image"].startswith("sha256:")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", seen["Created"])


def test_size_on_request(docker: Client, name: str) -> None:
    docker("run", "--name", name, BUSYBOX, "sh", "-c", "head -c 100000 /dev/zero > /file")
    seen = json.loads(docker.line("inspect", "--size", name))[0]
    assert 100_000 <= seen["SizeRw"] < 200_000
    assert seen["SizeRootFs"] > seen["SizeRw"]
    assert "SizeRw" not in inspect(docker, name)


def names(docker: Client, *filters: str) -> set[str]:
    words = [word for condition in filters for word in ("--filter", condition)]
    return set(docker.line("ps", "-a", "--format", "{{.Names}}", *words).split())


def test_ps_shows_running_ones_only_without_a(docker: Client, started: Callable[..., str], name: str) -> None:
    running = started()
    docker("run", "--name", name, BUSYBOX, "true")

    def shown() -> list[str]:
        return docker.line("ps", "--format", "{{.Names}}").split()

    eventually(lambda: name not in shown(), "the ended one is no longer listed")
    assert running in shown()


def test_ps_row(docker: Client, started: Callable[..., str]) -> None:
    container = started("-p", "127.0.0.1:34005:80", command=("sleep", "1234"))
    row = docker.line(
        "ps", "--filter", f"name={container}", "--format", "{{.Image}}|{{.Command}}|{{.Status}}|{{.Ports}}"
    )
    image, command, status, ports = row.split("|")
    assert (image, command, ports) == (BUSYBOX, '"sleep 1234"', "127.0.0.1:34005->80/tcp")
    assert re.fullmatch(r"Up .*second.*", status)


def test_filters(docker: Client, started: Callable[..., str], name: str) -> None:
    running = started("--label", "tier=web", "-v", "/vol")
    docker("run", "--name", name, "--label", "tier=db", BUSYBOX, "sh", "-c", "exit 3", code=3)
    both = {running, name}
    assert names(docker, "label=tier") & both == both
    assert names(docker, "label=tier=web") & both == {running}
    assert names(docker, "status=exited", "label=tier") & both == {name}
    assert names(docker, "exited=3", "label=tier") & both == {name}
    assert names(docker, f"name=^{name}$") == {name}
    assert names(docker, "ancestor=busybox", "label=tier") & both == both
    assert names(docker, "volume=/vol") & both == {running}
    assert names(docker, "network=bridge", "label=tier") & both == both
    assert names(docker, f"since={running}", "label=tier") == {name}
    assert running in names(docker, f"before={name}")
    assert names(docker, f"id={inspect(docker, name)['Id'][:12]}") == {name}


def test_wrong_filter_is_refused(docker: Client) -> None:
    assert "nvalid filter 'colour'" in docker("ps", "--filter", "colour=red", code=1).err


def test_last_and_limit(docker: Client, started: Callable[..., str]) -> None:
    first, second = started(), started()
    assert docker.line("ps", "-n", "1", "--format", "{{.Names}}") == second
    assert docker.line("ps", "-n", "2", "--format", "{{.Names}}").split() == [second, first]


def test_events_of_a_containers_life(docker: Client, name: str) -> None:
    began = docker.line("info", "--format", "{{.SystemTime}}")
    docker("run", "--rm", "--name", name, "--label", "k=v", BUSYBOX, "true")
    ended = docker.line("info", "--format", "{{.SystemTime}}")
    period = ("--since", began, "--until", ended)
    words = ("events", *period, "--filter", f"container={name}", "--format", "{{json .}}")
    events = [json.loads(line) for line in docker.line(*words).splitlines()]
    actions = [event["Action"] for event in events]
    assert actions == ["create", "attach", "start", "die", "destroy"]
    died = events[3]["Actor"]["Attributes"]
    assert (died["exitCode"], died["name"], died["image"], died["k"]) == ("0", name, BUSYBOX, "v")
    assert events[0]["time"] == events[0]["timeNano"] // 1_000_000_000


def test_events_are_streamed_as_they_happen(docker: Client, name: str) -> None:
    with connect(docker) as watched:
        watched.send("GET", f'/events?filters={{"container":["{name}"],"event":["die"]}}'.replace('"', "%22"))
        status, _ = watched.head()
        assert status == 200
        docker("run", "--rm", "--name", name, BUSYBOX, "true")
        line = watched.line()
    assert b'"Action":"die"' in line


def test_stats_once(docker: Client, started: Callable[..., str]) -> None:
    container = started("--memory", "64m")
    row = json.loads(docker.line("stats", "--no-stream", "--format", "{{json .}}", container))
    assert row["Name"] == container
    assert row["MemUsage"].endswith("/ 64MiB")
    assert int(row["PIDs"]) >= 1


def test_stats_through_docker_py(api: docker_py.DockerClient, started: Callable[..., str]) -> None:
    stats = api.containers.get(started()).stats(stream=False)
    assert stats["cpu_stats"]["cpu_usage"]["total_usage"] > 0
    assert stats["memory_stats"]["usage"] > 0
    assert stats["pids_stats"]["current"] == 1
    assert "eth0" in stats["networks"]


def test_version_and_info(docker: Client) -> None:
    version = json.loads(docker.line("version", "--format", "{{json .Server}}"))
    assert version["Os"] == "linux"
    assert tuple(int(part) for part in version["ApiVersion"].split(".")) >= (1, 51)
    assert version["MinAPIVersion"] == "1.24"
    info = json.loads(docker.line("info", "--format", "{{json .}}"))
    assert info["OSType"] == "linux"
    assert info["CgroupVersion"] in ("1", "2")
    assert info["NCPU"] >= 1


def test_old_and_new_versions_of_the_api(docker: Client) -> None:
    with connect(docker) as connection:
        for prefix in ("", "/v1.24", "/v1.41", "/v1.51"):
            assert isinstance(connection.call("GET", f"{prefix}/containers/json"), list)
        for prefix in ("/v1.23", "/v9.99"):
            with pytest.raises(Refused) as refused:
                connection.call("GET", f"{prefix}/containers/json")
            assert refused.value.args[0] == 400


def test_unknown_page_is_404_and_errors_are_json(docker: Client) -> None:
    with connect(docker) as connection, pytest.raises(Refused) as refused:
        connection.call("GET", "/no/such/page")
    assert refused.value.args[0] == 404
    assert json.loads(refused.value.args[1]) == {"message": "page not found"}


def test_invalid_body_is_400(docker: Client) -> None:
    with connect(docker) as connection, pytest.raises(Refused) as refused:
        connection.call("POST", "/v1.43/containers/create", ["not", "an", "object"])
    assert refused.value.args[0] == 400


def test_client_that_goes_away_during_a_wait_harms_nothing(
    docker: Client, started: Callable[..., str]
) -> None:
    container = started()
    with connect(docker) as connection:
        connection.send("POST", f"/v1.43/containers/{container}/wait")
        connection.head()
    watching = docker.popen("logs", "-f", container)
    watching.kill()
    watching.communicate(timeout=10)
    attached = docker.popen("attach", "--sig-proxy=false", container, stdin=subprocess.PIPE)
    attached.kill()
    attached.communicate(timeout=10)
    assert docker.line("exec", container, "echo", "fine") == "fine"
    eventually(lambda: inspect(docker, container)["State"]["Running"], "still running")


def test_a_start_leaves_nothing_in_the_containers_own_layer(docker: Client, name: str) -> None:
    docker("run", "--name", name, BUSYBOX, "test", "-e", "/.dockerenv", "-a", "-f", "/etc/hosts")
    upper = docker.line("inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", name)
    if os.path.isdir(upper):  # a reference engine's may be out of sight
        assert os.listdir(upper) == []
    assert docker.line("diff", name) == ""
    docker("rm", name)
