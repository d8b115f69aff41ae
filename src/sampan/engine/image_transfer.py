"""Images in and out: load, save, import and the making of base images.

Bytes are handled in threads by :mod:`sampan.content`; what they amount to is registered here, on the event
loop, in one transaction per image.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from sampan.base.clock import now_ns
from sampan.content.assembly import Assembled
from sampan.content.bootstrap import BootstrapOptions, bootstrap
from sampan.content.streams import Workers
from sampan.formats.reference import parse_tagged
from sampan.model.image import Image
from sampan.model.progress import ProgressMessage

from .image_catalog import ImageCatalog

Put = Callable[[ProgressMessage | Assembled], None]


class ImageTransfer:
    def __init__(self, catalog: ImageCatalog, workers: Workers) -> None:
        self._catalog = catalog
        self._store = catalog.store
        self._workers = workers

    async def bootstrap(self, name: str, options: BootstrapOptions) -> AsyncGenerator[ProgressMessage, None]:
        """Make a base image from the distribution's packages. Raises InvalidArgument, BootstrapFailed."""
        with self._store.lease() as lease:

            def work(put: Put) -> None:
                def say(text: str) -> None:
                    put(ProgressMessage(status=text))

                put(bootstrap(self._store, lease, name, options, say))

            async for item in self._workers.items(work):
                if isinstance(item, ProgressMessage):
                    yield item
                    continue
                image = self.register(item)
                for tag in image.repo_tags:
                    yield ProgressMessage(stream=f"Loaded image: {tag}\n")

    def register(self, assembled: Assembled) -> Image:
        """Make an image known whose content is in place, give it its names and say so."""
        names = [parse_tagged(name) for name in assembled.names]
        image = self._store.register(assembled.image, assembled.layers, (), now_ns())
        for name in names:
            self._catalog.name(image.id, name)
        return self._store.find(image.id) or image
