"""Send a manifest and what it refers to: what is there already is not sent, what a neighbour has is mounted.

Layers that were never packed are packed while they are sent. What they became is remembered, so that the next
push of them knows without reading a byte whether the registry has everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec

from sampan.base.crashpoints import crash_point
from sampan.base.slots import Slots
from sampan.content.blobs import digest_of
from sampan.content.errors import BlobNotFound
from sampan.content.images import DOCKER_LAYER, OCI_LAYER, ImageStore, decode_manifest, encode_json
from sampan.content.packing import CODEC
from sampan.content.streams import Workers
from sampan.formats.reference import ImageName
from sampan.model.image import Descriptor
from sampan.store.images import PackedLayer
from sampan.transfer.credentials import NOBODY
from sampan.transfer.errors import MANIFEST_BLOB_UNKNOWN, RegistryRefused, RegistryUnreachable
from sampan.transfer.registries import Registries
from sampan.transfer.repository import Repository
from sampan.transfer.uploads import Upload

from .blob_sources import BlobSources
from .outgoing import OutgoingBlob, PackedBlob, Progress, RemoteBlob
from .progress import Meter, Say, status

log = logging.getLogger(__name__)

_FIRST_WAIT_S = 1.0
_PACKED_ANEW = "The packed layer is not kept here, and is packed anew"
_PACKED = {OCI_LAYER: f"{OCI_LAYER}+gzip", DOCKER_LAYER: f"{DOCKER_LAYER}.gzip"}
_decode_document = msgspec.json.Decoder(dict[str, Any]).decode


class Destination(msgspec.Struct, frozen=True, kw_only=True):
    """The repository of a push."""

    name: ImageName
    repository: Repository


class OutgoingLayer(msgspec.Struct, frozen=True, kw_only=True):
    blob: Descriptor
    """As the manifest that is kept here has it."""
    diff_id: str
    chain_id: str

    @property
    def shown(self) -> str:
        return self.diff_id.removeprefix("sha256:")[:12]


class OutgoingManifest(msgspec.Struct, frozen=True, kw_only=True):
    """An image to send; the caller holds a lease on all of it."""

    data: bytes
    media_type: str
    config: Descriptor
    layers: Sequence[OutgoingLayer]
    """Lowest first."""
    kept: bool = False
    """The manifest goes as it is, byte for byte, also when its layers are plain: an index refers to it."""


class Pushed(msgspec.Struct, frozen=True, kw_only=True):
    digest: str
    size_bytes: int


class BlobUpload:
    """What all pushes share."""

    def __init__(
        self,
        store: ImageStore,
        sources: BlobSources,
        registries: Registries,
        workers: Workers,
        *,
        limit: int,
        attempts: int,
    ) -> None:
        self.slots = Slots(limit)
        """May be resized while uploads go on."""
        self.attempts = attempts
        self._store = store
        self._sources = sources
        self._registries = registries
        self._workers = workers
        self._sending: dict[tuple[str, str, str], asyncio.Event] = {}

    async def put(self, say: Say, to: Destination, reference: str, manifest: OutgoingManifest) -> Pushed:
        """Send what the registry lacks, then the manifest under ``reference``, a tag or a digest.

        Raises RegistryRefused, RegistryUnreachable; BlobNotFound when something is neither here nor there.
        """
        packs = not manifest.kept and not self._sources.known(digest_of(manifest.data))
        known = {layer.blob.digest: self._known_as(layer, packs) for layer in manifest.layers}
        data = _rewritten(manifest, known)
        if data and await to.repository.has_manifest(digest_of(data)):
            try:
                pushed = await self._put(to, reference, manifest, data)
            except RegistryRefused as error:
                if error.code != MANIFEST_BLOB_UNKNOWN:
                    raise
            else:
                _say_all_there(say, manifest.layers)
                return pushed
        data = _rewritten(manifest, await self._send_all(say, to, manifest, known))
        if manifest.kept and data != manifest.data:
            raise BlobNotFound(f"layers of {digest_of(manifest.data)} are not kept here: pull it again")
        return await self._put(to, reference, manifest, data)

    def _known_as(self, layer: OutgoingLayer, packs: bool) -> Descriptor | None:
        """What the layer goes out as; None when that shows only when it is packed."""
        if layer.blob.digest != layer.diff_id or not packs:
            return layer.blob
        record = self._store.layer(layer.chain_id)
        if record is None or record.packed is None or record.packed.codec != CODEC:
            return None
        return _packed_as(layer.blob, record.packed)

    async def _put(self, to: Destination, reference: str, manifest: OutgoingManifest, data: bytes) -> Pushed:
        digest = await to.repository.put_manifest(
            digest_of(data) if ":" in reference else reference, data, manifest.media_type
        )
        crash_point("push.manifest.sent")
        layers = decode_manifest(data).layers
        self._sources.seen(to.name, [digest, *(layer.digest for layer in layers)])
        return Pushed(digest=digest, size_bytes=len(data))

    async def _send_all(
        self, say: Say, to: Destination, manifest: OutgoingManifest, known: Mapping[str, Descriptor | None]
    ) -> dict[str, Descriptor | None]:
        """Each blob once, the top layer first as Docker shows them, the config last. What each became."""
        layers = list({layer.blob.digest: layer for layer in reversed(manifest.layers)}.values())
        for layer in layers:
            say(status("Preparing", layer.shown))
        tasks = [
            asyncio.ensure_future(self._layer(say, to, layer, known[layer.blob.digest])) for layer in layers
        ]
        try:
            sent = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
        async with self._alone(to, manifest.config.digest), self.slots:
            if not await to.repository.has_blob(manifest.config.digest):
                await self._upload(to, self._stored(manifest.config.digest, lambda done, total: None), "")
        return {layer.blob.digest: one for layer, one in zip(layers, sent, strict=True)}

    @contextlib.asynccontextmanager
    async def _alone(self, to: Destination, digest: str) -> AsyncIterator[None]:
        """Who pushes the same blob to the same place waits, and finds it there."""
        key = (to.name.domain, to.name.path, digest)
        while (other := self._sending.get(key)) is not None:
            await other.wait()
        mine = self._sending[key] = asyncio.Event()
        try:
            yield
        finally:
            del self._sending[key]
            mine.set()

    async def _layer(
        self, say: Say, to: Destination, layer: OutgoingLayer, known: Descriptor | None
    ) -> Descriptor:
        async with self._alone(to, layer.blob.digest):
            if self.slots.full:
                say(status("Waiting", layer.shown))
            async with self.slots:
                # meanwhile another push may have learnt it
                known = known or self._known_as(layer, True)
                if known is not None and (there := await self._found(to, known.digest)):
                    say(status(there, layer.shown))
                    return known
                sent = await self._send(say, to, layer, known)
        say(status("Pushed", layer.shown))
        return sent

    async def _found(self, to: Destination, digest: str) -> str:
        """How the repository came to have the blob without its being sent, in Docker's words; "" if not."""
        if await to.repository.has_blob(digest):
            return "Layer already exists"
        source = self._sources.neighbour(to.name, digest)
        if not source:
            return ""
        try:
            location = await to.repository.start_upload(digest, source)
        except RegistryRefused:
            location = "not ours to read"
        else:
            if not location:
                return f"Mounted from {source}"
            await to.repository.cancel_upload(location)
        self._sources.missing(to.name, source, digest)
        return ""

    async def _send(
        self, say: Say, to: Destination, layer: OutgoingLayer, known: Descriptor | None
    ) -> Descriptor:
        blobs, meter = self._store.layer_blobs, Meter(say, "Pushing", layer.shown)
        if known is not None and blobs.find(known.digest) is not None:
            await self._upload(to, self._stored(known.digest, meter), layer.shown, say)
            return known
        if known is not None and layer.blob.digest != layer.diff_id:
            if await self._relay(say, to, layer, known):
                return known
            say(status(f"{_PACKED_ANEW}: its digest changes", layer.shown))
        plain = blobs.require(layer.diff_id)
        packed = PackedBlob(self._workers, lambda: blobs.open(layer.diff_id), plain.size_bytes, meter)
        await self._upload(to, packed, layer.shown, say)
        result = PackedLayer(digest=packed.digest, size_bytes=packed.size_bytes or 0, codec=CODEC)
        self._store.remember_packed(layer.diff_id, result)
        crash_point("push.pack.remembered")
        return _packed_as(layer.blob, result)

    async def _relay(self, say: Say, to: Destination, layer: OutgoingLayer, blob: Descriptor) -> bool:
        """Send what is not kept here from where it came from. False when nobody gives it to us any more."""
        for domain, path in self._sources.places(blob.digest):
            if domain == to.name.domain:
                sources = [Repository(to.repository.registry, path)]
            else:
                sources = await self._registries.repositories(domain, path, NOBODY)
            for source in sources:
                try:
                    if not await source.has_blob(blob.digest, to_push=False):
                        continue
                except (RegistryRefused, RegistryUnreachable) as error:
                    log.info("layer %s cannot be had from %s: %s", blob.digest, path, error.message)
                    continue
                remote = RemoteBlob(source, blob.digest, blob.size, Meter(say, "Pushing", layer.shown))
                await self._upload(to, remote, layer.shown, say)
                return True
        return False

    def _stored(self, digest: str, progress: Progress) -> OutgoingBlob:
        blobs = self._store.layer_blobs
        size = blobs.require(digest).size_bytes
        return OutgoingBlob(self._workers, lambda: blobs.open(digest), digest, size, progress)

    async def _upload(
        self, to: Destination, blob: OutgoingBlob | RemoteBlob, shown: str, say: Say | None = None
    ) -> None:
        def retrying(seconds: int) -> None:
            if say is not None:
                say(status(f"Retrying in {seconds} second{'s' if seconds > 1 else ''}", shown))

        upload = Upload(
            to.repository, blob, attempts=self.attempts, first_wait_s=_FIRST_WAIT_S, retrying=retrying
        )
        try:
            await upload.run()
            crash_point("push.upload.sent")
        finally:
            await blob.close()


def _say_all_there(say: Say, layers: Sequence[OutgoingLayer]) -> None:
    names = dict.fromkeys(layer.shown for layer in reversed(layers))
    for text in ("Preparing", "Layer already exists"):
        for name in names:
            say(status(text, name))


def _packed_as(blob: Descriptor, packed: PackedLayer) -> Descriptor:
    kind = _PACKED.get(blob.media_type, _PACKED[OCI_LAYER])
    return msgspec.structs.replace(blob, media_type=kind, digest=packed.digest, size=packed.size_bytes)


def _rewritten(manifest: OutgoingManifest, sent: Mapping[str, Descriptor | None]) -> bytes:
    """The manifest with the layers as they go out, everything else as it is; b"" when one is not known."""
    if None in sent.values():
        return b""
    if all(layer.blob == sent[layer.blob.digest] for layer in manifest.layers):
        return manifest.data
    document = _decode_document(manifest.data)
    for place, layer in enumerate(manifest.layers):
        blob = sent[layer.blob.digest]
        if blob is not None:
            document["layers"][place] |= {
                "mediaType": blob.media_type,
                "digest": blob.digest,
                "size": blob.size,
            }
    return encode_json(document)
