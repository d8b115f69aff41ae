"""Driver options of networks and endpoints (Docker's ``-o`` and ``--driver-opt``): text in, values out.

Every unusable value is refused with the option's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from .errors import InvalidNetworkSetting

BRIDGE = "com.docker.network.bridge."
OPTION_NAME = BRIDGE + "name"
OPTION_ICC = BRIDGE + "enable_icc"
OPTION_MASQUERADE = BRIDGE + "enable_ip_masquerade"
OPTION_HOST_ADDRESS = BRIDGE + "host_binding_ipv4"
OPTION_DEFAULT = BRIDGE + "default_bridge"
OPTION_GATEWAY_MODE4 = BRIDGE + "gateway_mode_ipv4"
OPTION_GATEWAY_MODE6 = BRIDGE + "gateway_mode_ipv6"
OPTION_MTU = "com.docker.network.driver.mtu"
OPTION_INTERFACE_PREFIX = "com.docker.network.container_iface_prefix"
OPTION_INTERFACE = "com.docker.network.endpoint.ifname"
OPTION_SYSCTLS = "com.docker.network.endpoint.sysctls"

OPTION_RECEIVE_LIMIT = "sampan.limit.receive"
OPTION_SEND_LIMIT = "sampan.limit.send"
"""Bandwidth of each container on a network, or of one endpoint: ``100mbit``."""

GATEWAY_MODES = ("nat", "nat-unprotected", "routed", "isolated")


class BridgeOptions(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    talking: bool
    masquerade: bool
    mtu: int
    gateway_mode4: str
    gateway_mode6: str
    interface_prefix: str

    def gateway_mode(self, version: int) -> str:
        return self.gateway_mode4 if version == 4 else self.gateway_mode6


def read_bridge_options(options: Mapping[str, str], default_name: str, *, internal: bool) -> BridgeOptions:
    """Raises InvalidNetworkSetting."""
    name = options.get(OPTION_NAME) or default_name
    require_device_name(OPTION_NAME, name)
    return BridgeOptions(
        name=name,
        talking=flag(options, OPTION_ICC, True),
        masquerade=flag(options, OPTION_MASQUERADE, True) and not internal,
        mtu=read_mtu(options),
        gateway_mode4=_gateway_mode(options, OPTION_GATEWAY_MODE4, internal),
        gateway_mode6=_gateway_mode(options, OPTION_GATEWAY_MODE6, internal),
        interface_prefix=options.get(OPTION_INTERFACE_PREFIX, ""),
    )


def _gateway_mode(options: Mapping[str, str], key: str, internal: bool) -> str:
    mode = options.get(key) or "nat"
    if mode not in GATEWAY_MODES:
        raise InvalidNetworkSetting(
            f"{key}: unknown gateway mode {mode!r}: use one of {', '.join(GATEWAY_MODES)}"
        )
    if mode == "isolated" and not internal:
        raise InvalidNetworkSetting(
            f"{key}: gateway mode 'isolated' can only be used for an internal network"
        )
    return mode


def flag(options: Mapping[str, str], key: str, default: bool) -> bool:
    """As Go reads booleans."""
    text = options.get(key, "")
    if not text:
        return default
    if text.lower() in ("1", "t", "true"):
        return True
    if text.lower() in ("0", "f", "false"):
        return False
    raise InvalidNetworkSetting(f"{key}: invalid boolean {text!r}")


def read_mtu(options: Mapping[str, str], default: int = 1500) -> int:
    text = options.get(OPTION_MTU, "") or "0"
    if not text.isdigit() or not 0 <= int(text) <= 65535:
        raise InvalidNetworkSetting(f"{OPTION_MTU}: invalid MTU {text!r}")
    return int(text) or default


def require_device_name(key: str, name: str) -> None:
    """What the kernel takes (dev_valid_name in net/core/dev.c)."""
    if not name or len(name) > 15 or name in (".", "..") or any(c in "/:" or c.isspace() for c in name):
        raise InvalidNetworkSetting(f"{key}: invalid name of a network interface: {name!r}")


def interface_name(options: Mapping[str, str] | None) -> str:
    """What an endpoint's interface is called in the container; "" when it does not matter."""
    name = (options or {}).get(OPTION_INTERFACE, "")
    if name:
        require_device_name(OPTION_INTERFACE, name)
    return name


def interface_sysctls(options: Mapping[str, str] | None, interface: str) -> list[tuple[str, str]]:
    """``net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.accept_ra=0``, with a slash for each dot
    of the interface's name, as sysctl(8) has it. In ``--network driver-opt=...`` the docker
    client makes all of it lower case. Raises InvalidNetworkSetting."""
    found = []
    for text in filter(None, (options or {}).get(OPTION_SYSCTLS, "").split(",")):
        key, equals, value = text.strip().partition("=")
        parts = key.split(".")
        if not equals or len(parts) != 5 or parts[0] != "net" or parts[3].upper() != "IFNAME":
            raise InvalidNetworkSetting(
                f"{OPTION_SYSCTLS}: invalid {text!r}: use net.<family>.<kind>.IFNAME.<name>=<value>"
            )
        if parts[1] not in ("ipv4", "ipv6", "mpls") or any("/" in part or not part for part in parts):
            raise InvalidNetworkSetting(f"{OPTION_SYSCTLS}: unknown sysctl {key!r}")
        found.append((".".join([*parts[:3], interface.replace(".", "/"), parts[4]]), value))
    return found


_UNITS = {"": 1, "bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)")
SLOWEST = 8_000


def read_rate(key: str, text: str) -> int:
    """``100mbit``, ``1.5gbit`` or plain bits per second; 0 for "", ``0`` and ``none``. Raises
    InvalidNetworkSetting."""
    if text in ("", "0", "none"):
        return 0
    found = _RATE.fullmatch(text.strip().lower())
    if found is None or found[2] not in _UNITS:
        raise InvalidNetworkSetting(f"{key}: invalid rate {text!r}: use a number and bit, kbit, mbit or gbit")
    rate = int(float(found[1]) * _UNITS[found[2]])
    if rate < SLOWEST:
        raise InvalidNetworkSetting(f"{key}: {text} is too slow: at least {SLOWEST // 1000}kbit")
    return rate


def read_limits(network: Mapping[str, str], endpoint: Mapping[str, str] | None) -> tuple[int, int]:
    """Bits per second that a container may receive and send: its own, else its network's."""
    own = endpoint or {}
    return (
        read_rate(OPTION_RECEIVE_LIMIT, own.get(OPTION_RECEIVE_LIMIT, network.get(OPTION_RECEIVE_LIMIT, ""))),
        read_rate(OPTION_SEND_LIMIT, own.get(OPTION_SEND_LIMIT, network.get(OPTION_SEND_LIMIT, ""))),
    )


def read_mac(text: str) -> str:
    """Lower case with colons; "" stays. Raises InvalidNetworkSetting."""
    if not text:
        return ""
    parts = text.replace("-", ":").split(":")
    if len(parts) != 6 or not all(len(part) == 2 for part in parts):
        raise InvalidNetworkSetting(f"invalid MAC address: {text}")
    try:
        return bytes.fromhex("".join(parts)).hex(":")
    except ValueError as error:
        raise InvalidNetworkSetting(f"invalid MAC address: {text}") from error
