"""Blobs as repositories have them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from sampan.model.registry import Actor
from sampan.store.registry.blobs import BlobLink

from .context import TOUCH_NS, Context
from .errors import BlobInUse, BlobUnknown


class Blobs:
    def __init__(self, context: Context) -> None:
        self._context = context

    def find(self, repository: str, digest: str) -> BlobLink | None:
        """What the repository has, kept from the collector for a grace time from now on."""
        found = self._context.index.blobs.find_link(repository, digest)
        if found is None:
            return None
        number, link = found
        now_ns = self._context.now_ns()
        if now_ns - link.touched_ns > TOUCH_NS:
            with self._context.index.relaxed():
                self._context.index.blobs.link(number, digest, now_ns)
        return link

    async def require(self, repository: str, digest: str) -> BlobLink:
        """As :meth:`find`; fetched where the repository is a cache. Raises BlobUnknown."""
        link = self.find(repository, digest)
        upstreams = self._context.upstreams
        if link is None and upstreams.serves(repository) and await upstreams.blob(repository, digest):
            link = self.find(repository, digest)
        if link is None:
            raise BlobUnknown(f"blob {digest} unknown to repository {repository}", {"digest": digest})
        return link

    async def incoming(
        self, repository: str, digest: str
    ) -> tuple[int, Callable[[], AsyncIterator[bytes]]] | None:
        """Size of a blob that another registry is sending us and what gives its content; None: it is here,
        or nowhere."""
        upstreams = self._context.upstreams
        if not upstreams.serves(repository) or self.find(repository, digest) is not None:
            return None
        return await upstreams.stream(repository, digest)

    def pulled(self, link: BlobLink, actor: Actor) -> None:
        """Its bytes were sent."""
        self._context.tell(
            "pull", "blob", link.repository, actor, digest=link.digest, size_bytes=link.size_bytes
        )

    def adopt(self, repository: str, digest: str, size_bytes: int) -> None:
        """Show a blob that the storage has in a repository. Within a transaction, its digest's lock held."""
        index, now_ns = self._context.index, self._context.now_ns()
        number = index.repositories.ensure(repository, now_ns)
        index.blobs.put(digest, size_bytes, now_ns)
        index.blobs.link(number, digest, now_ns)
        index.repositories.set_updated(number, now_ns)

    async def mount(
        self, repository: str, digest: str, source: str, may_pull: Callable[[str], bool], actor: Actor
    ) -> BlobLink | None:
        """Show a blob of ``source`` in another repository; None when it cannot be had there.

        Without a source any repository does that the caller may pull. Raises QuotaExceeded.
        """
        index = self._context.index
        self._context.check_writable(repository)
        async with self._context.digests.hold(digest):
            already = self.find(repository, digest)
            if already is not None:
                return already
            sources = [source] if source else index.blobs.repositories_with(digest)
            found = next((name for name in sources if may_pull(name) and self.find(name, digest)), None)
            blob = index.blobs.find(digest)
            if found is None or blob is None:
                return None
            self._context.gate.check_push(repository, blob.size_bytes)
            with self._context.change():
                self.adopt(repository, digest, blob.size_bytes)
        self._context.tell(
            "mount",
            "blob",
            repository,
            actor,
            digest=digest,
            size_bytes=blob.size_bytes,
            from_repository=found,
        )
        return self.find(repository, digest)

    def delete(self, repository: str, digest: str, actor: Actor) -> None:
        """Take a blob out of a repository; the collector frees its bytes. Raises BlobUnknown, BlobInUse."""
        index = self._context.index
        with self._context.change():
            found = index.blobs.find_link(repository, digest)
            if found is None:
                raise BlobUnknown(f"blob {digest} unknown to repository {repository}", {"digest": digest})
            number, link = found
            users = index.manifests.users_of(number, digest)
            if users:
                raise BlobInUse(f"blob {digest} is needed by manifest {users[0]}: delete that first", users)
            index.blobs.unlink(number, digest)
        self._context.tell("delete", "blob", repository, actor, digest=digest, size_bytes=link.size_bytes)
