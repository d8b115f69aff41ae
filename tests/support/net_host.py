"""A host with a daemon's network stack, and containers that are no more than their network namespaces."""

from __future__ import annotations

import subprocess

from tests.support.net_boxes import Box, plug

from sampan.base.ids import new_id
from sampan.model.container import Endpoint, EndpointConfig, PortBinding
from sampan.model.network import Network
from sampan.net.settings import NetworkSettings
from sampan.net.stack import NetworkStack, default_bridge

HOST4, OUTSIDE4 = "10.9.0.1", "10.9.0.2"
HOST6, OUTSIDE6 = "fd09::1", "fd09::2"
BRIDGE = "tbr0"


class Host:
    """The namespace of a host with a daemon's network stack in it."""

    def __init__(self) -> None:
        self.boxes: list[Box] = []
        self.warnings: list[str] = []
        self.stacks: list[NetworkStack] = []
        self.network: Network

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        """The namespaces end, and what the stacks have open; the rest goes with the host's namespace."""
        for box in self.boxes:
            box.close()
        for stack in self.stacks:
            stack.let_go()

    def start(self, network_id: str = "", **settings: object) -> None:
        chosen = NetworkSettings(run_dir="/nonexistent", bridge=BRIDGE, bip="172.30.0.1/24", **settings)  # type: ignore[arg-type]
        self.start_with(chosen, network_id)

    def start_with(self, settings: NetworkSettings, network_id: str = "") -> None:
        stack = NetworkStack(settings, self.warnings.append)
        self.stacks.append(stack)
        stack.open()
        self.network = stack.ensure(default_bridge(settings, network_id or new_id(), 1))

    @property
    def stack(self) -> NetworkStack:
        """The running daemon's."""
        return self.stacks[-1]

    def box(self) -> Box:
        box = Box()
        self.boxes.append(box)
        return box

    def run(self, container_id: str, ports: dict[str, str] | None = None, **config: object) -> Container:
        """A container; ``ports`` maps "80/tcp" to "[ip:]port" bindings separated by blanks."""
        box = self.box()
        wanted = {key: [_binding(text) for text in value.split()] for key, value in (ports or {}).items()}
        endpoint, link, bound = self.stack.containers.connect(
            self.network,
            container_id,
            EndpointConfig(**config),
            wanted,
            name=container_id,  # type: ignore[arg-type]
        )
        assert link is not None
        plug(box, link)
        return Container(box, endpoint, bound)


class Container:
    def __init__(self, box: Box, endpoint: Endpoint, bound: dict[str, list[PortBinding]]) -> None:
        self.box = box
        self.endpoint = endpoint
        self.bound = bound
        self.ip = endpoint.ip_address
        self.ip6 = endpoint.global_ipv6_address


def _binding(text: str) -> PortBinding:
    host, _, port = text.rpartition("@")
    return PortBinding(host_ip=host, host_port="" if port == "any" else port)


def elements(name: str) -> set[str]:
    """Of a map of the host's table, as nft shows them."""
    shown = subprocess.run(
        ["nft", "list", "map", "inet", f"sampan-{BRIDGE}", name], capture_output=True, text=True, check=True
    ).stdout
    _, found, rest = shown.partition("elements = {")
    return {part.strip() for part in rest.partition("}")[0].split(",")} if found else set()
