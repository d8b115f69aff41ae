"""Writes hostname, hosts and resolv.conf of a container that starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

import msgspec

from sampan.base.errors import InvalidArgument
from sampan.formats.hosts import render_hosts, resolve_extra_hosts
from sampan.formats.resolv import (
    SYSTEMD_PATH,
    ResolvConf,
    for_bridge,
    for_internal,
    override,
    parse,
    render,
    uses_systemd_stub,
)
from sampan.model.container import Container, Endpoint

from .layout import Layout

HOST_HOSTS = "/etc/hosts"


class ResolverSource:
    """The host's resolv.conf, parsed again only when its text changes."""

    def __init__(self, path: str = "/etc/resolv.conf") -> None:
        self._path = path
        self._states: tuple[object, ...] = ()
        self._parsed = ResolvConf()

    def host(self) -> ResolvConf:
        """The file as it is: in the host's namespace its name servers are reached, local ones too."""
        return parse(_read(self._path), self._path)

    def current(self) -> ResolvConf:
        """The file with name servers that a container may be able to reach."""
        states = (_state(self._path), _state(SYSTEMD_PATH))
        if states == self._states:
            return self._parsed
        path, text = self._path, _read(self._path)
        if uses_systemd_stub(text) and (real := _read(SYSTEMD_PATH)):
            path, text = SYSTEMD_PATH, real
        self._states, self._parsed = states, parse(text, path)
        return self._parsed


class DnsDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon's --dns, --dns-search and --dns-opt, for containers that say nothing."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


NO_DEFAULTS = DnsDefaults()


class NetworkFiles:
    """Renders the three files from a record and its endpoints."""

    def __init__(
        self, layout: Layout, host_gateways: Callable[[], list[str]], dns: DnsDefaults = NO_DEFAULTS
    ) -> None:
        self._layout = layout
        self._gateways = host_gateways
        self._dns = dns
        self._resolver = ResolverSource()

    def write(
        self,
        record: Container,
        endpoints: Mapping[str, Endpoint],
        linked: Sequence[tuple[str, str]],
        *,
        named: bool = False,
    ) -> None:
        """``linked``: (address, names) of --link. ``named``: a name server answers in the container.
        Nothing is written for ``container:ID``: those files are the other container's. Raises
        InvalidArgument for unusable --add-host."""
        if record.host.network_mode.startswith("container:"):
            return
        id_ = record.id
        _write(self._layout.hostname(id_), f"{record.config.hostname}\n")
        _write(self._layout.hosts(id_), self._hosts(record, endpoints, linked))
        _write(self._layout.resolv_conf(id_), self._resolv(record, endpoints, named))

    def revise_resolv(
        self,
        record: Container,
        before: tuple[Mapping[str, Endpoint], bool],
        after: tuple[Mapping[str, Endpoint], bool],
    ) -> None:
        """Endpoints, and whether a name server answers, of a running container have changed. A file that
        the container has changed itself stays as it is. In place: it is bind-mounted there."""
        path = self._layout.resolv_conf(record.id)
        wanted = self._resolv(record, *after)
        present = _read(path)
        if present != wanted and present == self._resolv(record, *before):
            _write(path, wanted)

    def upstreams(self, record: Container) -> list[str]:
        """Who is asked for names that are not of the container's networks."""
        return list(record.host.dns or self._dns.servers or self._resolver.host().nameservers)

    def _hosts(
        self, record: Container, endpoints: Mapping[str, Endpoint], linked: Sequence[tuple[str, str]]
    ) -> str:
        try:
            extra = resolve_extra_hosts(record.host.extra_hosts or (), self._gateways())
        except ValueError as error:
            raise InvalidArgument(str(error)) from error
        if record.host.network_mode == "host" and not extra:
            return _read(HOST_HOSTS)  # with --add-host it is an own file, so that names can be overridden
        addresses = [a for e in endpoints.values() for a in (e.ip_address, e.global_ipv6_address)]
        return render_hosts(
            hostname=record.config.hostname,
            domainname=record.config.domainname,
            addresses=addresses,
            extra=[*extra, *linked],
        )

    def _resolv(self, record: Container, endpoints: Mapping[str, Endpoint], named: bool) -> str:
        host = record.host
        shares_host = host.network_mode == "host"
        conf = override(
            self._resolver.host() if shares_host or named else self._resolver.current(),
            nameservers=host.dns or self._dns.servers,
            search=host.dns_search or self._dns.search,
            options=host.dns_options or self._dns.options,
        )
        if named:
            conf = for_internal(conf)
        elif not shares_host:
            conf = for_bridge(conf, ipv6=any(e.global_ipv6_address for e in endpoints.values()))
        return render(conf)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _state(path: str) -> tuple[int, int, int] | None:
    """Different after every change of the file."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _write(path: str, text: str) -> None:
    """Without Python's layers of buffers: three small files are written at each start."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
