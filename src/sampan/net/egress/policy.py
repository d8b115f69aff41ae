"""An egress allow-list: text in, values out. No I/O.

::

    10.0.0.0/8:5432/tcp, [fd00::/8]:443; api.example.org:443 *.example.net

Entries are separated by blanks, commas or semicolons. Each is a target (an address, a subnet, a DNS name, or
``*.`` and a name for all names below it), then optionally a port or a range of ports, then a protocol. An
IPv6 address or subnet is in brackets. Without a protocol a port means TCP and UDP; without either everything
may be sent, ICMP too.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import InvalidNetworkSetting
from ..ipam import IPNetwork
from ..resolver.allowance import matches

OPTION_EGRESS = "sampan.egress"
NOTHING = "none"
EVERYTHING = "any"
PROTOCOLS = ("tcp", "udp")
MOST_CHARACTERS, MOST_ENTRIES = 8192, 256
"""Of a list: those of a container on many networks fit into one message to the name server."""
MOST_PORTS_OF_A_NAME = 64
"""Each is an element of its own for every address of the name."""
LAST_PORT = 65535

_SEPARATORS = re.compile(r"[\s,;]+")
_ENTRY = re.compile(
    r"(?P<target>\[[^\]]*\]|[^\[\]:/]+(?:/[0-9]+)?)(?::(?P<ports>[^/]*))?(?:/(?P<protocol>[^/]*))?"
)
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing that may be reached: either ``subnet`` or ``name`` is given."""

    subnet: IPNetwork | None = None
    name: str = ""
    """Lower case without the last dot; ``*.`` in front stands for one label or more."""
    protocol: str = ""
    """"" for both and, without ports, for all others."""
    ports: tuple[int, int] | None = None
    """First and last; None for all."""

    def __str__(self) -> str:
        text = self.name
        if self.subnet is not None:
            text = f"[{self.subnet}]" if self.subnet.version == 6 else str(self.subnet)
        if self.ports is not None:
            first, last = self.ports
            text += f":{first}" if first == last else f":{first}-{last}"
        return f"{text}/{self.protocol}" if self.protocol else text


Policy = tuple[Entry, ...]
"""All that may be reached; everything else may not."""

ANYWHERE: Policy = tuple(Entry(subnet=ipaddress.ip_network(text)) for text in ("0.0.0.0/0", "::/0"))


def read_egress(network: Mapping[str, str], endpoint: Mapping[str, str] | None = None) -> Policy | None:
    """What a container may reach: its own list, else its network's; None: all. Raises
    InvalidNetworkSetting."""
    text = (endpoint or {}).get(OPTION_EGRESS, "") or network.get(OPTION_EGRESS, "")
    if text == EVERYTHING:
        # its network watches for addresses that nobody has said anything about
        return ANYWHERE if restricts(network) else None
    return parse_policy(text) if text.strip() else None


def restricts(network: Mapping[str, str]) -> bool:
    """Whether the network itself has a list, which counts for whoever has none of its own."""
    return network.get(OPTION_EGRESS, "").strip() not in ("", EVERYTHING)


def allows(policy: Policy, address: str, name: str, protocol: str, port: int) -> bool:
    """Whether an address that ``name`` stands for ("" for none) may be reached; port 0 is an echo request."""
    found = ipaddress.ip_address(address)
    for entry in policy:
        if port == 0 and (entry.protocol or entry.ports is not None):
            continue
        if entry.protocol not in ("", protocol):
            continue
        if entry.ports is not None and not entry.ports[0] <= port <= entry.ports[1]:
            continue
        if entry.subnet is not None and found in entry.subnet:
            return True
        if entry.name and matches(entry.name, name.lower().removesuffix(".")):
            return True
    return False


def parse_policy(text: str) -> Policy:
    """``none`` allows nothing. Raises InvalidNetworkSetting naming the entry."""
    if len(text) > MOST_CHARACTERS:
        raise InvalidNetworkSetting(f"{OPTION_EGRESS}: more than {MOST_CHARACTERS} characters")
    words = [word for word in _SEPARATORS.split(text) if word]
    if len(words) > MOST_ENTRIES:
        raise InvalidNetworkSetting(f"{OPTION_EGRESS}: more than {MOST_ENTRIES} entries: use larger subnets")
    if words == [NOTHING]:
        return ()
    return tuple(dict.fromkeys(_parse_entry(word) for word in words))


def _parse_entry(word: str) -> Entry:
    if "[" not in word and word.count(":") > 1:
        raise _invalid(word, "write an IPv6 address in brackets: [fd00::1]:443")
    found = _ENTRY.fullmatch(word)
    if found is None:
        raise _invalid(word, "use TARGET[:PORT[-PORT]][/tcp|/udp]")
    target, ports, protocol = found["target"], found["ports"], found["protocol"]
    if protocol is not None and protocol not in PROTOCOLS:
        raise _invalid(word, f"unknown protocol {protocol!r}: use tcp or udp")
    subnet = _read_subnet(word, target)
    entry = Entry(
        subnet=subnet,
        name="" if subnet is not None else _read_name(word, target),
        protocol=protocol or "",
        ports=None if ports is None else _read_ports(word, ports),
    )
    if entry.name and entry.ports is not None:
        first, last = entry.ports
        if last - first >= MOST_PORTS_OF_A_NAME:
            raise _invalid(word, f"a name may have at most {MOST_PORTS_OF_A_NAME} ports, or all")
    return entry


def _read_subnet(word: str, target: str) -> IPNetwork | None:
    """None for a name."""
    bare = target.strip("[]")
    is_bracketed = target.startswith("[")
    # no top-level domain is a number: what ends in one is meant to be an address
    if not is_bracketed and "/" not in bare and not bare.rpartition(".")[2].isdigit():
        return None
    try:
        subnet = ipaddress.ip_network(bare)
    except ValueError as error:
        raise _invalid(word, str(error)) from error
    if (subnet.version == 6) != is_bracketed:
        raise _invalid(word, "brackets are for IPv6 addresses and subnets")
    return subnet


def _read_name(word: str, target: str) -> str:
    name = target.lower().removesuffix(".")
    labels = name.removeprefix("*.").split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _invalid(word, f"{target!r} is neither an address, a subnet nor a name")
    if name in (NOTHING, EVERYTHING):
        raise _invalid(word, f"{name!r} is no entry among others")
    return name


def _read_ports(word: str, text: str) -> tuple[int, int]:
    found = _PORTS.fullmatch(text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= first <= last <= LAST_PORT:
        raise _invalid(word, f"invalid port {text!r}: use PORT or FIRST-LAST")
    return first, last


def _invalid(word: str, why: str) -> InvalidNetworkSetting:
    return InvalidNetworkSetting(f"{OPTION_EGRESS}: invalid entry {word!r}: {why}")
