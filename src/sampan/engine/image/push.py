"""Send images to registries: names, manifests and what the client is told; ``blob_upload`` sends bytes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import msgspec

from sampan.base.clock import now_ns
from sampan.base.errors import InvalidArgument, NotFound
from sampan.content.images import OCI_INDEX, OCI_MANIFEST, ImageStore, Lease, decode_manifest
from sampan.content.targets import MANIFESTS, Entry, is_index, plan_push
from sampan.engine.events import Events
from sampan.formats.platform import Platform
from sampan.formats.reference import ImageName, parse_name
from sampan.model.image import Descriptor
from sampan.model.progress import ProgressMessage
from sampan.transfer.credentials import Credentials
from sampan.transfer.registries import Registries
from sampan.transfer.repository import Repository

from .blob_upload import BlobUpload, Destination, OutgoingLayer, OutgoingManifest, Pushed
from .catalog import ImageCatalog, host_platform, wanted_platform
from .progress import Say, messages_of, status

_MOST_ASKED_FOR = 100
"""Parts of an index that are not here: more are not looked for in the registry."""


class NotTagged(NotFound):
    """There is nothing under this name to push."""


class _PushResult(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """moby: api/types.PushResult."""

    tag: str
    digest: str
    size: int


class _PushedInstead(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """moby: api/types/auxprogress.ManifestPushedInsteadOfIndex, of which the client makes a note."""

    manifest_pushed_instead_of_index: bool = True
    original_index: Descriptor
    selected_manifest: Descriptor


class _Leaf(msgspec.Struct, frozen=True, kw_only=True):
    digest: str
    manifest: OutgoingManifest | None = None
    """None for a document that refers to nothing known here."""


class _Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """What goes out under a tag."""

    name: ImageName
    target: str
    """Digest of the index or manifest that the tag will stand for."""
    leaves: list[_Leaf]
    """The manifests that go."""
    indexes: list[str] = []
    """Those that go, from the target down."""
    instead_of: Descriptor | None = None
    """The index that is not all here."""


class Pusher:
    def __init__(
        self, catalog: ImageCatalog, registries: Registries, events: Events, upload: BlobUpload
    ) -> None:
        self._catalog = catalog
        self._store: ImageStore = catalog.store
        self._registries = registries
        self._events = events
        self._upload = upload

    def push(
        self, name: ImageName, credentials: Credentials, platform: str = ""
    ) -> AsyncGenerator[ProgressMessage, None]:
        """One tag, or without a tag all of the repository. Raises NotTagged and what the registry answers."""
        if name.digest:
            raise InvalidArgument("cannot push a digest reference")

        wanted = wanted_platform(platform)

        async def work(say: Say) -> None:
            say(status(f"The push refers to repository [{name.repository}]"))
            tagged = self._tagged(name)
            [repository] = await self._registries.repositories(
                name.domain, name.path, credentials, mirrors=False
            )
            to = Destination(name=name, repository=repository)
            with self._store.lease() as lease:
                outgoing = [await self._outgoing(lease, to, one, wanted) for one in tagged]
                for one in outgoing:
                    await self._push_one(say, to, one)

        return messages_of(work)

    def _tagged(self, name: ImageName) -> list[ImageName]:
        known = [parse_name(tag) for tag in self._store.names.all()]
        tagged = [one for one in known if one.repository == name.repository and not one.digest]
        if not tagged:
            raise NotTagged(f"An image does not exist locally with the tag: {name.familiar_repository}")
        if not name.tag:
            return sorted(tagged, key=lambda one: one.tag)
        if self._store.names.find(name.familiar) is None:
            raise NotTagged(f"tag does not exist: {name.familiar}")
        return [name]

    async def _outgoing(
        self, lease: Lease, to: Destination, name: ImageName, wanted: Platform | None
    ) -> _Outgoing:
        """Decide what goes out under a name, and hold it from here on, whoever removes the name meanwhile.
        Raises PlatformNotHere, SeveralFit."""
        documents = self._store.documents
        target = self._store.names.find(name.familiar)
        if target is None:
            raise NotTagged(f"tag does not exist: {name.familiar}")
        self._store.hold_target(lease, target)
        entries = documents.entries(target)
        record = documents.find(target)
        if record is None or record.image_id:
            image = self._catalog.find(name.familiar, wanted)
            if not self._store.is_whole(target):
                # it was never fetched as this manifest has it packed
                target = image.manifest_digest
                self._store.hold_target(lease, target)
                entries = documents.entries(target)
            return _Outgoing(name=name, target=target, leaves=[self._leaf(one) for one in entries])
        indexes = [one for one in documents.below(target) if is_index(documents.describe(one).media_type)]
        here = {one.descriptor.digest: self._leaf(one) for one in entries if self._can_be_sent(one)}
        whole = wanted is None and await self._is_there(
            to, [one for one in entries if one.descriptor.digest not in here]
        )
        plan = plan_push(entries, host_platform(), wanted, ref=name.familiar, whole=whole)
        if plan.entry is None:
            return _Outgoing(name=name, target=target, leaves=list(here.values()), indexes=indexes)
        chosen = plan.entry.descriptor.digest
        leaf = here.get(chosen) or self._leaf(plan.entry)
        original = documents.describe(target) if plan.instead else None
        return _Outgoing(name=name, target=chosen, leaves=[leaf], instead_of=original)

    async def _is_there(self, to: Destination, absent: Sequence[Entry]) -> bool:
        """Whether the repository has all that is not here, as when a part of it was pulled from there."""
        if len(absent) > _MOST_ASKED_FOR:
            return False
        for entry in absent:
            if not await to.repository.has_manifest(entry.descriptor.digest):
                return False
        return True

    def _can_be_sent(self, entry: Entry) -> bool:
        """Whether a leaf of an index is here with everything that belongs to it."""
        return entry.is_here and self._store.is_whole(entry.descriptor.digest)

    async def _push_one(self, say: Say, to: Destination, outgoing: _Outgoing) -> None:
        """Leaves before the indexes that need them, the target last and under the tag."""
        whole = bool(outgoing.indexes)
        for leaf in outgoing.leaves:
            reference = leaf.digest if whole else outgoing.name.tag
            if leaf.manifest is not None:
                manifest = leaf.manifest
                if whole:
                    manifest = msgspec.structs.replace(manifest, kept=True)
                pushed = await self._upload.put(say, to, reference, manifest)
            else:
                pushed = await self._put(to.repository, reference, leaf.digest)
        for digest in reversed(outgoing.indexes):
            is_target = digest == outgoing.target
            pushed = await self._put(to.repository, outgoing.name.tag if is_target else digest, digest)
        self._tell(say, outgoing, pushed)

    def _leaf(self, entry: Entry) -> _Leaf:
        """A manifest with what it refers to, as far as that is of a kind known here."""
        digest = entry.descriptor.digest
        data = self._store.blobs.read(digest)
        image = self._store.find(entry.image_id)
        media_type = self._store.documents.describe(digest).media_type or OCI_MANIFEST
        if image is None and media_type not in MANIFESTS:
            return _Leaf(digest=digest)
        manifest = decode_manifest(data)
        if image is None:
            # layers of an attestation were never unpacked: nothing but their bytes is known
            names = [(layer.digest, "") for layer in manifest.layers]
        else:
            names = list(zip(image.config.rootfs.diff_ids, image.chain_ids, strict=True))
        layers = [
            OutgoingLayer(blob=blob, diff_id=diff_id, chain_id=chain)
            for blob, (diff_id, chain) in zip(manifest.layers, names, strict=True)
        ]
        outgoing = OutgoingManifest(
            data=data, media_type=media_type, config=manifest.config, layers=layers, kept=image is None
        )
        return _Leaf(digest=digest, manifest=outgoing)

    async def _put(self, repository: Repository, reference: str, digest: str) -> Pushed:
        """Send one document as it came. Raises RegistryRefused."""
        sent = self._store.documents.describe(digest)
        data = self._store.blobs.read(digest)
        await repository.put_manifest(reference, data, sent.media_type or OCI_INDEX)
        return Pushed(digest=digest, size_bytes=len(data))

    def _tell(self, say: Say, outgoing: _Outgoing, pushed: Pushed) -> None:
        name, store = outgoing.name, self._store
        say(status(f"{name.tag}: digest: {pushed.digest} size: {pushed.size_bytes}"))
        result = _PushResult(tag=name.tag, digest=pushed.digest, size=pushed.size_bytes)
        say(ProgressMessage(aux=msgspec.to_builtins(result)))
        if outgoing.instead_of is not None:
            note = _PushedInstead(
                original_index=outgoing.instead_of,
                selected_manifest=Descriptor(
                    media_type=OCI_MANIFEST, digest=pushed.digest, size=pushed.size_bytes
                ),
            )
            say(ProgressMessage(aux=msgspec.to_builtins(note)))
        # what was packed on its way out has a digest there that no document here has
        here = pushed.digest if store.documents.find(pushed.digest) is not None else outgoing.target
        if store.documents.find(here) is not None:
            store.name(f"{name.familiar_repository}@{pushed.digest}", here, now_ns(), kind="digest")
        image = self._catalog.find_named(name.familiar)
        config = image.config.config if image is not None else None
        labels = (config.labels if config is not None else None) or {}
        self._events.publish("image", "push", name.familiar, {**labels, "name": name.familiar_repository})
