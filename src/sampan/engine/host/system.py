"""``info``, ``version`` and ``system df``."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import threading
from collections.abc import Callable, Sequence

import msgspec

from sampan.base.clock import format_ns, now_ns
from sampan.engine.container.containers import Containers
from sampan.engine.container.lifecycle import ALIVE
from sampan.engine.container.registry import Registry
from sampan.engine.events import Events
from sampan.engine.files.volumes import LOCAL, Volumes
from sampan.engine.image.images import Images
from sampan.engine.spec.hostfacts import HostFacts
from sampan.kernel.mountinfo import file_system_type

from .disk import DataRootUsage, DiskOwners, measure
from .stats import machine_memory_bytes
from .system_views import (
    AddressPool,
    Commit,
    Component,
    DiskUsage,
    FirewallInfo,
    IndexInfo,
    Platform,
    PluginsInfo,
    RegistryConfig,
    RuntimeInfo,
    SystemInfo,
    SystemSettings,
    SystemVersion,
)

DF_TYPES = ("container", "image", "volume", "build-cache")
LOG_DRIVERS = ["json-file", "local", "none"]
HUB = "docker.io"
LOOPBACK_NETWORKS = ["::1/128", "127.0.0.0/8"]
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_LIMITS = (
    ("memory_limit", "memory limit"),
    ("swap_limit", "swap limit"),
    ("oom_kill_disable", "oom kill disable"),
    ("cpu_cfs", "cpu cfs quota"),
    ("cpu_cfs", "cpu cfs period"),
    ("cpu_shares", "cpu shares"),
    ("cpuset", "cpuset"),
)


class System:
    """Facts about the engine and its machine."""

    def __init__(
        self,
        settings: SystemSettings,
        host: HostFacts,
        registry: Registry,
        containers: Containers,
        images: Images,
        volumes: Volumes,
        events: Events,
        network_warnings: Callable[[], list[str]] = list,
    ) -> None:
        self._network_warnings = network_warnings
        self._settings = settings
        self._host = host
        self._registry = registry
        self._containers = containers
        self._images = images
        self._volumes = volumes
        self._events = events
        self._operating_system, self._os_version = os_release()

    def reload(self, settings: SystemSettings) -> None:
        """The daemon was told something else about itself (SIGHUP)."""
        self._settings = settings

    async def info(self) -> SystemInfo:
        settings, host = self._settings, self._host
        running, paused, stopped = self._count()
        pools = [AddressPool(base=base, size=size) for base, size in settings.address_pools]
        return SystemInfo(
            id=settings.id,
            containers=running + paused + stopped,
            containers_running=running,
            containers_paused=paused,
            containers_stopped=stopped,
            images=len(await self._images.list()),
            driver="overlay2",
            driver_status=self._driver_status(),
            plugins=PluginsInfo(volume=[LOCAL], network=list(settings.network_drivers), log=LOG_DRIVERS),
            memory_limit=host.memory_limit,
            swap_limit=host.swap_limit,
            cpu_cfs_period=host.cpu_cfs,
            cpu_cfs_quota=host.cpu_cfs,
            cpu_shares=host.cpu_shares,
            cpu_set=host.cpuset,
            pids_limit=host.pids_limit,
            ipv4_forwarding=_forwarding(),
            debug=settings.debug,
            n_fd=len(os.listdir("/proc/self/fd")),
            oom_kill_disable=host.oom_kill_disable,
            n_goroutines=len(asyncio.all_tasks()) + threading.active_count(),
            system_time=format_ns(now_ns()),
            logging_driver=settings.log_driver,
            cgroup_driver=settings.cgroup_driver,
            cgroup_version=str(host.cgroup_version),
            n_events_listener=self._events.subscriber_count,
            kernel_version=platform.release(),
            operating_system=self._operating_system,
            os_version=self._os_version,
            architecture=host.machine,
            registry_config=_registry_config(settings),
            ncpu=host.cpus,
            mem_total=machine_memory_bytes(),
            docker_root_dir=settings.data_root,
            http_proxy=settings.http_proxy,
            https_proxy=settings.https_proxy,
            no_proxy=settings.no_proxy,
            name=platform.node(),
            labels=settings.labels,
            experimental_build=settings.experimental,
            server_version=settings.server_version,
            runtimes=_runtimes(settings),
            default_runtime=settings.default_runtime,
            init_binary=settings.init_binary,
            containerd_commit=Commit(id=""),
            runc_commit=Commit(id=settings.version),
            init_commit=Commit(id=""),
            security_options=self._security_options(),
            default_address_pools=pools or msgspec.UNSET,
            firewall_backend=FirewallInfo(driver="nftables"),
            warnings=self._warnings() or None,
        )

    async def version(self) -> SystemVersion:
        settings = self._settings
        kernel = platform.release()
        arch = _ARCHITECTURES.get(self._host.machine, self._host.machine)
        python = f"python{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
        details = {
            "ApiVersion": settings.api_version,
            "Arch": arch,
            "BuildTime": "",
            "Experimental": "true" if settings.experimental else "false",
            "GitCommit": f"sampan-{settings.version}",
            "GoVersion": python,
            "KernelVersion": kernel,
            "MinAPIVersion": settings.min_api_version,
            "Os": "linux",
        }
        return SystemVersion(
            platform=Platform(name=f"Sampan {settings.version}"),
            components=[
                Component(name="Engine", version=settings.server_version, details=details),
                Component(name="Sampan", version=settings.version, details={"GoVersion": python}),
            ],
            version=settings.server_version,
            api_version=settings.api_version,
            min_api_version=settings.min_api_version,
            git_commit=details["GitCommit"],
            go_version=python,
            os="linux",
            arch=arch,
            kernel_version=kernel,
            build_time="",
        )

    async def df(self, types: Sequence[str] = DF_TYPES) -> DiskUsage:
        """Measured now, which reads every directory of containers and volumes."""
        layers_size, images = 0, None
        if "image" in types:
            usage = await self._images.usage()
            layers_size, images = usage.layers_size, usage.images
        containers = None
        if "container" in types:
            views = self._containers.list(all=True)
            containers = [await self._containers.with_size(view) for view in views]
        return DiskUsage(
            layers_size=layers_size,
            images=images,
            containers=containers,
            volumes=await self._volumes.usage() if "volume" in types else None,
            build_cache=[] if "build-cache" in types else None,
        )

    async def data_root_usage(self) -> DataRootUsage:
        """What every byte below the data root belongs to. Measured now, which reads every directory."""
        store = self._images.catalog.store
        layers: dict[str, set[str]] = {}
        for image in store.all():
            for chain in image.chain_ids:
                layers.setdefault(chain, set()).add(image.id)
        for entry in self._registry:
            for chain in entry.record.layer_ids:
                layers.setdefault(chain, set()).add(entry.id)
        volumes, _ = await self._volumes.list()
        unused, _ = await self._volumes.list({"dangling": ["true"]})
        owners = DiskOwners(
            blobs=store.blob_owners(),
            layers=layers,
            needed={one for entry in self._registry for one in (entry.id, entry.record.image_id)},
            containers={entry.id: entry.life.phase in ALIVE for entry in self._registry},
            volumes={volume.name: volume not in unused for volume in volumes},
        )
        return await asyncio.to_thread(measure, self._settings.data_root, owners)

    def _count(self) -> tuple[int, int, int]:
        phases = [entry.life.phase for entry in self._registry]
        running = phases.count("running") + phases.count("restarting")
        paused = phases.count("paused")
        return running, paused, len(phases) - running - paused

    def _driver_status(self) -> list[tuple[str, str]]:
        return [
            ("Backing Filesystem", file_system_type(self._settings.data_root)),
            ("Supports d_type", "true"),
            ("Using metacopy", "false"),
            ("Native Overlay Diff", "true"),
            ("userxattr", "false"),
        ]

    def _security_options(self) -> list[str]:
        settings, host = self._settings, self._host
        options = []
        if host.apparmor:
            options.append("name=apparmor")
        if host.seccomp:
            options.append(f"name=seccomp,profile={settings.seccomp_profile}")
        if settings.userns_remap:
            options.append("name=userns")
        if host.cgroup_namespaces and host.cgroup_version == 2:
            options.append("name=cgroupns")
        if settings.no_new_privileges:
            options.append("name=no-new-privileges")
        return options

    def _warnings(self) -> list[str]:
        host = self._host
        found = [
            f"WARNING: No {text} support"
            for name, text in _LIMITS
            if not getattr(host, name) and (name != "oom_kill_disable" or host.cgroup_version == 1)
        ]
        if not host.blkio_weight and host.cgroup_version == 2:
            found += ["WARNING: No io.weight support", "WARNING: No io.weight (per device) support"]
        if not host.blkio_throttle:
            names = ("io.max (%s)", ("rbps", "wbps", "riops", "wiops"))
            if host.cgroup_version == 1:
                kinds = ("read_bps", "write_bps", "read_iops", "write_iops")
                names = ("blkio throttle.%s_device", kinds)
            found += [f"WARNING: No {names[0] % kind} support" for kind in names[1]]
        if not _forwarding():
            found.append("WARNING: IPv4 forwarding is disabled")
        found += self._network_warnings()
        if self._settings.seccomp_profile != "builtin":
            found.append("WARNING: daemon is not using the default seccomp profile")
        found += [
            f"[DEPRECATION NOTICE]: API is accessible on http://{address} without encryption.\n"
            "         Access to the remote API is equivalent to root access on the host."
            for address in self._settings.tcp_hosts
        ]
        return found


def _registry_config(settings: SystemSettings) -> RegistryConfig:
    cidrs = [one for one in settings.insecure_registries if "/" in one]
    indexes = {
        HUB: IndexInfo(name=HUB, mirrors=settings.registry_mirrors, secure=True, official=True),
        **{
            one: IndexInfo(name=one, mirrors=[], secure=False, official=False)
            for one in settings.insecure_registries
            if "/" not in one
        },
    }
    return RegistryConfig(
        insecure_registry_cidrs=[*LOOPBACK_NETWORKS, *cidrs],
        index_configs=indexes,
        mirrors=settings.registry_mirrors or None,
    )


def _runtimes(settings: SystemSettings) -> dict[str, RuntimeInfo]:
    """Every name is Sampan's own runtime: clients ask for ``runc`` by name."""
    paths = {"runc": "sampan-oci", "io.containerd.runc.v2": "sampan-oci", "sampan": "sampan-oci"}
    status = {"org.opencontainers.runtime-spec.features": '{"ociVersionMin":"1.0.0","ociVersionMax":"1.2.0"}'}
    return {
        name: RuntimeInfo(path=path, status=status) for name, path in {**paths, **settings.runtimes}.items()
    }


def os_release(paths: Sequence[str] = ("/etc/os-release", "/usr/lib/os-release")) -> tuple[str, str]:
    """Pretty name and version id, os-release(5). "Linux" where there is no such file."""
    for path in paths:
        try:
            with open(path) as file:
                values = dict(line.strip().partition("=")[::2] for line in file if "=" in line)
        except FileNotFoundError:
            continue
        return values.get("PRETTY_NAME", "Linux").strip("\"'"), values.get("VERSION_ID", "").strip("\"'")
    return "Linux", ""


def _forwarding() -> bool:
    """Asked each time: the daemon itself may have switched it on."""
    with open("/proc/sys/net/ipv4/ip_forward") as file:
        return file.read().strip() == "1"
