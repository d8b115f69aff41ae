"""What a container calls others: its hosts and resolv.conf, and its view of the name server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sampan.engine.ports import Networks
from sampan.model.container import Container, Endpoint
from sampan.model.network import NameWish

from .links import link_hosts, parse_link
from .netfiles import NetworkFiles
from .registry import Entry

_WITHOUT_NAMES = ("", "default", "bridge", "host", "none")


def links_by_name(record: Container) -> bool:
    """On networks of the user's ``--link`` is one more name, looked up when it is asked for; on the default
    bridge it is a line in /etc/hosts and variables."""
    mode = record.host.network_mode
    return mode not in _WITHOUT_NAMES and not mode.startswith("container:")


def _has_names(networks: Iterable[str]) -> bool:
    return any(name not in _WITHOUT_NAMES for name in networks)


class Naming:
    """Keeps no state of its own."""

    def __init__(self, files: NetworkFiles, drivers: Networks) -> None:
        self._files = files
        self._drivers = drivers

    def describe(
        self, record: Container, endpoints: Mapping[str, Endpoint], linked: Sequence[tuple[str, Entry]]
    ) -> str:
        """Before a start: write its files, tell the name server. The name server's socket, or "" when the
        container has no use for one. Raises ResolverFailed, InvalidArgument, OSError."""
        # most have none: then nobody reads whom the host asks
        named = _has_names(endpoints)
        socket_path = self._drivers.show_names(record.id, self._wish(record)) if named else ""
        self._files.write(record, endpoints, link_hosts(linked), named=bool(socket_path))
        if socket_path:
            self._drivers.ensure_names()
        return socket_path

    def recover(self, record: Container) -> None:
        """It was running when the daemon came back."""
        if _has_names(record.networks):
            self._drivers.show_names(record.id, self._wish(record))

    def launched(self, container_id: str, pid: int) -> None:
        """It runs, and is answered since before it did."""
        self._drivers.serve_names(container_id, pid, already=True)

    def revise(
        self,
        record: Container,
        pid: int,
        before: Mapping[str, Endpoint],
        after: Mapping[str, Endpoint],
    ) -> None:
        """A running container has joined or left a network. Raises ResolverFailed, OSError."""
        named_before = self._drivers.has_view(record.id)
        named = bool(self._drivers.show_names(record.id, self._wish(record)))
        if named and not named_before:
            self._drivers.ensure_names()
            self._drivers.serve_names(record.id, pid)
        self._files.revise_resolv(record, (before, named_before), (after, named))

    def _wish(self, record: Container) -> NameWish:
        aliases: dict[str, str] = {}
        wished = [text for config in record.networks.values() for text in config.links or ()]
        if links_by_name(record):
            wished += record.host.links or ()
        for text in wished:
            name, alias = parse_link(text)
            aliases[alias] = name
        servers = self._files.upstreams(record)
        return NameWish(aliases=aliases, servers=servers, own_servers=bool(record.host.dns))
