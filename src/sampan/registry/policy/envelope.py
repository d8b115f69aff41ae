"""How a webhook tells what happened: the envelope of Docker's registry, and the signature over it. Pure."""

from __future__ import annotations

import hashlib
import hmac

import msgspec

from sampan.base.clock import format_ns
from sampan.model.registry import RegistryEvent

MEDIA_TYPE = "application/vnd.docker.distribution.events.v2+json"
SIGNATURE = "X-Sampan-Signature-256"
_METHODS = {"pull": "GET", "push": "PUT", "delete": "DELETE", "mount": "POST"}


class Target(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    media_type: str = ""
    digest: str = ""
    size: int = 0
    length: int = 0
    repository: str
    from_repository: str = ""
    url: str = ""
    tag: str = ""


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    addr: str = ""
    host: str = ""
    method: str
    useragent: str


class ActorRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str = ""


class Source(msgspec.Struct, frozen=True, kw_only=True, rename={"instance_id": "instanceID"}):
    addr: str
    instance_id: str


class Event(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    timestamp: str
    action: str
    target: Target
    request: Request
    actor: ActorRecord
    source: Source


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    events: tuple[Event, ...]


def envelope(event: RegistryEvent, *, event_id: str, source: Source, base_url: str = "") -> bytes:
    """The body of a notification. ``base_url``: where the registry is reached, for the target's URL."""
    kind = "blobs" if event.kind == "blob" else "manifests"
    scheme = "https" if event.actor.secure else "http"
    base_url = base_url or (f"{scheme}://{event.actor.host}" if event.actor.host else "")
    reference = event.digest or event.tag
    url = f"{base_url}/v2/{event.repository}/{kind}/{reference}" if base_url and reference else ""
    record = Event(
        id=event_id,
        timestamp=format_ns(event.time_ns),
        action=event.action,
        target=Target(
            media_type=event.media_type,
            digest=event.digest,
            size=event.size_bytes,
            length=event.size_bytes,
            repository=event.repository,
            from_repository=event.from_repository,
            url=url,
            tag=event.tag,
        ),
        request=Request(
            id=event.actor.request_id,
            addr=event.actor.address,
            host=event.actor.host,
            method=event.actor.method or _METHODS[event.action],
            useragent=event.actor.user_agent,
        ),
        actor=ActorRecord(name=event.actor.name),
        source=source,
    )
    return msgspec.json.encode(Envelope(events=(record,)))


def signature(secret: bytes, body: bytes) -> str:
    """The value of the header :data:`SIGNATURE`."""
    return "sha256=" + hmac.digest(secret, body, hashlib.sha256).hex()
