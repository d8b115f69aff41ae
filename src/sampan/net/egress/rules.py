"""The egress table, as text for libnftables: there only while a container is restricted.

A table of its own: the other one is replaced as a whole whenever a network comes or goes, and what was learnt
from DNS answers has to stay. Its rules look at a packet before other forward chains do, so that the container
is told at once (``reject``) and what is refused is logged; what passes here is judged by the others as ever.

A container is told by its address. On a network that has a list itself (``guarded``) any other source is
refused as well, so that a forged one is no way out. A packet is judged by where it really goes, which for a
published port is the container behind it. What never leaves a link is no concern: where br_netfilter is
loaded it is seen here, too. Packets to the host itself are judged too, but for what keeps the
link going (neighbour discovery), which no address filter understands.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

LEARNT = ("learnt_port4", "learnt_port6", "learnt_protocol4", "learnt_protocol6")
"""Sets that the name server fills."""
KEPT = ("restricted4", "restricted6", "allowed4", "allowed6", "inside4", "inside6", "guarded")
"""Sets that the daemon fills."""

_SETS = """
table inet {table} {{
    comment "What containers of Sampan may reach: changes here are undone"
    set guarded {{ type ifname; }}
    set restricted4 {{ type ipv4_addr; }}
    set restricted6 {{ type ipv6_addr; }}
    set inside4 {{ type ipv4_addr . ipv4_addr; flags interval; }}
    set inside6 {{ type ipv6_addr . ipv6_addr; flags interval; }}
    set allowed4 {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; flags interval; }}
    set allowed6 {{ type ipv6_addr . ipv6_addr . inet_proto . inet_service; flags interval; }}
    set learnt_port4 {{
        type ipv4_addr . ipv4_addr . inet_proto . inet_service; flags timeout; size 65535;
    }}
    set learnt_port6 {{
        type ipv6_addr . ipv6_addr . inet_proto . inet_service; flags timeout; size 65535;
    }}
    set learnt_protocol4 {{ type ipv4_addr . ipv4_addr . inet_proto; flags timeout; size 65535; }}
    set learnt_protocol6 {{ type ipv6_addr . ipv6_addr . inet_proto; flags timeout; size 65535; }}
    chain forward {{ type filter hook forward priority filter - 5; policy accept; }}
    chain input {{ type filter hook input priority filter - 5; policy accept; }}
    chain inside {{ }}
    chain host {{ }}
    chain judged {{ }}
}}
"""

_RULES = """
table inet {table} {{
    chain forward {{
        ct state established,related accept
        ip saddr @restricted4 goto inside
        ip6 saddr @restricted6 goto inside
        iifname @guarded goto inside
    }}
    chain input {{
        ct state established,related accept
        ip saddr @restricted4 goto host
        ip6 saddr @restricted6 goto host
        iifname @guarded goto host
    }}
    chain inside {{
        ip daddr {{ 224.0.0.0/24, 255.255.255.255 }} accept
        ip6 daddr {{ ff01::/16, ff02::/16, fe80::/10 }} accept
        ip saddr . ip daddr @inside4 accept
        ip6 saddr . ip6 daddr @inside6 accept
        goto judged
    }}
    chain host {{
        icmpv6 type {{
            nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-report,
            mld-listener-reduction, mld2-listener-report
        }} accept
        meta pkttype {{ broadcast, multicast }} drop
        goto judged
    }}
    chain judged {{
        ip saddr . ip daddr . meta l4proto . th dport @allowed4 accept
        ip6 saddr . ip6 daddr . meta l4proto . th dport @allowed6 accept
        ip saddr . ip daddr . meta l4proto . th dport @learnt_port4 accept
        ip6 saddr . ip6 daddr . meta l4proto . th dport @learnt_port6 accept
        ip saddr . ip daddr . meta l4proto @learnt_protocol4 accept
        ip6 saddr . ip6 daddr . meta l4proto @learnt_protocol6 accept
        limit rate 10/second burst 20 packets log prefix "{table}" group {group}
        counter reject with icmpx admin-prohibited
    }}
}}
"""


def table_of(table: str) -> str:
    """Beside the one of published ports."""
    return f"{table}-egress"


def log_group(table: str) -> int:
    """Where the kernel sends what was refused: one of 65536, none of the low ones that people choose."""
    return 0x4000 + zlib.crc32(table.encode()) % 0x4000


def render(table: str) -> str:
    """Sets and chains as they should be, without the daemon's elements, and with what was learnt; one
    transaction with whatever follows it."""
    flushes = "".join(f"flush set inet {table} {name}\n" for name in KEPT)
    sets = _SETS.format(table=table)
    return f"{sets}flush table inet {table}\n{flushes}" + _RULES.format(table=table, group=log_group(table))


def render_anew(table: str) -> str:
    """As :func:`render`, where somebody has made something else of the table."""
    return render_removal(table) + render(table)


def render_removal(table: str) -> str:
    return f"add table inet {table}\ndelete table inet {table}\n"


def render_elements(table: str, name: str, values: Iterable[str]) -> str:
    """Elements in nft's own words, to be part of one transaction with the rules."""
    listed = ", ".join(values)
    return f"add element inet {table} {name} {{ {listed} }}\n" if listed else ""
