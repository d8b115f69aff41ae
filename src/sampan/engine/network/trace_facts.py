"""What there is to know of the way from one container to another, or out: values without I/O."""

from __future__ import annotations

import msgspec

from sampan.net.probes import Answer, Way

ANY = ("0.0.0.0", "::")


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A container on a network."""

    network: str
    addresses: tuple[str, ...] = ()
    interface: str = ""
    """In the container; "" when none has its addresses."""
    is_up: bool = True


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    protocol: str
    address: str
    port: int

    def __str__(self) -> str:
        shown = f"[{self.address}]" if ":" in self.address else self.address
        return f"{shown}:{self.port}/{self.protocol}"


class Published(msgspec.Struct, frozen=True, kw_only=True):
    protocol: str
    port: int
    """Of the container."""
    host_address: str = ""
    """"" for a port that others reach at the container's own address (gateway mode ``routed``)."""
    host_port: int = 0

    def __str__(self) -> str:
        if not self.host_address:
            return f"{self.port}/{self.protocol}"
        return f"{self.host_address}:{self.host_port}->{self.port}/{self.protocol}"


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """A container."""

    name: str
    state: str = "running"
    mode: str = ""
    """``host`` or ``none``; "" for one with networks."""
    namespace: str = ""
    """The same for containers that share one."""
    places: tuple[Place, ...] = ()
    listening: tuple[Listener, ...] = ()
    published: tuple[Published, ...] = ()

    @property
    def networks(self) -> list[str]:
        return [place.network for place in self.places]

    def has(self, address: str) -> bool:
        return any(address in place.addresses for place in self.places)


class NetworkState(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    driver: str = "bridge"
    has_names: bool = True
    is_internal: bool = False
    is_talking: bool = True
    mode4: str = "nat"
    mode6: str = "nat"
    device: str = ""
    """On the host; "" for drivers without one."""
    device_problem: str = ""

    def mode(self, address: str) -> str:
        return self.mode6 if ":" in address else self.mode4


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    host: str
    """What was asked for: a container, a name or an address."""
    port: int = 0
    protocol: str = "tcp"
    source: Side
    target: Side | None = None
    """None: not a container of ours."""
    answer: Answer | None = None
    """None: no name had to be looked up."""
    ways: tuple[Way, ...] = ()
    """From the source; the first is the one that was tried."""
    networks: dict[str, NetworkState] = {}
    """Of both sides, by name."""
    is_host: bool = False
    """The address is one of this machine's."""
    host_listening: tuple[Listener, ...] = ()
    foreign_drops: tuple[str, ...] = ()
    bridged_is_judged: bool = False
    """br_netfilter shows chains also what stays within a bridge."""
    rules_problem: str = ""
    """Why our rules are not in force."""
    forwards: bool = True
    host_way_problem: str = ""
    """Why this machine does not reach the address itself."""
    refusal: str = ""
    """What an egress rule says against it."""
    attempt: str = ""
    """connected, answered, refused, no answer, or the kernel's words; "" when nothing was tried."""

    @property
    def address(self) -> str:
        return self.ways[0].address if self.ways else ""

    @property
    def wanted(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}/{self.protocol}" if self.port else self.host

    @property
    def shared(self) -> list[NetworkState]:
        """Networks that both are on."""
        mine, theirs = self.source.networks, self.target.networks if self.target else []
        return [self.networks[name] for name in mine if name in theirs and name in self.networks]

    def network_of(self, way: Way) -> NetworkState | None:
        """By whose interface the source sends."""
        for place in self.source.places:
            if way.interface and place.interface == way.interface:
                return self.networks.get(place.network)
        return None
