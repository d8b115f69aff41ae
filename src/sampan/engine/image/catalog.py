"""Images by name: finding, naming, listing and showing them."""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from sampan.base.clock import now_ns, parse_ns
from sampan.base.errors import NotFound
from sampan.content.bootstrap import architecture
from sampan.content.documents import platform_of
from sampan.content.images import ImageStore, delete_garbage
from sampan.content.streams import Workers
from sampan.content.targets import PlatformNotHere, choose
from sampan.engine.events import Events
from sampan.engine.filters import Filters, parse_moment_ns
from sampan.formats.platform import Platform, is_same, parse_platform
from sampan.formats.reference import ImageName, InvalidReference, check_digest, is_identifier, parse_name
from sampan.model.image import Image

from .manifests import manifest_summaries
from .rows import ImageRow, rows_of, shared_sizes
from .users import ImageUser, ImageUsers
from .views import HistoryItem, ImageInspect, ImageSummary, ImageUsage

_LIST_FILTERS = frozenset(("dangling", "label", "before", "since", "reference", "until"))
_raw_config = msgspec.json.Decoder(dict[str, object]).decode


class NoSuchImage(NotFound):
    def __init__(self, ref: str) -> None:
        super().__init__(f"No such image: {ref}")


class Located(msgspec.Struct, frozen=True, kw_only=True):
    """What a reference leads to."""

    target: str
    """Digest of an index or a manifest; of an image found by its id, its own manifest."""
    name: str = ""
    """The name as it is stored; "" for a digest or an id alone."""
    image_id: str = ""
    """Set when the reference means this image and no other."""
    by_manifest: bool = False
    """It is the digest of the image's manifest, which says which platform; an id means what it is shown
    with as well."""


class ImageCatalog:
    """Everything that is answered from memory, and the names."""

    def __init__(self, store: ImageStore, users: ImageUsers, events: Events, workers: Workers) -> None:
        self.store = store
        self._workers = workers
        self._users = users
        self._events = events

    # finding

    async def resolve(self, ref: str, platform: str = "") -> Image:
        """By name, digest, id or unique id prefix; of several platforms this machine's, else the one that
        came last. Raises NoSuchImage, InvalidReference, PlatformNotHere."""
        return self.find(ref, wanted_platform(platform))

    def find(self, ref: str, platform: Platform | None = None) -> Image:
        """As :meth:`resolve`."""
        located = self.locate(ref)
        image = self.chosen(located, ref, platform)
        if image is None:
            raise NoSuchImage(ref)
        return image

    def locate(self, ref: str) -> Located:
        """Raises NoSuchImage, InvalidReference."""
        if is_identifier(ref) or ref.startswith("sha256:"):
            digest = ref if ref.startswith("sha256:") else f"sha256:{ref}"
            try:
                check_digest(digest)
            except InvalidReference:
                # a short id with its algorithm in front
                return self._by_prefix(digest.removeprefix("sha256:"), parse_name(ref))
            found = self._by_digest(digest)
            if found is None:
                raise NoSuchImage(digest)
            return found
        name = parse_name(ref)
        stored = stored_name(name)
        target = self.store.names.find(stored)
        return Located(target=target, name=stored) if target is not None else self._by_prefix(ref, name)

    def _by_digest(self, digest: str) -> Located | None:
        image = self.store.find(digest)
        if image is not None:
            return Located(target=image.manifest_digest, image_id=image.id)
        record = self.store.documents.find(digest)
        if record is None:
            return None
        return Located(target=digest, image_id=record.image_id, by_manifest=bool(record.image_id))

    def _by_prefix(self, prefix: str, name: ImageName) -> Located:
        start = f"sha256:{prefix}"
        matches = [image.id for image in self.store.all() if image.id.startswith(start)]
        # as `docker images --tree` shows them
        matches = matches or [one for one in self.store.documents.digests() if one.startswith(start)]
        found = self._by_digest(matches[0]) if len(matches) == 1 else None
        if found is None:
            raise NoSuchImage(name.with_default_tag().familiar)
        return found

    def chosen(self, located: Located, ref: str, platform: Platform | None = None) -> Image | None:
        """The image that is meant; None when none of the target is here. Raises PlatformNotHere."""
        if located.image_id:
            image = self.store.find(located.image_id)
            if image is None or platform is None or is_same(platform_of(image), platform):
                return image
            for target in () if located.by_manifest else self.meaning(image):
                with contextlib.suppress(PlatformNotHere):
                    return self.chosen(Located(target=target), ref, platform)
            require_platform(image, ref, platform)
        try:
            entry = choose(self.store.documents.entries(located.target), host_platform(), platform, ref=ref)
        except PlatformNotHere:
            images = self.store.documents.images_of(located.target)
            if len(images) == 1 and platform is not None:
                # says more than that it is not there
                require_platform(self.store.find(images.pop()), ref, platform)
            raise
        return self.store.find(entry.image_id) if entry is not None else None

    def meaning(self, image: Image) -> list[str]:
        """The targets whose names mean this image, among all that it belongs to."""
        targets = {self.store.names.find(name) or "" for name in names_of(image)}
        return [one for one in sorted(targets) if self.chosen(Located(target=one), one) == image]

    def find_named(self, name: str) -> Image | None:
        """The image that a familiar name with tag or digest means here."""
        target = self.store.names.find(name)
        return self.chosen(Located(target=target), name) if target is not None else None

    def images_of(self, ref: str) -> set[str]:
        """Ids of all that the reference can mean, by platform. Raises NoSuchImage, InvalidReference."""
        located = self.locate(ref)
        return {located.image_id} if located.image_id else self.store.documents.images_of(located.target)

    # naming

    async def tag(self, ref: str, repo: str, tag: str = "") -> None:
        """A name gives all its platforms to the new name, an id its one. Raises InvalidReference,
        NoSuchImage."""
        located = self.locate(ref)
        image = self.find(ref)
        name = parse_name(repo)
        if name.digest:
            raise InvalidReference("refusing to create a tag with a digest reference")
        if tag:
            name = name.with_tag(tag)
        self.name(image, name.with_default_tag(), located.target)

    def name(self, image: Image, name: ImageName, target: str = "") -> None:
        """Give an image, or the ``target`` it belongs to, a name and say so."""
        self.store.name(name.familiar, target or image.manifest_digest, now_ns())
        self.publish("tag", image.id, name.familiar)

    def publish(self, action: str, image_id: str, name: str, reason: str = "") -> None:
        """An image event with the image's labels and, when it has one, its name."""
        image = self.store.find(image_id)
        labels = image.config.config.labels if image is not None and image.config.config is not None else None
        attributes = dict(labels or {})
        if name:
            attributes["name"] = name
        if reason:
            attributes["reason"] = reason
        self._events.publish("image", action, image_id, attributes)

    # showing

    async def inspect(self, ref: str, manifests: bool = False, platform: str = "") -> ImageInspect:
        """Raises NoSuchImage, PlatformNotHere."""
        located = self.locate(ref)
        image = await self.resolve(ref, platform)
        target = image.manifest_digest if platform else located.target
        raw = _raw_config(self.store.blobs.read(image.id))
        config = raw.get("config")
        history = image.config.history
        comment = image.config.comment or (history[-1].comment if history else "")
        paths = [self.store.layers.path(chain) for chain in image.chain_ids]
        graph = {}
        if paths:
            layer = paths[-1].removesuffix("/diff")
            graph = {"MergedDir": f"{layer}/merged", "UpperDir": paths[-1], "WorkDir": f"{layer}/work"}
            if len(paths) > 1:
                graph["LowerDir"] = ":".join(reversed(paths[:-1]))
        users = self._users.image_users() if manifests else []
        return ImageInspect(
            image=image,
            config=config if isinstance(config, dict) else {},
            graph=graph,
            comment=comment,
            descriptor=self.store.documents.describe(target),
            manifests=manifest_summaries(self.store, target, users) if manifests else None,
        )

    async def history(self, ref: str, platform: str = "") -> list[HistoryItem]:
        """Newest first. Raises NoSuchImage."""
        image = await self.resolve(ref, platform)
        items: list[HistoryItem] = []
        place = 0
        for entry in image.config.history:
            size = 0
            if not entry.empty_layer and place < len(image.layer_sizes):
                size = image.layer_sizes[place]
                place += 1
            items.append(
                HistoryItem(
                    created=_seconds(entry.created),
                    created_by=entry.created_by,
                    size=size,
                    comment=entry.comment,
                )
            )
        items.reverse()
        ancestor: Image | None = image
        for number, item in enumerate(items):
            if ancestor is None:
                break
            items[number] = msgspec.structs.replace(
                item, id=ancestor.id, tags=list(ancestor.repo_tags) or None
            )
            ancestor = self.store.find(ancestor.parent) if ancestor.parent else None
        return items

    async def list(
        self,
        filters: Mapping[str, Sequence[str]] | None = None,
        all: bool = False,  # noqa: A002 - Docker's word
        shared_size: bool = False,
        manifests: bool = False,
    ) -> list[ImageSummary]:
        """Newest first. Raises InvalidFilter, and NoSuchImage for what before and since name."""
        accepted = Filters(filters or {})
        accepted.require_known(_LIST_FILTERS)
        dangling_only = accepted.boolean("dangling", False)
        before_ns, since_ns = self._bounds(accepted)
        rows = rows_of(self.store, self.find_named)
        parents = {image.parent for image in self.store.all() if image.parent}
        users = self._users.image_users()
        counts = _count(user.image_id for user in users)
        shared = shared_sizes(rows) if shared_size else {}
        summaries = []
        for row in rows:
            image = row.image
            if (before_ns and image.created_ns >= before_ns) or (since_ns and image.created_ns <= since_ns):
                continue
            labels = image.config.config.labels if image.config.config is not None else None
            if "label" in accepted and not accepted.labels("label", labels):
                continue
            if dangling_only and image.id in parents:
                continue
            tags, digests = _matching_names(row, accepted.get("reference"))
            if not tags and not digests:
                if not all and image.id in parents:
                    continue
                if "reference" in accepted or ("dangling" in accepted and not dangling_only):
                    continue
            elif dangling_only and tags:
                continue
            summary = ImageSummary(
                id=image.id,
                parent_id=image.parent,
                repo_tags=tags,
                repo_digests=digests,
                created=image.created_ns // 1_000_000_000,
                size=sum(row.chains.values()),
                shared_size=shared.get(image.id, -1),
                labels=labels,
                containers=sum(counts.get(one.id, 0) for one in row.images),
            )
            summaries.append(_with_manifests(self.store, summary, row, users) if manifests else summary)
        summaries.sort(key=lambda summary: (-summary.created, summary.id))
        return summaries

    def _bounds(self, filters: Filters) -> tuple[int, int]:
        before = [self.find(ref).created_ns for ref in filters.get("before")]
        before += [parse_moment_ns(text, now_ns()) for text in filters.get("until")]
        since = [self.find(ref).created_ns for ref in filters.get("since")]
        return min(before, default=0), max(since, default=0)

    async def usage(self) -> ImageUsage:
        """What images take on disk, for ``system df``."""
        images = await self.list(all=False, shared_size=True)
        chains: dict[str, int] = {}
        for image in self.store.all():
            chains.update(zip(image.chain_ids, image.layer_sizes, strict=True))
        active = [image for image in images if image.containers > 0]
        used = sum(image.size - max(image.shared_size, 0) for image in active)
        used += max((image.shared_size for image in active), default=0)
        total = sum(chains.values())
        return ImageUsage(
            images=images,
            layers_size=total,
            total_count=len(images),
            active_count=len(active),
            reclaimable=max(total - used, 0),
        )

    # garbage

    async def collect(self) -> int:
        """Delete content that nothing needs any more. Bytes freed."""
        in_use = {chain for user in self._users.image_users() for chain in user.layer_ids}
        garbage = self.store.take_garbage(in_use)
        if garbage.files or garbage.directories:
            await self._workers.run(lambda: delete_garbage(garbage))
        return garbage.size_bytes

    async def sweep(self) -> None:
        """At start: remove what an earlier process has left half done."""
        await self._workers.run(self.store.sweep)


def stored_name(name: ImageName) -> str:
    """The name under which the store has it: a digest hides a tag beside it."""
    if name.digest:
        return f"{name.familiar_repository}@{name.digest}"
    return name.with_default_tag().familiar


def names_of(image: Image) -> list[str]:
    return [*image.repo_tags, *image.repo_digests]


def _count(items: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for item in items:
        counts[item] = counts.get(item, 0) + 1
    return counts


def _with_manifests(
    store: ImageStore, summary: ImageSummary, row: ImageRow, users: Sequence[ImageUser]
) -> ImageSummary:
    targets = row.targets or [row.image.manifest_digest]
    found = {one.id: one for target in targets for one in manifest_summaries(store, target, users)}
    return msgspec.structs.replace(
        summary, descriptor=store.documents.describe(targets[0]), manifests=list(found.values())
    )


def _matching_names(row: ImageRow, patterns: Sequence[str]) -> tuple[list[str], list[str]]:
    if not patterns:
        return list(row.tags), list(row.digests)

    def matches(text: str) -> bool:
        name = parse_name(text)
        targets = (name.familiar, name.familiar_repository, name.normalised, name.repository)
        return any(_glob(pattern, target) for pattern in patterns for target in targets)

    return [tag for tag in row.tags if matches(tag)], [digest for digest in row.digests if matches(digest)]


def _glob(pattern: str, text: str) -> bool:
    """Go's path.Match: as shell patterns, but ``*`` and ``?`` stop at a slash."""
    parts, wanted = text.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def _seconds(created: str) -> int:
    try:
        return parse_ns(created) // 1_000_000_000
    except ValueError:
        return 0


def host_platform() -> Platform:
    """What runs here."""
    return Platform(architecture=architecture())


def wanted_platform(text: str) -> Platform | None:
    """What ``--platform`` asks for; None for "". Raises InvalidPlatform."""
    return parse_platform(text, architecture()) if text else None


def require_platform(image: Image | None, ref: str, wanted: Platform) -> None:
    """Raises NotFound with Docker's text, after which ``docker run`` pulls."""
    if image is None:
        raise NoSuchImage(ref)
    actual = platform_of(image)
    if not is_same(actual, wanted):
        raise NotFound(
            f"image with reference {ref} was found but its platform ({actual.text}) does not match the "
            f"specified platform ({wanted.text})"
        )
