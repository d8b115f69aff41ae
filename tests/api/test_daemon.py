"""The daemon as a process: sockets, TLS, signals, readiness, activation, versions."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.daemon import Daemon
from tests.support.docker import Client
from tests.support.eventually import eventually

pytestmark = pytest.mark.own_daemon


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_socket_is_for_root_and_its_group(daemon: Daemon) -> None:
    assert stat.S_IMODE(Path(daemon.socket).stat().st_mode) == 0o660


def test_users_of_the_host_get_at_no_file_of_an_image_and_no_secret(daemon: Daemon, docker: Client) -> None:
    """A setuid program in a layer would otherwise be one of the host's."""
    docker("run", "--rm", "-e", "SECRET=1", "busybox", "true")
    open_to_others = [
        path
        for path in (daemon.data_root, *daemon.data_root.glob("sampan.db*"))
        if stat.S_IMODE(path.stat().st_mode) & 0o007
    ]
    assert open_to_others == []
    assert any(daemon.data_root.glob("sampan.db"))


@pytest.mark.parametrize("version", ["1.24", "1.39", "1.43", "1.50"])
def test_clients_of_every_age_run_a_container(daemon: Daemon, docker: Client, version: str) -> None:
    environment = {**os.environ, "DOCKER_HOST": daemon.host, "DOCKER_API_VERSION": version}
    command = ["docker", "run", "--rm", "busybox", "echo", version]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"{version}\n")


def test_images_can_be_saved_and_loaded_by_older_clients(
    docker: Client, daemon: Daemon, tmp_path: Path
) -> None:
    environment = {**os.environ, "DOCKER_HOST": daemon.host, "DOCKER_API_VERSION": "1.22"}
    archive = str(tmp_path / "busybox.tar")
    for words in (["save", "-o", archive, "busybox"], ["load", "-q", "-i", archive]):
        done = subprocess.run(
            [docker.program, *words], env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
    listed = subprocess.run(
        [docker.program, "images"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert "client version 1.22 is too old" in listed.stderr


def test_too_old_a_client_is_told_so(daemon: Daemon) -> None:
    environment = {**os.environ, "DOCKER_HOST": daemon.host, "DOCKER_API_VERSION": "1.12"}
    done = subprocess.run(["docker", "ps"], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "client version 1.12 is too old" in done.stderr


def test_reload_changes_labels_and_level(new_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(json.dumps({"debug": False}))
    daemon = new_daemon("--config-file", str(file))
    file.write_text(json.dumps({"debug": True, "labels": ["colour=red"]}))
    os.kill(daemon.pid, signal.SIGHUP)
    eventually(lambda: "Reloaded configuration" in daemon.log_tail(), "reloaded")
    assert "debug, labels" in daemon.log_tail()
    told = Client(daemon.host)("info", "--format", "{{.Debug}} {{.Labels}}")
    assert told.out.strip() == "true [colour=red]"
    file.write_text("{")
    os.kill(daemon.pid, signal.SIGHUP)
    eventually(lambda: "cannot reload the configuration" in daemon.log_tail(), "refused")
    assert daemon.answers()
    assert daemon.stop() == 0


def test_stop_removes_socket_and_pidfile(new_daemon: Callable[..., Daemon]) -> None:
    daemon = new_daemon()
    assert (daemon.folder / "pid").read_text() == str(daemon.pid)
    assert daemon.stop() == 0
    assert not Path(daemon.socket).exists()
    assert not (daemon.folder / "pid").exists()


def test_endless_answers_do_not_hold_up_the_end(new_daemon: Callable[..., Daemon]) -> None:
    daemon = new_daemon("--shutdown-timeout", "30")
    with socket.socket(socket.AF_UNIX) as follower:
        follower.connect(daemon.socket)
        follower.sendall(b"GET /events HTTP/1.1\r\nHost: d\r\n\r\n")
        assert follower.recv(100).startswith(b"HTTP/1.1 200")
        assert daemon.stop() == 0


@pytest.fixture(scope="module")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    folder = tmp_path_factory.mktemp("tls")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    shutil.copy(folder / "cert.pem", folder / "ca.pem")
    return folder


def test_exec_over_tls_keeps_its_output_after_the_end_of_input(
    new_daemon: Callable[..., Daemon], tls_files: Path
) -> None:
    port = free_port()
    flags = [
        f"--tls{kind}={tls_files}/{kind}.pem".replace("tlsca.", "tlscacert.") for kind in ("cert", "key")
    ]
    daemon = new_daemon(
        "-H", f"tcp://127.0.0.1:{port}", "--tlsverify", f"--tlscacert={tls_files}/ca.pem", *flags
    )
    from conftest import load_busybox

    local = Client(daemon.host)
    load_busybox(local)
    local("run", "-d", "--name", "tls", "busybox", "sleep", "1000")
    environment = {
        **os.environ,
        "DOCKER_HOST": f"tcp://127.0.0.1:{port}",
        "DOCKER_TLS_VERIFY": "1",
        "DOCKER_CERT_PATH": str(tls_files),
    }
    script = "cat; sleep 0.3; echo after the end"
    done = subprocess.run(
        ["docker", "exec", "-i", "tls", "sh", "-c", script],
        env=environment,
        input=b"x" * 3_000_000,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"x" * 3_000_000 + b"after the end\n"
    local("rm", "-f", "tls")
    assert daemon.stop() == 0


def test_systemd_passes_the_socket_and_is_told(new_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    path, notify_path = str(tmp_path / "s"), str(tmp_path / "n")
    daemon = new_daemon()
    assert daemon.stop() == 0
    command = daemon.command()
    command[command.index("-H") + 1] = "fd://"
    passed = {"LISTEN_FDS": "1", "NOTIFY_SOCKET": notify_path}
    wrapper = (
        "import os, sys\nos.environ['LISTEN_PID'] = str(os.getpid())\nos.execv(sys.argv[1], sys.argv[1:])\n"
    )
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        listener.bind(path)
        listener.listen()
        manager.bind(notify_path)
        manager.settimeout(30)
        process = subprocess.Popen(
            [sys.executable, "-c", _AS_FD_3 + wrapper, *command],
            env={**os.environ, **passed, "PASSED": str(listener.fileno())},
            pass_fds=[listener.fileno()],
            stderr=subprocess.DEVNULL,
        )
        assert manager.recv(200).startswith(b"READY=1")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            assert client.makefile("rb").read().endswith(b"OK")
        process.send_signal(signal.SIGTERM)
        assert manager.recv(200) == b"STOPPING=1"
        assert process.wait(30) == 0
    assert Path(path).exists()


_AS_FD_3 = "import os\nos.dup2(int(os.environ['PASSED']), 3)\nos.set_inheritable(3, True)\n"
