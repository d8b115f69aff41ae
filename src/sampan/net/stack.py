"""Everything of networking in one daemon: drivers, firewall and ports, opened and closed together."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Callable

from sampan.base.errors import NotFound
from sampan.kernel import links
from sampan.kernel.netlink import NetlinkSocket
from sampan.kernel.nflog import Packet
from sampan.kernel.nftables import NftSocket
from sampan.model.network import IPAMPool, Network

from .addresses import AUX_GATEWAY4, AUX_GATEWAY6, Subnets
from .bridge import BridgeDriver
from .driver import Driver
from .egress.guard import EgressGuard, Restricted
from .egress.policy import read_egress
from .egress.refusals import Refusals
from .egress.rules import LEARNT
from .errors import EgressFailed, InvalidNetworkSetting
from .firewall import Firewall
from .ipam import DEFAULT_POOLS, IPNetwork, SubnetPools, parse_network
from .networks import PREDEFINED as PREDEFINED
from .networks import ContainerNetworks
from .options import (
    OPTION_DEFAULT,
    OPTION_HOST_ADDRESS,
    OPTION_ICC,
    OPTION_MASQUERADE,
    OPTION_MTU,
    OPTION_NAME,
)
from .parts import PartDriver
from .plain import PlainDriver
from .ports import PortReservations
from .resolver.client import Resolver
from .resolver.process import ResolverFailed
from .settings import DEFAULT_BRIDGE, NetworkSettings
from .watch import Watch


class NetworkStack:
    """Makes nothing in the kernel before :meth:`open`. Works in the daemon's network namespace."""

    def __init__(self, settings: NetworkSettings, warn: Callable[[str], None] = lambda text: None) -> None:
        """``warn`` gets single lines for the daemon's log."""
        self.settings = settings
        self.bridge_name = settings.bridge or DEFAULT_BRIDGE
        instance = settings.instance or self.bridge_name
        self.table = table_of(instance)
        self._firewall = Firewall(self.table, respect=settings.firewall == "respect")
        self._ports = PortReservations()
        subnets = Subnets(subnet_pools(settings), read_host_id())
        alias = alias_of(instance)
        self._bridges = BridgeDriver(
            self._firewall,
            subnets,
            alias=alias,
            ip_forward=settings.ip_forward,
            ports_per_bridge=settings.ports_per_bridge,
        )
        self._egress = EgressGuard(self.table, lambda: self._firewall.unavailable)
        self.refused: Callable[[Restricted, Packet], None] = lambda who, packet: None
        """Called with what the kernel did not let a container send."""
        self._refusals = Refusals(self.table, self._tell_refused)
        self._resolver = Resolver(os.path.join(settings.run_dir, "resolver.sock"))
        self.drivers: dict[str, Driver] = {
            "bridge": self._bridges,
            "macvlan": PartDriver("macvlan", subnets, alias=alias),
            "ipvlan": PartDriver("ipvlan", subnets, alias=alias),
            "host": PlainDriver("host"),
            "null": PlainDriver("null"),
        }
        self.containers = ContainerNetworks(
            self.drivers,
            self._firewall,
            self._ports,
            host_address=settings.ip,
            resolver=self._resolver,
            egress=self._egress,
            warn=warn,
        )
        """What the engine connects containers through."""
        self._warn = warn
        self._made: dict[str, Network] = {}
        self._watch: Watch | None = None

    def open(self) -> None:
        """Connect to the firewall. Never raises: see :meth:`warnings`."""
        if self.settings.firewall != "off":
            self._firewall.open()
        else:
            self._firewall.unavailable = "switched off by --iptables=false"

    def ensure(self, network: Network) -> Network:
        """Make a network's devices and rules; answers it with what was chosen. Idempotent.

        Raises DeviceFailed, InvalidNetworkSetting, PoolExhausted, NotFound (unknown driver).
        """
        driver = self.drivers.get(network.driver)
        if driver is None:
            raise NotFound(
                f'could not find plugin "{network.driver}" in v1 plugin registry: plugin not found'
            )
        self._egress.require_possible(network, read_egress(network.options))
        made = driver.create(network)
        self._made[made.id] = made
        return made

    def remove(self, network: Network) -> None:
        """The inverse of :meth:`ensure`. Idempotent. The caller knows that nobody is connected."""
        if self._made.pop(network.id, None) is not None:
            self.drivers[network.driver].remove(network)
            self._resolver.drop_network(network.id)

    def settle(self) -> None:
        """Every running container has been recovered: the firewall now holds exactly what is known."""
        self.containers.settle()
        try:
            self._egress.settle()
        except EgressFailed as error:
            self._warn(error.message)
        try:
            self._resolver.recover()
        except (OSError, ResolverFailed) as error:
            self._warn(f"names of containers are not resolved: {error}")

    def watch(self) -> None:
        """From now on repair what others do to the rules and bridges."""
        self._egress.repaired = self._resolver.say_all
        try:
            self._refusals.begin()
        except OSError as error:
            self._warn(f"what containers are refused is not logged: {error.strerror}")
        tables = {self.table: self._firewall.repair, self._egress.table: self._egress.repair}
        watch = Watch(tables, self.repair_links, unwatched=LEARNT)
        try:
            watch.begin()
        except OSError as error:
            self._warn(f"changes of rules and bridges by others are not noticed: {error.strerror}")
            watch.close()
            return
        self._watch = watch
        self._bridges.changed = lambda: watch.follow(self._bridges.indexes())
        self._bridges.changed()

    def repair_links(self) -> bool:
        """Make bridges as they should be. Whether anything was wrong. Raises OSError."""
        return self._bridges.repair(self.containers.endpoints)

    def _tell_refused(self, packet: Packet) -> None:
        who = self._egress.at(packet.source)
        if who is not None:
            self.refused(who, packet)

    def warnings(self) -> list[str]:
        """For ``docker info``. Raises nothing."""
        found: list[str] = []
        if self._firewall.unavailable:
            found.append(
                f"WARNING: published ports and masquerading do not work: {self._firewall.unavailable}"
            )
        try:
            drops = self._firewall.foreign_drops()
        except OSError as error:
            drops = []
            found.append(f"WARNING: the firewall's chains cannot be listed: {error.strerror}")
        found.extend(
            f"WARNING: nftables chain '{chain}' drops forwarded packets by default: containers and other "
            f"machines do not reach each other until it accepts interface {self.bridge_name}"
            for chain in drops
        )
        return found

    def foreign_drops(self) -> list[str]:
        """Chains of others that drop what is forwarded by default. Raises nothing."""
        try:
            return self._firewall.foreign_drops()
        except OSError:
            return []  # warnings() tells that they cannot be listed

    def rules_problem(self) -> str:
        """Why our rules are not in force; "" when they are. Raises OSError."""
        if self._firewall.unavailable:
            return self._firewall.unavailable
        with contextlib.closing(NftSocket()) as nft:
            return "" if nft.has_table(self.table) else f"the nft table {self.table} is missing"

    def host_gateways(self, default: Network | None) -> list[str]:
        """What ``host-gateway`` stands for in --add-host."""
        if self.settings.host_gateway_ips:
            return list(self.settings.host_gateway_ips)
        return [pool.gateway for pool in default.pools if pool.gateway] if default is not None else []

    def close(self) -> None:
        """Clean shutdown. While containers run everything stays in force for them; else nothing is left."""
        if self.containers.is_idle:
            for network in list(self._made.values()):
                self.remove(network)
            try:
                self._firewall.remove()
            except OSError as error:
                self._warn(f"the nft table {self.table} was not removed: {error.strerror}")
            self._resolver.stop()
        self.let_go()

    def let_go(self) -> None:
        """Close what is open and change nothing in the kernel: all of it stays in force."""
        if self._watch is not None:
            self._bridges.changed = lambda: None
            self._watch.close()
            self._watch = None
        self._refusals.close()
        self._resolver.close()
        self._ports.close()
        self._firewall.close()


def read_host_id() -> str:
    """machine-id(5), or the host's name where there is none."""
    try:
        with open("/etc/machine-id", encoding="ascii") as file:
            return file.read().strip() or os.uname().nodename
    except OSError:
        return os.uname().nodename


def table_of(instance: str) -> str:
    return f"sampan-{instance}"


def alias_of(instance: str) -> str:
    """Marks the bridges that a daemon has made (``ip link`` shows it), so that no other is ever deleted."""
    return f"sampan:{instance}"


def subnet_pools(settings: NetworkSettings) -> SubnetPools:
    """Where subnets for networks that name none come from. Raises InvalidNetworkSetting."""
    if not settings.default_address_pools:
        return DEFAULT_POOLS
    pools: list[tuple[IPNetwork, int]] = []
    for base, size in settings.default_address_pools:
        network = parse_network(base)
        if size < network.prefixlen or size > network.max_prefixlen:
            raise InvalidNetworkSetting(f"invalid default address pool: size {size} does not fit {base}")
        pools.append((network, size))
    return pools


def default_bridge(settings: NetworkSettings, network_id: str, created_ns: int) -> Network:
    """The network ``bridge`` as the daemon's flags describe it. Raises InvalidNetworkSetting."""
    pools = [_default_pool(settings.bip, settings.fixed_cidr, settings.default_gateway, AUX_GATEWAY4)]
    if settings.ipv6:
        pools.append(
            _default_pool(settings.bip6, settings.fixed_cidr_v6, settings.default_gateway_v6, AUX_GATEWAY6)
        )
    return Network(
        id=network_id,
        name="bridge",
        driver="bridge",
        created_ns=created_ns,
        enable_ipv6=settings.ipv6,
        pools=[pool for pool in pools if pool != IPAMPool()],
        options={
            OPTION_DEFAULT: "true",
            OPTION_ICC: str(settings.icc).lower(),
            OPTION_MASQUERADE: str(settings.ip_masq).lower(),
            OPTION_HOST_ADDRESS: settings.ip,
            OPTION_NAME: settings.bridge or DEFAULT_BRIDGE,
            OPTION_MTU: str(settings.mtu or 1500),
        },
    )


def _default_pool(bip: str, fixed_cidr: str, gateway: str, auxiliary: str) -> IPAMPool:
    subnet = address = ""
    if bip:
        try:
            interface = ipaddress.ip_interface(bip)
        except ValueError as error:
            raise InvalidNetworkSetting(f"invalid --bip: {bip}: use address/prefix") from error
        subnet, address = str(interface.network), str(interface.ip)
    elif fixed_cidr:
        subnet = str(parse_network(fixed_cidr))
    return IPAMPool(
        subnet=subnet,
        ip_range=str(parse_network(fixed_cidr)) if fixed_cidr else "",
        gateway=address,
        auxiliary_addresses={auxiliary: gateway} if gateway else None,
    )


def plain_network(name: str, network_id: str, created_ns: int) -> Network:
    """The networks ``host`` and ``none``."""
    driver = "null" if name == "none" else name
    return Network(id=network_id, name=name, driver=driver, created_ns=created_ns)


def remove_everything(instance: str = DEFAULT_BRIDGE) -> None:
    """For uninstalling: delete the table and all bridges of a daemon that does not run. Idempotent.

    Raises OSError.
    """
    firewall = Firewall(table_of(instance))
    firewall.open()
    firewall.remove()
    firewall.close()
    with contextlib.suppress(OSError):  # without nf_tables there is none
        EgressGuard(table_of(instance)).remove()
    with NetlinkSocket() as route:
        for link in links.list_links(route):
            if link.kind in ("bridge", "veth") and link.alias == alias_of(instance):
                links.delete_link(route, link.name)
