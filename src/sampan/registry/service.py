"""A registry, put together."""

from __future__ import annotations

from collections.abc import Callable

from sampan.store.registry.index import RegistryIndex

from .blobs import Blobs
from .context import Context
from .manifests import Manifests
from .ports import Gate, Notices, Observer, Upstreams
from .referrers import Referrers
from .repositories import Repositories
from .storage.port import BlobStorage
from .tags import Tags
from .uploads import Uploads


class Registry:
    """The services over one index and one storage. Of one event loop.

    ::

        registry = Registry(RegistryIndex(f"{root}/registry.db"), FileBlobStorage(root))

    What needs the registry itself is connected afterwards.
    """

    def __init__(self, index: RegistryIndex, storage: BlobStorage) -> None:
        self.context = Context(index, storage)
        self.repositories = Repositories(self.context)
        self.blobs = Blobs(self.context)
        self.uploads = Uploads(self.context, self.blobs)
        self.manifests = Manifests(self.context)
        self.tags = Tags(self.context)
        self.referrers = Referrers(self.context)

    @property
    def index(self) -> RegistryIndex:
        return self.context.index

    @property
    def storage(self) -> BlobStorage:
        return self.context.storage

    def connect(
        self,
        *,
        gate: Gate | None = None,
        observer: Observer | None = None,
        upstreams: Upstreams | None = None,
        notices: Notices | None = None,
        sparse: Callable[[str], bool] | None = None,
    ) -> None:
        """Put something in the place of the permissive defaults."""
        context = self.context
        context.gate = gate or context.gate
        context.observer = observer or context.observer
        context.upstreams = upstreams or context.upstreams
        context.notices = notices or context.notices
        context.sparse = sparse or context.sparse

    async def close(self) -> None:
        await self.storage.close()
        self.context.durability.close()
        self.index.close()
