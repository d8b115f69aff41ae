"""The rows of ``docker images``: an image with the names that mean it, and with it its other platforms."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from sampan.content.images import ImageStore
from sampan.model.image import Image


class ImageRow(msgspec.Struct, frozen=True, kw_only=True):
    image: Image
    """What the names mean here."""
    images: list[Image]
    """That one and the images of other platforms behind the same names."""
    tags: list[str]
    digests: list[str]
    targets: list[str]
    """Digests of what the names stand for; [] without names."""

    @property
    def chains(self) -> dict[str, int]:
        """Chain ids of all layers, with the bytes of each."""
        return {
            chain: size
            for image in self.images
            for chain, size in zip(image.chain_ids, image.layer_sizes, strict=True)
        }


def rows_of(store: ImageStore, meant: Callable[[str], Image | None]) -> list[ImageRow]:
    """``meant`` answers which image a name means. An image that is only ever another platform behind a name
    has no row of its own."""
    targets: dict[str, list[str]] = {}
    for name, target in sorted(store.names.all().items()):
        targets.setdefault(target, []).append(name)
    named: dict[str, list[str]] = {}
    behind: set[str] = set()
    for target, names in targets.items():
        image = meant(names[0])
        if image is not None:
            named.setdefault(image.id, []).append(target)
        behind |= store.documents.images_of(target)
    rows = []
    for image in store.all():
        own = named.get(image.id, [])
        if not own and image.id in behind:
            continue
        texts = sorted(name for target in own for name in targets[target])
        ids = {image.id}.union(*(store.documents.images_of(target) for target in own))
        rows.append(
            ImageRow(
                image=image,
                images=[one for one in map(store.find, sorted(ids)) if one is not None],
                tags=[text for text in texts if "@" not in text],
                digests=[text for text in texts if "@" in text],
                targets=own,
            )
        )
    return rows


def shared_sizes(rows: Sequence[ImageRow]) -> dict[str, int]:
    """Bytes of each row's layers that other rows have as well, by image id."""
    uses: dict[str, int] = {}
    for row in rows:
        for chain in row.chains:
            uses[chain] = uses.get(chain, 0) + 1
    return {row.image.id: sum(size for chain, size in row.chains.items() if uses[chain] > 1) for row in rows}
