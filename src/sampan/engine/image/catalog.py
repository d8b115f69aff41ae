"""Images by name: finding, naming, listing and showing them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from sampan.base.clock import now_ns, parse_ns
from sampan.base.errors import InvalidArgument, NotFound
from sampan.content.bootstrap import architecture
from sampan.content.images import ImageStore, delete_garbage
from sampan.content.streams import Workers
from sampan.engine.events import Events
from sampan.engine.filters import Filters, parse_moment_ns
from sampan.formats.reference import ImageName, InvalidReference, check_digest, is_identifier, parse_name
from sampan.model.image import Image

from .users import ImageUsers
from .views import HistoryItem, ImageInspect, ImageSummary, ImageUsage

_LIST_FILTERS = frozenset(("dangling", "label", "before", "since", "reference", "until"))
_raw_config = msgspec.json.Decoder(dict[str, object]).decode


class NoSuchImage(NotFound):
    def __init__(self, ref: str) -> None:
        super().__init__(f"No such image: {ref}")


class ImageCatalog:
    """Everything that is answered from memory, and the names."""

    def __init__(self, store: ImageStore, users: ImageUsers, events: Events, workers: Workers) -> None:
        self.store = store
        self._workers = workers
        self._users = users
        self._events = events

    # finding

    async def resolve(self, ref: str, platform: str = "") -> Image:
        """By name, digest, id or unique id prefix. Raises NoSuchImage, InvalidReference."""
        image = self.find(ref)
        if platform:
            _require_platform(image, ref, platform)
        return image

    def find(self, ref: str) -> Image:
        """As :meth:`resolve`, without a platform."""
        if is_identifier(ref) or ref.startswith("sha256:"):
            digest = ref if ref.startswith("sha256:") else f"sha256:{ref}"
            try:
                check_digest(digest)
            except InvalidReference:
                # a short id with its algorithm in front
                return self._by_prefix(ref, digest.removeprefix("sha256:"), parse_name(ref))
            image = self.store.find(digest)
            if image is None:
                raise NoSuchImage(digest)
            return image
        name = parse_name(ref)
        image = self.store.find_named(stored_name(name))
        return image if image is not None else self._by_prefix(ref, ref, name)

    def _by_prefix(self, ref: str, prefix: str, name: ImageName) -> Image:
        matches = [image for image in self.store.all() if image.id.startswith(f"sha256:{prefix}")]
        if len(matches) == 1:
            return matches[0]
        raise NoSuchImage(name.with_default_tag().familiar)

    # naming

    async def tag(self, ref: str, repo: str, tag: str = "") -> None:
        """Raises InvalidReference, NoSuchImage."""
        image = self.find(ref)
        name = parse_name(repo)
        if name.digest:
            raise InvalidReference("refusing to create a tag with a digest reference")
        if tag:
            name = name.with_tag(tag)
        self.name(image.id, name.with_default_tag())

    def name(self, image_id: str, name: ImageName) -> None:
        """Give an image a name and say so."""
        self.store.name(name.familiar, image_id, now_ns())
        self.publish("tag", image_id, name.familiar)

    def publish(self, action: str, image_id: str, name: str) -> None:
        """An image event with the image's labels and, when it has one, its name."""
        image = self.store.find(image_id)
        labels = image.config.config.labels if image is not None and image.config.config is not None else None
        attributes = dict(labels or {})
        if name:
            attributes["name"] = name
        self._events.publish("image", action, image_id, attributes)

    # showing

    async def inspect(self, ref: str, platform: str = "") -> ImageInspect:
        """Raises NoSuchImage."""
        image = await self.resolve(ref, platform)
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
        return ImageInspect(
            image=image, config=config if isinstance(config, dict) else {}, graph=graph, comment=comment
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
    ) -> list[ImageSummary]:
        """Newest first. Raises InvalidFilter, and NoSuchImage for what before and since name."""
        accepted = Filters(filters or {})
        accepted.require_known(_LIST_FILTERS)
        dangling_only = accepted.boolean("dangling", False)
        before_ns, since_ns = self._bounds(accepted)
        images = self.store.all()
        parents = {image.parent for image in images if image.parent}
        counts = _count(user.image_id for user in self._users.image_users())
        shared = _shared_sizes(images) if shared_size else {}
        summaries = []
        for image in images:
            if (before_ns and image.created_ns >= before_ns) or (since_ns and image.created_ns <= since_ns):
                continue
            labels = image.config.config.labels if image.config.config is not None else None
            if "label" in accepted and not accepted.labels("label", labels):
                continue
            if dangling_only and image.id in parents:
                continue
            tags, digests = _matching_names(image, accepted.get("reference"))
            if not tags and not digests:
                if not all and image.id in parents:
                    continue
                if "reference" in accepted or ("dangling" in accepted and not dangling_only):
                    continue
            elif dangling_only and tags:
                continue
            summaries.append(
                ImageSummary(
                    id=image.id,
                    parent_id=image.parent,
                    repo_tags=tags,
                    repo_digests=digests,
                    created=image.created_ns // 1_000_000_000,
                    size=image.size_bytes,
                    shared_size=shared.get(image.id, -1),
                    labels=labels,
                    containers=counts.get(image.id, 0),
                )
            )
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


def _shared_sizes(images: Sequence[Image]) -> dict[str, int]:
    """Bytes of each image's layers that other images have as well."""
    uses = _count(chain for image in images for chain in image.chain_ids)
    return {
        image.id: sum(
            size for chain, size in zip(image.chain_ids, image.layer_sizes, strict=True) if uses[chain] > 1
        )
        for image in images
    }


def _matching_names(image: Image, patterns: Sequence[str]) -> tuple[list[str], list[str]]:
    if not patterns:
        return list(image.repo_tags), list(image.repo_digests)

    def matches(text: str) -> bool:
        name = parse_name(text)
        targets = (name.familiar, name.familiar_repository, name.normalised, name.repository)
        return any(_glob(pattern, target) for pattern in patterns for target in targets)

    return [tag for tag in image.repo_tags if matches(tag)], [d for d in image.repo_digests if matches(d)]


def _glob(pattern: str, text: str) -> bool:
    """Go's path.Match: as shell patterns, but ``*`` and ``?`` stop at a slash."""
    parts, wanted = text.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def _seconds(created: str) -> int:
    try:
        return parse_ns(created) // 1_000_000_000
    except ValueError:
        return 0


def _require_platform(image: Image, ref: str, platform: str) -> None:
    wanted = parse_platform(platform)
    config = image.config
    same_variant = not wanted[2] or not config.variant or wanted[2] == config.variant
    if wanted[:2] == (config.os, config.architecture) and same_variant:
        return
    actual = "/".join(part for part in (config.os, config.architecture, config.variant) if part)
    raise NotFound(
        f"image with reference {ref} was found but its platform ({actual}) does not match the specified "
        f"platform ({'/'.join(part for part in wanted if part)})"
    )


_ARCHITECTURES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armhf": "arm", "i386": "386"}


def parse_platform(text: str) -> tuple[str, str, str]:
    """(os, architecture, variant) of ``linux/arm64/v8``, ``linux`` or ``arm64``. Raises InvalidArgument."""
    parts = [part.lower() for part in text.split("/")]
    if len(parts) > 3 or not all(part and part.replace("_", "").replace("-", "").isalnum() for part in parts):
        raise InvalidArgument(f'"{text}" is an invalid platform specifier: use os/architecture/variant')
    if len(parts) == 1:
        parts = ["linux", parts[0]] if parts[0] != "linux" else ["linux", architecture()]
    arch = _ARCHITECTURES.get(parts[1], parts[1])
    variant = parts[2] if len(parts) == 3 else ""
    if arch == "arm64" and variant == "v8":
        variant = ""
    return parts[0], arch, variant
