"""More endpoints on a network than one bridge has ports for.

Linux gives a bridge 1,023 ports (BR_PORT_BITS in net/bridge/br_private.h). When a network's bridge is full,
further endpoints join a second bridge that a veth pair ties to it: one broadcast domain, with the host as
its gateway at the first bridge alone.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from sampan.kernel import links
from sampan.kernel.netlink import NetlinkSocket

from .errors import DeviceFailed

PORTS = 1000
"""Of one bridge for endpoints. The rest is for segments, and for links that are still on their way out."""
MOST = 22


class _Names(NamedTuple):
    bridge: str
    up: str
    """End of the veth pair in the network's bridge."""
    down: str
    """End in the segment."""


class Segments:
    """The bridges of one network, and which of its endpoints (by the host's end of their link) is where."""

    def __init__(self, network_id: str, bridge: str, *, mtu: int, alias: str, ports: int = PORTS) -> None:
        self._id = network_id[:10]
        self._bridge = bridge
        self._mtu = mtu
        self._alias = alias
        self._ports = ports
        self._places: dict[str, str] = {}
        self._found: dict[str, str] = {}
        self._made: list[_Names] = []
        self.indexes: dict[str, int] = {}
        """Of the segments' interfaces and their ties, by name."""

    @property
    def bridges(self) -> tuple[str, ...]:
        """Besides the network's own."""
        return tuple(names.bridge for names in self._made)

    def recover(self, route: NetlinkSocket, main_index: int) -> None:
        """What a former daemon made. Raises OSError."""
        if links.find_link(route, self._names(1).bridge) is None:
            return
        present = {link.name: link for link in links.list_links(route)}
        while self._names(len(self._made) + 1).bridge in present:
            self._made.append(self._names(len(self._made) + 1))
        self.repair(route, present, main_index)
        by_index = {self.indexes[names.bridge]: names.bridge for names in self._made}
        self._found = {
            link.name: by_index[link.master] for link in present.values() if link.master in by_index
        }

    def place(self, host_end: str, main_index: int, *, may_grow: bool) -> str:
        """The bridge for a new endpoint; another one is made when all are full. Raises DeviceFailed."""
        held = Counter(self._places.values())
        bridge = next((name for name in (self._bridge, *self.bridges) if held[name] < self._ports), "")
        if not bridge:
            if not may_grow:
                raise DeviceFailed(
                    f"the network is full: with icc=false it takes at most {self._ports} containers; "
                    "use a further network"
                )
            bridge = self._grow(main_index)
        self._places[host_end] = bridge
        return bridge

    def adopt(self, host_end: str) -> None:
        """An endpoint that is there already."""
        self._places[host_end] = self._found.pop(host_end, self._bridge)

    def release(self, host_end: str) -> None:
        """Idempotent. Its bridge stays for the next ones."""
        self._places.pop(host_end, None)

    def place_of(self, host_end: str) -> str:
        return self._places.get(host_end, self._bridge)

    def repair(self, route: NetlinkSocket, present: Mapping[str, links.Link], main_index: int) -> bool:
        """Make segments again that are gone or cut off. Whether anything was wrong. Raises OSError."""
        repaired = False
        for names in self._made:
            if not _is_whole(names, present, main_index):
                self._tie(route, names, present, main_index)
                for host_end, bridge in self._places.items():
                    if bridge == names.bridge and host_end in present:
                        links.plug_again(route, host_end, self.indexes[bridge])
                repaired = True
            else:
                self.indexes.update({name: present[name].ifindex for name in names})
        return repaired

    def remove(self, route: NetlinkSocket) -> None:
        """Idempotent. Raises OSError."""
        for names in self._made:
            links.delete_link(route, names.up)
            links.delete_link(route, names.bridge)
        self._made.clear()
        self.indexes.clear()

    def _names(self, number: int) -> _Names:
        return _Names(*(f"{kind}{number}-{self._id}" for kind in ("bs", "bu", "bd")))

    def _grow(self, main_index: int) -> str:
        names = self._names(len(self._made) + 1)
        if len(self._made) >= MOST:
            most = self._ports * (MOST + 1)
            raise DeviceFailed(f"the network is full: it takes at most {most} containers")
        try:
            with NetlinkSocket() as route:
                try:
                    self._tie(route, names, {}, main_index)
                except OSError:
                    links.delete_link(route, names.up)
                    links.delete_link(route, names.bridge)
                    raise
        except OSError as error:
            raise DeviceFailed(f"failed to set up bridge {names.bridge}: {error.strerror}") from error
        self._made.append(names)
        return names.bridge

    def _tie(
        self, route: NetlinkSocket, names: _Names, present: Mapping[str, links.Link], main_index: int
    ) -> None:
        bridge = present.get(names.bridge)
        if bridge is None:
            mac = (b"\x02\x42" + os.urandom(4)).hex(":")
            index = links.create_bridge(route, names.bridge, mac=mac, mtu=self._mtu, alias=self._alias)
        else:
            index = bridge.ifindex
        # The network's bridge alone answers for the gateway.
        links.write_sysctl(f"net/ipv4/conf/{names.bridge}/arp_ignore", "8")
        # With br_netfilter answers to 127.0.0.1 are translated back here, and come in here.
        links.write_sysctl(f"net/ipv4/conf/{names.bridge}/route_localnet", "1")
        if links.has_ipv6():
            links.write_sysctl(f"net/ipv6/conf/{names.bridge}/disable_ipv6", "1")
        if names.up not in present:
            links.create_cable(route, names.up, names.down, mtu=self._mtu, alias=self._alias)
        links.set_up(route, names.bridge, index)
        links.set_master(route, names.up, main_index)
        links.set_master(route, names.down, index)
        self.indexes.update({name: socket.if_nametoindex(name) for name in names})


def _is_whole(names: _Names, present: Mapping[str, links.Link], main_index: int) -> bool:
    if not all(name in present and present[name].is_up for name in names):
        return False
    bridge, up, down = (present[name] for name in names)
    return up.master == main_index and down.master == bridge.ifindex
