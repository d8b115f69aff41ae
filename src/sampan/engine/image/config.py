"""The config object of an image, as it is written into a config blob."""

from __future__ import annotations

from typing import Any

import msgspec

from sampan.model.container import ContainerConfig

_ALWAYS = ("Hostname", "Domainname", "User", "AttachStdin", "AttachStdout", "AttachStderr", "Tty",
           "OpenStdin", "StdinOnce", "Env", "Cmd", "Image", "Volumes", "WorkingDir", "Entrypoint",
           "OnBuild", "Labels")  # fmt: skip
"""What Docker writes also when it is empty."""


def wire_config(config: ContainerConfig) -> dict[str, Any]:
    """The JSON object with Docker's field names; empty optional fields are left out as Docker does."""
    plain: dict[str, Any] = msgspec.to_builtins(config)
    return {key: value for key, value in plain.items() if key in _ALWAYS or value}
