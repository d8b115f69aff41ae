"""TLS by registry, in Docker's layout of certificates."""

from __future__ import annotations

import os
import ssl

from .errors import RegistryUnreachable
from .settings import Endpoint


def make_context(endpoint: Endpoint, folders: tuple[str, ...]) -> ssl.SSLContext:
    """``<folder>/<host:port>/*.crt`` are authorities, ``x.cert`` and ``x.key`` are shown to the registry.

    Raises RegistryUnreachable, with the file that cannot be used.
    """
    context = ssl.create_default_context()
    if endpoint.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if endpoint.ca_file:
        try:
            context.load_verify_locations(endpoint.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise _unusable(endpoint, endpoint.ca_file, error) from error
    for folder in folders:
        place = os.path.join(folder, endpoint.host)
        try:
            names = sorted(os.listdir(place))
        except (FileNotFoundError, NotADirectoryError):
            continue
        for name in names:
            path = os.path.join(place, name)
            try:
                if name.endswith(".crt"):
                    context.load_verify_locations(path)
                elif name.endswith(".cert"):
                    context.load_cert_chain(path, _partner(path, names, ".cert", ".key"))
                elif name.endswith(".key"):
                    _partner(path, names, ".key", ".cert")
            except (OSError, ssl.SSLError) as error:
                raise _unusable(endpoint, path, error) from error
    return context


def _partner(path: str, names: list[str], ending: str, other: str) -> str:
    """The file that belongs to a certificate or a key. Raises FileNotFoundError in Docker's words."""
    partner = path.removesuffix(ending) + other
    name, wanted = os.path.basename(path), os.path.basename(partner)
    if wanted not in names:
        if other == ".key":
            hint = "CA certificates must use the extension .crt"
            raise FileNotFoundError(f"missing key {wanted} for client certificate {name}. {hint}")
        raise FileNotFoundError(f"missing client certificate {wanted} for key {name}")
    return partner


def _unusable(endpoint: Endpoint, path: str, error: Exception) -> RegistryUnreachable:
    return RegistryUnreachable("get", f"https://{endpoint.host}/v2/", f"{path}: {error}")
