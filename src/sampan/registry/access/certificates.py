"""Who a verified client certificate says it is: the common name is the user, organisations are groups.

The same reading as Kubernetes has. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sampan.model.registry import Identity


def identity_of(certificate: Mapping[str, Any] | None) -> Identity | None:
    """``certificate`` is as ``ssl.SSLSocket.getpeercert`` gives it; None without a common name."""
    names: dict[str, list[str]] = {}
    for relative in (certificate or {}).get("subject", ()):
        for key, value in relative:
            names.setdefault(key, []).append(value)
    common = names.get("commonName", [])
    if not common or not common[-1]:
        return None
    return Identity(name=common[-1], groups=tuple(names.get("organizationName", ())))
