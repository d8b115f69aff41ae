"""Lists of manifests put together by hand, as ``docker manifest`` does: what is in a registry, and a new
index of it. Nothing is stored here; the layers stay where they are or are mounted from there."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from sampan.base.errors import InvalidArgument
from sampan.content.images import encode_json
from sampan.content.targets import INDEXES, decode_index, is_index, require_sound
from sampan.formats.platform import read_platform
from sampan.formats.reference import ImageName, parse_name
from sampan.model.image import Descriptor, Index
from sampan.model.progress import ProgressMessage
from sampan.transfer.credentials import Credentials
from sampan.transfer.errors import RegistryRefused, UnsupportedManifest
from sampan.transfer.manifests import DOCKER_MANIFEST, SCHEMA_1, Fetched, read_manifest
from sampan.transfer.registries import Registries
from sampan.transfer.repository import Repository

from .progress import Say, messages_of, status
from .remote import CONFIG_LIMIT_BYTES, first_answer
from .words import explained

_MOST = 256
"""Manifests of one list."""
_PLATFORM_KEYS = ("architecture", "os", "os.version", "os.features", "variant")
_platform = msgspec.json.Decoder(dict[str, Any]).decode


class ListedManifest(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """A manifest of a list. What a client sends back to be pushed has no bytes."""

    ref: str
    descriptor: Descriptor
    raw: bytes | UnsetType = UNSET


class ManifestView(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """What a name stands for in its registry."""

    ref: str
    descriptor: Descriptor
    raw: bytes
    manifests: list[ListedManifest] | UnsetType = UNSET
    """Those of an index, when they were asked for."""


class WantedList(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    manifests: list[ListedManifest] = []


class ManifestLists:
    def __init__(self, registries: Registries) -> None:
        self._registries = registries

    async def inspect(self, image: str, credentials: Credentials, *, each: bool = False) -> ManifestView:
        """``each``: also the manifests of an index. Raises PullRefused, UnsupportedManifest, BadIndex."""
        name = parse_name(image).with_default_tag()
        repositories = await self._registries.repositories(name.domain, name.path, credentials)
        with explained(name):
            fetched = await first_answer(repositories, lambda one: one.manifest(name.digest or name.tag))
            if not is_index(fetched.media_type):
                listed = await self._listed(repositories, name.familiar, fetched, None)
                return ManifestView(ref=listed.ref, descriptor=listed.descriptor, raw=fetched.data)
            found: list[ListedManifest] = []
            for entry in decode_index(fetched.data).manifests if each else ():
                if len(found) >= _MOST:
                    raise InvalidArgument(f"{name.familiar} has more than {_MOST} manifests")
                reference = entry.digest
                child = await first_answer(repositories, lambda one, at=reference: one.manifest(at))  # type: ignore[misc]
                ref = f"{name.familiar_repository}@{entry.digest}"
                found.append(await self._listed(repositories, ref, child, entry))
            return ManifestView(
                ref=name.familiar,
                descriptor=_descriptor(fetched),
                raw=fetched.data,
                manifests=found if each else UNSET,
            )

    async def _listed(
        self, repositories: Sequence[Repository], ref: str, fetched: Fetched, entry: Descriptor | None
    ) -> ListedManifest:
        """With the platform that the index says, else the one in the config."""
        platform = entry.platform if entry is not None else None
        if platform is None and fetched.media_type not in SCHEMA_1 and not is_index(fetched.media_type):
            platform = await self._platform(repositories, fetched, ref)
        descriptor = msgspec.structs.replace(_descriptor(fetched), platform=platform)
        return ListedManifest(ref=ref, descriptor=descriptor, raw=fetched.data)

    async def _platform(
        self, repositories: Sequence[Repository], fetched: Fetched, ref: str
    ) -> dict[str, Any] | None:
        try:
            manifest = read_manifest(fetched, ref)
        except UnsupportedManifest:
            return None  # an artifact of another kind runs nowhere
        data = await first_answer(
            repositories, lambda one: one.small_blob(manifest.config.digest, CONFIG_LIMIT_BYTES)
        )
        try:
            config = _platform(data)
        except (msgspec.DecodeError, RecursionError):
            return None
        found = {key: config[key] for key in _PLATFORM_KEYS if config.get(key)}
        return found if read_platform(found) is not None else None

    def push(
        self, image: str, wanted: WantedList, credentials: Credentials
    ) -> AsyncGenerator[ProgressMessage, None]:
        """Make a list of manifests that are in the same registry. Raises InvalidArgument, PullRefused."""
        name = parse_name(image).with_default_tag()
        if name.digest:
            raise InvalidArgument("cannot push a digest reference")
        if not wanted.manifests or len(wanted.manifests) > _MOST:
            raise InvalidArgument(f"a manifest list has from 1 to {_MOST} manifests")
        for one in wanted.manifests:
            _require_usable(one, name)

        async def work(say: Say) -> None:
            [target] = await self._registries.repositories(name.domain, name.path, credentials, mirrors=False)
            entries = []
            for one in wanted.manifests:
                source = parse_name(one.ref)
                with explained(source):
                    fetched = await self._brought(say, target, source, one, credentials)
                entries.append(
                    msgspec.structs.replace(_descriptor(fetched), platform=one.descriptor.platform)
                )
            index = _index_of(entries)
            digest = await target.put_manifest(name.tag, encode_json(index), index.media_type)
            say(ProgressMessage(aux={"Tag": name.tag, "Digest": digest, "Size": len(encode_json(index))}))

        return messages_of(work)

    async def _brought(
        self, say: Say, target: Repository, source: ImageName, one: ListedManifest, credentials: Credentials
    ) -> Fetched:
        """The manifest, in the target's repository whichever it came from."""
        [origin] = await self._registries.repositories(source.domain, source.path, credentials, mirrors=False)
        fetched = await origin.manifest(one.descriptor.digest)
        if is_index(fetched.media_type):
            raise InvalidArgument(f"{one.ref} is a manifest list itself: name the manifests in it")
        if source.path != target.path:
            manifest = read_manifest(fetched, one.ref)
            for blob in {part.digest: part for part in (manifest.config, *manifest.layers)}.values():
                await _bring_blob(say, origin, target, blob)
            await target.put_manifest(fetched.digest, fetched.data, fetched.media_type)
            ref = f"{source.domain}/{target.path}@{fetched.digest}"
            say(status(f"Pushed ref {ref} with digest: {fetched.digest}"))
        return fetched


async def _bring_blob(say: Say, origin: Repository, target: Repository, blob: Descriptor) -> None:
    """Mounted if the registry does that, else sent through here."""
    if await target.has_blob(blob.digest):
        return
    try:
        location = await target.start_upload(blob.digest, origin.path)
    except RegistryRefused:
        location = await target.start_upload()
    if not location:
        return
    say(status("Copying", blob.digest.removeprefix("sha256:")[:12]))
    async with origin.blob(blob.digest) as stream:

        def body() -> AsyncIterator[bytes]:
            return stream.chunks()

        location = await target.append(location, 0, blob.size, body)
    await target.finish_upload(location, blob.digest)


def _descriptor(fetched: Fetched) -> Descriptor:
    return Descriptor(media_type=fetched.media_type, digest=fetched.digest, size=len(fetched.data))


def _require_usable(one: ListedManifest, name: ImageName) -> None:
    require_sound(one.descriptor, one.ref)
    source = parse_name(one.ref)
    if source.domain != name.domain:
        raise InvalidArgument(
            "cannot use source images from a different registry than the target image: "
            f"{source.domain} != {name.domain}"
        )
    platform = one.descriptor.platform or {}
    if not platform.get("os") or not platform.get("architecture"):
        raise InvalidArgument(
            f"manifest {one.ref} must have an OS and Architecture to be pushed to a registry: "
            "say so with 'manifest annotate'"
        )


def _index_of(entries: list[Descriptor]) -> Index:
    """Docker's kind for Docker's manifests alone, OCI's for all else."""
    docker = all(entry.media_type == DOCKER_MANIFEST for entry in entries)
    return Index(media_type=INDEXES[1] if docker else INDEXES[0], manifests=entries)
