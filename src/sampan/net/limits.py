"""Bandwidth of a running container on one of its networks."""

from __future__ import annotations

from sampan.base.errors import InvalidArgument
from sampan.model.container import Endpoint
from sampan.model.network import Network

from .bridge import host_end
from .live import set_limits
from .options import OPTION_ICC, flag


def apply_limits(network: Network, endpoint: Endpoint, pid: int, receive: int, send: int) -> None:
    """Bits per second, 0 for no limit. Blocks. Raises InvalidArgument (a network of another driver),
    DeviceFailed."""
    if network.driver != "bridge":
        raise InvalidArgument(
            f"bandwidth is limited on bridge networks only: {network.name} is {network.driver}"
        )
    name = host_end(endpoint.endpoint_id, talking=flag(network.options, OPTION_ICC, True))
    set_limits(pid, name, endpoint.mac_address, receive, send)
