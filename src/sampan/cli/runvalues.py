"""What the values of single ``run`` options mean: text in, the API's value out, else a ValueError."""

from __future__ import annotations

from sampan.cli.mounts import csv_fields
from sampan.cli.options import integer
from sampan.cli.units import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Json = dict[str, Any]

_ULIMITS = frozenset(
    (
        *("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc"),
        *("rss", "rtprio", "rttime", "sigpending", "stack"),
    )
)
_SYSCTLS = frozenset(
    f"kernel.{name}"
    for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


def unsigned(bits: int) -> Any:
    """A check for unsigned integers of so many bits."""

    def check(text: str) -> int:
        try:
            value = integer(text)
        except ValueError:
            raise ValueError(f'strconv.ParseUint: parsing "{text}": invalid syntax') from None
        if value < 0 or text.startswith(("-", "+")):
            raise ValueError(f'strconv.ParseUint: parsing "{text}": invalid syntax')
        if value >= 1 << bits:
            raise ValueError(f'strconv.ParseUint: parsing "{text}": value out of range')
        return value

    return check


def swap_size(text: str) -> int:
    """A size, or -1 for no limit."""
    return -1 if text == "-1" else parse_size(text)


def cpus(text: str) -> int:
    """Billionths of a CPU of ``1.5`` or ``3/2``."""
    from fractions import Fraction

    try:
        nanos = Fraction(text) * 1_000_000_000
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"failed to parse {text} as a rational number") from None
    if nanos.denominator != 1:
        raise ValueError("value is too precise")
    return int(nanos)


def attach_stream(text: str) -> str:
    stream = text.lower()
    if stream not in ("stdin", "stdout", "stderr"):
        raise ValueError("valid streams are STDIN, STDOUT and STDERR")
    return stream


def environment_variable(text: str) -> str:
    """``NAME=value``; a bare name takes its value from here, if it has one."""
    from os import environ

    name, mark, _ = text.partition("=")
    if not name:
        raise ValueError(f"invalid environment variable: {text}")
    if mark or name not in environ:
        return text
    return f"{name}={environ[name]}"


def label(text: str) -> str:
    name = text.partition("=")[0].lstrip(" \t")
    if not name:
        raise ValueError(f"invalid label '{text}': empty name")
    if " " in name or "\t" in name:
        raise ValueError(f"label '{name}' contains whitespaces")
    return text


def sysctl(text: str) -> str:
    name, mark, _ = text.partition("=")
    if not mark or not (name in _SYSCTLS or name.startswith(("net.", "fs.mqueue."))):
        raise ValueError(f"sysctl '{text}' is not allowed")
    return text


def ulimit(text: str) -> Json:
    """``nofile=1024:2048``; one number is both limits, -1 is none."""
    name, mark, limits = text.partition("=")
    if not mark:
        raise ValueError(f"invalid ulimit argument: {text}")
    if name not in _ULIMITS:
        raise ValueError(f"invalid ulimit type: {name}")
    parts = limits.split(":")
    if len(parts) > 2:
        raise ValueError(f"too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`")
    hard = _decimal(parts[-1])
    soft = _decimal(parts[0])
    if hard != -1 and soft == -1:
        raise ValueError(
            f"ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: {hard}"
        )
    if hard != -1 and soft > hard:
        raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    return {"Name": name, "Hard": hard, "Soft": soft}


def _decimal(text: str) -> int:
    if not text.lstrip("+-").isdigit() or len(text) - len(text.lstrip("+-")) > 1:
        raise ValueError(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    return int(text)


def _device_part(text: str) -> tuple[str, str]:
    path, mark, value = text.partition(":")
    if not mark or not path:
        raise ValueError(f"bad format: {text}")
    if not path.startswith("/dev/"):
        raise ValueError(f"bad format for device path: {text}")
    return path, value


def weight_device(text: str) -> Json:
    path, value = _device_part(text)
    if not value.isdigit() or int(value) > 1000 or 0 < int(value) < 10:
        raise ValueError(f"invalid weight for device: {text}")
    return {"Path": path, "Weight": int(value)}


def bytes_per_second(text: str) -> Json:
    path, value = _device_part(text)
    try:
        return {"Path": path, "Rate": parse_size(value)}
    except ValueError:
        raise ValueError(
            f"invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. "
            "Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
        ) from None


def operations_per_second(text: str) -> Json:
    path, value = _device_part(text)
    if not value.isdigit() or int(value) >= 1 << 64:
        raise ValueError(
            f"invalid rate for device: {text}. The correct format is <device-path>:<number>. "
            "Number must be a positive integer"
        )
    return {"Path": path, "Rate": int(value)}


def device_rule(text: str) -> str:
    """``c 1:3 rwm``: kind, major and minor number or ``*``, and what is allowed."""
    parts = text.split(" ")
    numbers = parts[1].split(":") if len(parts) == 3 else []
    if (
        len(numbers) != 2
        or parts[0] not in ("a", "c", "b")
        or not all(number == "*" or (number.isascii() and number.isdigit()) for number in numbers)
        or not 1 <= len(parts[2]) <= 3
        or set(parts[2]) - set("rwm")
    ):
        raise ValueError(f"invalid device cgroup format '{text}'")
    return text


def ip_address(text: str) -> str:
    """An address in its canonical form."""
    from ipaddress import ip_address as parse

    try:
        return str(parse(text.strip()))
    except ValueError:
        raise ValueError(f"IP address is not correctly formatted: {text}") from None


def _is_domain_label(text: str) -> bool:
    inner = text.replace("-", "")
    return bool(inner) and inner.isascii() and inner.isalnum() and text[0] != "-" and text[-1] != "-"


def search_domain(text: str) -> str:
    """A domain, or a dot for none."""
    trimmed = text.strip(" ")
    if trimmed == ".":
        return trimmed
    domain = trimmed.rstrip().removesuffix(".")
    if not any(char.isalpha() for char in domain) or not all(map(_is_domain_label, domain.split("."))):
        raise ValueError(f"{trimmed} is not a valid domain")
    if len(domain) >= 255:
        raise ValueError(f"{trimmed} is not a valid domain")
    return domain


def extra_host(text: str) -> str:
    """``name:address`` from that or ``name=address``; the address may be in brackets or host-gateway."""
    name, mark, address = text.partition("=")
    if not mark:
        name, mark, address = text.partition(":")
    if not mark or not name:
        raise ValueError(f"bad format for add-host: {text!r}".replace("'", '"'))
    if address == "host-gateway":
        return f"{name}:{address}"
    bare = address
    if len(address) > 2 and address[0] == "[" and address[-1] == "]":
        bare = address[1:-1]
        if ":" not in bare:
            raise ValueError(f'invalid IP address in add-host: "{address}"')
    try:
        ip_address(bare)
    except ValueError:
        raise ValueError(f'invalid IP address in add-host: "{bare}"') from None
    return f"{name}:{bare}"


def link(text: str) -> str:
    if not text:
        raise ValueError("empty string specified for links")
    if text.count(":") > 1:
        raise ValueError(f"bad format for links: {text}")
    return text


def mac_address(text: str) -> str:
    """6, 8 or 20 octets with colons, hyphens, or in groups of four digits with dots."""
    trimmed = text.strip()
    for separator, digits in ((":", 2), ("-", 2), (".", 4)):
        groups = trimmed.split(separator)
        if len(groups) * digits // 2 in (6, 8, 20) and all(
            len(group) == digits and not set(group.lower()) - set("0123456789abcdef") for group in groups
        ):
            return text
    raise ValueError(f"{text} is not a valid mac address")


def _count(text: str) -> int:
    if text == "all":
        return -1
    try:
        return _decimal(text)
    except ValueError:
        raise ValueError(
            f'invalid count ({text}): value must be either "all" or an integer: invalid syntax'
        ) from None


def gpus(text: str) -> Json:
    """A DeviceRequest of ``all``, ``2`` or ``device=0,capabilities=compute``."""
    request: Json = {"Driver": "", "Count": 0, "DeviceIDs": None, "Capabilities": [["gpu"]], "Options": {}}
    seen: set[str] = set()
    for field in csv_fields(text):
        key, mark, value = field.partition("=")
        if key in seen:
            raise ValueError(f"gpu request key '{key}' can be specified only once")
        seen.add(key)
        if not mark:
            seen.add("count")
            request["Count"] = _count(key)
        elif key == "driver":
            request["Driver"] = value
        elif key == "count":
            request["Count"] = _count(value)
        elif key == "device":
            request["DeviceIDs"] = value.split(",")
        elif key == "capabilities":
            request["Capabilities"] = [[*value.split(","), "gpu"]]
        elif key == "options":
            try:
                pairs = csv_fields(value)
            except ValueError as error:
                raise ValueError(f"failed to read gpu options: {error}") from None
            request["Options"] = pair_map(pairs)
        else:
            raise ValueError(f"unexpected key '{key}' in '{field}'")
    if "count" not in seen and request["DeviceIDs"] is None:
        request["Count"] = 1
    return request


class Network:
    """One --network: its name and what is wanted of the endpoint."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.aliases: list[str] = []
        self.driver_options: dict[str, str] = {}
        self.links: list[str] = []
        self.ipv4 = ""
        self.ipv6 = ""
        self.link_local: list[str] = []
        self.mac = ""
        self.gateway_priority = 0


def _is_long_form(text: str) -> bool:
    return any(
        char == "=" and text[index - 1 : index] in _WORD and text[index + 1 : index + 2] in _WORD
        for index, char in enumerate(text)
        if 0 < index < len(text) - 1
    )


def network(text: str) -> Network:
    """A name, or ``name=NET,alias=A,ip=ADDRESS,driver-opt=K=V,gw-priority=N,...``."""
    if not _is_long_form(text):
        return Network(text)
    result = Network("")
    for field in csv_fields(text):
        key, mark, value = field.lower().partition("=")
        if not mark or not key:
            raise ValueError(f"invalid field {field}")
        _set_network_field(result, key.strip(), value.strip())
    if not result.target:
        raise ValueError("network name/id is not specified")
    return result


def _set_network_field(result: Network, key: str, value: str) -> None:
    if key == "driver-opt":
        name, mark, setting = value.partition("=")
        if not mark or not name:
            raise ValueError("invalid key value pair format in driver options")
        result.driver_options[name.strip()] = setting.strip()
    elif key == "gw-priority":
        try:
            result.gateway_priority = _decimal(value)
        except ValueError:
            raise ValueError(f"invalid gw-priority ({value}): invalid syntax") from None
    elif key == "alias":
        result.aliases.append(value)
    elif key == "link-local-ip":
        result.link_local.append(value)
    elif key in ("name", "ip", "ip6", "mac-address"):
        attribute = {"name": "target", "ip": "ipv4", "ip6": "ipv6", "mac-address": "mac"}[key]
        setattr(result, attribute, value)
    else:
        raise ValueError(f"invalid field key {key}")


def pair_map(pairs: list[str]) -> dict[str, str]:
    """``{"key": "value"}`` of ``key=value`` texts; a later one wins."""
    result = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        result[key] = value
    return result
