"""`docker run`: output, exit codes, environment, and what the process sees."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.docker import Client
from tests.support.eventually import eventually

BUSYBOX = "busybox:latest"


def run(docker: Client, *words: str) -> str:
    return docker.line("run", "--rm", *words)


def test_output_and_error_arrive_apart(docker: Client) -> None:
    result = docker("run", "--rm", BUSYBOX, "sh", "-c", "echo out; echo err >&2")
    assert (result.out, result.err) == ("out\n", "err\n")


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_exit_code_of_the_process_is_the_clients(docker: Client, code: int) -> None:
    docker("run", "--rm", BUSYBOX, "sh", "-c", f"exit {code}", code=code)


def test_missing_command_is_127(docker: Client) -> None:
    result = docker("run", "--rm", BUSYBOX, "no-such-command", code=127)
    assert "executable file not found in $PATH" in result.err


def test_missing_command_with_a_path_is_127(docker: Client) -> None:
    result = docker("run", "--rm", BUSYBOX, "/no/such/command", code=127)
    assert "no such file or directory" in result.err


def test_command_that_may_not_be_executed_is_126(docker: Client) -> None:
    result = docker("run", "--rm", BUSYBOX, "/etc/passwd", code=126)
    assert "permission denied" in result.err


def test_a_directory_as_command_is_126(docker: Client) -> None:
    docker("run", "--rm", BUSYBOX, "/etc", code=126)


def test_wrong_flag_value_is_125(docker: Client) -> None:
    docker("run", "--rm", "--memory", "1k", BUSYBOX, "true", code=125)


def test_unknown_image_without_pull_is_125(docker: Client) -> None:
    result = docker("run", "--rm", "--pull", "never", "no-such-image:1", "true", code=125)
    assert "No such image: no-such-image:1" in result.err


def test_killed_process_is_137(docker: Client) -> None:
    docker("run", "--rm", "--init", BUSYBOX, "sh", "-c", "kill -9 $$", code=137)


def test_failed_start_leaves_no_container_with_rm(docker: Client, name: str) -> None:
    docker("run", "--rm", "--name", name, BUSYBOX, "no-such-command", code=127)
    assert docker.line("ps", "-aq", "--filter", f"name={name}") == ""


def test_failed_start_is_kept_as_created_without_rm(docker: Client, name: str) -> None:
    docker("run", "--name", name, BUSYBOX, "no-such-command", code=127)
    state = json.loads(docker.line("inspect", "--format", "{{json .State}}", name))
    assert (state["Status"], state["ExitCode"]) == ("created", 127)
    assert "no-such-command" in state["Error"]


def test_standard_input_reaches_the_process_and_ends(docker: Client) -> None:
    result = docker("run", "--rm", "-i", BUSYBOX, "cat", stdin="line one\nline two\n")
    assert result.out == "line one\nline two\n"


def test_output_continues_after_the_input_has_ended(docker: Client) -> None:
    result = docker("run", "--rm", "-i", BUSYBOX, "sh", "-c", "cat; echo after", stdin="before\n")
    assert result.out == "before\nafter\n"


def test_large_output_is_complete(docker: Client) -> None:
    size = 20_000_000
    produced = docker.raw("run", "--rm", BUSYBOX, "sh", "-c", f"yes | head -c {size}")
    assert len(produced) == size
    assert produced == b"y\n" * (size // 2)


def test_large_input_is_complete(docker: Client) -> None:
    data = bytes(range(256)) * 20_000
    result = docker("run", "--rm", "-i", BUSYBOX, "wc", "-c", stdin=data)
    assert result.out.strip() == str(len(data))


def test_environment(docker: Client) -> None:
    seen = run(docker, "-e", "ONE=1", "-e", "EMPTY=", "--hostname", "box", BUSYBOX, "env").splitlines()
    assert {"ONE=1", "EMPTY=", "HOSTNAME=box", "HOME=/root"} <= set(seen)
    assert any(line.startswith("PATH=/usr/local/sbin:") for line in seen)


def test_env_file(docker: Client, folder: Path) -> None:
    (folder / "env").write_text("# comment\nA=from file\n")
    assert "A=from file" in run(docker, "--env-file", str(folder / "env"), BUSYBOX, "env").splitlines()


def test_working_directory_is_made(docker: Client) -> None:
    assert run(docker, "-w", "/made/for/this", BUSYBOX, "pwd") == "/made/for/this"


def test_entrypoint_and_arguments(docker: Client) -> None:
    assert run(docker, "--entrypoint", "echo", BUSYBOX, "a", "b") == "a b"


def test_hostname_and_domainname(docker: Client) -> None:
    seen = run(docker, "--hostname", "host", "--domainname", "example.org", BUSYBOX, "hostname")
    assert seen == "host"


def test_default_hostname_is_the_short_id(docker: Client, started: Callable[..., str]) -> None:
    container = started()
    short = docker.line("inspect", "--format", "{{.Id}}", container)[:12]
    assert docker.line("exec", container, "hostname") == short


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("nobody", "uid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)"),
        ("1000:1001", "uid=1000 gid=1001 groups=1001"),
        ("daemon:tty", "uid=1(daemon) gid=5(tty) groups=5(tty)"),
    ],
)
def test_user(docker: Client, user: str, expected: str) -> None:
    assert run(docker, "--user", user, BUSYBOX, "id") == expected


def test_additional_groups(docker: Client) -> None:
    seen = run(
        docker, "--user", "1000:1000", "--group-add", "audio", "--group-add", "777", BUSYBOX, "id", "-G"
    )
    assert set(seen.split()) == {"1000", "29", "777"}


def test_unknown_user_is_refused(docker: Client) -> None:
    result = docker("run", "--rm", "--user", "nobody-knows", BUSYBOX, "true", code=125)
    assert "unable to find user nobody-knows: no matching entries in passwd file" in result.err


def test_first_process_is_pid_one_and_alone(docker: Client) -> None:
    assert run(docker, BUSYBOX, "sh", "-c", "echo $$; ls /proc | grep -c '^[0-9]'").splitlines()[0] == "1"


def test_init_reaps_and_forwards(docker: Client) -> None:
    seen = run(docker, "--init", BUSYBOX, "sh", "-c", "cat /proc/1/comm")
    assert "init" in seen or "tini" in seen


def test_read_only_root(docker: Client) -> None:
    result = docker("run", "--rm", "--read-only", BUSYBOX, "touch", "/file", code=1)
    assert "Read-only file system" in result.err


def test_tmpfs_on_a_read_only_root(docker: Client) -> None:
    seen = run(
        docker,
        "--read-only",
        "--tmpfs",
        "/scratch:size=1m",
        BUSYBOX,
        "sh",
        "-c",
        "touch /scratch/a && ls /scratch",
    )
    assert seen == "a"


def test_shm_size(docker: Client) -> None:
    seen = run(docker, "--shm-size", "8m", BUSYBOX, "df", "-k", "/dev/shm").splitlines()[-1].split()
    assert seen[1] == "8192"


def test_ulimit(docker: Client) -> None:
    assert (
        run(docker, "--ulimit", "nofile=123:456", BUSYBOX, "sh", "-c", "ulimit -Sn; ulimit -Hn") == "123\n456"
    )


def test_sysctl(docker: Client) -> None:
    seen = run(
        docker,
        "--sysctl",
        "net.ipv4.ip_unprivileged_port_start=77",
        BUSYBOX,
        "cat",
        "/proc/sys/net/ipv4/ip_unprivileged_port_start",
    )
    assert seen == "77"


def test_oom_score(docker: Client) -> None:
    assert run(docker, "--oom-score-adj", "500", BUSYBOX, "cat", "/proc/self/oom_score_adj") == "500"


def test_no_new_privileges(docker: Client) -> None:
    seen = run(
        docker, "--security-opt", "no-new-privileges", BUSYBOX, "grep", "NoNewPrivs", "/proc/self/status"
    )
    assert seen.split() == ["NoNewPrivs:", "1"]


def capabilities(docker: Client, *options: str) -> str:
    return run(docker, *options, BUSYBOX, "grep", "CapEff", "/proc/self/status").split()[1]


def test_default_capabilities(docker: Client) -> None:
    assert capabilities(docker) == "00000000a80425fb"


def test_dropped_capabilities(docker: Client) -> None:
    assert capabilities(docker, "--cap-drop", "ALL") == "0000000000000000"


def test_added_capability(docker: Client) -> None:
    assert capabilities(docker, "--cap-drop", "ALL", "--cap-add", "NET_ADMIN") == "0000000000001000"


def test_seccomp_filter_is_on_by_default_and_can_be_off(docker: Client) -> None:
    default = run(docker, BUSYBOX, "grep", "Seccomp:", "/proc/self/status")
    off = run(
        docker, "--security-opt", "seccomp=unconfined", BUSYBOX, "grep", "Seccomp:", "/proc/self/status"
    )
    assert (default.split()[1], off.split()[1]) == ("2", "0")


def test_mounting_is_refused_without_privileges(docker: Client) -> None:
    docker("run", "--rm", BUSYBOX, "mount", "-t", "tmpfs", "none", "/tmp", code=1)


def test_privileged_may_mount(docker: Client) -> None:
    docker("run", "--rm", "--privileged", BUSYBOX, "mount", "-t", "tmpfs", "none", "/tmp")


def test_masked_and_read_only_paths(docker: Client) -> None:
    masked = "for f in kcore keys timer_list; do test ! -e /proc/$f || wc -c < /proc/$f; done"
    assert set(run(docker, BUSYBOX, "sh", "-c", masked).split()) == {"0"}
    docker("run", "--rm", BUSYBOX, "sh", "-c", "echo 0 > /proc/sys/vm/swappiness", code=1)


def test_devices(docker: Client) -> None:
    seen = run(docker, BUSYBOX, "ls", "/dev").split()
    assert {"null", "zero", "full", "random", "urandom", "tty", "pts", "ptmx", "shm", "mqueue", "fd"} <= set(
        seen
    )
    assert "kmsg" not in seen


def test_device_is_passed_through(docker: Client) -> None:
    docker("run", "--rm", "--device", "/dev/null:/dev/nothing", BUSYBOX, "test", "-c", "/dev/nothing")


def test_host_namespaces(docker: Client) -> None:
    kinds = ("pid", "uts", "ipc", "net")
    script = "for kind in pid uts ipc net; do readlink /proc/self/ns/$kind; done"
    options = [word for kind in kinds for word in (f"--{kind}", "host")]
    shared = run(docker, *options, BUSYBOX, "sh", "-c", script).splitlines()
    again = run(docker, *options, BUSYBOX, "sh", "-c", script).splitlines()
    own = run(docker, BUSYBOX, "sh", "-c", script).splitlines()
    assert shared == again
    assert not set(shared) & set(own)


def test_pid_namespace_of_another_container(docker: Client, started: Callable[..., str]) -> None:
    other = started(command=("sleep", "98765"))
    assert "sleep 98765" in run(docker, "--pid", f"container:{other}", BUSYBOX, "ps")


@pytest.mark.parametrize("shared", ["host", "container"])
def test_what_a_container_leaves_in_a_shared_pid_namespace_is_killed(
    docker: Client, started: Callable[..., str], shared: str
) -> None:
    mode = "host" if shared == "host" else f"container:{started()}"
    script = "sleep 300 & cat /proc/$!/environ > /dev/null; echo $!; cut -d' ' -f22 /proc/$!/stat"
    if shared == "host":
        pid, birth = run(docker, "--pid", mode, BUSYBOX, "sh", "-c", script).split()
        stat = Path(f"/proc/{pid}/stat")

        def gone() -> bool:  # another process may have its number by now
            try:
                return stat.read_text().split()[21] != birth
            except (FileNotFoundError, ProcessLookupError):
                return True

        eventually(gone, "the child is gone")
        return
    docker("run", "--rm", "--pid", mode, BUSYBOX, "sh", "-c", "sleep 4321 & exit 3", code=3)
    other = mode.partition(":")[2]
    eventually(lambda: "sleep 4321" not in docker("exec", other, "ps").out, "the child is gone")


def test_cidfile(docker: Client, folder: Path) -> None:
    docker("run", "--rm", "--cidfile", str(folder / "cid"), BUSYBOX, "true")
    assert len((folder / "cid").read_text()) == 64


def test_name_in_use_is_a_conflict(docker: Client, started: Callable[..., str]) -> None:
    container = started()
    result = docker("run", "--name", container, BUSYBOX, "true", code=125)
    assert f'The container name "/{container}" is already in use by container' in result.err


def test_two_runs_at_once_do_not_mix(docker: Client) -> None:
    first = docker.popen("run", "--rm", BUSYBOX, "sh", "-c", "for i in $(seq 200); do echo first; done")
    second = docker.popen("run", "--rm", BUSYBOX, "sh", "-c", "for i in $(seq 200); do echo second; done")
    assert first.communicate(timeout=60)[0] == b"first\n" * 200
    assert second.communicate(timeout=60)[0] == b"second\n" * 200
