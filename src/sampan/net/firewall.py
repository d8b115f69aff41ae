"""The daemon's one nf_tables table: publishing, masquerading, isolation.

The table is ours alone and nothing is put into anybody else's. Its rules never change: bridges and
published ports are elements of its sets and maps, so a container costs one element for each port.

A packet for a published port is rewritten in prerouting (from outside and from containers) or output (from
the host itself) when its destination is an address of this host (``fib daddr type local``). What is
forwarded into a bridge afterwards must belong to a known connection, to a published port, or come from a
bridge that may talk to it; all else is dropped, so a container's address reached directly from outside is
no way around publishing. A container that calls a published port, be it its own, is masqueraded: the answer
would otherwise go to it directly across the bridge and never be translated back.

Where br_netfilter is loaded (Kubernetes and others want it) all this happens within the bridge when both
ends are on it. The hooks then do not name the incoming interface everywhere, which is why callers are told
by their subnet, and a container reaches itself only through a port in hairpin mode (kernel.netlink).

Other tables on the forward hook keep their say: nf_tables asks every base chain, and one that drops, drops.
:meth:`Firewall.foreign_drops` names them for the daemon's warnings.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from struct import Struct

from sampan.kernel.conntrack import forget_flows
from sampan.kernel.links import has_bridge_netfilter6
from sampan.kernel.nftables import Element, NftSocket, run_ruleset

from .errors import PublishFailed
from .ports import PublishedPort

_PORT = Struct(">HH")
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}


@dataclass(frozen=True, slots=True)
class BridgeRules:
    """What the firewall has to know of one bridge."""

    name: str
    masquerade4: bool = True
    masquerade6: bool = True
    unprotected4: bool = False
    """Other machines that have a route reach every port of its containers, not only published ones."""
    unprotected6: bool = False
    talking: bool = True
    """Containers on it may reach each other (--icc)."""
    internal: bool = False
    """Nothing gets out of it, and nothing in."""
    subnets: tuple[str, ...] = ()


NO_BRIDGE_TABLE = """
add table bridge {table}
delete table bridge {table}
"""

RULES = """
add table inet {table}
delete table inet {table}
table inet {table} {{
    comment "Containers of Sampan: changes here are undone"
    set bridges {{ type ifname; {bridges} }}
    set masqueraded4 {{ type ifname; {masqueraded4} }}
    set masqueraded6 {{ type ifname; {masqueraded6} }}
    set unprotected4 {{ type ifname; {unprotected4} }}
    set unprotected6 {{ type ifname; {unprotected6} }}
    set open4 {{ type ipv4_addr . inet_proto . inet_service; }}
    set open6 {{ type ipv6_addr . inet_proto . inet_service; }}
    set internal {{ type ifname; {internal} }}
    set talking {{ type ifname . ifname; {talking} }}
    set subnets4 {{ type ipv4_addr; flags interval; {subnets4} }}
    set subnets6 {{ type ipv6_addr; flags interval; {subnets6} }}
    map publish4 {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
    map publish4_at {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
    map publish6 {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}
    map publish6_at {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }}

    chain guard {{
        type filter hook prerouting priority raw; policy accept;
        iifname != "lo" ip daddr 127.0.0.0/8 counter drop comment "loopback is never reached from outside"
    }}
    chain published {{
        {refuse_loopback6}
        dnat ip to ip daddr . meta l4proto . th dport map @publish4_at
        meta nfproto ipv4 dnat ip to meta l4proto . th dport map @publish4
        ip6 saddr != fe80::/10 dnat ip6 to ip6 daddr . meta l4proto . th dport map @publish6_at
        ip6 saddr != fe80::/10 dnat ip6 to meta l4proto . th dport map @publish6
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
        fib daddr type local jump published
    }}
    chain output {{
        type nat hook output priority -100; policy accept;
        fib daddr type local jump published
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        oifname @bridges goto inbound
        iifname @internal counter drop comment "internal networks have no way out"
    }}
    chain inbound {{
        ct state established,related accept
        iifname . oifname @talking accept
        iifname @internal counter drop
        oifname @internal counter drop
        ct status dnat accept
        meta nfproto ipv4 oifname @unprotected4 accept
        meta nfproto ipv6 oifname @unprotected6 accept
        ip daddr . meta l4proto . th dport @open4 accept
        ip6 daddr . meta l4proto . th dport @open6 accept
        counter drop comment "only published ports"
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname @bridges goto into_bridge
        meta nfproto ipv4 iifname @masqueraded4 masquerade
        meta nfproto ipv6 iifname @masqueraded6 masquerade
    }}
    chain into_bridge {{
        ip saddr @subnets4 ct status dnat masquerade comment "a container calls a published port"
        ip6 saddr @subnets6 ct status dnat masquerade
        ip saddr 127.0.0.0/8 masquerade
        ip6 saddr ::1 masquerade
    }}
}}
"""

QUIET_PREFIX = "vethq"
"""Host ends of links in networks whose containers must not talk to each other (--icc=false)."""

QUIET = f"""
table bridge {{table}} {{{{
    chain forward {{{{
        type filter hook forward priority filter; policy accept;
        iifname "{QUIET_PREFIX}*" oifname "{QUIET_PREFIX}*" counter drop comment "--icc=false"
    }}}}
}}}}
"""
"""Containers on one bridge reach each other below IP, where only a table of the bridge family sees them.
By name and without a set: most kernels cannot match the bridge itself there."""

REMOVAL = """
add table inet {table}
delete table inet {table}
"""


def render_rules(table: str, bridges: Iterable[BridgeRules], *, loopback6: bool = True) -> str:
    """The whole table as one transaction that replaces what was there.

    Without ``loopback6`` published ports are refused at ``::1``: br_netfilter would translate the answers
    back too early, and IPv6 refuses ``::1`` from a bridge.
    """
    known = list(bridges)
    subnets = [subnet for bridge in known for subnet in bridge.subnets]
    return RULES.format(
        table=table,
        bridges=_elements(f'"{bridge.name}"' for bridge in known),
        masqueraded4=_elements(f'"{bridge.name}"' for bridge in known if bridge.masquerade4),
        masqueraded6=_elements(f'"{bridge.name}"' for bridge in known if bridge.masquerade6),
        unprotected4=_elements(f'"{bridge.name}"' for bridge in known if bridge.unprotected4),
        unprotected6=_elements(f'"{bridge.name}"' for bridge in known if bridge.unprotected6),
        internal=_elements(f'"{bridge.name}"' for bridge in known if bridge.internal),
        refuse_loopback6="" if loopback6 else "ip6 daddr ::1 return",
        talking=_elements(f'"{bridge.name}" . "{bridge.name}"' for bridge in known if bridge.talking),
        subnets4=_elements(subnet for subnet in subnets if ":" not in subnet),
        subnets6=_elements(subnet for subnet in subnets if ":" in subnet),
    )


def render_quiet(table: str, bridges: Iterable[BridgeRules]) -> str:
    """The table of the bridge family, or its removal where no bridge needs it."""
    text = NO_BRIDGE_TABLE.format(table=table)
    return text if all(bridge.talking for bridge in bridges) else text + QUIET.format(table=table)


def _elements(names: Iterable[str]) -> str:
    listed = ", ".join(names)
    return f"elements = {{ {listed} }};" if listed else ""


def element_of(published: PublishedPort) -> Element:
    """The map element that rewrites to the container; of a routed port, the set element that lets it in."""
    protocol = bytes((_PROTOCOLS[published.protocol], 0, 0, 0))
    if published.is_routed:
        address = ipaddress.ip_address(published.address)
        return f"open{address.version}", address.packed + protocol + _PORT.pack(published.port, 0), b""
    key = protocol + _PORT.pack(published.host_port, 0)
    host = ipaddress.ip_address(published.host_address)
    if not host.is_unspecified:
        key = host.packed + key
    family = socket.AF_INET6 if ":" in published.address else socket.AF_INET
    data = socket.inet_pton(family, published.address) + _PORT.pack(published.port, 0)
    name = f"publish{host.version}" if host.is_unspecified else f"publish{host.version}_at"
    return name, key, data


def forget_datagrams(published: Iterable[PublishedPort]) -> None:
    """Senders that went on while their port changed hands start anew. A kernel that cannot say which they
    are (without ctnetlink, or before 5.8) lets them time out after half a minute."""
    ports = {entry.host_port for entry in published if entry.protocol == "udp"}
    if ports:
        with suppress(OSError):
            forget_flows(_PROTOCOLS["udp"], ports)


class Firewall:
    """Keeps the table as it should be, and puts it back when somebody flushed it."""

    def __init__(self, table: str) -> None:
        self.table = table
        self.unavailable = ""
        """Why publishing cannot work on this host; empty when it can."""
        self._bridges: dict[str, BridgeRules] = {}
        self._elements: dict[tuple[str, bytes], bytes] = {}
        self._socket: NftSocket | None = None
        self._settled = False

    def open(self) -> None:
        """Connect to the kernel. A table that is already there stays as it is, so that the ports of running
        containers keep working until :meth:`settle`. Never raises: see ``unavailable``."""
        try:
            self._socket = NftSocket()
            # Without one there is nothing to keep in force, and the first bridge makes it.
            self._settled = not self._socket.has_table(self.table)
        except OSError as error:
            self._give_up(error)

    def add_bridge(self, rules: BridgeRules) -> None:
        self._bridges[rules.name] = rules
        if self._settled:
            self.rebuild()

    def remove_bridge(self, name: str) -> None:
        """Idempotent."""
        if self._bridges.pop(name, None) is not None and self._settled:
            self.rebuild()

    def adopt(self, published: Iterable[PublishedPort]) -> None:
        """Ports of a running container found after a restart; in force with :meth:`settle`."""
        for entry in published:
            name, key, data = element_of(entry)
            self._elements[name, key] = data
        self._settled = False

    def settle(self) -> None:
        """Make the table exactly what is known here. Idempotent; the first container does it otherwise."""
        if not self._settled and not self.unavailable:
            self.rebuild()

    def publish(self, published: list[PublishedPort]) -> None:
        """One transaction. Raises PublishFailed, and nothing is published then."""
        if not published:
            return
        self._require_available()
        self.settle()
        self._require_available()
        elements = [element_of(entry) for entry in published]
        try:
            self._add(elements)
        except OSError as error:
            raise PublishFailed(f"cannot publish ports: {error.strerror}") from error
        for name, key, data in elements:
            self._elements[name, key] = data
        forget_datagrams(published)

    def _add(self, elements: list[Element]) -> None:
        nft = self._require_socket()
        try:
            nft.add_elements(self.table, elements)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EEXIST):
                raise
            # Somebody flushed the rule set (ENOENT) or added to our table: put it right, try once more.
            self.rebuild()
            self._require_socket().add_elements(self.table, elements)

    def withdraw(self, published: Sequence[PublishedPort]) -> None:
        """Idempotent. Raises PublishFailed when the kernel refuses even to rebuild the table."""
        elements = [element_of(entry) for entry in published]
        gone = [element for element in elements if self._elements.pop(element[:2], None) is not None]
        if not gone or self.unavailable or not self._settled:
            return
        try:
            self._require_socket().delete_elements(self.table, gone)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise PublishFailed(f"cannot withdraw ports: {error.strerror}") from error
            self.rebuild()
        forget_datagrams(published)

    def rebuild(self) -> None:
        """Replace the table by what is known here, in one transaction for the rules and one for the ports."""
        if self._socket is None:
            return
        try:
            loopback6 = not has_bridge_netfilter6()
            run_ruleset(render_rules(self.table, self._bridges.values(), loopback6=loopback6))
            self._load_bridge_table()
            elements = [(name, key, data) for (name, key), data in self._elements.items()]
            self._socket.add_elements(self.table, elements)
        except OSError as error:
            self._give_up(error)
            return
        self._settled = True

    def _load_bridge_table(self) -> None:
        bridges = self._bridges.values()
        try:
            run_ruleset(render_quiet(self.table, bridges))
        except OSError:
            # Kernels are built without the bridge family too; only --icc=false needs it.
            if not all(bridge.talking for bridge in bridges):
                raise

    def foreign_drops(self) -> list[str]:
        """Base chains of others (``table chain``) that drop forwarded packets by default: containers can
        then neither reach nor be reached from other machines until their owner lets them."""
        if self._socket is None or self.unavailable:
            return []
        own = f"{self.table} "
        return [name for name in self._socket.dropping_forward_chains() if not name.startswith(own)]

    def remove(self) -> None:
        """Delete the table. Idempotent. Raises OSError."""
        if self._socket is not None and not self.unavailable:
            run_ruleset(REMOVAL.format(table=self.table))
            self._bridges.clear()
            self._load_bridge_table()
        self._settled = False

    def close(self) -> None:
        """The table stays in force."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _give_up(self, error: OSError) -> None:
        self.unavailable = error.strerror or str(error)

    def _require_available(self) -> None:
        if self.unavailable:
            raise PublishFailed(
                f"cannot publish ports: nf_tables does not work on this host ({self.unavailable}); "
                "use --network host, or a kernel with nf_tables NAT and the package libnftables1"
            )

    def _require_socket(self) -> NftSocket:
        if self._socket is None:
            raise PublishFailed("cannot publish ports: the firewall is not open")
        return self._socket
