"""The rules of the daemon's one nf_tables table, as text for libnftables.

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
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


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
    segments: tuple[str, ...] = ()
    """Bridges tied to it because one takes 1,023 ports only."""


BRIDGE_SETS = (
    "bridges",
    "masqueraded4",
    "masqueraded6",
    "unprotected4",
    "unprotected6",
    "internal",
    "talking",
    "segments",
    "subnets4",
    "subnets6",
)

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
    set segments {{ type ifname; {segments} }}
    set subnets4 {{ type ipv4_addr; flags interval; {subnets4} }}
    set subnets6 {{ type ipv6_addr; flags interval; {subnets6} }}
    map publish4 {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
    map publish4_at {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
    map publish6 {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}
    map publish6_at {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }}
    map range4 {{ type inet_proto . inet_service : ipv4_addr; flags interval; }}
    map range4_at {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr; flags interval; }}
    map range6 {{ type inet_proto . inet_service : ipv6_addr; flags interval; }}
    map range6_at {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr; flags interval; }}

    chain guard {{
        type filter hook prerouting priority raw; policy accept;
        iifname != "lo" ip daddr 127.0.0.0/8 counter drop comment "loopback is never reached from outside"
        {segments_bridged}
    }}
    chain published {{
        {refuse_loopback6}
        dnat ip to ip daddr . meta l4proto . th dport map @publish4_at
        meta nfproto ipv4 dnat ip to meta l4proto . th dport map @publish4
        dnat ip to ip daddr . meta l4proto . th dport map @range4_at
        meta nfproto ipv4 dnat ip to meta l4proto . th dport map @range4
        ip6 saddr != fe80::/10 dnat ip6 to ip6 daddr . meta l4proto . th dport map @publish6_at
        ip6 saddr != fe80::/10 dnat ip6 to meta l4proto . th dport map @publish6
        ip6 saddr != fe80::/10 dnat ip6 to ip6 daddr . meta l4proto . th dport map @range6_at
        ip6 saddr != fe80::/10 dnat ip6 to meta l4proto . th dport map @range6
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
        fib daddr type local jump {arriving}
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
    {respect}
}}
"""

SEGMENTS_BRIDGED = """
        iifname @segments meta nfproto ipv4 fib daddr type != local notrack
        iifname @segments meta nfproto ipv6 notrack
"""
"""With br_netfilter a packet that crosses two bridges of one network meets these rules twice. Only one of
them may track it: the second, or for what is sent to the host's IPv4 addresses the first. A published port of
a neighbour on the same segment is then reached by the host's routing, for a bridge never sends a packet back
through the port it came by. IPv6, which segments do not have, cannot do this."""

RESPECT = """
    set listed_publish4 { type inet_proto . inet_service; }
    set listed_publish4_at { type ipv4_addr . inet_proto . inet_service; }
    set listed_publish6 { type inet_proto . inet_service; }
    set listed_publish6_at { type ipv6_addr . inet_proto . inet_service; }
    set listed_range4 { type inet_proto . inet_service; flags interval; }
    set listed_range4_at { type ipv4_addr . inet_proto . inet_service; flags interval; }
    set listed_range6 { type inet_proto . inet_service; flags interval; }
    set listed_range6_at { type ipv6_addr . inet_proto . inet_service; flags interval; }
    set admitted4 {
        type ipv4_addr . inet_proto . inet_service; size 65535; flags dynamic,timeout; timeout 5m;
    }
    set admitted6 {
        type ipv6_addr . inet_proto . inet_service; size 65535; flags dynamic,timeout; timeout 5m;
    }

    chain judged {
        iifname "lo" goto published
        iifname @bridges goto published
        ip saddr . meta l4proto . th dport @admitted4 jump known
        ip6 saddr . meta l4proto . th dport @admitted6 jump known
    }
    chain known {
        update @admitted4 { ip saddr . meta l4proto . th dport }
        update @admitted6 { ip6 saddr . meta l4proto . th dport }
        goto published
    }
    chain let_in {
        type filter hook input priority 300; policy accept;
        iifname "lo" accept
        iifname @bridges accept
        meta nfproto ipv4 meta l4proto . th dport @listed_publish4 goto admit
        meta nfproto ipv4 meta l4proto . th dport @listed_range4 goto admit
        ip daddr . meta l4proto . th dport @listed_publish4_at goto admit
        ip daddr . meta l4proto . th dport @listed_range4_at goto admit
        meta nfproto ipv6 meta l4proto . th dport @listed_publish6 goto admit
        meta nfproto ipv6 meta l4proto . th dport @listed_range6 goto admit
        ip6 daddr . meta l4proto . th dport @listed_publish6_at goto admit
        ip6 daddr . meta l4proto . th dport @listed_range6_at goto admit
    }
    chain admit {
        update @admitted4 { ip saddr . meta l4proto . th dport }
        update @admitted6 { ip6 saddr . meta l4proto . th dport }
        counter drop comment "the host let it in: its next packet goes to the container"
    }
"""
"""How the host's rules for incoming packets judge what never comes in, because it is forwarded: the first
packet of a client for a port is not translated and goes in as if a program listened. When it has passed
everybody's input chains it is noted and dropped; its repetition (TCP: after a second) is translated, as is
whatever that client sends to that port until it has been silent for five minutes."""

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


def render_rules(
    table: str, bridges: Iterable[BridgeRules], *, loopback6: bool = True, respect: bool = False
) -> str:
    """The whole table as one transaction that replaces what was there. With ``respect`` the host's rules
    for incoming packets are asked about published ports.

    Without ``loopback6`` published ports are refused at ``::1``: br_netfilter would translate the answers
    back too early, and IPv6 refuses ``::1`` from a bridge.
    """
    members: dict[str, list[str]] = {name: [] for name in BRIDGE_SETS}
    for bridge in bridges:
        for name, member in memberships(bridge):
            members[name].append(_quoted(name, member))
    return RULES.format(
        table=table,
        arriving="judged" if respect else "published",
        respect=RESPECT if respect else "",
        refuse_loopback6="" if loopback6 else "ip6 daddr ::1 return",
        segments_bridged="" if loopback6 else SEGMENTS_BRIDGED,
        **{name: _elements(listed) for name, listed in members.items()},
    )


def memberships(bridge: BridgeRules) -> list[tuple[str, str]]:
    """(set, member) for everything that the sets of bridges hold of this one; in ``talking`` a name stands
    for the pair of it and itself."""
    wanted = {
        "bridges": True,
        "masqueraded4": bridge.masquerade4,
        "masqueraded6": bridge.masquerade6,
        "unprotected4": bridge.unprotected4,
        "unprotected6": bridge.unprotected6,
        "internal": bridge.internal,
        "talking": bridge.talking,
    }
    held = [(name, bridge.name) for name, is_held in wanted.items() if is_held]
    held += [("subnets6" if ":" in subnet else "subnets4", subnet) for subnet in bridge.subnets]
    held += [("segments", segment) for segment in bridge.segments]
    return held + [("internal", segment) for segment in bridge.segments if bridge.internal]


def _quoted(name: str, member: str) -> str:
    if name.startswith("subnets"):
        return member
    return f'"{member}" . "{member}"' if name == "talking" else f'"{member}"'


def render_quiet(table: str, bridges: Iterable[BridgeRules]) -> str:
    """The table of the bridge family, or its removal where no bridge needs it."""
    text = NO_BRIDGE_TABLE.format(table=table)
    return text if all(bridge.talking for bridge in bridges) else text + QUIET.format(table=table)


def _elements(names: Iterable[str]) -> str:
    listed = ", ".join(names)
    return f"elements = {{ {listed} }};" if listed else ""
