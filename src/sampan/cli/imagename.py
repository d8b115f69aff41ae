"""Names of images as people write them."""

from __future__ import annotations

from sampan.cli import jsontext
from sampan.cli.failure import Failure


def split_tag(name: str) -> tuple[str, str]:
    """``repository`` and ``tag`` of ``host:5000/name:tag``; no tag gives ""."""
    if "@" in name:
        name = name.partition("@")[0]
    head, mark, tag = name.rpartition(":")
    if mark and "/" not in tag:
        return head, tag
    return name, ""


def with_tag(name: str) -> str:
    """With ``:latest`` when there is neither tag nor digest."""
    if "@" in name or split_tag(name)[1]:
        return name
    return f"{name}:latest"


def canonical(repository: str) -> str:
    """With the registry and namespace that :func:`familiar` leaves out."""
    first, mark, _ = repository.partition("/")
    if not mark:
        return f"docker.io/library/{repository}"
    if "." in first or ":" in first or first == "localhost":
        return repository
    return f"docker.io/{repository}"


def familiar(name: str) -> str:
    """Without the registry and the namespace that are understood: ``docker.io/library/busybox``."""
    name = name.removeprefix("docker.io/").removeprefix("index.docker.io/")
    return name.removeprefix("library/")


def platform_json(text: str) -> str:
    """``{"os": ..., "architecture": ...}`` of ``linux/arm64/v8``, as the API wants it."""
    parts = text.split("/")
    if len(parts) == 1:
        parts = ["linux", *parts]
    if not all(parts) or len(parts) > 3:
        raise Failure(
            f'invalid platform: "{text}" is an invalid component of "{text}": use OS/ARCH[/VARIANT]'
        )
    return jsontext.dumps(dict(zip(("os", "architecture", "variant"), parts, strict=False)))
