"""Which address is whose: pure, in memory, rebuilt from the running containers after a restart.

Addresses are handed out in rising order and start again at the lowest free one after the last, so that an
address is not used again at once: neighbours and connection tracking may still know its last owner.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable, Sequence

from .errors import AddressInUse, AddressOutOfRange, InvalidNetworkSetting, PoolExhausted

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

SubnetPools = Sequence[tuple[IPNetwork, int]]
"""Networks and the prefix length of the subnets that are cut from them, in order."""

DEFAULT_POOLS: SubnetPools = (
    *((ipaddress.IPv4Network((f"172.{second}.0.0", 16)), 16) for second in range(17, 32)),
    (ipaddress.IPv4Network("192.168.0.0/16"), 20),
    (ipaddress.IPv4Network("10.89.0.0/16"), 24),
    (ipaddress.IPv4Network("10.90.0.0/15"), 24),
    (ipaddress.IPv4Network("10.92.0.0/14"), 24),
)
"""The 31 subnets that Docker Engine has, in its order; behind them some 1,800 small ones (those that Podman
uses), where Docker Engine has no more (for-linux#599)."""


@functools.lru_cache(maxsize=8192)
def parse_network(text: str) -> IPNetwork:
    """``172.17.0.0/16``; host bits are dropped. Remembered, because choosing a subnet looks at all routes and
    addresses of the host each time. Raises InvalidNetworkSetting."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise InvalidNetworkSetting(f"invalid CIDR address: {text}") from error


def choose_subnet(taken: Iterable[IPNetwork], pools: SubnetPools = DEFAULT_POOLS) -> IPNetwork:
    """The first subnet that overlaps nothing taken. Raises PoolExhausted."""
    spans: dict[int, set[tuple[int, int]]] = {4: set(), 6: set()}
    for other in set(taken):
        spans[other.version].add((int(other.network_address), int(other.broadcast_address)))
    ordered = {version: sorted(found) for version, found in spans.items()}
    for pool, prefix in pools:
        low, high = int(pool.network_address), int(pool.broadcast_address)
        free = _first_free(low, high, pool, prefix, ordered[pool.version])
        if free is not None:
            return free
    raise PoolExhausted("all predefined address pools have been fully subnetted")


def _first_free(
    low: int, high: int, pool: IPNetwork, prefix: int, spans: list[tuple[int, int]]
) -> IPNetwork | None:
    """The first aligned subnet between ``low`` and ``high`` that meets none of the spans, which are sorted:
    one pass, however many networks there are."""
    size = 1 << (pool.max_prefixlen - prefix)
    candidate = low
    for first, last in spans:
        if candidate + size <= first:
            break  # spans are sorted by their beginning, so nothing behind meets it either
        if last >= candidate:
            candidate = (last // size + 1) * size
    if candidate + size - 1 > high:
        return None
    if pool.version == 4:
        return ipaddress.IPv4Network((candidate, prefix))
    return ipaddress.IPv6Network((candidate, prefix))


class AddressPool:
    """The addresses of one subnet, from which a part may be set aside for automatic choice.

    ``subnet`` and ``range_`` are networks (``range_`` within ``subnet``, by default all of it);
    ``reserved`` are addresses never handed out, such as the gateway's.
    """

    def __init__(self, subnet: str, range_: str = "", reserved: Iterable[str] = ()) -> None:
        self.subnet = parse_network(subnet)
        chosen = parse_network(range_) if range_ else self.subnet
        if chosen.version != self.subnet.version or not chosen.overlaps(self.subnet):
            raise InvalidNetworkSetting(f"range {range_} is outside the subnet {subnet}")
        self._first, self._last = self._bounds(chosen)
        self._fixed = {int(ipaddress.ip_address(text)) for text in reserved}
        self._taken: set[int] = set()
        self._next = self._first

    def _bounds(self, chosen: IPNetwork) -> tuple[int, int]:
        """First and last address to choose from: without the network's own and the broadcast address."""
        low, high = int(chosen.network_address), int(chosen.broadcast_address)
        subnet_low, subnet_high = int(self.subnet.network_address), int(self.subnet.broadcast_address)
        spare = self.subnet.max_prefixlen - self.subnet.prefixlen
        if spare >= 2:
            low = max(low, subnet_low + 1)
            if self.subnet.version == 4:
                high = min(high, subnet_high - 1)
        return max(low, subnet_low), min(high, subnet_high)

    @property
    def prefix_length(self) -> int:
        return self.subnet.prefixlen

    @property
    def taken(self) -> int:
        return len(self._taken)

    def allocate(self) -> str:
        """The next free address. Raises PoolExhausted."""
        size = self._last - self._first + 1
        if size <= len(self._taken) + len(self._fixed) and not self._has_free():
            raise PoolExhausted("no available addresses on this pool")
        candidate = self._next
        while True:
            if candidate > self._last:
                candidate = self._first
            if candidate not in self._taken and candidate not in self._fixed:
                break
            candidate += 1
        self._taken.add(candidate)
        self._next = candidate + 1
        return self._text(candidate)

    def _has_free(self) -> bool:
        used = self._taken | self._fixed
        inside = sum(1 for number in used if self._first <= number <= self._last)
        return inside < self._last - self._first + 1

    def claim(self, address: str) -> str:
        """Take exactly this address. Raises AddressInUse, AddressOutOfRange."""
        number = self._number(address)
        if number in self._taken or number in self._fixed:
            raise AddressInUse("Address already in use")
        self._taken.add(number)
        return self._text(number)

    def adopt(self, address: str) -> None:
        """Count an address as taken that a running container already has; one outside the pool, left
        from other settings, is ignored. Later automatic choices start behind it."""
        try:
            number = self._number(address)
        except AddressOutOfRange:
            return
        self._taken.add(number)
        if self._first <= number <= self._last and number >= self._next:
            self._next = number + 1

    def release(self, address: str) -> None:
        """Idempotent."""
        if address:
            self._taken.discard(int(ipaddress.ip_address(address)))

    def _number(self, address: str) -> int:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError as error:
            raise AddressOutOfRange(f"invalid IP address: {address}") from error
        if parsed.version != self.subnet.version or parsed not in self.subnet:
            raise AddressOutOfRange(f"no configured subnet contains IP address {address}")
        return int(parsed)

    def _text(self, number: int) -> str:
        if self.subnet.version == 4:
            return str(ipaddress.IPv4Address(number))
        return str(ipaddress.IPv6Address(number))
