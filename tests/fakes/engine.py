"""A whole container engine over fakes, that can be thrown away and made again over the same store."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any

from sampan.engine.collaborators import LaunchFacts
from sampan.engine.container.connections import Connections
from sampan.engine.container.containers import Containers, Verbs
from sampan.engine.container.create import Creator
from sampan.engine.container.defaults import EngineDefaults
from sampan.engine.container.health import HealthMonitors
from sampan.engine.container.launcher import Launcher
from sampan.engine.container.layout import Layout
from sampan.engine.container.ledger import Ledger
from sampan.engine.container.naming import Naming
from sampan.engine.container.netfiles import NetworkFiles
from sampan.engine.container.recovery import Host, Recovery
from sampan.engine.container.registry import NoSuchContainer, Registry
from sampan.engine.container.remove import Remover
from sampan.engine.container.revise import Reviser
from sampan.engine.container.stop import Stopper
from sampan.engine.container.supervision import Supervision
from sampan.engine.container.top import Top
from sampan.engine.container.views import ExecConfig
from sampan.engine.events import Events, EventStream
from sampan.engine.locks import KeyedLocks
from sampan.engine.streams.attachments import Attachments
from sampan.engine.streams.execs import Execs
from sampan.engine.streams.logreader import LogReader
from sampan.model.container import (
    Container,
    ContainerConfig,
    Endpoint,
    EndpointConfig,
    HostConfig,
    MountPoint,
    PortBinding,
)
from sampan.model.image import Image, ImageConfig
from sampan.model.launch import ExecRequest, Interface, LaunchRequest
from sampan.model.network import NameWish, Network
from sampan.model.oci import Linux, Process, Resources, RuntimeSpec
from sampan.net.errors import PortInUse
from sampan.store.containers import ContainerTable, RunRecord
from sampan.store.db import Database

from .runtime import FakeProcess, FakeRuntime, FakeWorld

BUSYBOX = Image(
    id="sha256:" + "b" * 64,
    config=ImageConfig(config=ContainerConfig(cmd=["sh"], env=["PATH=/bin"], labels={"from": "image"})),
    manifest_digest="sha256:" + "c" * 64,
    repo_tags=["busybox:latest"],
    repo_digests=[],
    chain_ids=["sha256:" + "1" * 64, "sha256:" + "2" * 64],
    layer_sizes=[1, 2],
    size_bytes=3,
    created_ns=1,
)


class FakeImages:
    def __init__(self) -> None:
        self.images = {"busybox": BUSYBOX, BUSYBOX.id: BUSYBOX}

    async def resolve(self, ref: str, platform: str = "") -> Image:
        if ref not in self.images:
            raise NoSuchContainer(ref)
        return self.images[ref]


class FakeMounts:
    """Remembers who holds what."""

    def __init__(self) -> None:
        self.resolved: dict[str, list[MountPoint]] = {}
        self.released: list[tuple[str, bool]] = []
        self.held: set[str] = set()
        self.failure: Exception | None = None

    async def resolve(
        self, container_id: str, config: ContainerConfig, host: HostConfig, image: Image | None
    ) -> list[MountPoint]:
        if self.failure is not None:
            raise self.failure
        return self.resolved.get(container_id, [])

    async def prepare(self, record: Container) -> list[MountPoint]:
        if self.failure is not None:
            raise self.failure
        self.held.add(record.id)
        return record.mounts

    def launched(self, container_id: str) -> None:
        assert container_id in self.held

    async def finish(self, record: Container) -> None:
        self.held.discard(record.id)

    def recovered(self, record: Container) -> None:
        self.held.add(record.id)

    async def release(self, container_id: str, mounts: Sequence[MountPoint], *, anonymous: bool) -> None:
        self.released.append((container_id, anonymous))


class FakeNetworks:
    """Source and drivers in one: 172.17.0.0/16, host ports taken once."""

    def __init__(self) -> None:
        self.networks = {
            name: Network(id=name * 8, name=name, driver=driver, created_ns=1)
            for name, driver in (("bridge", "bridge"), ("host", "host"), ("none", "null"))
        }
        self.connected: dict[str, dict[str, list[PortBinding]]] = {}
        self.served: set[tuple[str, int, bool]] = set()
        self.healthy: dict[str, bool] = {}
        self._addresses = itertools.count(2)

    def find(self, ref: str) -> Network | None:
        return self.networks.get(ref)

    def connect(
        self,
        network: Network,
        container_id: str,
        config: EndpointConfig,
        ports: dict[str, list[PortBinding]],
        name: str = "",
    ) -> tuple[Endpoint, Interface | None, dict[str, list[PortBinding]]]:
        taken = {b.host_port for bound in self.connected.values() for bs in bound.values() for b in bs}
        for bindings in ports.values():
            for binding in bindings:
                if binding.host_port in taken:
                    raise PortInUse(f"Bind for 0.0.0.0:{binding.host_port} failed: port is already allocated")
        self.connected[container_id] = ports
        if network.driver != "bridge":
            return Endpoint(network_id=network.id), None, {}
        address = f"172.17.0.{next(self._addresses)}"
        link = Interface(host_name=f"veth{address[-1]}", parent="docker0")
        return Endpoint(network_id=network.id, ip_address=address, gateway="172.17.0.1"), link, ports

    def disconnect(self, container_id: str) -> None:
        self.connected.pop(container_id, None)

    def recover(
        self,
        container_id: str,
        network: Network,
        endpoint: Endpoint,
        ports: dict[str, list[PortBinding]],
        *,
        config: EndpointConfig | None = None,
    ) -> None:
        self.connected.setdefault(container_id, ports)

    def move_ports(
        self, container_id: str, network_id: str, ports: dict[str, list[PortBinding]]
    ) -> dict[str, list[PortBinding]]:
        return self.connected[container_id]

    def show_names(self, container_id: str, wish: NameWish) -> str:
        return ""

    def has_view(self, container_id: str) -> bool:
        return False

    def ensure_names(self) -> None:
        raise AssertionError("there are no networks with names")

    def serve_names(self, container_id: str, pid: int, *, already: bool = False) -> None:
        self.served.add((container_id, pid, already))

    def rename(self, container_id: str, old: str, new: str) -> dict[str, Endpoint]:
        return {}

    def set_health(self, container_id: str, healthy: bool) -> None:
        self.healthy[container_id] = healthy


class FakeCgroups:
    version = 1

    def __init__(self) -> None:
        self.frozen: set[str] = set()
        self.updates: list[tuple[str, Resources]] = []
        self.removed: list[str] = []

    def update(self, path: str, resources: Resources) -> None:
        self.updates.append((path, resources))

    def freeze(self, path: str) -> None:
        self.frozen.add(path)

    def thaw(self, path: str) -> None:
        self.frozen.discard(path)

    def processes(self, path: str) -> list[int]:
        return [os.getpid()]

    def kill(self, path: str) -> None:
        return None

    def oom_kills(self, path: str) -> int:
        return 0

    def remove(self, path: str) -> None:
        self.removed.append(path)


class FakeSpecs:
    def __init__(self) -> None:
        self.facts: list[LaunchFacts] = []

    def launch(self, record: Container, facts: LaunchFacts) -> LaunchRequest:
        self.facts.append(facts)
        spec = RuntimeSpec(
            process=Process(args=[record.path, *record.args]),
            linux=Linux(cgroups_path=f"/docker/{record.id}"),
        )
        return LaunchRequest(id=record.id, run_dir=facts.run_dir, spec=spec, links=facts.links)

    def exec(
        self, record: Container, config: ExecConfig, *, exec_id: str, run_dir: str, pid: int, run: RunRecord
    ) -> ExecRequest:
        return ExecRequest(
            id=exec_id, run_dir=run_dir, container_pid=pid, process=Process(args=config.cmd or [])
        )


class FakeLogs:
    def __init__(self) -> None:
        self.text = b""

    async def read(self, path: str, **options: Any) -> AsyncIterator[bytes]:
        if self.text:
            yield self.text


class Clock:
    """Wall clock that a test moves."""

    def __init__(self) -> None:
        self.ns = 1_700_000_000_000_000_000

    def now(self) -> int:
        self.ns += 1
        return self.ns

    def advance(self, seconds: float) -> None:
        self.ns += int(seconds * 1e9)


class Engine:
    """``await Engine.open(tmp_path)``; ``reopen()`` is a restart of the daemon."""

    def __init__(self, root: str, world: FakeWorld, networks: FakeNetworks, clock: Clock) -> None:
        self.root = root
        self.world = world
        self.clock = clock
        self.runtime = FakeRuntime(world)
        self.images = FakeImages()
        self.mounts = FakeMounts()
        self.networks = networks
        self.cgroups = FakeCgroups()
        self.specs = FakeSpecs()
        self.logs = FakeLogs()
        self.layout = Layout(f"{root}/data", f"{root}/run")
        os.makedirs(self.layout.root, exist_ok=True)
        self.db = Database(f"{self.layout.root}/sampan.db")
        self.table = ContainerTable(self.db)
        self.events = Events(clock.now)
        self.registry = Registry()
        self.ledger = Ledger(self.registry, self.table, self.events, self.layout)
        self._build()
        self.stream: EventStream = self.events.subscribe()

    def _build(self) -> None:
        locks, attachments = KeyedLocks(), Attachments()
        naming = Naming(NetworkFiles(self.layout, lambda: ["172.17.0.1"]), self.networks)
        connections = Connections(self.networks, self.networks, naming, self.events)
        launcher = Launcher(self.registry, self.layout, self.runtime, connections, self.mounts, self.specs)
        self.execs = Execs(self.ledger, self.runtime, self.specs)
        self.health = HealthMonitors(self.ledger, self.execs, self.networks.set_health, self.clock.now)
        self.supervision = Supervision(self.ledger, launcher, locks, attachments, self.health)
        creator = Creator(self.ledger, self.images, self.mounts, lambda c, h: [], EngineDefaults())
        stopper = Stopper(self.ledger, self.supervision, self.cgroups, locks)
        verbs = Verbs(
            creator=creator,
            supervision=self.supervision,
            stopper=stopper,
            remover=Remover(self.ledger, stopper, self.mounts, attachments, locks),
            reviser=Reviser(
                self.ledger, creator, self.cgroups, self.networks, lambda h: [], lambda h: Resources(), locks
            ),
            top=Top(self.ledger, self.cgroups),
            logs=LogReader(self.ledger, self.logs, _never),
        )
        self.containers = Containers(self.ledger, verbs, attachments, self._ancestors)
        self.recovery = Recovery(
            self.ledger,
            self.supervision,
            self.execs,
            self.images,
            Host(runtime=self.runtime, cgroups=self.cgroups, connections=connections, mounts=self.mounts),
        )

    def _ancestors(self, ref: str) -> set[str]:
        image = self.images.images.get(ref)
        return {image.id} if image is not None else set()

    @classmethod
    async def open(cls, root: str) -> Engine:
        clock = Clock()
        engine = cls(root, FakeWorld(clock.now), FakeNetworks(), clock)
        await engine.recover()
        return engine

    async def recover(self) -> None:
        self.recovery.load(self.table.load())
        await self.recovery.recover()
        self.recovery.start_wanted()

    async def reopen(self) -> Engine:
        """The daemon dies (nothing is said to anybody) and another one starts over what it left."""
        await self.close()
        return await self.reopen_closed()

    async def reopen_closed(self) -> Engine:
        """Another daemon, some time after the first one went."""
        engine = Engine(self.root, self.world, FakeNetworks(), self.clock)
        await engine.recover()
        return engine

    async def close(self) -> None:
        await self.containers.close()
        await self.execs.close()
        await self.health.close()
        self.db.close()

    # --- shorthands ---------------------------------------------------------------------------------------

    async def create(self, name: str = "", cmd: Sequence[str] = ("true",), **host: Any) -> str:
        config = host.pop("config", None) or ContainerConfig(image="busybox", cmd=list(cmd))
        networks = host.pop("networks", {})
        container_id, _ = await self.containers.create(name, config, HostConfig(**host), networks)
        return container_id

    async def run(self, name: str = "", cmd: Sequence[str] = ("sleep", "1"), **host: Any) -> FakeProcess:
        container_id = await self.create(name, cmd, **host)
        await self.containers.start(container_id)
        return self.process(container_id)

    def process(self, container_id: str) -> FakeProcess:
        return self.world.processes[container_id]

    async def status(self, ref: str) -> str:
        return (await self.containers.inspect(ref)).state.status

    def actions(self, type_: str = "container") -> list[str]:
        """What was published since the engine was opened."""
        return [e.action for e in self.events._recent if e.type == type_]

    async def settle(self) -> None:
        """Let everything that is ready run."""
        for _ in range(30):
            await asyncio.sleep(0)


def _never(path: str, ended: Any) -> Any:
    ended.close()
    raise AssertionError("nothing is followed in these tests")
