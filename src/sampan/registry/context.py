"""What the registry's services share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from sampan.base.clock import now_ns
from sampan.model.registry import Actor, RegistryEvent
from sampan.store.registry.index import RegistryIndex

from .durability import Durability
from .errors import Denied
from .locks import NamedLocks
from .ports import Gate, NoNotices, NoObserver, Notices, NoUpstreams, Observer, OpenGate, Upstreams
from .storage.port import BlobStorage

TOUCH_NS = 60 * 1_000_000_000
"""How exactly it is known when something was last asked for."""


@dataclass(slots=True)
class Context:
    """The index, the storage, and who is asked and told."""

    index: RegistryIndex
    storage: BlobStorage
    gate: Gate = field(default_factory=OpenGate)
    observer: Observer = field(default_factory=NoObserver)
    upstreams: Upstreams = field(default_factory=NoUpstreams)
    notices: Notices = field(default_factory=NoNotices)
    sparse: Callable[[str], bool] = lambda _repository: False
    """Whether a repository takes manifests of which a part is not there, such as mirrors of one platform."""
    now_ns: Callable[[], int] = now_ns
    digests: NamedLocks = field(default_factory=NamedLocks)
    """Held while a blob's bytes and its row change together: by the end of an upload and by the collector."""
    durability: Durability = field(init=False)

    def __post_init__(self) -> None:
        self.durability = Durability(self.index.path)

    @contextmanager
    def change(self) -> Iterator[None]:
        """A transaction whose client waits for :attr:`durability` before it is told. Never await inside."""
        with self.index.relaxed(), self.index.transaction():
            yield
        self.durability.changed()

    def check_writable(self, repository: str) -> None:
        """Raises Denied for a repository that is a copy of another registry's."""
        if self.upstreams.serves(repository):
            raise Denied(f"{repository} is a cache of another registry: push there")

    def tell(
        self,
        action: Literal["push", "pull", "delete", "mount"],
        kind: Literal["manifest", "tag", "blob"],
        repository: str,
        actor: Actor,
        *,
        digest: str = "",
        tag: str = "",
        media_type: str = "",
        size_bytes: int = 0,
        from_repository: str = "",
    ) -> None:
        self.observer.happened(
            RegistryEvent(
                time_ns=self.now_ns(),
                action=action,
                kind=kind,
                repository=repository,
                digest=digest,
                tag=tag,
                media_type=media_type,
                size_bytes=size_bytes,
                from_repository=from_repository,
                actor=actor,
            )
        )
