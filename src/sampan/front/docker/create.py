"""``POST /containers/create``: the body, and what older clients mean by the same fields.

Each rule names the API version that changed; they are those of moby's container router.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sampan.base.errors import InvalidArgument
from sampan.model.container import (
    BindOptions,
    ContainerConfig,
    EndpointConfig,
    HealthConfig,
    HostConfig,
    Mount,
)

from .decoding import decode_any_case, decode_body

ENDPOINT_SYSCTLS = "com.docker.network.endpoint.sysctls"
MAC_ADDRESS_MOVED = (
    "The container-wide MacAddress field is now deprecated. "
    "It should be specified in EndpointsConfig instead."
)
replace = msgspec.structs.replace


class NetworkingConfig(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    endpoints_config: dict[str, EndpointConfig | None] | None = None


class CreateBody(ContainerConfig, frozen=True, kw_only=True, rename="pascal"):
    """Docker puts the container's config at the top level and the rest beside it."""

    host_config: HostConfig | None = None
    networking_config: NetworkingConfig | None = None


class CreateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What reaches the engine."""

    config: ContainerConfig
    host: HostConfig
    networks: dict[str, EndpointConfig]
    warnings: list[str]


_CONFIG_FIELDS = tuple(item.name for item in msgspec.structs.fields(ContainerConfig))


def decode_create(body: bytes, version: int) -> CreateRequest:
    """Raises InvalidBody or InvalidArgument."""
    request = decode_body(body, CreateBody)
    if not request.image and b'"image"' in body.lower() and b'"Image"' not in body:
        request = decode_any_case(body, CreateBody)
    config = ContainerConfig(**{name: getattr(request, name) for name in _CONFIG_FIELDS})
    host = request.host_config or HostConfig()
    networks = _endpoints(request.networking_config)
    if host.network_mode in ("", "default"):
        host = replace(host, network_mode="bridge")
        if "default" in networks:
            networks["bridge"] = networks.pop("default")
    host = _host_of_version(host, version)
    if version < 44:
        config = _config_before_44(config)
        if len(networks) > 1:
            names = ", ".join(networks)
            raise InvalidArgument(f"Container cannot be created with multiple network endpoints: {names}")
    if version < 48:
        networks = {name: replace(one, gw_priority=0) for name, one in networks.items()}
    return _finish(config, host, networks, version)


def _finish(
    config: ContainerConfig, host: HostConfig, networks: dict[str, EndpointConfig], version: int
) -> CreateRequest:
    warnings = []
    warning = _volume_driver_warning(host, version)
    if warning:
        warnings.append(warning)
    config, networks, warning = _place_mac_address(config, host, networks, version)
    if warning:
        warnings.append(warning)
    host, networks, warning = _place_sysctls(host, networks, version)
    if warning:
        warnings.append(warning)
    if host.pids_limit is not None and host.pids_limit <= 0:
        host = replace(host, pids_limit=None)
    return CreateRequest(config=config, host=host, networks=networks, warnings=warnings)


def _endpoints(networking: NetworkingConfig | None) -> dict[str, EndpointConfig]:
    if networking is None or not networking.endpoints_config:
        return {}
    return {name: one or EndpointConfig() for name, one in networking.endpoints_config.items()}


def _config_before_44(config: ContainerConfig) -> ContainerConfig:
    health = config.healthcheck
    if isinstance(health, HealthConfig) and health.start_interval:
        return replace(config, healthcheck=replace(health, start_interval=0))
    return config


def _host_of_version(host: HostConfig, version: int) -> HostConfig:
    changes: dict[str, Any] = {}
    if version < 25:
        # Clients of that time remove the container themselves.
        changes["auto_remove"] = False
    if version < 40 and not host.ipc_mode:
        changes["ipc_mode"] = "shareable"
    if version < 41 and not host.cgroupns_mode:
        changes["cgroupns_mode"] = "host"
    if version < 42:
        changes["console_size"] = (0, 0)
    if version < 43:
        changes["annotations"] = None
    if host.mounts:
        changes["mounts"] = [_mount_of_version(mount, version) for mount in host.mounts]
    return replace(host, **changes) if changes else host


def _mount_of_version(mount: Mount, version: int) -> Mount:
    _require_known_options(mount, version)
    bind = mount.bind_options
    if bind is not None:
        changes: dict[str, Any] = {}
        if version < 40:
            changes["non_recursive"] = False
        if version < 42:
            changes["create_mountpoint"] = False
        if changes:
            mount = replace(mount, bind_options=replace(bind, **changes))
    if version < 44 and mount.type == "bind" and mount.read_only:
        # Read-only reached no mounts below before 1.44.
        options = replace(mount.bind_options or BindOptions(), read_only_non_recursive=True)
        mount = replace(mount, bind_options=options)
    if version < 42:
        # Not validated at that time, so it must not fail now.
        if mount.type != "volume":
            mount = replace(mount, volume_options=None)
        if mount.type != "tmpfs":
            mount = replace(mount, tmpfs_options=None)
    return mount


def _require_known_options(mount: Mount, version: int) -> None:
    if version >= 42:
        for kind, label, options in (
            ("volume", "VolumeOptions", mount.volume_options),
            ("bind", "BindOptions", mount.bind_options),
            ("tmpfs", "TmpfsOptions", mount.tmpfs_options),
        ):
            if options is not None and mount.type != kind:
                raise InvalidArgument(f'{label} must not be specified on mount type "{mount.type}"')
    if version < 44 and mount.bind_options is not None and mount.bind_options.read_only_force_recursive:
        raise InvalidArgument("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer")
    if version < 45 and mount.volume_options is not None and mount.volume_options.subpath:
        raise InvalidArgument("VolumeOptions.Subpath needs API v1.45 or newer")
    if version < 48 and mount.type == "image":
        raise InvalidArgument('Mount type "Image" needs API v1.48 or newer')


def _volume_driver_warning(host: HostConfig, version: int) -> str:
    if not host.volume_driver or version < 48:
        return ""
    for mount in host.mounts or []:
        if mount.type != "volume":
            continue
        options = mount.volume_options
        if options is not None and options.driver_config is not None and options.driver_config.name:
            continue
        return (
            "WARNING: the container-wide volume-driver configuration is ignored for volumes specified via "
            "'mount'. Use '--mount type=volume,volume-driver=...' instead"
        )
    return ""


def _has_endpoint(mode: str) -> bool:
    return mode not in ("host", "none") and not mode.startswith("container:")


def _main_endpoint(
    mode: str, networks: dict[str, EndpointConfig], version: int
) -> tuple[str, EndpointConfig]:
    """The endpoint that container-wide settings are meant for."""
    if not networks:
        return mode, EndpointConfig()
    if version < 44:
        return next(iter(networks.items()))
    if mode not in networks:
        raise InvalidArgument(
            "HostConfig.NetworkMode must match the identity of a network in NetworkSettings.Networks"
        )
    return mode, networks[mode]


def _place_mac_address(
    config: ContainerConfig, host: HostConfig, networks: dict[str, EndpointConfig], version: int
) -> tuple[ContainerConfig, dict[str, EndpointConfig], str]:
    """From 1.44 on the address belongs to an endpoint; before, to the container."""
    address = config.mac_address
    if not address:
        if version < 44:
            networks = {name: replace(one, mac_address="") for name, one in networks.items()}
        return config, networks, ""
    if not _has_endpoint(host.network_mode):
        if version < 44:
            raise InvalidArgument("conflicting options: mac-address and the network mode")
    else:
        name, endpoint = _main_endpoint(host.network_mode, networks, version)
        if version >= 44 and endpoint.mac_address not in ("", address):
            raise InvalidArgument(
                "the container-wide MAC address must match the endpoint-specific MAC address for the main "
                "network, or be left empty"
            )
        networks = {**networks, name: replace(endpoint, mac_address=address)}
    if version < 44:
        return config, networks, ""
    return replace(config, mac_address=""), networks, MAC_ADDRESS_MOVED


def _place_sysctls(
    host: HostConfig, networks: dict[str, EndpointConfig], version: int
) -> tuple[HostConfig, dict[str, EndpointConfig], str]:
    """``net.*.*.eth0.*`` belongs to the endpoint whose interface becomes eth0."""
    own = [key for key in host.sysctls or {} if _names_interface(key)]
    if not own or not _has_endpoint(host.network_mode):
        return host, networks, ""
    assert host.sysctls is not None
    if version > 47:
        raise InvalidArgument(
            f'interface specific sysctl setting "{own[0]}" must be supplied using driver option '
            f"'{ENDPOINT_SYSCTLS}'"
        )
    for key in own:
        if key.split(".", 4)[3] != "eth0":
            raise InvalidArgument(
                f"unable to determine network endpoint for sysctl {key}, use driver option "
                f"'{ENDPOINT_SYSCTLS}' to set per-interface sysctls"
            )
    name, endpoint = _main_endpoint(host.network_mode, networks, version)
    moved = ",".join(_for_any_interface(key, host.sysctls[key]) for key in own)
    options = dict(endpoint.driver_opts or {})
    before = options.get(ENDPOINT_SYSCTLS)
    options[ENDPOINT_SYSCTLS] = f"{moved},{before}" if before else moved
    rest = {key: value for key, value in host.sysctls.items() if key not in own}
    warning = f'Migrated sysctl "{",".join(own)}" to DriverOpts{{"{ENDPOINT_SYSCTLS}":"{moved}"}}.'
    networks = {**networks, name: replace(endpoint, driver_opts=options)}
    return replace(host, sysctls=rest), networks, warning


def _names_interface(key: str) -> bool:
    parts = key.split(".", 4)
    return len(parts) == 5 and parts[0] == "net" and parts[3].startswith("eth")


def _for_any_interface(key: str, value: str) -> str:
    _, family, kind, _, rest = key.split(".", 4)
    return f"net.{family}.{kind}.IFNAME.{rest}={value}"
