"""Images as Docker's inspect and list show them. Pure functions from engine views to JSON."""

from __future__ import annotations

from typing import Any

import msgspec

from sampan.base.clock import ZERO_TIME, format_ns
from sampan.engine.image.views import ImageInspect, ImageSummary

from .container_views import DRIVER

_CONFIG_FIELDS = (
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "ArgsEscaped",
    "Healthcheck",
    "OnBuild",
    "Shell",
)
"""What an image's config can say; what else stands in a blob belongs to the container it was made from."""
_ALWAYS = {
    "Cmd": None,
    "Entrypoint": None,
    "Env": None,
    "Labels": None,
    "OnBuild": None,
    "User": "",
    "Volumes": None,
    "WorkingDir": "",
}
_ALWAYS_BEFORE_50 = {
    "AttachStderr": False,
    "AttachStdin": False,
    "AttachStdout": False,
    "Domainname": "",
    "Hostname": "",
    "Image": "",
    "OpenStdin": False,
    "StdinOnce": False,
    "Tty": False,
    **_ALWAYS,
}


def render_image_config(config: dict[str, Any], version: int) -> dict[str, Any]:
    shown = dict(_ALWAYS if version >= 50 else _ALWAYS_BEFORE_50)
    for name in _CONFIG_FIELDS:
        value = config.get(name)
        if value not in (None, "", [], {}, False):
            shown[name] = value
    return dict(sorted(shown.items()))


def render_image(found: ImageInspect, version: int) -> dict[str, Any]:
    """``GET /images/{name}/json``."""
    image = found.image
    config = image.config
    result: dict[str, Any] = {
        "Id": image.id,
        "RepoTags": image.repo_tags,
        "RepoDigests": image.repo_digests,
        "Parent": image.parent,
        "Comment": found.comment,
    }
    if config.created:
        result["Created"] = config.created
    elif version < 44:
        result["Created"] = ZERO_TIME
    if version < 45:
        result["ContainerConfig"] = dict(_ALWAYS_BEFORE_50)
    result["DockerVersion"] = config.docker_version
    result["Author"] = config.author
    result["Config"] = render_image_config(found.config, version)
    result["Architecture"] = config.architecture
    if config.variant:
        result["Variant"] = config.variant
    result["Os"] = config.os
    if config.os_version:
        result["OsVersion"] = config.os_version
    result["Size"] = image.size_bytes
    if version < 44:
        result["VirtualSize"] = image.size_bytes
    result["GraphDriver"] = {"Data": found.graph or None, "Name": DRIVER}
    result["RootFS"] = {"Type": config.rootfs.type or "layers"}
    if config.rootfs.diff_ids:
        result["RootFS"]["Layers"] = config.rootfs.diff_ids
    result["Metadata"] = {"LastTagTime": format_ns(image.last_tagged_ns)}
    if version >= 48:
        if found.descriptor is not None:
            result["Descriptor"] = msgspec.to_builtins(found.descriptor)
        if found.manifests is not None:
            result["Manifests"] = msgspec.to_builtins(found.manifests)
    return result


def render_image_summary(image: ImageSummary, version: int) -> dict[str, Any]:
    """One entry of ``GET /images/json``."""
    result: dict[str, Any] = msgspec.to_builtins(image)
    if version < 43 and not image.repo_tags and not image.repo_digests:
        result["RepoTags"] = ["<none>:<none>"]
        result["RepoDigests"] = ["<none>@<none>"]
    if version < 44:
        result["VirtualSize"] = image.size
    if version < 48:
        result.pop("Descriptor", None)
    if version < 51:
        result["Containers"] = -1
    return result
