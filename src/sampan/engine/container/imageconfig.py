"""What a container takes over from its image, as Docker merges it."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from sampan.base.errors import InvalidArgument
from sampan.model.container import ContainerConfig, HealthConfig

_V = TypeVar("_V")


class NoCommand(InvalidArgument):
    def __init__(self) -> None:
        super().__init__("no command specified")


def merge_config(config: ContainerConfig, image: ContainerConfig | None) -> ContainerConfig:
    """The container's config completed by the image's: what the caller set wins.

    A caller's entrypoint, even an empty one, drops the image's command. Raises NoCommand when neither
    side says what to run.
    """
    entrypoint, cmd = config.entrypoint, config.cmd
    changes: dict[str, object] = {}
    if image is not None:
        if not entrypoint:
            cmd = cmd or image.cmd
            entrypoint = image.entrypoint if entrypoint is None else entrypoint
        changes = {
            "user": config.user or image.user,
            "exposed_ports": _union(image.exposed_ports, config.exposed_ports),
            "env": merge_env(config.env, image.env),
            "labels": _union(image.labels, config.labels) or {},
            "healthcheck": _merge_health(config.healthcheck, image.healthcheck),
            "working_dir": config.working_dir or image.working_dir,
            "volumes": _union(image.volumes, config.volumes),
            "stop_signal": config.stop_signal or image.stop_signal,
        }
    if entrypoint == [""]:
        entrypoint = None
    if not entrypoint and not cmd:
        raise NoCommand
    return msgspec.structs.replace(config, entrypoint=entrypoint, cmd=cmd, **changes)


def merge_env(own: list[str] | None, inherited: list[str] | None) -> list[str] | None:
    """``own`` first, then what is inherited under names that ``own`` does not have."""
    if not own or not inherited:
        return own or inherited
    names = {entry.partition("=")[0] for entry in own}
    return [*own, *(entry for entry in inherited if entry.partition("=")[0] not in names)]


def _union(lower: dict[str, _V] | None, upper: dict[str, _V] | None) -> dict[str, _V] | None:
    if not lower or not upper:
        return upper or lower
    return {**lower, **upper}


def _merge_health(own: HealthConfig | None, inherited: HealthConfig | None) -> HealthConfig | None:
    if own is None or inherited is None:
        return own or inherited
    return HealthConfig(
        test=own.test or inherited.test,
        interval=own.interval or inherited.interval,
        timeout=own.timeout or inherited.timeout,
        start_period=own.start_period or inherited.start_period,
        start_interval=own.start_interval or inherited.start_interval,
        retries=own.retries or inherited.retries,
    )


def entrypoint_and_args(config: ContainerConfig) -> tuple[str, list[str]]:
    """The program and its arguments; one of entrypoint and cmd is not empty."""
    argv = [*(config.entrypoint or ()), *(config.cmd or ())]
    return argv[0], argv[1:]
