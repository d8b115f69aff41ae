"""Manifests: checked against what the repository has, kept byte by byte, found by digest or tag."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sampan.base.crashpoints import crash_point
from sampan.model.registry import Actor, StoredManifest
from sampan.store.registry.manifests import ManifestRow

from .contents import Contents, Need, read_manifest
from .context import TOUCH_NS, Context
from .digests import algorithm_of, check_digest, digest_of
from .errors import (
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInUse,
    ManifestUnknown,
    PreconditionFailed,
    SizeInvalid,
    TagInvalid,
)
from .names import check_tag

TAGS_LIMIT = 100
"""That one push may set."""


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 9110, 13.1: what has to hold of the reference for a push to be done. Digests, or ``*``."""

    match: tuple[str, ...] = ()
    none_match: tuple[str, ...] = ()

    def check(self, present: str | None) -> None:
        """Raises PreconditionFailed."""
        if self.match and not (present is not None and ("*" in self.match or present in self.match)):
            raise PreconditionFailed(f"the reference is {present or 'not there'}: look again before pushing")
        if self.none_match and present is not None and ("*" in self.none_match or present in self.none_match):
            raise PreconditionFailed(f"the reference is {present}: look again before pushing")


class Pushed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a push."""

    digest: str
    media_type: str
    subject: str
    tags: list[str]
    absent: list[str]
    """What is not here and need not be: layers that lie elsewhere, parts of a sparse repository."""


ALWAYS = Condition()


class Manifests:
    def __init__(self, context: Context) -> None:
        self._context = context

    async def get(self, repository: str, reference: str) -> StoredManifest:
        """By tag or digest; fetched where the repository is a cache. Raises ManifestUnknown."""
        if self._context.upstreams.serves(repository):
            stored = await self._context.upstreams.manifest(repository, reference)
            if stored is None:
                raise _unknown(repository, reference)
            return stored
        found = self.find(repository, reference)
        if found is None:
            raise _unknown(repository, reference)
        return found[1]

    def find(self, repository: str, reference: str) -> tuple[ManifestRow, StoredManifest] | None:
        """What is here. Raises DigestInvalid, TagInvalid."""
        if ":" in reference:
            check_digest(reference)
            return self._context.index.manifests.find(repository, reference)
        check_tag(reference)
        return self._context.index.manifests.find_tagged(repository, reference)

    def pulled(self, repository: str, reference: str, stored: StoredManifest, actor: Actor) -> None:
        """Its bytes were sent: remember when, and tell."""
        index, now_ns = self._context.index, self._context.now_ns()
        pulled = index.manifests.last_pulled(repository, stored.digest)
        if pulled is not None and now_ns - pulled[1] > TOUCH_NS:
            with index.relaxed():
                index.manifests.set_pulled(pulled[0], now_ns)
        self._context.tell(
            "pull",
            "manifest",
            repository,
            actor,
            digest=stored.digest,
            tag="" if ":" in reference else reference,
            media_type=stored.media_type,
            size_bytes=stored.size_bytes,
        )

    def put(
        self,
        repository: str,
        reference: str,
        body: bytes,
        content_type: str,
        actor: Actor,
        *,
        tags: Sequence[str] = (),
        condition: Condition = ALWAYS,
    ) -> Pushed:
        """Store a manifest under its digest, and a tag or more.

        All or nothing: two pushes of one tag at once leave one of the two. Raises what its name says:
        DigestInvalid, TagInvalid, ManifestInvalid, ManifestTooLarge, ManifestBlobUnknown, SizeInvalid,
        TagImmutable, QuotaExceeded, PreconditionFailed.
        """
        self._context.check_writable(repository)
        wanted = list(dict.fromkeys(tags))
        if len(wanted) > TAGS_LIMIT:
            raise TagInvalid(f"more than {TAGS_LIMIT} tags in one push")
        digest = digest_of(body)
        if ":" in reference:
            check_digest(reference)
            digest = digest_of(body, algorithm_of(reference))
            if digest != reference:
                raise DigestInvalid(f"manifest has the digest {digest}, not {reference}", {"digest": digest})
        elif reference not in wanted:
            wanted.append(reference)
        for tag in wanted:
            check_tag(tag)
        contents = read_manifest(body, content_type)
        stored = _stored(digest, body, contents, self._context.now_ns())
        with self._context.change():
            absent = self._store(repository, reference, stored, contents, wanted, condition)
        crash_point("registry.manifest.stored")
        self._tell_pushed(repository, stored, wanted, actor)
        return Pushed(
            digest=digest,
            media_type=stored.media_type,
            subject=stored.subject,
            tags=wanted,
            absent=absent,
        )

    def _store(
        self,
        repository: str,
        reference: str,
        stored: StoredManifest,
        contents: Contents,
        tags: list[str],
        condition: Condition,
    ) -> list[str]:
        """Within a transaction; what is absent and may be."""
        index, now_ns = self._context.index, stored.pushed_ns
        number = index.repositories.ensure(repository, now_ns)
        absent = self._check_needs(number, contents, sparse=self._context.sparse(repository))
        known = bool(index.manifests.present(number, [stored.digest]))
        if ":" in reference:
            condition.check(reference if known else None)
        else:
            condition.check(index.tags.find(number, reference))
        if not known:
            self._context.gate.check_push(repository, stored.size_bytes)
        needs = [need.digest for need in (*contents.blobs, *contents.children)]
        manifest = index.manifests.put(number, stored, needs)
        index.blobs.touch(number, needs, now_ns)
        for tag in tags:
            self._context.gate.check_tag(repository, tag, index.tags.find(number, tag), stored.digest)
            index.tags.put(number, tag, manifest, now_ns)
        index.repositories.set_updated(number, now_ns)
        return absent

    def _check_needs(self, repository: int, contents: Contents, *, sparse: bool) -> list[str]:
        """What need not be here and is not. Raises ManifestBlobUnknown, SizeInvalid."""
        index = self._context.index
        needs = [*contents.blobs, *contents.children]
        sizes = index.blobs.sizes_in(repository, [need.digest for need in needs])
        children = index.manifests.present(repository, [need.digest for need in contents.children])
        sizes.update(children)
        missing = [need for need in needs if need.digest not in sizes]
        required = [need.digest for need in missing if need.required]
        if required and not sparse:
            raise ManifestBlobUnknown(required)
        _check_sizes(needs, sizes)
        return [need.digest for need in missing]

    def _tell_pushed(self, repository: str, stored: StoredManifest, tags: list[str], actor: Actor) -> None:
        for tag in tags or [""]:
            self._context.tell(
                "push",
                "manifest",
                repository,
                actor,
                digest=stored.digest,
                tag=tag,
                media_type=stored.media_type,
                size_bytes=stored.size_bytes,
            )

    def keep_copy(self, repository: str, reference: str, body: bytes, content_type: str) -> StoredManifest:
        """Store what another registry has, whether or not what it refers to is here yet.

        ``reference`` is a tag or a digest. Raises DigestInvalid, ManifestInvalid, ManifestTooLarge.
        """
        digest = digest_of(body)
        if ":" in reference:
            digest = digest_of(body, algorithm_of(reference))
            if digest != reference:
                raise DigestInvalid(f"manifest has the digest {digest}, not {reference}", {"digest": digest})
        contents = read_manifest(body, content_type)
        index, now_ns = self._context.index, self._context.now_ns()
        stored = _stored(digest, body, contents, now_ns)
        with self._context.change():
            number = index.repositories.ensure(repository, now_ns)
            needs = [need.digest for need in (*contents.blobs, *contents.children)]
            manifest = index.manifests.put(number, stored, needs)
            if ":" not in reference:
                index.tags.put(number, reference, manifest, now_ns)
            index.repositories.set_updated(number, now_ns)
        return stored

    def delete(self, repository: str, digest: str, actor: Actor) -> None:
        """With its tags. Raises ManifestUnknown, ManifestInUse, TagImmutable."""
        check_digest(digest)
        index = self._context.index
        with self._context.change():
            found = index.manifests.find(repository, digest)
            number = index.repositories.find(repository)
            if found is None or number is None:
                raise _unknown(repository, digest)
            row, stored = found
            users = index.manifests.users_of(number, digest)
            if users:
                raise ManifestInUse(f"manifest {digest} is needed by {users[0]}: delete that first", users)
            tags = index.tags.of_manifest(row.number)
            for tag in tags:
                self._context.gate.check_tag(repository, tag, digest, None)
            index.manifests.delete(row.number)
        crash_point("registry.manifest.deleted")
        for tag in tags:
            self._context.tell("delete", "tag", repository, actor, digest=digest, tag=tag)
        self._context.tell(
            "delete",
            "manifest",
            repository,
            actor,
            digest=digest,
            media_type=row.media_type,
            size_bytes=stored.size_bytes,
        )


def _stored(digest: str, body: bytes, contents: Contents, now_ns: int) -> StoredManifest:
    return StoredManifest(
        digest=digest,
        media_type=contents.media_type,
        body=body,
        artifact_type=contents.artifact_type,
        subject=contents.subject,
        annotations=contents.annotations,
        pushed_ns=now_ns,
    )


def _check_sizes(needs: list[Need], sizes: dict[str, int]) -> None:
    for need in needs:
        size = sizes.get(need.digest, need.size_bytes)
        if size != need.size_bytes:
            raise SizeInvalid(
                f"manifest says {need.digest} has {need.size_bytes} bytes, it has {size}",
                {"digest": need.digest, "size": size},
            )


def _unknown(repository: str, reference: str) -> ManifestUnknown:
    return ManifestUnknown(
        f"manifest {reference[:160]} unknown to repository {repository}",
        {"name": repository, "reference": reference[:160]},
    )
