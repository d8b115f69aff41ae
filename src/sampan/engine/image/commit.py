"""Make an image of what a container has changed."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

import msgspec

from sampan.base.clock import format_ns, now_ns
from sampan.base.errors import Conflict
from sampan.content.assembly import Assembled, assemble_new
from sampan.content.bootstrap import architecture
from sampan.content.images import ImageStore, Lease
from sampan.content.layer_intake import TakenLayer, held, take_packed
from sampan.content.pack import PackPolicy, pack_tree
from sampan.content.streams import Workers
from sampan.content.tree_changes import mount_points
from sampan.engine.container.imageconfig import merge_config
from sampan.engine.container.ledger import Ledger
from sampan.engine.container.lifecycle import NotPaused, NotRunning
from sampan.engine.container.registry import Entry
from sampan.engine.files.container_root import ContainerRoots
from sampan.formats.dockerfile_changes import apply_changes
from sampan.formats.reference import ImageName, InvalidReference, parse_name
from sampan.model.container import Container, ContainerConfig
from sampan.model.image import Descriptor, Image, ImageConfig

from .config import wire_config
from .images import Images

EMPTY_LAYER = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
"""Digest of an archive without entries: a step of history that adds no layer."""


class Pauser(Protocol):
    async def pause(self, ref: str) -> None: ...
    async def unpause(self, ref: str) -> None: ...


class Commits:
    def __init__(
        self, ledger: Ledger, roots: ContainerRoots, images: Images, pauser: Pauser, workers: Workers
    ) -> None:
        self._ledger = ledger
        self._roots = roots
        self._images = images
        self._store: ImageStore = images.catalog.store
        self._pauser = pauser
        self._workers = workers

    async def commit(
        self,
        ref: str,
        repo: str = "",
        tag: str = "",
        *,
        comment: str = "",
        author: str = "",
        pause: bool = True,
        changes: Sequence[str] = (),
        config: ContainerConfig | None = None,
    ) -> str:
        """The new image's id. Raises NoSuchContainer, Conflict, BadChange, InvalidReference, DiskFull."""
        entry = self._ledger.registry.require(ref)
        self._roots.require_present(entry, "commit")
        name = _target(repo, tag)
        record = entry.record
        changed = merge_config(apply_changes(config or record.config, changes), record.config)
        step = {"created": format_ns(now_ns()), "author": author, "comment": comment}
        base = self._store.find(record.image_id)
        with self._store.lease() as lease:
            lease.add(*record.layer_ids)
            if base is not None:
                lease.add(base.id, *(layer.digest for layer in self._store.manifest(base).layers))
            try:
                async with self._quiet(entry, pause):
                    done = await self._workers.run(lambda: self._assemble(lease, record, base, changed, step))
                image = self._images.transfer.register(done, "")
                if name is not None:
                    self._images.catalog.name(image, name)
            finally:
                lease.release()
                await self._images.catalog.collect()
        attributes = {"comment": comment, "imageID": image.id, "imageRef": name.familiar if name else ""}
        self._ledger.publish(entry, "commit", attributes)
        return image.id

    @contextlib.asynccontextmanager
    async def _quiet(self, entry: Entry, pause: bool) -> AsyncIterator[None]:
        """Hold the processes while their files are read, unless somebody holds them already."""
        if not pause or entry.life.phase != "running":
            yield
            return
        try:
            await self._pauser.pause(entry.id)
        except NotRunning:
            # It has ended just now: nothing writes any more.
            yield
            return
        try:
            yield
        finally:
            with contextlib.suppress(NotPaused):
                # It was killed meanwhile, which thaws.
                await self._pauser.unpause(entry.id)

    def _assemble(
        self,
        lease: Lease,
        record: Container,
        base: Image | None,
        changed: ContainerConfig,
        step: dict[str, str],
    ) -> Assembled:
        """In a thread: pack the changes as a layer and write the config above it."""
        with held(self._store, self._pack(lease, record)) as layer:
            diff_ids, below = self._below(record, base)
            empty = layer.staged.diff_id == EMPTY_LAYER
            ready = {}
            if not empty:
                ready[len(diff_ids)] = layer.staged
                diff_ids, below = [*diff_ids, layer.staged.diff_id], [*below, layer.blob]
            document = config_document(base.config if base else None, record, changed, step, empty)
            document["rootfs"] = {"type": "layers", "diff_ids": diff_ids}
            parent = base.id if base is not None else ""
            return assemble_new(self._store, lease, document, below, names=[], parent=parent, ready=ready)

    def _pack(self, lease: Lease, record: Container) -> TakenLayer:
        def pack(upper: int, lower: int) -> TakenLayer:
            policy = PackPolicy(overlay_whiteouts=True, skip=mount_points(upper, lower))
            return take_packed(self._store, lease, lambda write: pack_tree(upper, write, policy))

        return self._roots.with_changes(record, pack)

    def _below(self, record: Container, base: Image | None) -> tuple[list[str], list[Descriptor]]:
        """Diff ids and blobs of the layers the container stands on."""
        if base is None:
            if record.layer_ids:
                raise MissingBase(record)
            return [], []
        return list(base.config.rootfs.diff_ids), list(self._store.manifest(base).layers)


class MissingBase(Conflict):
    def __init__(self, record: Container) -> None:
        super().__init__(
            f"cannot commit container {record.id}: its image {record.image_id} was removed by force"
        )


def config_document(
    base: ImageConfig | None,
    record: Container,
    changed: ContainerConfig,
    step: dict[str, str],
    empty: bool,
) -> dict[str, Any]:
    """The config blob of a committed image, without its rootfs."""
    created_by = " ".join(record.config.cmd or ())
    history = [msgspec.to_builtins(entry) for entry in base.history] if base is not None else []
    entry: dict[str, Any] = {key: value for key, value in step.items() if value}
    entry["created_by"] = created_by
    if empty:
        entry["empty_layer"] = True
    document: dict[str, Any] = {
        "architecture": base.architecture if base is not None and base.architecture else architecture(),
        "author": step["author"],
        "comment": step["comment"],
        "config": wire_config(changed),
        "container": record.id,
        "created": step["created"],
        "history": [*history, entry],
        "os": base.os if base is not None and base.os else "linux",
    }
    if base is not None and base.variant:
        document["variant"] = base.variant
    return {key: value for key, value in document.items() if value or key == "config"}


def _target(repo: str, tag: str) -> ImageName | None:
    if not repo:
        return None
    name = parse_name(repo)
    if name.digest:
        raise InvalidReference("cannot commit to digest reference")
    return name.with_tag(tag) if tag else name.with_default_tag()
