"""Puts the registry together from its settings."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from aiohttp.web_request import BaseRequest

from sampan.base.ids import new_id
from sampan.daemon.options import SettingError
from sampan.front.registry.admin import AdminPages, Job
from sampan.front.registry.annex import Annex, Pages
from sampan.front.registry.app import RegistryApi
from sampan.front.registry.browse import BrowsePages
from sampan.front.registry.callers import Callers
from sampan.front.registry.measuring import Metric, MetricsPages, RequestMetrics
from sampan.front.registry.search import SearchPages
from sampan.front.registry.tokens import TokenPages
from sampan.model.registry import RegistryEvent
from sampan.registry.access.control import AccessControl, LocalAuthenticator
from sampan.registry.browsing import Browser
from sampan.registry.metrics import Counter
from sampan.registry.policy.envelope import Source
from sampan.registry.policy.gate import PolicyGate
from sampan.registry.policy.retaining import Retention
from sampan.registry.policy.webhooks import Webhooks
from sampan.registry.ports import Authenticator, Notices, Observer
from sampan.registry.service import Registry
from sampan.registry.storage.files import FileBlobStorage
from sampan.registry.storage.port import BlobStorage
from sampan.registry.upkeep.garbage import Garbage
from sampan.registry.upkeep.schedule import Schedule
from sampan.registry.upkeep.scrub import Scrub
from sampan.registry.upkeep.snapshots import Snapshots
from sampan.registry.upstreams.cache import Cache
from sampan.store.registry.index import RegistryIndex

from .access import access_of, rules_of
from .gauges import gauges
from .parts import (
    garbage_settings,
    immutable_of,
    quotas_of,
    retention_of,
    s3_settings,
    scrub_settings,
    upstreams_of,
    webhooks_of,
)
from .sections import Settings

log = logging.getLogger(__name__)
Handle = Callable[[BaseRequest], Awaitable[web.StreamResponse]]
DATABASE = "registry.db"
_RELOADED = (
    *("rules", "quotas", "immutable", "retention", "gc", "scrub", "sparse", "log_level", "tls"),
    "auth",  # its anonymous patterns and groups; passwords are read again when their file changes
)


class Observers:
    """Several that are told."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def happened(self, event: RegistryEvent) -> None:
        for one in self._observers:
            one.happened(event)


class Journal:
    """A line of the log for each change, and at debug for each pull."""

    def happened(self, event: RegistryEvent) -> None:
        reads = event.action == "pull" or event.kind == "blob"
        log.log(
            logging.DEBUG if reads else logging.INFO,
            "%s %s %s by %s from %s",
            event.action,
            event.kind,
            f"{event.repository}{f':{event.tag}' if event.tag else ''} {event.digest}".strip(),
            event.actor.name or "nobody in particular",
            event.actor.address or "this machine",
        )


class AllNotices:
    """Of several."""

    def __init__(self, *sources: Notices) -> None:
        self._sources = sources

    def warnings(self, repository: str) -> Sequence[str]:
        return [text for source in self._sources for text in source.warnings(repository)]


class Lock:
    """One process for each root: two would lose each other's blobs."""

    def __init__(self, root: str) -> None:
        """Makes the directory. Raises SettingError."""
        try:
            os.makedirs(root, mode=0o700, exist_ok=True)
            self._fd = os.open(f"{root}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise SettingError(f"root: {root}: {(error.strerror or str(error)).lower()}") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise SettingError(f"root: another registry uses {root}") from None

    def release(self) -> None:
        os.close(self._fd)


class House:
    """The registry with everything around it. ``await House.open(settings)``, and ``close()`` at the end."""

    def __init__(
        self, settings: Settings, lock: Lock, storage: BlobStorage, snapshots: Snapshots | None
    ) -> None:
        """Raises SettingError and what the index raises."""
        self._settings = settings
        self._lock = lock
        self._snapshots = snapshots
        self.access = access_of(settings)
        self.registry = Registry(RegistryIndex(os.path.join(settings.root, DATABASE)), storage)
        self.browser = Browser(self.registry.context)
        self.gate = PolicyGate(quotas_of(settings), immutable_of(settings), self._used)
        self.retention = Retention(self.registry, retention_of(settings), self.gate)
        self.cache = Cache(self.registry, upstreams_of(settings))
        self.garbage = Garbage(self.registry, garbage_settings(settings), self.cache)
        self.scrub = Scrub(self.registry, scrub_settings(settings))
        self.requests = RequestMetrics()
        self.outcomes = Counter(
            "sampan_registry_webhook_notifications_total", "What became of notifications.", ("url", "outcome")
        )
        source = Source(addr=socket.gethostname(), instance_id=new_id()[:12])
        self.webhooks = Webhooks(
            webhooks_of(settings), source, self.outcomes, base_url=settings.public_url.rstrip("/")
        )
        self.registry.connect(
            gate=self.gate,
            observer=Observers(Journal(), self.requests, self.webhooks),
            upstreams=self.cache,
            notices=AllNotices(self.gate, self.cache),
            sparse=settings.sparse.match,
        )
        self.admin = AdminPages(
            browser=self.browser,
            gate=self.gate,
            retention=self.retention,
            jobs=self._jobs(),
            upstreams=self.cache.states,
        )
        self._schedule = Schedule()

    @classmethod
    async def open(cls, settings: Settings) -> House:
        """Raises SettingError, SampanError."""
        lock = Lock(settings.root)
        try:
            storage: BlobStorage
            snapshots = None
            if settings.storage.s3 is not None:
                from sampan.registry.storage.s3 import S3BlobStorage

                storage = in_bucket = S3BlobStorage(s3_settings(settings.storage.s3))
                await in_bucket.check()
                snapshots = Snapshots(in_bucket.bucket, os.path.join(settings.root, DATABASE))
                await snapshots.restore()
            else:
                storage = FileBlobStorage(settings.root)
            return cls(settings, lock, storage, snapshots)
        except BaseException:
            lock.release()
            raise

    def _used(self, repository: str) -> int:
        usage = self.registry.repositories.usage(repository)
        return usage.size_bytes if usage is not None else 0

    def _jobs(self) -> dict[str, tuple[Job, Callable[[bool], Coroutine[Any, Any, object]]]]:
        return {
            "gc": (self.garbage, lambda everything: self.garbage.run(everything=everything)),
            "scrub": (self.scrub, lambda everything: self.scrub.run()),
            "retention": (self.retention, lambda everything: self.retention.run()),
        }

    def start(self) -> None:
        """What is done again and again."""
        schedule = self._schedule
        schedule.add("garbage collection", lambda: self.garbage.settings.interval_s, self.garbage.run)
        schedule.add("scrub", lambda: self.scrub.settings.interval_s, self.scrub.run)
        schedule.add("retention", self._retention_interval_s, self.retention.run)
        s3 = self._settings.storage.s3
        if self._snapshots is not None and s3 is not None:
            interval_s = s3.snapshot_interval.seconds
            schedule.add("snapshot", lambda: interval_s, self._snapshots.save)
        schedule.start()

    def _retention_interval_s(self) -> float:
        return self.garbage.settings.interval_s if self.retention.has_rules else 0

    # what answers

    def handlers(self) -> tuple[Handle, Handle]:
        """For everybody, and for the administrator's socket."""
        return self._handler(self.access), self._handler(LocalAuthenticator())

    def _handler(self, authenticator: Authenticator) -> Handle:
        settings = self._settings
        has_passwords = settings.auth is not None and bool(settings.auth.htpasswd)
        subjects: list[Pages] = [
            BrowsePages(
                self.browser,
                public_host=urlsplit(settings.public_url).netloc,
                can_log_in=has_passwords,
            ),
            SearchPages(self.browser),
            MetricsPages(self.metrics, for_everybody=settings.metrics == "everybody" or settings.is_open),
            self.admin,
        ]
        if isinstance(self.access, AccessControl):
            subjects.append(TokenPages(self.access))
        api = RegistryApi(
            self.registry, authenticator, {"/": Annex(subjects).answer}, Callers(settings.trusted_proxies)
        )
        return self.requests.measured(api.handle)

    def metrics(self) -> Iterable[Metric]:
        return (
            *self.requests.metrics,
            self.outcomes,
            *gauges(self.registry, self.garbage, self.scrub, self.webhooks),
        )

    # its life

    def reload(self, settings: Settings) -> list[str]:
        """Take over what can change while it runs; the keys that need a new start. Raises SettingError."""
        rules = rules_of(settings)
        if isinstance(self.access, AccessControl):
            self.access.reload(rules)
        self.gate.reload(quotas_of(settings), immutable_of(settings))
        self.registry.connect(sparse=settings.sparse.match)
        self.retention.reload(retention_of(settings))
        self.garbage.reload(garbage_settings(settings))
        self.scrub.reload(scrub_settings(settings))
        old, new = msgspec.structs.asdict(self._settings), msgspec.structs.asdict(settings)
        return [key.replace("_", "-") for key in old if key not in _RELOADED and old[key] != new[key]]

    async def close(self) -> None:
        """Jobs are cut off, notifications get some seconds, the database one more snapshot."""
        try:
            await self._schedule.close()
            await self.admin.close()
            await self.cache.close()
            await self.webhooks.close()
            if self._snapshots is not None:
                await self._snapshots.close()
        finally:
            await self.registry.close()
            self._lock.release()
