"""The object graph of the daemon: the only file that knows every class."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import uuid
import zlib
from collections.abc import Coroutine
from typing import Any, cast

from msgspec.structs import replace

from sampan import __version__
from sampan.content.blobs import BlobStore
from sampan.content.images import ImageStore
from sampan.content.layers import LayerBlobPolicy, LayerStore
from sampan.content.streams import Workers
from sampan.content.unpack import ArchiveLimits
from sampan.engine.container.connections import Connections
from sampan.engine.container.containers import Containers, Verbs
from sampan.engine.container.create import Creator
from sampan.engine.container.defaults import EngineDefaults
from sampan.engine.container.health import HealthMonitors
from sampan.engine.container.launcher import Launcher
from sampan.engine.container.layout import Layout
from sampan.engine.container.ledger import Ledger
from sampan.engine.container.naming import Naming
from sampan.engine.container.netfiles import DnsDefaults, NetworkFiles
from sampan.engine.container.recovery import Host, Recovery
from sampan.engine.container.registry import Registry
from sampan.engine.container.remove import Remover
from sampan.engine.container.revise import Reviser
from sampan.engine.container.stop import Stopper
from sampan.engine.container.supervision import Supervision
from sampan.engine.container.top import Top
from sampan.engine.events import Events
from sampan.engine.files.archive import Archive
from sampan.engine.files.container_root import ContainerRoots
from sampan.engine.files.mounts import MountResolver
from sampan.engine.files.volumes import Volumes
from sampan.engine.host.stats import Stats
from sampan.engine.host.system import System
from sampan.engine.host.system_views import SystemSettings
from sampan.engine.image.blob_sources import BlobSources
from sampan.engine.image.blob_upload import BlobUpload
from sampan.engine.image.commit import Commits
from sampan.engine.image.images import Images
from sampan.engine.image.last_use import LastUse
from sampan.engine.image.pull import Puller
from sampan.engine.image.push import Pusher
from sampan.engine.image.transfers import Transfers
from sampan.engine.image.upkeep import ImageUpkeep, UpkeepSettings
from sampan.engine.image.upkeep_plan import Rules
from sampan.engine.image.users import RegistryUsers
from sampan.engine.locks import KeyedLocks
from sampan.engine.network.membership import Membership
from sampan.engine.network.networks import Networks
from sampan.engine.network.refused import Refused
from sampan.engine.network.tracer import Tracer
from sampan.engine.network.traffic import Traffic
from sampan.engine.spec import hostfacts
from sampan.engine.spec.spec import Specs, SpecSettings
from sampan.engine.spec.validate import Validator
from sampan.engine.streams.attachments import Attachments
from sampan.engine.streams.execs import Execs
from sampan.engine.streams.logreader import Follow, LogReader
from sampan.front.docker.services import Engine
from sampan.front.docker.versions import API_VERSION, MIN_API_VERSION, SERVER_VERSION
from sampan.kernel.cgroup import layout as cgroup_layout
from sampan.logs.reader import LogReader as LogFiles
from sampan.logs.watch import LogWatch, LogWatcher
from sampan.model.container import LogConfig, Ulimit
from sampan.net.settings import DEFAULT_BRIDGE, NetworkSettings
from sampan.net.stack import NetworkStack
from sampan.runtime.cgroups import cgroups_of
from sampan.runtime.client import RuntimeClient
from sampan.runtime.explanation import describe
from sampan.runtime.monitors import Spawner
from sampan.store.blob_sources import BlobSourceTable
from sampan.store.containers import ContainerTable
from sampan.store.db import Database
from sampan.store.image_use import ImageUseTable
from sampan.store.networks import NetworkTable
from sampan.store.volumes import VolumeTable
from sampan.transfer.downloads import Downloads
from sampan.transfer.registries import Registries
from sampan.transfer.settings import RegistrySettings, mirrors_by_registry
from sampan.volumes.local import LocalDriver

from .options import SettingError
from .settings import Settings, UlimitSetting

log = logging.getLogger(__name__)

INIT_PROGRAMS = ("docker-init", "tini-static", "tini")


class FollowedLog:
    """A watch on a log that also owns the task which tells that the writer has ended."""

    def __init__(self, watcher: LogWatcher, path: str, ended: Coroutine[Any, Any, Any]) -> None:
        self._task = asyncio.ensure_future(ended)
        self._watch: LogWatch = watcher.watch(path, self._task)

    def __aiter__(self) -> FollowedLog:
        return self

    async def __anext__(self) -> None:
        await self._watch.__anext__()

    async def aclose(self) -> None:
        await self._watch.aclose()
        self._task.cancel()


class Platform:
    """Everything built, not yet started."""

    def __init__(self, settings: Settings, spawner: Spawner) -> None:
        self.settings = settings
        self.layout = Layout(settings.data_root, settings.exec_root)
        self.db = Database(os.path.join(settings.data_root, "sampan.db"))
        self.locks = KeyedLocks()
        self.events = Events()
        self.registry = Registry()
        self.container_table = ContainerTable(self.db)
        self.ledger = Ledger(self.registry, self.container_table, self.events, self.layout)
        self.runtime = RuntimeClient(spawner)
        self.cgroup_layout = cgroup_layout.detect()
        self.cgroups = cgroups_of(self.cgroup_layout)
        facts = hostfacts.detect()
        # off until the default bridge is made, which switches it on
        self.facts = replace(facts, ipv4_forwarding=facts.ipv4_forwarding or settings.ip_forward)
        self._build_content()
        self._build_network()
        self._build_volumes()
        self._build_containers()
        self.system = self._build_system()
        self.engine = self._build_engine()

    # --- parts, lowest first ------------------------------------------------------------------------------

    def _build_content(self) -> None:
        temporary = os.path.join(self.settings.data_root, "tmp")
        blobs = BlobStore(os.path.join(self.settings.data_root, "image"), temporary)
        layers = LayerStore(
            self.layout.layers,
            temporary,
            archive_limits(self.settings),
            layer_blob_policy(self.settings),
            self.settings.min_free_space,
        )
        self.workers = Workers()
        self.image_store = ImageStore(self.db, blobs, layers)
        self.downloads = Downloads(
            os.path.join(self.settings.data_root, "downloads"),
            limit=self.settings.max_concurrent_downloads,
            attempts=self.settings.max_download_attempts,
        )
        self.images = Images(
            self.image_store, RegistryUsers(self.registry), self.events, self.workers, self.downloads
        )
        self._build_upkeep()
        self._build_transfers()

    def _build_upkeep(self) -> None:
        last_use = LastUse(ImageUseTable(self.db))
        self.ledger.image_used = last_use.used
        self.upkeep = ImageUpkeep(
            self.images.catalog,
            self.images.removal,
            RegistryUsers(self.registry),
            last_use,
            self.downloads,
            self.workers,
            upkeep_settings(self.settings),
        )
        self._following: asyncio.Task[None] | None = None

    def _build_transfers(self) -> None:
        settings, images = self.settings, self.images
        attempts = settings.max_download_attempts
        self.registries = Registries(registry_settings(settings), attempts)
        sources = BlobSources(BlobSourceTable(self.db))
        sources.sweep()
        puller = Puller(
            images.catalog,
            images.transfer,
            self.registries,
            self.downloads,
            self.events,
            self.workers,
            sources,
        )
        self.uploads = BlobUpload(
            self.image_store,
            sources,
            self.registries,
            self.workers,
            limit=settings.max_concurrent_uploads,
            attempts=attempts,
        )
        pusher = Pusher(images.catalog, self.registries, self.events, self.uploads)
        self.transfers = Transfers(puller, pusher, self.registries)

    def _build_network(self) -> None:
        self.network = NetworkStack(network_settings(self.settings), warn=log.warning)
        settings = self.settings
        files = NetworkFiles(
            self.layout,
            lambda: self.networks.host_gateways(),
            DnsDefaults(servers=settings.dns, search=settings.dns_search, options=settings.dns_opts),
        )
        self.network.refused = Refused(self.registry, self.events).tell
        naming = Naming(files, self.network.containers)
        self.membership = Membership(
            self.ledger, self.locks, self.network.containers, naming, lambda name: self.networks.find(name)
        )
        self.networks = Networks(
            NetworkTable(self.db), self.network, self.events, self._container_name, self.membership
        )
        self.connections = Connections(self.networks, self.network.containers, naming, self.events)

    def _build_volumes(self) -> None:
        root = self.settings.data_root
        driver = LocalDriver(os.path.join(root, "volumes"), os.path.join(root, "tmp"))
        self.volumes = Volumes(VolumeTable(self.db), driver, self.events, self.locks)
        self.mounts = MountResolver(
            self.registry, self.volumes, driver, self.images, self.layout, self.events
        )

    def _build_containers(self) -> None:
        defaults = engine_defaults(self.settings, self.facts)
        self.specs = Specs(self.facts, spec_settings(self.settings))
        self.attachments = Attachments()
        self.execs = Execs(self.ledger, self.runtime, self.specs)
        self.health = HealthMonitors(self.ledger, self.execs, self.network.containers.set_health)
        self.launcher = Launcher(
            self.registry, self.layout, self.runtime, self.connections, self.mounts, self.specs
        )
        self.supervision = Supervision(self.ledger, self.launcher, self.locks, self.attachments, self.health)
        validator = Validator(self.facts, self.settings.runtimes)
        creator = Creator(self.ledger, self.images, self.mounts, validator, defaults)
        stopper = Stopper(self.ledger, self.supervision, self.cgroups, self.locks)
        self.log_watcher = LogWatcher()
        verbs = Verbs(
            creator=creator,
            supervision=self.supervision,
            stopper=stopper,
            remover=Remover(self.ledger, stopper, self.mounts, self.attachments, self.locks),
            reviser=Reviser(
                self.ledger,
                creator,
                self.cgroups,
                self.network.containers,
                validator.update,
                self.specs.resources,
                self.locks,
            ),
            top=Top(self.ledger, self.cgroups),
            logs=LogReader(self.ledger, LogFiles(), self._follow),
        )
        self.containers = Containers(self.ledger, verbs, self.attachments, self._ancestors)
        self.recovery = Recovery(
            self.ledger,
            self.supervision,
            self.execs,
            self.images,
            Host(
                runtime=self.runtime,
                cgroups=self.cgroups,
                connections=self.connections,
                mounts=self.mounts,
            ),
        )

    def _container_name(self, container_id: str) -> str:
        entry = self.registry.find_id(container_id)
        return entry.name if entry is not None else ""

    def _follow(self, path: str, ended: Coroutine[Any, Any, Any]) -> Follow:
        return FollowedLog(self.log_watcher, path, ended)

    def _ancestors(self, ref: str) -> set[str]:
        """The image that ``ref`` names and those made from it."""
        from sampan.base.errors import SampanError

        try:
            found = self.images.catalog.images_of(ref)
        except SampanError:
            return set()
        while True:
            children = {one.id for one in self.image_store.all() if one.parent in found} - found
            if not children:
                return found
            found |= children

    def _build_engine(self) -> Engine:
        roots = ContainerRoots(self.layout)
        return Engine(
            containers=self.containers,
            execs=self.execs,
            archive=Archive(self.ledger, roots, self.workers),
            images=self.images,
            commits=Commits(self.ledger, roots, self.images, self.containers, self.workers),
            volumes=self.volumes,
            networks=self.networks,
            system=self.system,
            events=self.events,
            stats=Stats(self.registry, self.cgroup_layout),
            transfers=self.transfers,
            upkeep=self.upkeep,
            tracer=Tracer(self.registry, self.layout, self.networks.find, self.network),
            traffic=Traffic(self.registry),
            explain=self.explain,
        )

    async def explain(self, ref: str) -> list[str]:
        """What a start of the container does, step by step."""
        entry = self.containers.require(ref)
        return list(describe(self.runtime.plan(self.launcher.plan(entry))))

    def _build_system(self) -> System:
        return System(
            system_settings(self.settings, engine_id(self.settings.data_root)),
            self.facts,
            self.registry,
            self.containers,
            self.images,
            self.volumes,
            self.events,
            self.network.warnings,
        )

    # --- life ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Recover what an earlier daemon left. Afterwards requests can be answered."""
        self.recovery.load(self.container_table.load())
        self.networks.open()
        self.volumes.load([entry.record for entry in self.registry])
        await self.recovery.recover()
        await self.membership.recover()
        await self.images.recover()
        await self.workers.run(self.downloads.sweep)
        self.network.settle()
        self.network.watch()
        self.volumes.unmount_unused()
        self.recovery.start_wanted()
        self._following = asyncio.ensure_future(self.upkeep.follow())
        self._following.add_done_callback(_tell_if_failed)

    async def stop(self) -> None:
        """Let go of everything; containers keep running."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
        await self.health.close()
        await self.execs.close()
        await self.containers.close()
        await self.transfers.close()
        self.network.close()
        self.workers.close()
        self.db.close()

    def reload(self, settings: Settings) -> None:
        """SIGHUP: take over what may change while running. Raises SettingError, and changes nothing then."""
        self.registries.reload(registry_settings(settings), settings.max_download_attempts)
        self.downloads.slots.resize(settings.max_concurrent_downloads)
        self.downloads.attempts = self.uploads.attempts = settings.max_download_attempts
        self.uploads.slots.resize(settings.max_concurrent_uploads)
        self.upkeep.settings = upkeep_settings(settings)
        self.settings = settings
        self.system.reload(system_settings(settings, engine_id(settings.data_root)))
        self.events.publish("daemon", "reload", "", {"name": os.uname().nodename})


def engine_id(data_root: str) -> str:
    """The same for ever, made on first use."""
    path = os.path.join(data_root, "engine-id")
    try:
        with open(path) as file:
            return file.read().strip()
    except FileNotFoundError:
        made = str(uuid.uuid4())
        with open(path, "x") as file:
            file.write(made)
        return made


def system_settings(settings: Settings, identity: str) -> SystemSettings:
    return SystemSettings(
        id=identity,
        server_version=SERVER_VERSION,
        version=__version__,
        api_version=API_VERSION,
        min_api_version=MIN_API_VERSION,
        data_root=settings.data_root,
        labels=list(settings.labels),
        debug=settings.debug,
        experimental=settings.experimental,
        log_driver=settings.log_driver,
        default_runtime=settings.default_runtime,
        init_binary=os.path.basename(init_path(settings)) or "docker-init",
        seccomp_profile=settings.seccomp_profile or "builtin",
        no_new_privileges=settings.no_new_privileges,
        userns_remap=bool(settings.userns_remap),
        insecure_registries=list(settings.insecure_registries),
        registry_mirrors=list(settings.registry_mirrors),
        http_proxy=settings.http_proxy,
        https_proxy=settings.https_proxy,
        no_proxy=settings.no_proxy,
        address_pools=[address_pool(one) for one in settings.default_address_pools],
        tcp_hosts=[
            host.removeprefix("tcp://")
            for host in settings.socket_hosts
            if host.startswith("tcp://") and not settings.tlsverify
        ],
    )


def _tell_if_failed(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("garbage collection of images has ended: %s", error, exc_info=error)


def archive_limits(settings: Settings) -> ArchiveLimits:
    return ArchiveLimits(
        total_bytes=settings.max_layer_size,
        entries=settings.max_layer_entries,
        ratio=settings.max_layer_ratio,
    )


def layer_blob_policy(settings: Settings) -> LayerBlobPolicy:
    return cast(LayerBlobPolicy, settings.layer_blobs)


def upkeep_settings(settings: Settings) -> UpkeepSettings:
    return UpkeepSettings(
        data_root=settings.data_root,
        rules=Rules(
            unused_for_ns=settings.image_gc_age * 1_000_000_000,
            high_percent=settings.image_gc_high,
            low_percent=settings.image_gc_low,
        ),
        kept_names=settings.image_gc_keep,
        interval_s=settings.image_gc_interval,
    )


def registry_settings(settings: Settings) -> RegistrySettings:
    """Raises SettingError."""
    try:
        mirrors = mirrors_by_registry(settings.registry_mirrors, settings.mirrors)
    except ValueError as error:
        raise SettingError(str(error)) from None
    return RegistrySettings(
        insecure=settings.insecure_registries,
        mirrors=mirrors,
        http_proxy=settings.http_proxy,
        https_proxy=settings.https_proxy,
        no_proxy=settings.no_proxy,
    )


def network_settings(settings: Settings) -> NetworkSettings:
    return NetworkSettings(
        run_dir=settings.exec_root,
        bridge=settings.bridge or DEFAULT_BRIDGE,
        # without a default bridge there is no name that other daemons do not have
        instance=f"{zlib.crc32(settings.exec_root.encode()):08x}" if settings.bridge == "none" else "",
        bip=settings.bip,
        bip6=settings.bip6,
        fixed_cidr=settings.fixed_cidr,
        fixed_cidr_v6=settings.fixed_cidr_v6,
        default_gateway=settings.default_gateway,
        default_gateway_v6=settings.default_gateway_v6,
        mtu=settings.mtu or 1500,
        firewall=settings.firewall if settings.iptables else "off",
        icc=settings.icc,
        ip_masq=settings.ip_masq,
        ip_forward=settings.ip_forward,
        ipv6=settings.ipv6,
        ip=settings.ip,
        default_address_pools=tuple(address_pool(one) for one in settings.default_address_pools),
        host_gateway_ips=tuple(part for part in settings.host_gateway_ip.split(",") if part),
    )


def address_pool(value: Any) -> tuple[str, int]:
    """``base=10.0.0.0/8,size=24``, or daemon.json's ``{"base": .., "size": ..}``."""
    if isinstance(value, dict):
        return str(value["base"]), int(value["size"])
    parts = dict(part.partition("=")[::2] for part in str(value).split(","))
    try:
        return parts["base"], int(parts["size"])
    except (KeyError, ValueError):
        raise SettingError(f"invalid default address pool: {value}") from None


def engine_defaults(settings: Settings, facts: hostfacts.HostFacts) -> EngineDefaults:
    unified = facts.cgroup_version == 2
    return EngineDefaults(
        log=LogConfig(type=settings.log_driver, config=dict(settings.log_opts)),
        shm_size=settings.default_shm_size,
        ipc_mode=settings.default_ipc_mode,
        cgroupns_mode=settings.default_cgroupns_mode or ("private" if unified else "host"),
        unified_cgroups=unified,
        runtime=settings.default_runtime,
    )


def spec_settings(settings: Settings) -> SpecSettings:
    changes = {"cgroup_parent": settings.cgroup_parent} if settings.cgroup_parent else {}
    return SpecSettings(
        ulimits=[_ulimit(one) for one in settings.default_ulimits.values()],
        init=settings.init,
        init_path=init_path(settings),
        no_new_privileges=settings.no_new_privileges,
        seccomp_profile=seccomp_profile(settings.seccomp_profile),
        **changes,
    )


def _ulimit(value: Any) -> Ulimit:
    if isinstance(value, UlimitSetting):
        return Ulimit(name=value.name, soft=value.soft, hard=value.hard)
    return Ulimit(name=str(value["name"]), soft=int(value["soft"]), hard=int(value["hard"]))


def init_path(settings: Settings) -> str:
    """The program for --init: the one that was named, else docker-init or tini from PATH."""
    if settings.init_path:
        return settings.init_path
    return next((found for name in INIT_PROGRAMS if (found := shutil.which(name))), "")


def seccomp_profile(value: str) -> str:
    """The profile's JSON text; "" for the built-in one. Raises SettingError."""
    if value in ("", "builtin"):
        return ""
    if value == "unconfined":
        return value
    try:
        with open(value) as file:
            return file.read()
    except OSError as error:
        raise SettingError(f"opening seccomp profile ({value}) failed: {error.strerror}") from None


def build(settings: Settings, spawner: Spawner) -> Platform:
    """Open the store and connect all parts. Nothing of the host is changed before ``start``."""
    return Platform(settings, spawner)
