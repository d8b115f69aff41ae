"""sampan-oci on bundles: the life of a container without a daemon."""

from __future__ import annotations

import array
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.support.runtime_box import make_tree

from sampan.cli.oci import reports
from sampan.kernel.cgroup import layout

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

HOST = layout.detect()
ARGUMENTS = [sys.executable, "-m", "sampan.cli.oci"]


class Bundle:
    """A bundle of busybox, and the command line for it."""

    def __init__(self, path: Path) -> None:
        make_tree(path)
        (path / "lower").rename(path / "rootfs")
        for name in ("proc", "dev", "sys"):
            (path / "rootfs" / name).mkdir()
        for applet in ("mkdir", "tty"):
            (path / "rootfs/bin" / applet).symlink_to("busybox")
        self.path = path
        self.id = f"t-{uuid.uuid4().hex[:12]}"
        self.group = f"/sampan-test-{self.id}"
        self.spec: dict[str, Any] = msgspec.to_builtins(reports.starting_spec())
        self.spec["process"]["terminal"] = False
        self.spec["process"]["env"] = ["PATH=/bin"]
        self.spec["linux"]["cgroupsPath"] = f"{self.group}/box"

    def write(self, *command: str) -> None:
        self.spec["process"]["args"] = list(command)
        (self.path / "config.json").write_text(json.dumps({"ociVersion": "1.2.0", **self.spec}))

    def oci(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*ARGUMENTS, "--root", str(self.path / "state"), *arguments],
            cwd=self.path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if check:
            assert done.returncode == 0, done.stderr
        return done

    def start(self, *command: str) -> None:
        """A container that runs; its output goes nowhere."""
        self.write(*command)
        with open(os.devnull, "r+b") as null:
            subprocess.run(
                [*ARGUMENTS, "--root", str(self.path / "state"), "run", "-d", self.id],
                cwd=self.path,
                stdin=null,
                stdout=null,
                check=True,
                timeout=60,
            )

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.oci("state", self.id).stdout)
        return found


@pytest.fixture
def bundle(tmp_path: Path) -> Iterator[Bundle]:
    bundle = Bundle(tmp_path)
    yield bundle
    bundle.oci("delete", "-f", bundle.id)
    left = [path for path in HOST.directories(f"{bundle.group}/box") if os.path.exists(path)]
    for directory in HOST.directories(bundle.group):
        if os.path.isdir(directory):
            os.rmdir(directory)
    assert left == []


def test_run_answers_with_the_commands_status_and_leaves_nothing(bundle: Bundle) -> None:
    bundle.write("sh", "-c", "echo $$; hostname; exit 7")
    done = bundle.oci("run", bundle.id, check=False)
    assert (done.returncode, done.stdout) == (7, "1\nsampan\n")
    assert bundle.oci("list", "-q").stdout == ""
    assert bundle.oci("state", bundle.id, check=False).returncode == 1


def test_create_then_start(bundle: Bundle) -> None:
    bundle.write("sh", "-c", "echo started > /dev/shm/said; sleep 100")
    with open(os.devnull, "r+b") as null:
        subprocess.run(
            [*ARGUMENTS, "--root", str(bundle.path / "state"), "create", "--pid-file", "pid", bundle.id],
            cwd=bundle.path,
            stdin=null,
            stdout=null,
            check=True,
            timeout=60,
        )
    state = bundle.state()
    assert state["status"] == "created"
    assert (bundle.path / "pid").read_text() == str(state["pid"])
    assert not Path(f"/proc/{state['pid']}/root/dev/shm/said").exists()
    bundle.oci("start", bundle.id)
    assert bundle.state()["status"] == "running"
    assert bundle.oci("start", bundle.id, check=False).returncode == 1
    bundle.oci("kill", bundle.id, "KILL")
    await_status(bundle, "stopped")
    bundle.oci("delete", bundle.id)


def await_status(bundle: Bundle, status: str) -> None:
    deadline = time.monotonic() + 20
    while bundle.state()["status"] != status:
        assert time.monotonic() < deadline, f"never {status}"
        time.sleep(0.02)


def test_exec_pause_update_and_ps(bundle: Bundle) -> None:
    bundle.start("sleep", "100")
    assert bundle.oci("exec", bundle.id, "sh", "-c", "echo $0 $#", "x", "y").stdout == "x 1\n"
    assert bundle.oci("exec", bundle.id, "sh", "-c", "exit 42", check=False).returncode == 42
    as_user = bundle.oci(
        "exec",
        "-u",
        "12:34",
        "-e",
        "A=b",
        "--cwd",
        "/tmp",
        bundle.id,
        "sh",
        "-c",
        "id -u; id -g; echo $A; pwd",
    )
    assert as_user.stdout.split() == ["12", "34", "b", "/tmp"]
    missing = bundle.oci("exec", bundle.id, "nosuch", check=False)
    assert missing.returncode == 127
    assert "executable file not found" in missing.stderr
    bundle.oci("pause", bundle.id)
    assert bundle.state()["status"] == "paused"
    assert bundle.oci("exec", bundle.id, "true", check=False).returncode == 1
    bundle.oci("resume", bundle.id)
    bundle.oci("update", "--pids-limit", "77", bundle.id)
    assert Path(HOST.directory("pids", f"{bundle.group}/box"), "pids.max").read_text() == "77\n"
    assert json.loads(bundle.oci("ps", "-f", "json", bundle.id).stdout) == [bundle.state()["pid"]]
    assert bundle.id in bundle.oci("list").stdout


def test_hooks_run_in_their_order_with_the_state(bundle: Bundle) -> None:
    log = bundle.path / "hooks"
    log.touch()

    def hook(name: str) -> list[dict[str, Any]]:
        script = f"read -r line; printf '%s ' {name} >> {log}; cat >> {log}.{name}"
        return [{"path": "/bin/sh", "args": ["sh", "-c", script]}]

    names = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    bundle.spec["hooks"] = {name: hook(name) for name in names}
    bundle.write("true")
    bundle.oci("run", bundle.id)
    assert log.read_text().split() == list(names)
    state = json.loads("{" + Path(f"{log}.createRuntime").read_text())
    assert (state["id"], state["status"]) == (bundle.id, "creating")
    assert state["pid"] > 0


def test_a_failing_hook_stops_the_container_and_leaves_nothing(bundle: Bundle) -> None:
    bundle.spec["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}
    bundle.write("true")
    done = bundle.oci("run", bundle.id, check=False)
    assert done.returncode == 1
    assert "hook failed" in done.stderr
    assert not (bundle.path / "state" / bundle.id).exists()


def test_user_namespace(bundle: Bundle) -> None:
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    for path in (bundle.path, *bundle.path.parents):
        os.chmod(path, os.stat(path).st_mode | 0o055)
    bundle.spec["linux"]["namespaces"].append({"type": "user"})
    bundle.spec["linux"]["uidMappings"] = bundle.spec["linux"]["gidMappings"] = mapping
    bundle.write("cat", "/proc/self/uid_map")
    assert bundle.oci("run", bundle.id).stdout.split() == ["0", "100000", "65536"]


def test_time_namespace(bundle: Bundle) -> None:
    bundle.spec["linux"]["namespaces"].append({"type": "time"})
    bundle.spec["linux"]["timeOffsets"] = {"boottime": {"secs": 4_000_000}}
    bundle.write("cat", "/proc/uptime")
    assert float(bundle.oci("run", bundle.id).stdout.split()[0]) > 4_000_000


def test_seccomp_section(bundle: Bundle) -> None:
    bundle.spec["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30}],
    }
    bundle.write("mkdir", "/tmp/x")
    done = bundle.oci("run", bundle.id, check=False)
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr


def test_a_hostile_null_device_does_not_decide_what_masks_show(bundle: Bundle) -> None:
    volume = bundle.path / "volume"
    volume.mkdir()
    (volume / "null").symlink_to("/proc/meminfo")
    bundle.spec["mounts"] = [
        mount for mount in bundle.spec["mounts"] if not mount["destination"].startswith("/dev")
    ]
    bundle.spec["mounts"].append(
        {"destination": "/dev", "type": "bind", "source": str(volume), "options": ["rbind", "rw"]}
    )
    bundle.spec["linux"]["maskedPaths"] = ["/proc/kcore"]
    bundle.write("sh", "-c", "head -c 8 /proc/kcore; echo end")
    assert bundle.oci("run", bundle.id).stdout == "end\n"


@pytest.mark.parametrize("through_link", [False, True])
def test_nothing_is_mounted_over_parts_of_proc(bundle: Bundle, through_link: bool) -> None:
    volume = bundle.path / "volume"
    volume.mkdir()
    target = "/proc/self"
    if through_link:
        (bundle.path / "rootfs/evil").symlink_to("/proc/self")
        target = "/evil"
    bundle.spec["mounts"].append(
        {"destination": target, "type": "bind", "source": str(volume), "options": ["rbind"]}
    )
    bundle.write("true")
    done = bundle.oci("run", bundle.id, check=False)
    assert done.returncode != 0
    assert "cannot be mounted because it is inside /proc" in done.stderr


def test_files_that_lxcfs_replaces_may_be_mounted(bundle: Bundle) -> None:
    (bundle.path / "uptime").write_text("1.00 1.00\n")
    bundle.spec["mounts"].append(
        {
            "destination": "/proc/uptime",
            "type": "bind",
            "source": str(bundle.path / "uptime"),
            "options": ["bind"],
        }
    )
    bundle.write("cat", "/proc/uptime")
    assert bundle.oci("run", bundle.id).stdout == "1.00 1.00\n"


def test_sockets_of_the_caller_are_handed_on(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "1")
    bundle.write("sh", "-c", "echo $LISTEN_FDS $LISTEN_PID")
    assert bundle.oci("run", bundle.id).stdout == "1 1\n"


def test_a_passwd_that_never_ends_does_not_hang(bundle: Bundle) -> None:
    passwd = bundle.path / "rootfs/etc/passwd"
    passwd.unlink()
    os.mkfifo(passwd)
    bundle.write("true")
    bundle.oci("run", bundle.id)


def test_console_socket_gets_the_terminal(bundle: Bundle) -> None:
    bundle.spec["process"]["terminal"] = True
    bundle.write("sh", "-c", "tty; sleep 100")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(bundle.path / "console"))
        listener.listen()
        bundle.oci("run", "-d", "--console-socket", "console", bundle.id)
        connection, _ = listener.accept()
        with connection:
            _, rights, _, _ = connection.recvmsg(64, socket.CMSG_SPACE(4))
    master = array.array("i", rights[0][2])[0]
    assert os.read(master, 100).startswith(b"/dev/")
    os.close(master)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"root": None}, "no root"),
        ({"process": {"cwd": "tmp", "args": ["x"]}}, "not an absolute path"),
        ({"linux": {"sysctl": {"kernel.panic": "1"}}}, "not namespaced"),
        ({"linux": {"namespaces": [{"type": "wings"}]}}, "invalid namespace type"),
        ({"mounts": 3}, "cannot parse config.json"),
    ],
)
def test_specifications_that_are_refused(bundle: Bundle, change: dict[str, Any], text: str) -> None:
    bundle.spec.update(change)
    (bundle.path / "config.json").write_text(json.dumps(bundle.spec))
    done = bundle.oci("--log", "log", "--log-format", "json", "run", bundle.id, check=False)
    assert done.returncode == 1
    assert text in done.stderr
    assert text in json.loads((bundle.path / "log").read_text())["msg"]


def test_identifiers_stay_below_the_root(bundle: Bundle) -> None:
    bundle.write("true")
    for identifier in ("..", "a/b", ".hidden"):
        assert "invalid character in the container ID" in bundle.oci("run", identifier, check=False).stderr
