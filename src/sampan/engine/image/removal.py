"""Taking names and images away, with Docker's rules of what may go when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sampan.base.clock import now_ns
from sampan.base.errors import Conflict, InvalidArgument
from sampan.base.ids import short_id
from sampan.engine.events import Events
from sampan.engine.filters import Filters, prune_labels_match, prune_until_ns
from sampan.formats.reference import ImageName, parse_name
from sampan.model.image import Image

from .catalog import ImageCatalog, Located, NoSuchImage, names_of, wanted_platform
from .users import ImageUsers
from .views import DeletedImage, ImagePrune

_PRUNE_FILTERS = frozenset(("dangling", "label", "label!", "until"))


class ImageInUse(Conflict):
    """A reference or an image cannot go because something needs it."""


class PruneRunning(Conflict):
    def __init__(self) -> None:
        super().__init__("a prune operation is already running")


class ImageRemoval:
    def __init__(self, catalog: ImageCatalog, users: ImageUsers, events: Events) -> None:
        self._catalog = catalog
        self._store = catalog.store
        self._users = users
        self._events = events
        self._pruning = False

    async def remove(
        self, ref: str, force: bool = False, noprune: bool = False, platforms: Sequence[str] = ()
    ) -> list[DeletedImage]:
        """Take a name away, and with its last one what it stands for; of ``platforms`` only those images.

        Raises NoSuchImage, ImageInUse, PlatformNotHere.
        """
        if platforms and not force:
            raise InvalidArgument(
                "Content will be removed from all images referencing this variant. "
                "Use --force to force delete."
            )
        located = self._catalog.locate(ref)
        records: list[DeletedImage] = []
        try:
            if platforms:
                self._remove_platforms(located, ref, platforms, records, prune=not noprune)
            elif located.image_id:
                self._remove_image(located, records, force=force, prune=not noprune)
            else:
                self._remove_name(located, ref, records, force=force, prune=not noprune)
        finally:
            await self._catalog.collect()
        return records

    def _remove_platforms(
        self,
        located: Located,
        ref: str,
        platforms: Sequence[str],
        records: list[DeletedImage],
        *,
        prune: bool,
    ) -> None:
        images = []
        for text in platforms:
            image = self._catalog.chosen(located, ref, wanted_platform(text))
            if image is None:
                raise NoSuchImage(ref)
            images.append(image)
        for image in images:
            self._delete(image.id, records, force=True, prune=prune, quiet=False)

    def _remove_image(
        self, located: Located, records: list[DeletedImage], *, force: bool, prune: bool
    ) -> None:
        """By id: the image with the names that mean it, and what only these hold on other platforms."""
        image = self._store.find(located.image_id)
        if image is None:
            raise NoSuchImage(located.image_id)
        targets = [] if located.by_manifest else self._catalog.meaning(image)
        ids = {one for target in targets for one in self._store.documents.images_of(target)} - {image.id}
        others = [one for one in map(self._store.find, sorted(ids)) if one is not None]
        single = _is_single(sorted({name for one in (image, *others) for name in names_of(one)}))
        for one in (image, *others) if single or others else ():
            self._check_conflicts(one, ignore_soft=force, ignore_names=single or force)
        for name in [name for target in targets for name in self._store.names.of(target)] if others else []:
            self._drop_name(image, name, records)
        self._delete(image.id, records, force=force, prune=prune, quiet=False, ignore_names=single)
        for one in others:
            current = self._store.find(one.id)
            if current is not None and not names_of(current):
                self._delete(one.id, records, force=force, prune=prune, quiet=True)

    def _remove_name(
        self, located: Located, ref: str, records: list[DeletedImage], *, force: bool, prune: bool
    ) -> None:
        ids = self._store.documents.images_of(located.target)
        images = [image for image in map(self._store.find, sorted(ids)) if image is not None]
        names = [located.name] if located.name else self._store.names.of(located.target)
        if not force and _is_single(sorted({name for image in images for name in names_of(image)})):
            for image in images:
                self._refuse_if_used(image, ref)
        elif not force and not located.name:
            raise ImageInUse(
                f"conflict: unable to delete {short_id(located.target)} (must be forced) - image is "
                "referenced in multiple repositories"
            )
        meant = self._catalog.chosen(located, ref)
        for name in names:
            self._drop_name(meant, name, records)
            self._drop_digests(parse_name(name), ids, records)
        # of those that nothing names any more the meant one comes first
        ordered = sorted(images, key=lambda image: (meant is None or image.id != meant.id, image.id))
        for image in ordered:
            current = self._store.find(image.id)
            if current is not None and not names_of(current):
                self._delete(image.id, records, force=force, prune=prune, quiet=True)

    def _refuse_if_used(self, image: Image, ref: str) -> None:
        for user in self._users.image_users():
            if user.image_id == image.id or image.id in user.mounted_images:
                raise ImageInUse(
                    f'conflict: unable to remove repository reference "{ref}" (must force) - container '
                    f"{short_id(user.id)} is using its referenced image {short_id(image.id)}"
                )

    def _drop_digests(self, name: ImageName, image_ids: set[str], records: list[DeletedImage]) -> None:
        """A repository that names the images by no tag any more names them by no digest either."""
        if name.digest:
            return
        left = {
            text
            for image in map(self._store.find, image_ids)
            if image is not None
            for text in names_of(image)
            if parse_name(text).repository == name.repository
        }
        if all(parse_name(text).digest for text in left):
            for text in sorted(left):
                self._store.unname(text)
                records.append(DeletedImage(untagged=text))

    def _drop_name(self, image: Image | None, name: str, records: list[DeletedImage]) -> None:
        self._store.unname(name)
        if image is not None:
            self._catalog.publish("untag", image.id, image.id)
        records.append(DeletedImage(untagged=name))

    def _delete(
        self,
        image_id: str,
        records: list[DeletedImage],
        *,
        force: bool,
        prune: bool,
        quiet: bool,
        ignore_names: bool = False,
        reason: str = "",
    ) -> None:
        image = self._store.find(image_id)
        if image is None:
            return
        try:
            self._check_conflicts(image, ignore_soft=force, ignore_names=ignore_names)
        except ImageInUse:
            dangling = not names_of(image) and not self._children(image_id)
            if quiet and (not dangling or self._is_used(image_id)):
                return
            raise
        for name in names_of(image):
            # an index that has other images here keeps its names
            if self._store.documents.images_of(self._store.names.find(name) or "") == {image_id}:
                self._drop_name(image, name, records)
        self._store.forget(image_id)
        self._catalog.publish("delete", image_id, image_id, reason)
        records.append(DeletedImage(deleted=image_id))
        kept = {chain for other in self._store.all() for chain in other.chain_ids}
        kept.update(chain for user in self._users.image_users() for chain in user.layer_ids)
        records += [DeletedImage(deleted=c) for c in reversed(image.chain_ids) if c not in kept]
        if prune and image.parent:
            self._delete(image.parent, records, force=False, prune=True, quiet=True)

    def evict(self, image_id: str, reason: str) -> None:
        """Take an image away with all its names, for the reason that its event tells; its content goes with
        the next collection. Raises ImageInUse."""
        image = self._store.find(image_id)
        if image is not None:
            self._refuse_if_used(image, image_id)
            self._delete(
                image_id, [], force=False, prune=False, quiet=False, ignore_names=True, reason=reason
            )

    def _check_conflicts(self, image: Image, *, ignore_soft: bool, ignore_names: bool) -> None:
        def refuse(forceable: bool, why: str) -> None:
            hint = "must be forced" if forceable else "cannot be forced"
            raise ImageInUse(f"conflict: unable to delete {short_id(image.id)} ({hint}) - {why}")

        if self._children(image.id):
            refuse(False, "image has dependent child images")
        users = [user for user in self._users.image_users() if user.image_id == image.id]
        for user in users:
            if user.running:
                refuse(False, f"image is being used by running container {short_id(user.id)}")
        if ignore_soft:
            return
        if not ignore_names and names_of(image):
            refuse(True, "image is referenced in multiple repositories")
        for user in users:
            refuse(True, f"image is being used by stopped container {short_id(user.id)}")

    def _children(self, image_id: str) -> list[str]:
        return [image.id for image in self._store.all() if image.parent == image_id]

    def _is_used(self, image_id: str) -> bool:
        return any(user.image_id == image_id for user in self._users.image_users())

    async def recover(self) -> None:
        """Remove what a process that died has left unfinished, and content that no row names."""
        await self._catalog.sweep()
        await self._catalog.collect()

    async def prune(self, filters: Mapping[str, Sequence[str]] | None = None) -> ImagePrune:
        """Remove unused images: without a tag, or with ``dangling=false`` all. Raises PruneRunning."""
        if self._pruning:
            raise PruneRunning
        accepted = Filters(filters or {})
        accepted.require_known(_PRUNE_FILTERS)
        dangling_only = accepted.boolean("dangling", True)
        until_ns = prune_until_ns(accepted, now_ns())
        self._pruning = True
        try:
            return await self._prune(accepted, dangling_only, until_ns)
        finally:
            self._pruning = False

    async def _prune(self, accepted: Filters, dangling_only: bool, until_ns: int) -> ImagePrune:
        sizes = {
            chain: size
            for image in self._store.all()
            for chain, size in zip(image.chain_ids, image.layer_sizes, strict=True)
        }
        records: list[DeletedImage] = []
        for image in self._store.all():
            labels = image.config.config.labels if image.config.config is not None else None
            if until_ns and image.created_ns > until_ns:
                continue
            if not prune_labels_match(accepted, labels) or (dangling_only and image.repo_tags):
                continue
            if not names_of(image) and self._children(image.id):
                continue
            for ref in names_of(image) or [image.id]:
                try:
                    records += await self.remove(ref)
                except (ImageInUse, NoSuchImage):
                    continue  # in use, or gone with its child a moment ago
        freed = sum(sizes.get(record.deleted, 0) for record in records)
        await self._catalog.collect()
        self._events.publish("image", "prune", "", {"reclaimed": str(freed)})
        return ImagePrune(images_deleted=records or None, space_reclaimed=freed)


def _is_single(names: list[str]) -> bool:
    """At most one tag, and everything in one repository; False without names."""
    if len(names) <= 1:
        return len(names) == 1
    parsed = [parse_name(name) for name in names]
    tags = [name for name in parsed if not name.digest]
    return len(tags) <= 1 and len({name.repository for name in parsed}) == 1
