"""Which containers run where, as values: for looking at their traffic from a worker thread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from sampan.engine.container.registry import Entry
from sampan.formats.ports import parse_port
from sampan.model.container import Endpoint
from sampan.store.containers import RunRecord

from .trace_facts import Published


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One container at one moment."""

    id: str
    name: str
    state: str
    """running, paused, exited, ..."""
    pid: int
    mode: str
    """``host``, ``none``, or "" for one with networks."""
    endpoints: Mapping[str, Endpoint] = {}
    """By network name; of a container that shares another one's namespace the other one's."""
    driver_options: Mapping[str, Mapping[str, str]] = {}
    """Of the endpoints, by network name."""
    published: tuple[Published, ...] = ()
    shares: str = ""
    """Id of the container whose namespace it uses; "" for its own."""

    def addresses(self) -> list[str]:
        return [text for one in self.endpoints.values() for text in addresses_of(one)]


def addresses_of(endpoint: Endpoint) -> tuple[str, ...]:
    return tuple(text for text in (endpoint.ip_address, endpoint.global_ipv6_address) if text)


def see(entries: Iterable[Entry]) -> list[Seen]:
    """From the event loop's thread."""
    known = {entry.id: entry for entry in entries}
    return [_seen(entry, known) for entry in known.values()]


def _seen(entry: Entry, known: Mapping[str, Entry]) -> Seen:
    mode = entry.record.host.network_mode
    shares = mode.partition(":")[2] if mode.startswith("container:") else ""
    owner = known.get(shares, entry)
    run = owner.run or RunRecord()
    mode = owner.record.host.network_mode
    return Seen(
        id=entry.id,
        name=entry.name,
        state=entry.life.phase,
        pid=entry.life.pid,
        mode=mode if mode in ("host", "none") else "",
        endpoints={} if mode in ("host", "none") else run.endpoints,
        driver_options={name: one.driver_opts or {} for name, one in owner.record.networks.items()},
        published=tuple(_published(run)),
        shares=owner.id if owner is not entry else "",
    )


def _published(run: RunRecord) -> Iterable[Published]:
    for key, bindings in run.ports.items():
        port, protocol = parse_port(key)
        for binding in bindings:
            host_port = int(binding.host_port) if binding.host_port.isdigit() else 0
            host = binding.host_ip if host_port else ""
            yield Published(protocol=protocol, port=port, host_address=host, host_port=host_port)
