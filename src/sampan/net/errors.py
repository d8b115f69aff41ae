"""What can go wrong between a container and its network, in Docker's words where clients match on them."""

from __future__ import annotations

from sampan.base.errors import FailedPrecondition, Forbidden, InvalidArgument, SystemFailure, Unavailable


class PortInUse(SystemFailure):
    """A host port is taken by another container or by a process of the host (HTTP 500, as in Docker)."""


class PublishFailed(FailedPrecondition):
    """The kernel refused the rules of a published port, or has none to offer."""


class EgressFailed(FailedPrecondition):
    """The kernel does not keep a container within its list of what it may reach."""


class AddressInUse(Forbidden):
    """The address asked for belongs to another endpoint (HTTP 403, as in Docker)."""


class AddressOutOfRange(InvalidArgument):
    """The address asked for is not one of the network's pool."""


class PoolOverlaps(Forbidden):
    """The subnet asked for meets another network's (HTTP 403, as in Docker)."""


class PoolExhausted(Unavailable):
    """Every address of the network's pools is taken (HTTP 503, as in Docker)."""


class InvalidPort(InvalidArgument):
    """A port, a range or a protocol that cannot be published."""


class InvalidNetworkSetting(InvalidArgument):
    """A setting of a network or of the default bridge that cannot work."""


class DeviceFailed(SystemFailure):
    """The kernel refused to make, change or delete a bridge."""
