"""``network connect`` and ``network disconnect``: changes to the networks of a container that exists."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack

import msgspec

from sampan.base.crashpoints import crash_point
from sampan.base.errors import Conflict, Forbidden, InvalidArgument, SampanError, SystemFailure
from sampan.engine.container.ledger import Ledger
from sampan.engine.container.naming import Naming
from sampan.engine.container.publish import wanted_ports
from sampan.engine.container.registry import Entry
from sampan.engine.locks import KeyedLocks
from sampan.formats.hosts import own_names
from sampan.model.container import Container, Endpoint, EndpointConfig
from sampan.model.network import Network
from sampan.net.limits import apply_limits
from sampan.net.live import plug, unplug
from sampan.net.networks import ContainerNetworks
from sampan.net.options import OPTION_RECEIVE_LIMIT, OPTION_SEND_LIMIT, read_limits
from sampan.store.containers import RunRecord

from .endpoints import require_usable
from .gateways import Gateways, choose_gateways

log = logging.getLogger(__name__)


class NotConnected(SystemFailure):
    """Docker answers 500."""


class Membership:
    """Changes the record of a stopped container, and the interfaces of a running one as well."""

    def __init__(
        self,
        ledger: Ledger,
        locks: KeyedLocks,
        drivers: ContainerNetworks,
        naming: Naming,
        find: Callable[[str], Network | None],
    ) -> None:
        """``find`` knows networks by name."""
        self._naming = naming
        self._find = find
        self._ledger = ledger
        self._locks = locks
        self._drivers = drivers

    async def connect(self, network: Network, ref: str, config: EndpointConfig) -> None:
        """Raises NotFound (container), Forbidden (connected already), InvalidArgument, Conflict (being
        removed), and what the drivers raise. Nothing has changed then."""
        require_usable({network.name: config})
        entry = self._ledger.registry.require(ref)
        async with self._locks.hold("container", entry.id):
            record = entry.record
            _require_changeable(entry)
            _require_joinable(record, network)
            if network.name in record.networks:
                raise Forbidden(f"endpoint with name {record.name} already exists in network {network.name}")
            changed = msgspec.structs.replace(record, networks={**record.networks, network.name: config})
            if entry.life.phase not in ("running", "paused"):
                self._ledger.replace_record(entry, changed)
                return
            await self._join(entry, network, config, changed)

    async def _join(self, entry: Entry, network: Network, config: EndpointConfig, changed: Container) -> None:
        """A running container joins. It is recorded first, so that a daemon that dies meanwhile is followed
        by one that takes back what was begun."""
        run, record = entry.run or RunRecord(), entry.record
        before, after = self._leading(record, run.endpoints), self._leading(changed, changed.networks)
        with ExitStack() as undo:
            endpoint, link, _ = self._drivers.connect(network, entry.id, config, {}, name=entry.name)
            undo.callback(self._drivers.disconnect_network, entry.id, network.id)
            endpoints = {**run.endpoints, network.name: endpoint}
            begun = msgspec.structs.replace(run, endpoints=endpoints, changing=network.name)
            undo.callback(self._ledger.replace_run, entry, run)
            self._ledger.replace_run(entry, begun)
            crash_point("network.connect.begun")
            if link is not None:
                leads = after.ipv4 == network.name, after.ipv6 == network.name
                await asyncio.to_thread(plug, entry.life.pid, link, leads)
                undo.callback(unplug, entry.life.pid, endpoint, _addresses_of(before, run.endpoints))
            crash_point("network.connect.plugged")
            self._ledger.replace_record(entry, changed)
            undo.callback(self._ledger.replace_record, entry, record)
            crash_point("network.connect.recorded")
            self._naming.revise(changed, entry.life.pid, run.endpoints, endpoints)
            undo.pop_all()
        crash_point("network.connect.named")
        try:
            self._move_ports(entry, before, after)
            crash_point("network.connect.published")
            self._edit_hosts(entry, added=endpoint)
        finally:
            self._end_change(entry)
        self._publish("connect", network, entry.id)

    def _end_change(self, entry: Entry, left: str = "") -> None:
        """All of it is done; ``left`` is the network that the container is no longer on."""
        run = entry.run or RunRecord()
        endpoints = {name: one for name, one in run.endpoints.items() if name != left}
        self._ledger.replace_run(entry, msgspec.structs.replace(run, endpoints=endpoints, changing=""))

    async def recover(self) -> None:
        """The last daemon died while containers joined or left networks: now they are not on them."""
        for entry in self._ledger.registry:
            if entry.run is None or not entry.run.changing:
                continue
            network = self._find(entry.run.changing)
            if network is None:
                self._end_change(entry, entry.run.changing)
                continue
            try:
                await self._leave(entry, network, _without(entry.record, network))
            except SampanError as error:
                log.error("container %s, network %s: %s", entry.id, network.name, error.message)

    def _leading(self, record: Container, names: Iterable[str]) -> Gateways:
        networks = [network for name in names if (network := self._find(name)) is not None]
        return choose_gateways(record.networks, networks)

    def _move_ports(self, entry: Entry, before: Gateways, after: Gateways) -> None:
        """Published ports follow the way out. Raises PortInUse when a program has been faster."""
        run = entry.run
        ports = run.ports if run is not None else {}
        # none so far on a network that does not lead out: then as asked at create
        ports = ports or wanted_ports(entry.record.config, entry.record.host)
        if run is None or not ports or before.ports == after.ports:
            return
        network = self._find(after.ports)
        try:
            ports = self._drivers.move_ports(entry.id, network.id, ports) if network is not None else {}
        except SampanError:
            self._ledger.replace_run(entry, msgspec.structs.replace(run, ports={}))
            raise
        self._ledger.replace_run(entry, msgspec.structs.replace(run, ports=ports))

    async def disconnect(self, network: Network, ref: str) -> None:
        """Raises NotFound (container), NotConnected, InvalidArgument, Conflict, DeviceFailed."""
        entry = self._ledger.registry.require(ref)
        async with self._locks.hold("container", entry.id):
            record = entry.record
            _require_changeable(entry)
            if network.name not in record.networks:
                raise NotConnected(f"container {record.id} is not connected to network {network.name}")
            if network.name == "host":
                raise InvalidArgument(
                    "cannot disconnect container from host network - "
                    "container was created in host network mode"
                )
            changed = _without(record, network)
            if entry.life.phase in ("running", "paused"):
                await self._leave(entry, network, changed)
            else:
                self._ledger.replace_record(entry, changed)

    async def _leave(self, entry: Entry, network: Network, changed: Container) -> None:
        run = entry.run or RunRecord()
        left = run.endpoints.get(network.name)
        staying = {name: endpoint for name, endpoint in run.endpoints.items() if name != network.name}
        before, after = self._leading(entry.record, run.endpoints), self._leading(changed, staying)
        self._ledger.replace_run(entry, msgspec.structs.replace(run, changing=network.name))
        crash_point("network.disconnect.begun")
        if left is not None:
            try:
                await asyncio.to_thread(unplug, entry.life.pid, left, _addresses_of(after, staying))
            except SampanError:
                self._ledger.replace_run(entry, run)
                raise
        crash_point("network.disconnect.unplugged")
        self._drivers.disconnect_network(entry.id, network.id)
        self._ledger.replace_record(entry, changed)
        crash_point("network.disconnect.recorded")
        try:
            self._move_ports(entry, before, after)
            crash_point("network.disconnect.published")
            self._naming.revise(changed, entry.life.pid, run.endpoints, staying)
            crash_point("network.disconnect.named")
            self._edit_hosts(entry, removed=left)
        finally:
            self._end_change(entry, network.name)
        self._publish("disconnect", network, entry.id)

    async def limit(self, network: Network, ref: str, receive: str | None, send: str | None) -> None:
        """Change the bandwidth of a container on a network, now and at its next starts; None leaves it, ""
        is its network's. Raises NotConnected, InvalidArgument, DeviceFailed."""
        entry = self._ledger.registry.require(ref)
        async with self._locks.hold("container", entry.id):
            record = entry.record
            config = record.networks.get(network.name)
            if config is None:
                raise NotConnected(f"container {record.id} is not connected to network {network.name}")
            asked = {OPTION_RECEIVE_LIMIT: receive, OPTION_SEND_LIMIT: send}
            said = {key: text for key, text in asked.items() if text is not None}
            options = {key: text for key, text in {**(config.driver_opts or {}), **said}.items() if text}
            limits = read_limits(network.options, options)
            endpoint = entry.run.endpoints.get(network.name) if entry.run is not None else None
            if endpoint is not None:
                await asyncio.to_thread(apply_limits, network, endpoint, entry.life.pid, *limits)
            config = msgspec.structs.replace(config, driver_opts=options or None)
            networks = {**record.networks, network.name: config}
            self._ledger.replace_record(entry, msgspec.structs.replace(record, networks=networks))

    def _edit_hosts(
        self, entry: Entry, *, added: Endpoint | None = None, removed: Endpoint | None = None
    ) -> None:
        """In place: the file is bind-mounted in the container, which keeps its own changes."""
        record = entry.record
        names = own_names(record.config.hostname, record.config.domainname)
        path = self._ledger.layout.hosts(record.id)
        gone = {f"{address}\t{names}\n" for address in _addresses(removed)}
        with open(path, "r+", encoding="utf-8") as file:
            lines = [line for line in file if line not in gone]
            lines.extend(f"{address}\t{names}\n" for address in _addresses(added))
            file.seek(0)
            file.write("".join(lines))
            file.truncate()

    def _publish(self, action: str, network: Network, container_id: str) -> None:
        attributes = {"container": container_id, "name": network.name, "type": network.driver}
        self._ledger.events.publish("network", action, network.id, attributes)


def _without(record: Container, network: Network) -> Container:
    networks = {name: config for name, config in record.networks.items() if name != network.name}
    return msgspec.structs.replace(record, networks=networks)


def _addresses(endpoint: Endpoint | None) -> list[str]:
    if endpoint is None:
        return []
    return [text for text in (endpoint.ip_address, endpoint.global_ipv6_address) if text]


def _addresses_of(leading: Gateways, endpoints: Mapping[str, Endpoint]) -> list[str]:
    """Of the gateways; none for networks that lead out without one."""
    found = []
    if leading.ipv4 in endpoints:
        found.append(endpoints[leading.ipv4].gateway)
    if leading.ipv6 in endpoints:
        found.append(endpoints[leading.ipv6].ipv6_gateway)
    return [text for text in found if text]


def _require_changeable(entry: Entry) -> None:
    if entry.life.phase in ("removing", "dead"):
        raise Conflict(
            f"container {entry.id} is marked for removal "
            "and cannot be connected or disconnected to the network"
        )


def _require_joinable(record: Container, network: Network) -> None:
    mode = record.host.network_mode
    if network.driver == "host" and mode != "host":
        raise InvalidArgument(
            "cannot connect container to host network - container must be created in host network mode"
        )
    if mode == "host" or mode.startswith("container:"):
        raise InvalidArgument(
            "container sharing network namespace with another container or host "
            "cannot be connected to any other network"
        )
    if network.driver == "null" or "none" in record.networks:
        raise InvalidArgument(
            "container cannot be connected to multiple networks "
            "with one of the networks in private (none) mode"
        )
