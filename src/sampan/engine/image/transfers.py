"""Images to and from registries: what the front ends call."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import msgspec

from sampan.base.errors import InvalidArgument
from sampan.formats.reference import ImageName, check_digest, parse_name
from sampan.model.image import Descriptor
from sampan.model.progress import ProgressMessage
from sampan.transfer.credentials import Credentials
from sampan.transfer.errors import BROKEN_JSON, RegistryRefused, UnsupportedManifest
from sampan.transfer.manifests import SCHEMA_1, Fetched, is_index, read_index, read_manifest
from sampan.transfer.registries import Registries
from sampan.transfer.repository import Repository
from sampan.transfer.search import SearchResult

from .manifest_lists import ManifestLists
from .pull import Puller, PullWanted
from .push import Pusher
from .remote import first_answer
from .search import search_images
from .words import explain_refusal

_CONFIG_LIMIT_BYTES = 8 << 20
_platform = msgspec.json.Decoder(dict[str, Any]).decode


class DistributionInspect(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """moby: api/types/registry.DistributionInspect."""

    descriptor: Descriptor
    platforms: list[dict[str, Any]]


class LoginAnswer(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """moby: api/types/registry.AuthResponse."""

    status: str
    identity_token: str = ""


class Transfers:
    def __init__(self, puller: Puller, pusher: Pusher, registries: Registries) -> None:
        self._puller = puller
        self._pusher = pusher
        self._registries = registries
        self.lists = ManifestLists(registries)

    def pull(
        self, image: str, tag: str, platform: str, credentials: Credentials
    ) -> AsyncGenerator[ProgressMessage, None]:
        """``tag`` may be a digest; with no tag anywhere all are pulled. Raises InvalidReference and what
        :meth:`Puller.pull` raises."""
        name = parse_name(image.removesuffix(":"))
        if tag:
            name = with_tag_or_digest(name, tag)
        return self._puller.pull(PullWanted(name=name, platform=platform, credentials=credentials))

    def push(
        self, image: str, tag: str, platform: str, credentials: Credentials
    ) -> AsyncGenerator[ProgressMessage, None]:
        """Without a tag anywhere: all tags of the repository. Raises InvalidReference, NotTagged."""
        name = parse_name(image)
        if tag:
            name = name.with_tag(tag)
        return self._pusher.push(name, credentials, platform)

    async def login(self, credentials: Credentials) -> LoginAnswer:
        """Check them with their registry. Raises LoginFailed, RegistryUnreachable."""
        token = await self._registries.login(credentials.serveraddress, credentials)
        return LoginAnswer(status="Login Succeeded", identity_token=token)

    async def inspect(self, image: str, credentials: Credentials) -> DistributionInspect:
        """What a name stands for in its registry. Raises PullRefused, UnsupportedManifest."""
        name = parse_name(image).with_default_tag()
        repositories = await self._registries.repositories(name.domain, name.path, credentials)
        try:
            fetched = await first_answer(repositories, lambda one: one.manifest(name.digest or name.tag))
            platforms = await self._platforms(repositories, fetched, name)
        except RegistryRefused as error:
            raise explain_refusal(error, name) from error
        descriptor = Descriptor(media_type=fetched.media_type, digest=fetched.digest, size=len(fetched.data))
        return DistributionInspect(descriptor=descriptor, platforms=platforms)

    async def search(
        self, term: str, filters: Mapping[str, Sequence[str]], limit: int, credentials: Credentials
    ) -> list[SearchResult]:
        """Repositories of a registry. Raises as :func:`.search.search_images`."""
        return await search_images(self._registries, term, filters, limit, credentials)

    async def _platforms(
        self, repositories: list[Repository], fetched: Fetched, name: ImageName
    ) -> list[dict[str, Any]]:
        if is_index(fetched.media_type):
            return [entry.platform for entry in read_index(fetched).manifests if entry.platform]
        if fetched.media_type in SCHEMA_1:
            read_manifest(fetched, name.familiar)
        try:
            manifest = read_manifest(fetched, name.familiar)
        except UnsupportedManifest:
            return []  # an artifact of another kind has no platform
        data = await first_answer(
            repositories, lambda one: one.small_blob(manifest.config.digest, _CONFIG_LIMIT_BYTES)
        )
        try:
            config = _platform(data)
        except BROKEN_JSON:
            return []
        keys = ("architecture", "os", "variant", "os.version", "os.features")
        found = {key: config[key] for key in keys if config.get(key)}
        return [found] if found else []

    async def close(self) -> None:
        """End the connections that are kept open."""
        await self._registries.close()


def with_tag_or_digest(name: ImageName, text: str) -> ImageName:
    """Raises InvalidReference."""
    if ":" not in text:
        return name.with_tag(text)
    check_digest(text)
    if not text.startswith("sha256:"):
        raise InvalidArgument(f"unsupported digest algorithm: {text}")
    return ImageName(domain=name.domain, path=name.path, digest=text)
