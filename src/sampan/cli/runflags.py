"""From the options of ``run`` and ``create`` to the body of ``POST /containers/create``.

The body is the one Docker's client 28 sends for the same command line (tests/unit/test_cli_golden.py).
"""

from __future__ import annotations

from sampan.cli import ports, runvalues
from sampan.cli.failure import Failure
from sampan.cli.mounts import parse_volume
from sampan.cli.options import Values
from sampan.cli.runendpoints import endpoints, network_mode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Json = dict[str, Any]


def create_body(values: Values, words: list[str]) -> Json:
    """The request for IMAGE [COMMAND]. Raises Failure(status 125) for what the client itself can refuse."""
    try:
        return _create_body(values, words)
    except ValueError as error:
        raise bad(values, str(error)) from None


def bad(values: Values, reason: str, status: int = 125) -> Failure:
    return Failure(f"sampan: {reason}\n\nRun 'sampan {values.command} --help' for more information", status)


def _create_body(values: Values, words: list[str]) -> Json:
    binds, volumes = _volumes(values)
    exposed, bindings = _ports(values)
    body = _config(values, words)
    body["Volumes"] = {target: {} for target in volumes}
    if exposed:
        body["ExposedPorts"] = {port: {} for port in exposed}
    if health := _health(values):
        body["Healthcheck"] = health
    host = _host(values)
    host.update(_resources(values))
    host["Binds"] = binds or None
    host["PortBindings"] = bindings
    host["RestartPolicy"] = _restart_policy(values)
    host["LogConfig"] = _log_config(values)
    _security(values, host)
    _optional(values, host)
    body["HostConfig"] = host
    body["NetworkingConfig"] = {"EndpointsConfig": endpoints(values)}
    return body


def _config(values: Values, words: list[str]) -> Json:
    if mac := values.text("mac-address"):
        runvalues.mac_address(mac)
    attach = values.many("attach")
    stdin = values.flag("interactive") or "stdin" in attach
    entrypoint = [values.text("entrypoint")] if values.given("entrypoint") else None
    body: Json = {
        "Hostname": values.text("hostname"),
        "Domainname": values.text("domainname"),
        "User": values.text("user"),
        "AttachStdin": stdin,
        "AttachStdout": not attach or "stdout" in attach,
        "AttachStderr": not attach or "stderr" in attach,
        "Tty": values.flag("tty"),
        "OpenStdin": values.flag("interactive"),
        "StdinOnce": stdin and values.flag("interactive"),
        "Env": _environment(values) or None,
        "Cmd": words[1:] or None,
        "Image": words[0],
        "WorkingDir": values.text("workdir"),
        "Entrypoint": entrypoint,
        "OnBuild": None,
        "Labels": runvalues.pair_map(_lines(values, "label-file", look_up=False) + values.many("label")),
    }
    if values.text("stop-signal"):
        body["StopSignal"] = values.text("stop-signal")
    if values.given("stop-timeout"):
        body["StopTimeout"] = values.number("stop-timeout")
    return body


def _environment(values: Values) -> list[str]:
    # Of the variables on the command line the last of a name counts; those of files all go out before.
    named = {pair.partition("=")[0]: pair for pair in values.many("env")}
    return _lines(values, "env-file", look_up=True) + list(named.values())


def _lines(values: Values, name: str, *, look_up: bool) -> list[str]:
    from sampan.cli.envfile import read_pairs

    return [pair for path in values.many(name) for pair in read_pairs(path, look_up=look_up)]


def _volumes(values: Values) -> tuple[list[str], list[str]]:
    binds: list[str] = []
    volumes: list[str] = []
    for spec in dict.fromkeys(values.many("volume")):
        bind, target = parse_volume(spec)
        if bind:
            binds.append(bind)
        else:
            volumes.append(target)
    return binds, volumes


def _ports(values: Values) -> tuple[list[str], Json]:
    exposed: dict[str, None] = {}
    bindings: Json = {}
    for spec in values.many("publish"):
        for port, address, host_port in ports.parse_publish(ports.from_long_form(spec)):
            exposed[port] = None
            bindings.setdefault(port, []).append({"HostIp": address, "HostPort": host_port})
    for spec in values.many("expose"):
        exposed.update(dict.fromkeys(ports.parse_expose(spec)))
    return list(exposed), bindings


def _health(values: Values) -> Json | None:
    names = {
        "health-interval": "Interval",
        "health-timeout": "Timeout",
        "health-start-period": "StartPeriod",
        "health-start-interval": "StartInterval",
        "health-retries": "Retries",
    }
    settings = {field: values.number(name) for name, field in names.items() if values.number(name)}
    command = values.text("health-cmd")
    if values.flag("no-healthcheck"):
        if settings or command:
            raise ValueError("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    for name in names:
        if values.number(name) < 0:
            raise ValueError(f"--{name} cannot be negative")
    if command:
        settings = {"Test": ["CMD-SHELL", command], **settings}  # type: ignore[dict-item]
    return settings or None


def _restart_policy(values: Values) -> Json:
    policy = values.text("restart")
    name, mark, count = policy.partition(":")
    if mark and not name:
        raise ValueError("invalid restart policy format: no policy provided before colon")
    if count and not count.lstrip("+-").isdigit():
        raise ValueError("invalid restart policy format: maximum retry count must be an integer")
    if values.flag("rm") and name not in ("", "no"):
        raise ValueError("conflicting options: cannot specify both --restart and --rm")
    return {"Name": name, "MaximumRetryCount": int(count or 0)}


def _log_config(values: Values) -> Json:
    driver, options = values.text("log-driver"), values.many("log-opt")
    if driver == "none" and options:
        raise ValueError(f"invalid logging opts for driver {driver}")
    return {"Type": driver, "Config": runvalues.pair_map(options)}


def _capabilities(names: list[str]) -> list[str] | None:
    """Upper case with the prefix, ``ALL`` alone as it is, each once and sorted, as Docker sends them."""
    normal = set()
    for name in names:
        upper = name.strip().upper()
        if upper and upper != "ALL" and not upper.startswith("CAP_"):
            upper = "CAP_" + upper
        normal.add(upper)
    return sorted(normal) or None


def _container_or(text: str, *words: str) -> bool:
    return text in ("", *words) or (text.startswith("container:") and len(text) > len("container:"))


def _namespaces(values: Values) -> Json:
    if not _container_or(values.text("pid"), "host"):
        raise ValueError("--pid: invalid PID mode")
    for name, known, word in (
        ("uts", ("", "host"), "UTS"),
        ("userns", ("", "host"), "USER"),
        ("cgroupns", ("", "host", "private"), "CGROUP"),
    ):
        if values.text(name) not in known:
            raise ValueError(f"--{name}: invalid {word} mode")
    return {
        "IpcMode": values.text("ipc"),
        "PidMode": values.text("pid"),
        "UTSMode": values.text("uts"),
        "UsernsMode": values.text("userns"),
        "CgroupnsMode": values.text("cgroupns"),
    }


def _host(values: Values) -> Json:
    return {
        "ContainerIDFile": values.text("cidfile"),
        "NetworkMode": network_mode(values),
        "AutoRemove": values.flag("rm"),
        "VolumeDriver": values.text("volume-driver"),
        "VolumesFrom": values.many("volumes-from") or None,
        "ConsoleSize": [0, 0],
        "CapAdd": _capabilities(values.many("cap-add")),
        "CapDrop": _capabilities(values.many("cap-drop")),
        "Dns": values.many("dns"),
        "DnsOptions": values.many("dns-option"),
        "DnsSearch": values.many("dns-search"),
        "ExtraHosts": values.many("add-host") or None,
        "GroupAdd": values.many("group-add") or None,
        "Cgroup": "",
        "Links": values.many("link") or None,
        "OomScoreAdj": values.number("oom-score-adj"),
        "Privileged": values.flag("privileged"),
        "PublishAllPorts": values.flag("publish-all"),
        "ReadonlyRootfs": values.flag("read-only"),
        "ShmSize": values.number("shm-size"),
        "Isolation": values.text("isolation"),
        **_namespaces(values),
    }


def _resources(values: Values) -> Json:
    swappiness = values.number("memory-swappiness")
    if swappiness != -1 and not 0 <= swappiness <= 100:
        raise ValueError(f"invalid value: {swappiness}. Valid memory swappiness range is 0-100")
    ulimits = {limit["Name"]: limit for limit in values.many("ulimit")}
    devices, qualified = _devices(values)
    requests = values.many("gpus")
    if qualified:
        requests.append(
            {"Driver": "cdi", "Count": 0, "DeviceIDs": qualified, "Capabilities": None, "Options": None}
        )
    return {
        "CpuShares": values.number("cpu-shares"),
        "Memory": values.number("memory"),
        "NanoCpus": values.number("cpus"),
        "CgroupParent": values.text("cgroup-parent"),
        "BlkioWeight": values.number("blkio-weight"),
        "BlkioWeightDevice": values.many("blkio-weight-device"),
        "BlkioDeviceReadBps": values.many("device-read-bps"),
        "BlkioDeviceWriteBps": values.many("device-write-bps"),
        "BlkioDeviceReadIOps": values.many("device-read-iops"),
        "BlkioDeviceWriteIOps": values.many("device-write-iops"),
        "CpuPeriod": values.number("cpu-period"),
        "CpuQuota": values.number("cpu-quota"),
        "CpuRealtimePeriod": values.number("cpu-rt-period"),
        "CpuRealtimeRuntime": values.number("cpu-rt-runtime"),
        "CpusetCpus": values.text("cpuset-cpus"),
        "CpusetMems": values.text("cpuset-mems"),
        "Devices": devices,
        "DeviceCgroupRules": values.many("device-cgroup-rule") or None,
        "DeviceRequests": requests or None,
        "MemoryReservation": values.number("memory-reservation"),
        "MemorySwap": values.number("memory-swap"),
        "MemorySwappiness": swappiness,
        "OomKillDisable": values.flag("oom-kill-disable"),
        "PidsLimit": values.number("pids-limit"),
        "Ulimits": [ulimits[name] for name in sorted(ulimits)],
        "CpuCount": values.number("cpu-count"),
        "CpuPercent": values.number("cpu-percent"),
        "IOMaximumIOps": values.number("io-maxiops"),
        "IOMaximumBandwidth": values.number("io-maxbandwidth"),
    }


def _is_mode(text: str) -> bool:
    return bool(text) and not set(text) - set("rwm") and len(set(text)) == len(text)


def _is_qualified(text: str) -> bool:
    """``vendor.com/class=name``: a device of the Container Device Interface rather than a path."""
    kind, mark, name = text.partition("=")
    vendor, slash, device_class = kind.partition("/")
    return bool(mark and slash and name and vendor and device_class) and vendor[0].isalpha()


def _devices(values: Values) -> tuple[list[Json], list[str]]:
    devices = []
    qualified = []
    for text in values.many("device"):
        if _is_qualified(text):
            qualified.append(text)
        else:
            devices.append(_device(text))
    return devices, qualified


def _device(text: str) -> Json:
    from posixpath import normpath

    parts = text.split(":")
    if len(parts) > 3 or not parts[0]:
        raise ValueError(f"bad format for path: {text}")
    source, target, mode = parts[0], "", "rwm"
    if len(parts) == 3:
        target, mode = parts[1], parts[2]
        if not _is_mode(mode):
            raise ValueError(f"bad mode specified: {mode}")
    elif len(parts) == 2 and _is_mode(parts[1]):
        mode = parts[1]
        source = normpath(source)
    elif len(parts) == 2:
        target = normpath(parts[1])
    else:
        source = normpath(source)
    target = target or source
    if not target.startswith("/"):
        raise ValueError(f"{target} is not an absolute path")
    return {"PathOnHost": source, "PathInContainer": target, "CgroupPermissions": mode}


def _security(values: Values, host: Json) -> None:
    options = []
    host["MaskedPaths"] = host["ReadonlyPaths"] = None
    for option in values.many("security-opt"):
        if option == "systempaths=unconfined":
            host["MaskedPaths"], host["ReadonlyPaths"] = [], []
            continue
        key, mark, value = option.partition("=")
        if not mark and key != "no-new-privileges":
            key, mark, value = option.partition(":")
        if key != "no-new-privileges" and not value:
            raise ValueError(f'Invalid --security-opt: "{option}"')
        if key == "seccomp" and value not in ("builtin", "unconfined"):
            option = f"seccomp={_seccomp_profile(value)}"
        options.append(option)
    host["SecurityOpt"] = options if options or host["MaskedPaths"] is not None else None


def _seccomp_profile(path: str) -> str:
    from sampan.cli import jsontext

    try:
        with open(path, encoding="utf-8") as file:
            return jsontext.dumps(jsontext.loads(file.read()))
    except OSError as error:
        reason = f"open {path}: {(error.strerror or '').lower()}"
        raise ValueError(f"opening seccomp profile ({path}) failed: {reason}") from None
    except jsontext.InvalidJson as error:
        raise ValueError(f"compacting json for seccomp profile ({path}) failed: {error}") from None


def _optional(values: Values, host: Json) -> None:
    """Fields that are sent only when there is something to say."""
    storage = {}
    for option in values.many("storage-opt"):
        key, mark, value = option.partition("=")
        if not mark:
            raise ValueError("invalid storage option")
        storage[key] = value
    tmpfs = {}
    for spec in values.many("tmpfs"):
        path, _, options = spec.partition(":")
        tmpfs[path] = options
    fields = {
        "Annotations": runvalues.pair_map(values.many("annotation")),
        "StorageOpt": storage,
        "Tmpfs": tmpfs,
        "Sysctls": runvalues.pair_map(values.many("sysctl")),
        "Runtime": values.text("runtime"),
        "Mounts": values.many("mount"),
    }
    host.update({name: value for name, value in fields.items() if value})
    if values.given("init"):
        host["Init"] = values.flag("init")
