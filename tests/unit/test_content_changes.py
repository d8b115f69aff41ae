"""Instructions that change an image's config."""

from __future__ import annotations

import pytest

from sampan.formats.dockerfile_changes import BadChange, apply_changes
from sampan.model.container import ContainerConfig, HealthConfig


def changed(*lines: str, config: ContainerConfig | None = None) -> ContainerConfig:
    return apply_changes(config or ContainerConfig(), lines)


def test_commands() -> None:
    assert changed('CMD ["a", "b c"]').cmd == ["a", "b c"]
    assert changed("cmd echo $HOME").cmd == ["/bin/sh", "-c", "echo $HOME"]
    assert changed("CMD [broken").cmd == ["/bin/sh", "-c", "[broken"]
    own = ContainerConfig(shell=["/bin/bash", "-ec"], cmd=["old"])
    assert changed("ENTRYPOINT run", config=own).entrypoint == ["/bin/bash", "-ec", "run"]


def test_entrypoint_drops_an_inherited_command_only() -> None:
    old = ContainerConfig(cmd=["old"])
    assert changed('ENTRYPOINT ["x"]', config=old).cmd is None
    assert changed('CMD ["new"]', 'ENTRYPOINT ["x"]', config=old).cmd == ["new"]


def test_environment() -> None:
    config = ContainerConfig(env=["A=1", "PATH=/bin"])
    got = changed("ENV A=2 B=\"x y\" C='$A' D=$A-${B:-z} E=a\\ b", "ENV PATH /x:$PATH", config=config).env
    assert got == ["A=2", "PATH=/x:/bin", "B=x y", "C=$A", "D=1-z", "E=a b"]


def test_lists_and_maps() -> None:
    config = changed(
        "EXPOSE 80 443/tcp 53/udp 8000-8002",
        'LABEL a=b "c d"="e f"',
        "LABEL old style label",
        'VOLUME ["/a", "/b c"]',
        "VOLUME /d /e",
        "ONBUILD RUN x",
    )
    assert set(config.exposed_ports or {}) == {
        "80/tcp",
        "443/tcp",
        "53/udp",
        "8000/tcp",
        "8001/tcp",
        "8002/tcp",
    }
    assert config.labels == {"a": "b", "c d": "e f", "old": "style label"}
    assert set(config.volumes or {}) == {"/a", "/b c", "/d", "/e"}
    assert config.on_build == ["RUN x"]


def test_single_values() -> None:
    config = changed("USER me:users", "WORKDIR /a", "WORKDIR b/../c", "STOPSIGNAL SIGINT", "# comment", "")
    assert (config.user, config.working_dir, config.stop_signal) == ("me:users", "/a/c", "SIGINT")


def test_health() -> None:
    got = changed("HEALTHCHECK --interval=1m30s --timeout=500ms --retries=4 CMD curl -f x").healthcheck
    assert got == HealthConfig(
        test=["CMD-SHELL", "curl -f x"], interval=90_000_000_000, timeout=500_000_000, retries=4
    )
    assert changed("HEALTHCHECK NONE").healthcheck == HealthConfig(test=["NONE"])
    assert changed('HEALTHCHECK CMD ["a"]').healthcheck == HealthConfig(test=["CMD", "a"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("RUN x", "RUN is not a valid change command"),
        ("copy a b", "copy is not a valid change command"),
        ("CMD", "requires at least one argument"),
        ("USER a b", "requires exactly one argument"),
        ("ENV a", "must have two arguments"),
        ("ENV a=b c", "can't find ="),
        ("ENV =b", "can not be blank"),
        ("LABEL a='b", "matching quote"),
        ("EXPOSE x", "invalid containerPort"),
        ("EXPOSE 90-80", "invalid range"),
        ("EXPOSE 99999", "invalid range"),
        ('VOLUME [""]', "empty string"),
        ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD"),
        ("ONBUILD FROM x", "isn't allowed"),
        ("HEALTHCHECK RUN x", "Unknown type"),
        ("HEALTHCHECK CMD", "Missing command"),
        ("HEALTHCHECK --interval=x CMD a", "invalid duration"),
        ("HEALTHCHECK --interval=1us CMD a", "less than 1ms"),
        ("HEALTHCHECK --colour=1 CMD a", "unknown flag"),
        ("HEALTHCHECK NONE x", "takes no arguments"),
        ("STOPSIGNAL !!", "Invalid signal"),
    ],
)
def test_bad_changes(line: str, message: str) -> None:
    with pytest.raises(BadChange) as raised:
        changed(line)
    assert message in raised.value.message
