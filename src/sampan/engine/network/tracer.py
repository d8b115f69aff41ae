"""Finds out why a container can, or cannot, reach another one: gathers the facts, :mod:`.trace` judges."""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections.abc import Callable, Iterable, Sequence

import msgspec

from sampan.base.errors import Conflict, InvalidArgument
from sampan.engine.container.layout import Layout
from sampan.engine.container.registry import Registry
from sampan.formats.resolv import parse
from sampan.kernel.links import list_links
from sampan.kernel.netlink import NetlinkSocket
from sampan.kernel.sockettable import LISTENING, list_sockets
from sampan.model.network import Network
from sampan.net import probes
from sampan.net.egress.policy import allows, read_egress
from sampan.net.ipam import parse_network
from sampan.net.networks import has_names
from sampan.net.options import BridgeOptions, read_bridge_options
from sampan.net.probes import Answer, Way
from sampan.net.stack import NetworkStack

from .seen import Seen, addresses_of, see
from .trace import Trace, explain
from .trace_facts import Facts, Listener, NetworkState, Place, Side

NAME_SERVER = "127.0.0.11"
_BRIDGE_NETFILTER = "/proc/sys/net/bridge/bridge-nf-call-iptables"
_FILE_BYTES = 64 << 10
_WAIT_S = 3.0
_WAIT_NEAR_S = 1.0
"""For answers of containers on this machine, and of those who know their names."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    host: str
    """A container, a name or an address."""
    port: int = 0
    protocol: str = "tcp"


class Tracer:
    """Keeps nothing: what runs is in memory, the rest is asked of the kernel."""

    def __init__(
        self,
        registry: Registry,
        layout: Layout,
        find_network: Callable[[str], Network | None],
        stack: NetworkStack,
    ) -> None:
        """``find_network`` by name."""
        self._registry = registry
        self._layout = layout
        self._find_network = find_network
        self._stack = stack

    async def trace(self, source: str, asked: Asked) -> Trace:
        """``source`` is a container. Takes up to some seconds where nobody answers. Raises NotFound,
        InvalidArgument, Conflict (it ended meanwhile)."""
        _require_sound(asked)
        entry = self._registry.require(source)
        seen = {one.id: one for one in see(self._registry)}
        target = self._named(asked.host)
        work = _Work(self._layout, self._networks(seen.values()), seen, self._rules())
        try:
            facts = await asyncio.to_thread(work.gather, seen[entry.id], target, asked)
        except (FileNotFoundError, ProcessLookupError):
            raise Conflict(f"a container ended while the way to {asked.host} was looked at") from None
        return explain(facts)

    def _rules(self) -> _Rules:
        """Asked in the event loop's thread, whose socket it is."""
        try:
            problem = self._stack.rules_problem()
        except OSError as error:
            problem = error.strerror or str(error)
        return _Rules(problem=problem, foreign_drops=tuple(self._stack.foreign_drops()))

    def _named(self, host: str) -> str:
        """The id of the container that is meant by name or by an id of at least 12 digits; "" for none."""
        entry = self._registry.find_name(host)
        if entry is None and len(host) >= 12:
            entry = self._registry.find(host)
        return entry.id if entry is not None else ""

    def _networks(self, seen: Iterable[Seen]) -> dict[str, Network]:
        names = {name for one in seen for name in one.endpoints}
        return {name: network for name in names if (network := self._find_network(name)) is not None}


def _require_sound(asked: Asked) -> None:
    if asked.protocol not in ("tcp", "udp"):
        raise InvalidArgument(f"cannot trace protocol {asked.protocol!r}: use tcp or udp")
    if not 0 <= asked.port <= 65535:
        raise InvalidArgument(f"no such port: {asked.port}")
    if not 0 < len(asked.host) < 254:
        raise InvalidArgument("say what to reach: a container, a name or an address")


class _Rules(msgspec.Struct, frozen=True, kw_only=True):
    problem: str
    foreign_drops: tuple[str, ...]


class _Work:
    """One trace, in a worker thread."""

    def __init__(
        self, layout: Layout, networks: dict[str, Network], seen: dict[str, Seen], rules: _Rules
    ) -> None:
        self._layout = layout
        self._networks = networks
        self._seen = seen
        self._rules = rules

    def gather(self, source: Seen, target_id: str, asked: Asked) -> Facts:
        """Raises FileNotFoundError when one of both ends meanwhile."""
        target = self._seen.get(target_id)
        answer: Answer | None = None
        addresses = [asked.host] if _is_address(asked.host) else []
        run = source.state == "running" and (target is None or target.state == "running")
        if run and not addresses:
            answer = self._look_up(source, asked.host, target)
            addresses = list(answer.addresses)
        if target is None:
            target = next((one for one in self._seen.values() if set(addresses) & set(one.addresses())), None)
        if (
            target is not None
            and not set(addresses) & set(target.addresses())
            and not _is_address(asked.host)
        ):
            addresses = _addresses_for(source, target)
        ways = self._ways(source, addresses)
        facts = Facts(
            host=asked.host,
            port=asked.port,
            protocol=asked.protocol,
            source=self._side(source),
            answer=answer,
            ways=ways,
        )
        return self._finish(facts, source, target)

    def _finish(self, facts: Facts, source: Seen, target: Seen | None) -> Facts:
        """With what depends on where the address is."""
        way = facts.ways[0] if facts.ways else None
        own = probes.find_own_way(way.address) if way is not None else None
        is_host = own is not None and own.is_own and not ipaddress.ip_address(own.address).is_loopback
        if way is not None and way.is_own:
            is_host = source.mode == "host"
            target = source if target is None and not is_host else target
        if is_host and way is not None and target is None:
            target = self._publisher(facts)
        facts = msgspec.structs.replace(
            facts,
            target=self._side(target) if target is not None else None,
            networks=self._states([source, *([target] if target is not None else [])]),
            is_host=is_host,
            host_listening=_listening("self") if is_host else (),
            foreign_drops=self._rules.foreign_drops,
            bridged_is_judged=_read(_BRIDGE_NETFILTER).strip() == "1",
            rules_problem=self._rules.problem,
            forwards=_forwards(":" in facts.address),
            host_way_problem=own.problem if own is not None else "",
        )
        refusal = self._refusal(facts, source, target)
        return msgspec.structs.replace(facts, refusal=refusal, attempt=_attempt(source, target, facts))

    def _refusal(self, facts: Facts, source: Seen, target: Seen | None) -> str:
        """What the egress list of the way's network or endpoint says against it. An address that a name has
        brought may be reached by itself as well, which only the attempt shows."""
        way = facts.ways[0] if facts.ways else Way(address="", problem="none")
        on = next((one.network for one in facts.source.places if one.interface == way.interface), "")
        network = self._networks.get(on)
        if network is None or way.problem or way.is_own:
            return ""
        policy = read_egress(network.options, source.driver_options.get(on, {}))
        address, port = _really(facts, target)
        inside = any(ipaddress.ip_address(address) in parse_network(pool.subnet) for pool in network.pools)
        if policy is None or inside or allows(policy, address, facts.host, facts.protocol, port):
            return ""
        listed = ", ".join(map(str, policy)) or "nothing"
        where = f"{address} port {port}/{facts.protocol}" if port else address
        return f"{source.name} may not reach {where}: its egress list on {on} has {listed}"

    def _look_up(self, source: Seen, name: str, target: Seen | None) -> Answer:
        """As a program in the container would: its hosts file, then its first name server."""
        files = source.shares or source.id
        in_hosts = _addresses_in(_read(self._layout.hosts(files)), name)
        if in_hosts:
            return Answer(server="/etc/hosts", addresses=tuple(in_hosts))
        if any(
            has_names(self._networks[network]) for network in source.endpoints if network in self._networks
        ):
            return probes.ask(source.pid, NAME_SERVER, name, _WAIT_S if target is None else _WAIT_NEAR_S)
        servers = parse(_read(self._layout.resolv_conf(files))).nameservers
        if not servers:
            return Answer(server="the container", problem="has no name server")
        if target is not None:  # whoever that is, he is not told our names
            return Answer(server=servers[0], problem="is not asked, as it knows no names of containers")
        return probes.ask(source.pid, servers[0], name, _WAIT_S)

    def _ways(self, source: Seen, addresses: Sequence[str]) -> tuple[Way, ...]:
        """The best first."""
        if source.state != "running" or not addresses:
            return ()
        ways = probes.find_ways(source.pid, addresses[:8])
        return tuple(sorted(ways, key=lambda way: (bool(way.problem), ":" in way.address)))

    def _publisher(self, facts: Facts) -> Seen | None:
        """Who publishes the port: at that address, else at any."""
        found = [
            (port.host_address not in ("0.0.0.0", "::", facts.address), one)
            for one in self._seen.values()
            for port in one.published
            if (port.protocol, port.host_port) == (facts.protocol, facts.port) and not one.shares
        ]
        return min(found, key=lambda pair: pair[0])[1] if found and facts.port else None

    def _side(self, one: Seen) -> Side:
        side = Side(name=one.name, state=one.state, mode=one.mode, published=one.published)
        if one.state not in ("running", "paused"):
            return side
        interfaces = probes.list_interfaces(one.pid)
        places = []
        for name, endpoint in one.endpoints.items():
            has = addresses_of(endpoint)
            found = next((face for face in interfaces if set(has) & set(face.addresses)), None)
            places.append(
                Place(
                    network=name,
                    addresses=has,
                    interface=found.name if found else "",
                    is_up=found.is_up if found else False,
                )
            )
        return msgspec.structs.replace(
            side,
            namespace=os.readlink(f"/proc/{one.pid}/ns/net"),
            places=tuple(places),
            listening=_listening(one.pid),
        )

    def _states(self, sides: Iterable[Seen]) -> dict[str, NetworkState]:
        with NetlinkSocket() as route:
            present = {link.name: link.is_up for link in list_links(route)}
        names = {name for side in sides for name in side.endpoints if name in self._networks}
        return {name: _state(self._networks[name], present) for name in names}


def _state(network: Network, present: dict[str, bool]) -> NetworkState:
    """``present``: whether the host's interfaces are up, by name."""
    if network.driver != "bridge":
        return NetworkState(
            name=network.name,
            driver=network.driver,
            has_names=has_names(network),
            is_internal=network.internal,
        )
    options: BridgeOptions = read_bridge_options(
        network.options, f"br-{network.id[:12]}", internal=network.internal
    )
    problem = "missing" if options.name not in present else "" if present[options.name] else "down"
    return NetworkState(
        name=network.name,
        has_names=has_names(network),
        is_internal=network.internal,
        is_talking=options.talking,
        mode4=options.gateway_mode4,
        mode6=options.gateway_mode6,
        device=options.name,
        device_problem=problem,
    )


def _attempt(source: Seen, target: Seen | None, facts: Facts) -> str:
    """Nothing shows so well whether it works as to try. Datagrams are not tried: most programs that take
    them answer to sense alone."""
    if not facts.ways or facts.ways[0].problem or (target is not None and target.state != "running"):
        return ""
    wait_s = _WAIT_S if target is None else _WAIT_NEAR_S
    if not facts.port:
        return probes.ping(source.pid, facts.address, wait_s)
    return probes.call(source.pid, facts.address, facts.port, wait_s) if facts.protocol == "tcp" else ""


def _really(facts: Facts, target: Seen | None) -> tuple[str, int]:
    """Address and port behind a published port."""
    for port in target.published if facts.is_host and target is not None else ():
        if (port.protocol, port.host_port) == (facts.protocol, facts.port) and target is not None:
            behind = [text for text in target.addresses() if (":" in text) == (":" in facts.address)]
            return (behind or [facts.address])[0], port.port
    return facts.address, facts.port


def _addresses_for(source: Seen, target: Seen) -> list[str]:
    """Where the source would find the target: on a network of both, else anywhere."""
    shared = [one for name, one in target.endpoints.items() if name in source.endpoints]
    return [text for one in shared or target.endpoints.values() for text in addresses_of(one)]


def _listening(pid: int | str) -> tuple[Listener, ...]:
    found = {
        Listener(protocol=one.protocol, address=one.address, port=one.port)
        for one in list_sockets(pid)
        if one.state == LISTENING and one.address != NAME_SERVER
    }
    return tuple(sorted(found, key=lambda one: (one.port, one.protocol, one.address)))


def _forwards(ipv6: bool) -> bool:
    path = "/proc/sys/net/ipv6/conf/all/forwarding" if ipv6 else "/proc/sys/net/ipv4/ip_forward"
    return _read(path).strip() != "0"


def _addresses_in(hosts: str, name: str) -> list[str]:
    """hosts(5)."""
    found = []
    for line in hosts.splitlines():
        words = line.partition("#")[0].lower().split()
        if name.lower() in words[1:] and _is_address(words[0]):
            found.append(words[0])
    return found


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def _read(path: str) -> str:
    """The beginning of a file that a container may have written; "" without one."""
    try:
        with open(path, "rb") as file:
            return file.read(_FILE_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return ""
