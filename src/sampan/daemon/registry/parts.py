"""From the settings file's tables to what the registry's parts want to be told."""

from __future__ import annotations

from sampan.registry.policy.gate import Immutable, Quota
from sampan.registry.policy.retention import RetentionRule
from sampan.registry.policy.webhooks import WebhookSettings
from sampan.registry.storage.bucket import S3Settings
from sampan.registry.upkeep.garbage_rules import GarbageSettings
from sampan.registry.upkeep.scrub import ScrubSettings
from sampan.registry.upstreams.settings import UpstreamSettings

from .sections import S3Section, Settings
from .settings import secret


def s3_settings(section: S3Section) -> S3Settings:
    """Raises SettingError."""
    return S3Settings(
        bucket=section.bucket,
        endpoint=section.endpoint,
        region=section.region,
        prefix=section.prefix,
        access_key=section.access_key,
        secret_key=secret(section.secret_key, section.secret_key_file, "storage.s3.secret-key"),
        session_token=section.session_token,
        path_style=section.path_style,
        ca_file=section.ca_file,
        part_size_bytes=section.part_size.in_bytes,
        redirect=section.redirect,
        redirect_endpoint=section.redirect_endpoint,
        redirect_life_s=int(section.redirect_for.seconds),
        snapshot_interval_s=int(section.snapshot_interval.seconds),
        snapshots_kept=section.snapshots_kept,
    )


def garbage_settings(settings: Settings) -> GarbageSettings:
    gc = settings.gc
    return GarbageSettings(
        interval_s=int(gc.interval.seconds),
        grace_s=int(gc.grace.seconds),
        untagged_s=int(gc.untagged.seconds) if gc.untagged is not None else None,
        upload_life_s=int(gc.uploads.seconds),
    )


def scrub_settings(settings: Settings) -> ScrubSettings:
    return ScrubSettings(
        interval_s=int(settings.scrub.interval.seconds), bytes_per_s=settings.scrub.rate.in_bytes
    )


def quotas_of(settings: Settings) -> list[Quota]:
    return [Quota(repositories=one.repositories, size_bytes=one.size.in_bytes) for one in settings.quotas]


def immutable_of(settings: Settings) -> list[Immutable]:
    return [
        Immutable(repositories=one.repositories, tags=one.tags, but=one.but) for one in settings.immutable
    ]


def retention_of(settings: Settings) -> list[RetentionRule]:
    return [
        RetentionRule(
            repositories=one.repositories,
            tags=one.tags,
            keep=one.keep,
            keep_last=one.keep_last,
            keep_for_ns=one.keep_for.ns,
            keep_pulled_ns=one.keep_pulled.ns,
        )
        for one in settings.retention
    ]


def webhooks_of(settings: Settings) -> list[WebhookSettings]:
    """Raises SettingError."""
    return [
        WebhookSettings(
            url=one.url,
            secret=secret(one.secret, one.secret_file, f"webhooks[{number}].secret").encode(),
            repositories=one.repositories,
            actions=frozenset(one.actions),
            kinds=frozenset(("manifest", "tag", "blob") if one.blobs else ("manifest", "tag")),
            headers=one.headers,
            timeout_s=one.timeout.seconds,
            attempts=one.attempts,
            queue_length=one.queue,
        )
        for number, one in enumerate(settings.webhooks)
    ]


def upstreams_of(settings: Settings) -> list[UpstreamSettings]:
    """Raises SettingError."""
    return [
        UpstreamSettings(
            prefix=one.prefix.strip("/"),
            url=one.url,
            namespace=one.namespace,
            username=one.username,
            password=secret(one.password, one.password_file, f"upstreams[{number}].password"),
            ca_file=one.ca_file,
            insecure=one.insecure,
            allow=one.allow,
            fresh_s=one.fresh_for.seconds,
            negative_s=one.missing_for.seconds,
            timeout_s=one.timeout.seconds,
            limit_bytes=one.limit.in_bytes,
            unused_s=one.unused_for.seconds,
        )
        for number, one in enumerate(settings.upstreams)
    ]
