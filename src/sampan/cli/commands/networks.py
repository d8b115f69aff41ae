"""sampan network ls, create, connect, disconnect and rm."""

from __future__ import annotations

from sampan.cli import runvalues, table
from sampan.cli.failure import Failure, Refused
from sampan.cli.filters import encoded, filter_option
from sampan.cli.moments import go_time
from sampan.cli.options import BOOL, INT, STRING, Command, Option, Values
from sampan.cli.session import Session
from sampan.cli.table import Column, View
from sampan.cli.units import short_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Item = dict[str, Any]


def _flag(name: str, default: bool = False) -> Any:
    return lambda item, _: "true" if item.get(name, default) else "false"


NETWORKS = View(
    {
        "CreatedAt": Column("CREATED AT", lambda item, _: go_time(item["Created"])),
        "Driver": Column("DRIVER", lambda item, _: item["Driver"]),
        "ID": Column("NETWORK ID", lambda item, short: short_id(item["Id"]) if short else item["Id"]),
        "IPv4": Column("IPV4", _flag("EnableIPv4", True)),
        "IPv6": Column("IPV6", _flag("EnableIPv6")),
        "Internal": Column("INTERNAL", _flag("Internal")),
        "Labels": Column(
            "LABELS", lambda item, _: ",".join(f"{k}={v}" for k, v in (item.get("Labels") or {}).items())
        ),
        "Name": Column("NAME", lambda item, _: item["Name"]),
        "Scope": Column("SCOPE", lambda item, _: item["Scope"]),
    },
    ("ID", "Name", "Driver", "Scope"),
    methods={"Label": lambda item, name: (item.get("Labels") or {}).get(name, "")},
)


def list_networks(session: Session, values: Values, words: list[str]) -> int:
    filters = encoded(values.many("filter"))
    networks = session.client.call("GET", "/networks", [("filters", filters)] if filters else [])
    networks.sort(key=lambda item: str(item["Name"]))
    source = table.wanted_format(values.text("format"), values.flag("json"))
    table.write(NETWORKS, networks, source, truncate=not values.flag("no-trunc"), quiet=values.flag("quiet"))
    return 0


def _pools(values: Values) -> list[Item]:
    """One pool per subnet, with the range, the gateway and the reserved addresses that lie in it."""
    from ipaddress import ip_address, ip_network

    try:
        pools: list[tuple[Any, Item]] = [
            (ip_network(text, strict=False), {"Subnet": text}) for text in values.many("subnet")
        ]

        def put(text: str, address: str, key: str) -> Item:
            parsed = ip_address(address)
            for subnet, pool in pools:
                if parsed in subnet:
                    if key and key in pool:
                        raise Failure(f"two {key}s for one subnet: {pool[key]} and {text}")
                    if key:
                        pool[key] = text
                    return pool
            raise Failure(f"no matching subnet for {text}")

        for text in values.many("ip-range"):
            put(text, text.partition("/")[0], "IPRange")
        for text in values.many("gateway"):
            put(text, text, "Gateway")
        for text in values.many("aux-address"):
            name, _, address = text.partition("=")
            put(address, address, "").setdefault("AuxiliaryAddresses", {})[name] = address
    except ValueError as error:
        raise Failure(f"invalid network address: {error}") from None
    return [pool for _, pool in pools]


def create(session: Session, values: Values, words: list[str]) -> int:
    body: Item = {
        "Name": words[0],
        "Driver": values.text("driver"),
        "Options": runvalues.pair_map(values.many("opt")),
        "Labels": runvalues.pair_map(values.many("label")),
        "IPAM": {
            "Driver": values.text("ipam-driver"),
            "Options": runvalues.pair_map(values.many("ipam-opt")),
            "Config": _pools(values),
        },
        "Internal": values.flag("internal"),
        "Attachable": values.flag("attachable"),
        "Ingress": False,
        "ConfigOnly": values.flag("config-only"),
        "Scope": values.text("scope"),
    }
    for name, key in (("ipv4", "EnableIPv4"), ("ipv6", "EnableIPv6")):
        if values.given(name):
            body[key] = values.flag(name)
    if values.text("config-from"):
        body["ConfigFrom"] = {"Network": values.text("config-from")}
    print(session.client.call("POST", "/networks/create", (), body)["Id"])
    return 0


def connect(session: Session, values: Values, words: list[str]) -> int:
    ipam = {"IPv4Address": values.text("ip"), "IPv6Address": values.text("ip6")}
    endpoint: Item = {
        "IPAMConfig": {
            **{key: value for key, value in ipam.items() if value},
            **({"LinkLocalIPs": values.many("link-local-ip")} if values.many("link-local-ip") else {}),
        },
        "Links": values.many("link"),
        "Aliases": values.many("alias"),
        "DriverOpts": runvalues.pair_map(values.many("driver-opt")),
        "GwPriority": values.number("gw-priority"),
    }
    body = {"Container": words[1], "EndpointConfig": endpoint}
    session.client.call("POST", f"/networks/{words[0]}/connect", (), body)
    return 0


def disconnect(session: Session, values: Values, words: list[str]) -> int:
    body = {"Container": words[1], "Force": values.flag("force")}
    session.client.call("POST", f"/networks/{words[0]}/disconnect", (), body)
    return 0


def limit(session: Session, values: Values, words: list[str]) -> int:
    if not values.given("receive") and not values.given("send"):
        raise Failure("say what to limit: --receive, --send, or both")
    body: Item = {"Container": words[1]}
    for name, key in (("receive", "Receive"), ("send", "Send")):
        if values.given(name):
            body[key] = values.text(name)
    session.client.call("POST", f"/sampan/networks/limit/{words[0]}", (), body)
    return 0


def remove(session: Session, values: Values, words: list[str]) -> int:
    status = 0
    for name in words:
        try:
            session.client.call("DELETE", f"/networks/{name}")
        except Refused as refused:
            if not (values.flag("force") and refused.code == 404):
                session.warn(refused.message)
                status = 1
        else:
            print(name, flush=True)
    return status


LIST = Command(
    "network ls",
    "[OPTIONS]",
    "List networks",
    list_networks,
    (
        filter_option(),
        *table.FORMAT_OPTIONS,
        table.NO_TRUNC,
        Option("quiet", "q", BOOL, "Only display network IDs"),
    ),
    maximum=0,
)
CREATE = Command(
    "network create",
    "[OPTIONS] NETWORK",
    "Create a network",
    create,
    (
        Option("attachable", "", BOOL, "Let containers be attached by hand"),
        Option("aux-address", "", "map", "Address that is taken (NAME=ADDRESS)", repeats=True),
        Option("config-from", "", STRING, "Network to copy the configuration from"),
        Option("config-only", "", BOOL, "Only keep the configuration"),
        Option("driver", "d", STRING, "Driver of the network", default="bridge"),
        Option("gateway", "", "list", "Gateway of a subnet"),
        Option("internal", "", BOOL, "No way out of the network"),
        Option("ip-range", "", "list", "Range of a subnet for containers"),
        Option("ipam-driver", "", STRING, "Driver of address management", default="default"),
        Option("ipam-opt", "", "map", "Option of address management", repeats=True),
        Option("ipv4", "", BOOL, "Enable or disable IPv4", default=True),
        Option("ipv6", "", BOOL, "Enable or disable IPv6"),
        Option("label", "", "list", "Metadata of the network", check=runvalues.label),
        Option("opt", "o", "map", "Option of the driver", repeats=True),
        Option("scope", "", STRING, "Scope of the network"),
        Option("subnet", "", "list", "Subnet in CIDR form"),
    ),
    minimum=1,
    maximum=1,
)
CONNECT = Command(
    "network connect",
    "[OPTIONS] NETWORK CONTAINER",
    "Connect a container to a network",
    connect,
    (
        Option("alias", "", "list", "Alias of the container in the network"),
        Option("driver-opt", "", "list", "Option for the network's driver"),
        Option("gw-priority", "", INT, "Highest wins when several networks offer a default gateway"),
        Option("ip", "", STRING, "IPv4 address"),
        Option("ip6", "", STRING, "IPv6 address"),
        Option("link", "", "list", "Link to another container", complete="container"),
        Option("link-local-ip", "", "list", "Link-local address"),
    ),
    minimum=2,
    maximum=2,
    complete="network",
)
DISCONNECT = Command(
    "network disconnect",
    "[OPTIONS] NETWORK CONTAINER",
    "Disconnect a container from a network",
    disconnect,
    (Option("force", "f", BOOL, "Even when the container does not answer"),),
    minimum=2,
    maximum=2,
    complete="network",
)
LIMIT = Command(
    "network limit",
    "[OPTIONS] NETWORK CONTAINER",
    "Limit the bandwidth of a container on a network",
    limit,
    (
        Option(
            "receive",
            "",
            STRING,
            "What it receives at most: 100mbit, 1.5gbit; none, or empty: as its network",
        ),
        Option("send", "", STRING, "What it sends at most"),
    ),
    minimum=2,
    maximum=2,
    complete="network",
)
REMOVE = Command(
    "network rm",
    "NETWORK [NETWORK...]",
    "Remove one or more networks",
    remove,
    (Option("force", "f", BOOL, "Do not mind networks that do not exist"),),
    minimum=1,
    complete="network",
)
