"""``network connect`` and ``network disconnect``: changes to the networks of a container that exists."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import msgspec

from sampan.base.errors import Conflict, Forbidden, InvalidArgument, SystemFailure
from sampan.engine.container.ledger import Ledger
from sampan.engine.container.naming import Naming
from sampan.engine.container.registry import Entry
from sampan.engine.locks import KeyedLocks
from sampan.formats.hosts import own_names
from sampan.model.container import Container, Endpoint, EndpointConfig
from sampan.model.network import Network
from sampan.net.live import plug, unplug
from sampan.net.networks import ContainerNetworks
from sampan.store.containers import RunRecord

from .endpoints import require_usable


class NotConnected(SystemFailure):
    """Docker answers 500."""


class Membership:
    """Changes the record of a stopped container, and the interfaces of a running one as well."""

    def __init__(self, ledger: Ledger, locks: KeyedLocks, drivers: ContainerNetworks, naming: Naming) -> None:
        self._naming = naming
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
            with ExitStack() as undo:
                endpoint = await self._join(entry, network, config, undo)
                self._ledger.replace_record(entry, changed)
                undo.callback(self._ledger.replace_record, entry, record)
                run = entry.run or RunRecord()
                endpoints = {**run.endpoints, network.name: endpoint}
                self._ledger.replace_run(entry, msgspec.structs.replace(run, endpoints=endpoints))
                undo.callback(self._ledger.replace_run, entry, run)
                self._naming.revise(changed, entry.life.pid, run.endpoints, endpoints)
                undo.pop_all()
            self._edit_hosts(entry, added=endpoint)
            self._publish("connect", network, entry.id)

    async def _join(
        self, entry: Entry, network: Network, config: EndpointConfig, undo: ExitStack
    ) -> Endpoint:
        endpoint, link, _ = self._drivers.connect(network, entry.id, config, {}, name=entry.name)
        undo.callback(self._drivers.disconnect_network, entry.id, network.id)
        if link is not None:
            await asyncio.to_thread(plug, entry.life.pid, link)
            undo.callback(unplug, entry.life.pid, endpoint.mac_address, [])
        return endpoint

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
            networks = {name: config for name, config in record.networks.items() if name != network.name}
            changed = msgspec.structs.replace(record, networks=networks)
            if entry.life.phase in ("running", "paused"):
                await self._leave(entry, network, changed)
            self._ledger.replace_record(entry, changed)

    async def _leave(self, entry: Entry, network: Network, changed: Container) -> None:
        run = entry.run or RunRecord()
        left = run.endpoints.get(network.name)
        staying = {name: endpoint for name, endpoint in run.endpoints.items() if name != network.name}
        if left is not None and left.mac_address:
            await asyncio.to_thread(unplug, entry.life.pid, left.mac_address, _gateways(staying))
        connection = self._drivers.disconnect_network(entry.id, network.id)
        # Ports were published through one network; the others go on without.
        ports = {} if connection is not None and connection.published else run.ports
        self._ledger.replace_run(entry, msgspec.structs.replace(run, endpoints=staying, ports=ports))
        self._naming.revise(changed, entry.life.pid, run.endpoints, staying)
        self._edit_hosts(entry, removed=left)
        self._publish("disconnect", network, entry.id)

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


def _addresses(endpoint: Endpoint | None) -> list[str]:
    if endpoint is None:
        return []
    return [text for text in (endpoint.ip_address, endpoint.global_ipv6_address) if text]


def _gateways(staying: dict[str, Endpoint]) -> list[str]:
    """One default route for each family, through the first network that has a gateway."""
    first4 = next((endpoint.gateway for endpoint in staying.values() if endpoint.gateway), "")
    first6 = next((endpoint.ipv6_gateway for endpoint in staying.values() if endpoint.ipv6_gateway), "")
    return [text for text in (first4, first6) if text]


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
