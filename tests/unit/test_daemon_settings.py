"""Settings: dockerd's flags, daemon.json, sampan.toml and the environment, from one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sampan.daemon.options import SettingError, read_size
from sampan.daemon.settings import OPTIONS, Settings, UlimitSetting, help_text, load, markdown, reloaded


def from_flags(*words: str) -> Settings:
    return load(words, {})


def write(tmp_path: Any, name: str, content: Any) -> str:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_defaults() -> None:
    settings = from_flags()
    assert settings.data_root == "/var/lib/sampan"
    assert settings.socket_hosts == ("unix:///run/sampan/sampan.sock",)
    assert settings.pid_path == "/run/sampan/sampand.pid"


def test_every_spelling_of_a_flag() -> None:
    settings = from_flags(
        "-H", "unix:///a", "-Hunix:///b", "--host=tcp://:1", "-D", "--icc=false", "-l", "warn"
    )
    assert settings.hosts == ("unix:///a", "unix:///b", "tcp://:1")
    assert (settings.debug, settings.icc, settings.log_level) == (True, False, "warn")


def test_what_tools_pass_to_dockerd_is_accepted() -> None:
    text = """
        --data-root /d --exec-root /e --pidfile /p --bridge b0 --bip 10.1.0.1/24 --fixed-cidr 10.1.0.0/25
        --default-gateway 10.1.0.254 --mtu 1400 --ip-masq=false --ip-forward=false --iptables=true
        --userland-proxy=false --default-ulimit nofile=10:20 --insecure-registry r:5000
        --registry-mirror https://m --label a=b --log-driver json-file --log-opt max-size=1m --dns 1.1.1.1
        --dns-opt x --dns-search y --storage-driver overlay2 --live-restore --cgroup-parent /c
        --default-shm-size 32M --seccomp-profile builtin --init --init-path /t --shutdown-timeout 5
        --group g --containerd /run/containerd.sock --host unix:///s
    """
    words = text.split()
    settings = from_flags(*words)
    assert settings.default_ulimits == {"nofile": UlimitSetting("nofile", 10, 20)}
    assert settings.log_opts == {"max-size": "1m"}
    assert settings.default_shm_size == 32 << 20
    assert settings.init


def test_default_socket_follows_the_exec_root() -> None:
    settings = from_flags("--exec-root", "/run/other", "-H", "unix://")
    assert settings.socket_hosts == ("unix:///run/other/sampan.sock",)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--nope"], "unknown flag: --nope\nSee 'sampand --help'."),
        (["-Z"], "unknown shorthand flag: 'Z' in -Z\nSee 'sampand --help'."),
        (["--mtu"], "flag needs an argument: --mtu\nSee 'sampand --help'."),
        (["--mtu", "x"], 'invalid argument "x" for "--mtu" flag: invalid number "x"'),
        (["--label", "x"], 'invalid argument "x" for "--label" flag: bad attribute format: x'),
        (
            ["-l", "loud"],
            'invalid argument "loud" for "-l, --log-level" flag: unable to parse logging level: loud',
        ),
        (["--default-ulimit", "nofile=2:1"], None),
        (["-H", "ftp://x"], None),
        (["--storage-driver", "btrfs"], None),
        (["--userns-remap", "default"], None),
        (["--log-driver", "syslog"], None),
        (["--exec-opt", "native.cgroupdriver=systemd"], None),
        (["--authorization-plugin", "x"], None),
    ],
)
def test_bad_flags(words: list[str], text: str | None) -> None:
    with pytest.raises(SettingError) as caught:
        from_flags(*words)
    if text is not None:
        assert str(caught.value) == text


def test_daemon_json(tmp_path: Any) -> None:
    content = {
        "hosts": ["tcp://127.0.0.1:2375"],
        "debug": True,
        "labels": ["a=b"],
        "log-opts": {"max-file": "2"},
        "default-ulimits": {"nofile": {"Name": "nofile", "Hard": 64000, "Soft": 64000}},
        "default-address-pools": [{"base": "10.10.0.0/16", "size": 24}],
        "max-concurrent-downloads": 7,
        "features": {"buildkit": True},
        "runtimes": {"other": {"path": "/bin/other"}},
    }
    settings = from_flags("--config-file", write(tmp_path, "daemon.json", content))
    assert settings.hosts == ("tcp://127.0.0.1:2375",)
    assert settings.default_ulimits["nofile"]["soft"] == 64000
    assert settings.max_concurrent_downloads == 7
    assert settings.default_address_pools == ({"base": "10.10.0.0/16", "size": 24},)


def test_toml(tmp_path: Any) -> None:
    text = 'data-root = "/srv"\nlabels = ["a=b"]\n[log-opts]\nmax-size = "1m"\n'
    settings = from_flags("--config-file", write(tmp_path, "sampan.toml", text))
    assert (settings.data_root, settings.log_opts) == ("/srv", {"max-size": "1m"})


def test_unknown_keys_of_a_file_are_refused(tmp_path: Any) -> None:
    path = write(tmp_path, "daemon.json", {"colour": "red", "debug": True, "b": 1})
    with pytest.raises(SettingError) as caught:
        from_flags("--config-file", path)
    assert str(caught.value) == (
        f"unable to configure the Docker daemon with file {path}: the following directives don't match any "
        "configuration option: b, colour"
    )


def test_flag_and_file_together_are_refused(tmp_path: Any) -> None:
    path = write(tmp_path, "daemon.json", {"hosts": ["fd://"]})
    with pytest.raises(SettingError, match=r"hosts: \(from flag: \[unix:///a\], from file: \[fd://\]\)"):
        from_flags("--config-file", path, "-H", "unix:///a")


@pytest.mark.parametrize("content", ['{"debug": "yes"}', '{"mtu": true}', '{"dns": "1.1.1.1"}', "[]", "{"])
def test_wrong_types_of_a_file_are_refused(tmp_path: Any, content: str) -> None:
    with pytest.raises(SettingError, match="unable to configure"):
        from_flags("--config-file", write(tmp_path, "daemon.json", content))


def test_missing_file_is_refused() -> None:
    with pytest.raises(SettingError, match="no such file or directory"):
        from_flags("--config-file", "/nonexistent/daemon.json")


def test_environment_is_weaker_than_flags_and_stronger_than_the_file(tmp_path: Any) -> None:
    path = write(tmp_path, "daemon.json", {"mtu": 1, "bip": "file"})
    environ = {"SAMPAN_MTU": "2", "SAMPAN_DNS": "1.1.1.1, 2.2.2.2", "SAMPAN_BRIDGE": "env"}
    settings = load(["--config-file", path, "--bridge", "flag"], environ)
    assert (settings.mtu, settings.bip, settings.bridge) == (2, "file", "flag")
    assert settings.dns == ("1.1.1.1", "2.2.2.2")


def test_reload_changes_only_what_may_change(tmp_path: Any) -> None:
    path = write(tmp_path, "daemon.json", {"debug": False, "mtu": 1400})
    settings = from_flags("--config-file", path)
    write(tmp_path, "daemon.json", {"debug": True, "mtu": 1300, "labels": ["a=b"]})
    new, changed = reloaded(settings)
    assert changed == ["debug", "labels"]
    assert (new.debug, new.mtu, new.labels) == (True, 1400, ("a=b",))


def test_every_setting_is_in_the_help_and_has_a_unique_spelling() -> None:
    text = help_text()
    flags = [one.flag for one in OPTIONS.values() if one.flag]
    keys = [one.file_key for one in OPTIONS.values()]
    assert len(set(flags)) == len(flags)
    assert len(set(keys)) == len(keys)
    assert all(f"--{flag} " in text or f"--{flag}\n" in text for flag in flags)
    assert all(one.help for one in OPTIONS.values())


def test_the_documentation_is_up_to_date() -> None:
    root = Path(__file__).parent.parent.parent
    assert (root / "docs" / "settings.md").read_text() == markdown()


@pytest.mark.parametrize(("text", "size"), [("64M", 64 << 20), ("1g", 1 << 30), ("5", 5), ("1.5k", 1536)])
def test_sizes(text: str, size: int) -> None:
    assert read_size(text) == size
