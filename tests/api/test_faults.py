"""kill -9 of the daemon, clients that vanish, wrong input: nothing is lost and nothing is left."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bench.http import Connection
from tests.api.conftest import assert_nothing_left, load_busybox, remove_everything
from tests.support import leftovers
from tests.support.daemon import Daemon
from tests.support.docker import Client
from tests.support.eventually import eventually
from tests.support.images import tar_of

import sampan

pytestmark = pytest.mark.own_daemon
BUSYBOX = "busybox:latest"
SOURCES = Path(sampan.__file__).parent


def crash_points(*nouns: str) -> list[str]:
    """The names of all crash points in the sources that begin with one of nouns."""
    named = re.compile(r'crash_point\("([^"]+)"\)')
    found = {name for source in SOURCES.rglob("*.py") for name in named.findall(source.read_text())}
    return sorted(name for name in found if name.split(".")[0] in nouns)


@pytest.fixture(scope="module", autouse=True)
def nothing_left() -> None:
    """In place of the check at the end of each module: here it is made after each test."""


@pytest.fixture(scope="module")
def victim(new_daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon of this module's own, to be killed."""
    daemon = new_daemon()
    load_busybox(Client(daemon.host))
    return daemon


@pytest.fixture
def client(victim: Daemon) -> Iterator[Client]:
    """Its client. After the test the daemon runs again, everything is removed, and nothing is left."""
    before = leftovers.snapshot(victim)
    before["descriptors"] = set()
    before["processes"] = set()
    before["namespaces"] = set()
    client = Client(victim.host)
    yield client
    if not victim.running:
        victim.start()
    remove_everything(client)
    after = leftovers.snapshot(victim)
    for kind in ("mounts", "links", "nft rules", "cgroups", "files"):
        eventually(
            lambda kind=kind: not (leftovers.snapshot(victim)[kind] - before[kind]),  # type: ignore[misc]
            f"no {kind} left: {sorted(after[kind] - before[kind])}",
        )


def state(client: Client, name: str) -> dict[str, object]:
    return dict(json.loads(client.line("inspect", "--format", "{{json .State}}", name)))


def test_names_survive_kill_minus_nine(victim: Daemon, client: Client, name: str) -> None:
    def looked_up(alias: str) -> bool:
        asked = client("exec", f"{name}-asking", "nslookup", "-type=a", alias, "127.0.0.11", code=None)
        return asked.code == 0

    def start(what: str) -> None:
        words = ("run", "-d", "--network", name, "--name", f"{name}-{what}", "--network-alias", what)
        client(*words, BUSYBOX, "sleep", "1000")

    client("network", "create", "--internal", name)
    try:
        start("server")
        start("asking")
        assert looked_up("server")
        victim.kill()
        victim.start()
        assert looked_up("server")
        start("late")
        assert looked_up("late")
        client("rm", "-f", f"{name}-server")
        assert not looked_up("server")
    finally:
        client("rm", "-f", *(f"{name}-{what}" for what in ("server", "asking", "late")))
        client("network", "rm", name)


def test_running_containers_survive_kill_minus_nine(victim: Daemon, client: Client, name: str) -> None:
    script = "i=0; while true; do i=$((i + 1)); echo $i; sleep 0.01; done"
    client("run", "-d", "--name", name, "-p", "34500:80", BUSYBOX, "sh", "-c", script)
    pid = state(client, name)["Pid"]
    victim.kill()
    assert Path(f"/proc/{pid}").exists()
    victim.start()
    after = state(client, name)
    assert (after["Running"], after["Pid"]) == (True, pid)
    client("kill", name)
    lines = client.line("logs", name).splitlines()
    assert lines == [str(number) for number in range(1, len(lines) + 1)]
    assert len(lines) > 10
    assert state(client, name)["ExitCode"] == 137


def test_exit_while_the_daemon_is_away_is_learnt(victim: Daemon, client: Client, name: str) -> None:
    client(
        "run",
        "-d",
        "-i",
        "--name",
        name,
        BUSYBOX,
        "sh",
        "-c",
        "while test ! -e /go; do sleep 0.05; done; exit 9",
    )
    pid = state(client, name)["Pid"]
    victim.kill()
    Path(f"/proc/{pid}/root/go").touch()
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the process has ended")
    victim.start()
    assert state(client, name)["ExitCode"] == 9
    assert client.line("wait", name) == "9"


def test_stopped_containers_and_volumes_are_still_there(victim: Daemon, client: Client, name: str) -> None:
    client(
        "run", "--name", name, "-v", f"{name}:/data", BUSYBOX, "sh", "-c", "echo kept > /data/f; echo x > /f"
    )
    victim.kill()
    victim.start()
    assert state(client, name)["Status"] == "exited"
    assert client.line("run", "--rm", "-v", f"{name}:/data", BUSYBOX, "cat", "/data/f") == "kept"
    client("start", name)


def test_restart_policy_goes_on_after_a_crash(victim: Daemon, client: Client, name: str) -> None:
    client("run", "-d", "--restart", "always", "--name", name, BUSYBOX, "sleep", "100000")
    pid = state(client, name)["Pid"]
    assert isinstance(pid, int)
    victim.kill()
    os.kill(pid, signal.SIGKILL)
    victim.start()
    eventually(lambda: state(client, name)["Running"], "it runs again")
    assert state(client, name)["Pid"] != pid


def test_attach_and_exec_work_after_a_crash(victim: Daemon, client: Client, name: str) -> None:
    client("run", "-d", "-i", "--name", name, BUSYBOX, "sh", "-c", "read go; echo heard $go; exit 3")
    victim.kill()
    victim.start()
    assert client.line("exec", name, "echo", "fine") == "fine"
    assert client("attach", name, stdin="you\n", code=None).code == 3
    assert client.line("logs", name) == "heard you"


def test_restart_of_the_daemon_keeps_published_ports(victim: Daemon, client: Client, name: str) -> None:
    words = ("sh", "-c", "mkdir /w; echo page > /w/index.html; exec httpd -f -h /w")
    client("run", "-d", "--name", name, "-p", "34501:80", BUSYBOX, *words)

    def answers() -> bool:
        try:
            with urllib.request.urlopen("http://127.0.0.1:34501/", timeout=3) as answer:
                return bool(answer.read() == b"page\n")
        except OSError:
            return False

    eventually(answers, "an answer")
    assert victim.stop() == 0
    assert answers()
    victim.start()
    assert answers()


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_the_daemon_ends_when_asked_and_containers_stay(
    victim: Daemon, client: Client, name: str, signal_number: int
) -> None:
    client("run", "-d", "--name", name, BUSYBOX, "sleep", "100000")
    pid = state(client, name)["Pid"]
    os.kill(victim.pid, signal_number)
    assert victim.wait_dead() == 0
    assert Path(f"/proc/{pid}").exists()
    victim.start()
    assert state(client, name)["Running"]


@pytest.mark.parametrize("point", crash_points("container", "exec"))
def test_crash_in_a_containers_life(victim: Daemon, client: Client, name: str, point: str) -> None:
    """Kill the daemon where it hurts, start it again: the container is there in whole or not at all."""
    victim.stop()
    victim.start({**os.environ, "SAMPAN_CRASH_AT": point})
    client(
        "run", "-d", "--name", name, "-p", "34502:80", "-v", "/anonymous", BUSYBOX, "sleep", "1", code=None
    )
    client("exec", name, "true", code=None)
    client("wait", name, code=None)
    client("rm", "-f", "-v", name, code=None)
    assert victim.wait_dead(5) == -signal.SIGKILL, f"{point} was never reached"
    victim.start()
    if name in client.line("ps", "-a", "--format", "{{.Names}}").split():
        client("start", name, code=None)
        client("rm", "-f", "-v", name)
    client("run", "--rm", "--name", name, "-p", "34502:80", BUSYBOX, "true")


class Joining:
    """A container with a published port on the default bridge, a network of its own, and somebody there who
    asks for it."""

    def __init__(self, client: Client, name: str, port: int) -> None:
        self.client, self.name, self.port = client, name, port
        serve = "mkdir /w; echo page > /w/index.html; exec httpd -f -h /w"
        client("network", "create", name)
        client("run", "-d", "--name", name, "-p", f"{port}:80", BUSYBOX, "sh", "-c", serve)
        asking = ("--network", name, "--dns", "127.0.0.1")  # where nobody answers, which is told at once
        client("run", "-d", "--name", f"{name}-peer", *asking, BUSYBOX, "sleep", "1000")
        eventually(self.serves, "it serves")

    def serves(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=5) as page:
                return bool(page.read() == b"page\n")
        except OSError:
            return False

    def networks(self) -> dict[str, str]:
        """Its addresses by network, as inspect has them."""
        text = self.client.line("inspect", "--format", "{{json .NetworkSettings.Networks}}", self.name)
        return {name: endpoint["IPAddress"] for name, endpoint in json.loads(text).items()}

    def interfaces(self) -> set[str]:
        """The addresses in its namespace."""
        listed = self.client("exec", self.name, "ip", "-o", "-4", "addr").out
        return set(re.findall(r"inet ([\d.]+)", listed)) - {"127.0.0.1"}

    def check(self, what: str) -> None:
        """Everybody agrees on where it is."""
        networks = self.networks()
        addresses = set(networks.values())
        assert self.interfaces() == addresses, what
        hosts = self.client("exec", self.name, "cat", "/etc/hosts").out
        assert {line.split()[0] for line in hosts.splitlines() if line[:1] in "123456789"} == {
            "127.0.0.1",
            *addresses,
        }, what
        members = self.client.line("network", "inspect", "--format", "{{json .Containers}}", self.name)
        listed = {entry["Name"]: entry["IPv4Address"].split("/")[0] for entry in json.loads(members).values()}
        assert listed.get(self.name) == networks.get(self.name), what
        assert listed[f"{self.name}-peer"] not in addresses, what
        asked = ("exec", f"{self.name}-peer", "nslookup", "-type=a", self.name, "127.0.0.11")
        answer = self.client(*asked, code=None).out
        assert (
            (f"Address: {networks[self.name]}\n" in answer)
            if self.name in networks
            else ("Address: 1" not in answer)
        ), what
        assert self.serves(), what

    def end(self) -> None:
        self.client("rm", "-f", self.name, f"{self.name}-peer")
        self.client("network", "rm", self.name)


def test_crash_at_each_step_of_joining_and_leaving_a_network(
    victim: Daemon, client: Client, name: str
) -> None:
    """What was begun is taken back, what was being left is left; also when that is not finished either."""
    points = crash_points("network")
    assert len(points) == 10
    joining = Joining(client, name, 34503)
    joining.check("before")
    for point in points:
        victim.stop()
        victim.start({**os.environ, "SAMPAN_CRASH_AT": point})
        client("network", "connect", name, name, code=None)
        client("network", "disconnect", name, name, code=None)
        assert victim.wait_dead(5) == -signal.SIGKILL, f"{point} was never reached"
        if point == "network.connect.recorded":
            victim.start({**os.environ, "SAMPAN_CRASH_AT": "network.disconnect.unplugged"}, may_die=True)
            assert victim.wait_dead(5) == -signal.SIGKILL
        victim.start()
        assert set(joining.networks()) == {"bridge"}, point
        joining.check(point)
    client("network", "connect", name, name)
    assert set(joining.networks()) == {"bridge", name}
    joining.check("connected")
    joining.end()


def test_container_that_dies_while_it_joins_a_network(client: Client, name: str) -> None:
    """Whether it was a moment too early or too late: it is on the network in whole, or not at all."""
    joining = Joining(client, name, 34504)
    for _ in range(3):
        pid = state(client, name)["Pid"]
        assert isinstance(pid, int)
        connecting = client.popen("network", "connect", name, name)
        os.kill(pid, signal.SIGKILL)
        connecting.communicate(timeout=30)
        client("wait", name)
        members = client.line("network", "inspect", "--format", "{{json .Containers}}", name)
        assert [entry["Name"] for entry in json.loads(members).values()] == [f"{name}-peer"]
        client("start", name)
        eventually(
            lambda: client("exec", name, "test", "-e", "/w/index.html", code=None).code == 0, "it serves"
        )
        joining.check(f"connect ended with {connecting.returncode}")
        client("network", "disconnect", name, name, code=None)
    joining.end()


@pytest.mark.parametrize("point", crash_points("image", "layer", "blob"))
def test_crash_while_an_image_is_loaded_or_removed(
    victim: Daemon, client: Client, name: str, folder: Path, point: str
) -> None:
    archive = folder / "root.tar"
    archive.write_bytes(tar_of({"file": name.encode()}))
    victim.stop()
    victim.start(
        {**os.environ, "SAMPAN_CRASH_AT": point}, may_die=True
    )  # garbage is collected at start-up too
    client("import", str(archive), name, code=None)
    client("rmi", name, code=None)
    assert victim.wait_dead(5) == -signal.SIGKILL, f"{point} was never reached"
    victim.start()
    client("import", str(archive), name)
    client("create", "--name", name, name, "/file")
    client("rm", name)
    client("rmi", name)


@pytest.mark.parametrize("point", crash_points("recipe"))
def test_crash_while_a_layer_gets_its_recipe(
    victim: Daemon, client: Client, name: str, folder: Path, point: str
) -> None:
    """A layer that came compressed is here with its blob; the same one comes plain, and replaces files."""
    layer = tar_of({"file": name.encode()})[:1024] + tar_of({"file": b"second", "other": b"x"})
    packed, plain = folder / "root.tar.gz", folder / "root.tar"
    packed.write_bytes(gzip.compress(layer))
    plain.write_bytes(layer)
    client("import", str(packed), f"{name}:packed")
    victim.stop()
    victim.start({**os.environ, "SAMPAN_CRASH_AT": point})
    client("import", str(plain), f"{name}:plain", code=None)
    assert victim.wait_dead(5) == -signal.SIGKILL, f"{point} was never reached"
    victim.start()
    client("import", str(plain), f"{name}:plain")
    client("rmi", f"{name}:packed")
    saved = client.raw("save", f"{name}:plain")
    assert layer in saved
    client("rmi", f"{name}:plain")


@pytest.mark.parametrize("point", crash_points("upkeep"))
def test_crash_while_images_are_collected(victim: Daemon, client: Client, name: str, point: str) -> None:
    client("import", "-", f"{name}:1", stdin=tar_of({"file": name.encode()}))
    layer = Path(client.line("inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", f"{name}:1"))
    victim.stop()
    victim.start({**os.environ, "SAMPAN_CRASH_AT": point})
    assert layer.exists()

    def planned() -> bool:
        with Connection(victim.socket) as connection:
            images = connection.call("POST", "/sampan/images/gc?unused-for=1&dry-run=1")["Images"]
        return [f"{name}:1"] in [image["Names"] for image in images]

    eventually(planned, "the image is a second old")
    with contextlib.suppress(OSError, ValueError), Connection(victim.socket) as connection:
        connection.call("POST", "/sampan/images/gc?unused-for=1")
    assert victim.wait_dead(5) == -signal.SIGKILL, f"{point} was never reached"
    victim.start()
    assert not layer.exists()
    assert client("images", "-q", f"{name}:1").out == ""
    load_busybox(client)


@pytest.mark.parametrize("phase", range(6))
def test_client_killed_at_any_moment(client: Client, name: str, phase: int) -> None:
    running = client.popen("run", "--rm", "--name", name, BUSYBOX, "sh", "-c", "echo out; sleep 0.05")
    try:
        running.wait(timeout=0.008 * phase)
    except subprocess.TimeoutExpired:
        running.kill()
    running.communicate(timeout=10)

    def settled() -> bool:
        listed = client.line("ps", "-a", "--filter", f"name=^{name}$", "--format", "{{.Status}}")
        return listed == "" or listed.startswith("Created")

    eventually(settled, "the container is gone, or was never started")


def test_half_a_request_is_no_harm(victim: Daemon, client: Client) -> None:
    client("create", "--name", "half", BUSYBOX, "true")
    tail = b" HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
    create, copy = b"POST /containers/create" + tail, b"PUT /containers/half/archive?path=/tmp" + tail
    client("ps")
    descriptors = Path(f"/proc/{victim.pid}/fd")
    before = len(list(descriptors.iterdir()))
    for data in (b"", b"GET", create, copy):
        with socket.socket(socket.AF_UNIX) as half:
            half.connect(victim.socket)
            half.sendall(data)
    eventually(lambda: len(list(descriptors.iterdir())) <= before, "connections and mounts are closed")
    assert client.line("ps", "-q") == ""


def test_upload_that_breaks_off_leaves_nothing(victim: Daemon, client: Client) -> None:
    before = leftovers.snapshot(victim)
    with socket.socket(socket.AF_UNIX) as half:
        half.connect(victim.socket)
        half.sendall(
            b"POST /v1.43/images/load HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"\0" * 5000
        )
    with Connection(victim.socket) as connection:
        connection.call("GET", "/_ping")
    assert_nothing_left(victim, before)


def test_two_daemons_side_by_side(new_daemon: Callable[..., Daemon], victim: Daemon, client: Client) -> None:
    other = new_daemon()
    second = Client(other.host)
    load_busybox(second)
    client("run", "-d", "--name", "same-name", BUSYBOX, "sleep", "1000")
    second("run", "-d", "--name", "same-name", BUSYBOX, "sleep", "1000")
    assert client.line("ps", "-q") != second.line("ps", "-q")
    remove_everything(second)
    assert other.stop() == 0


def test_second_daemon_on_the_same_roots_is_refused(victim: Daemon, client: Client) -> None:
    ended = subprocess.run(victim.command(), capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode != 0
    assert "pid file found" in ended.stderr or "still running" in ended.stderr or "in use" in ended.stderr
    assert client.line("ps", "-q") == ""


def test_wrong_settings_are_told(victim: Daemon, folder: Path) -> None:
    program = victim.command()[0]
    for words, text in (
        (("--no-such-flag",), "no-such-flag"),
        (("--log-level", "loud"), "loud"),
        ((*victim.command()[1:], "--pidfile", f"{folder}/pid", "--bip", "not-an-address"), "not-an-address"),
    ):
        ended = subprocess.run([program, *words], capture_output=True, text=True, timeout=30, check=False)
        assert ended.returncode != 0
        assert text in ended.stderr
