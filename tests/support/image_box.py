"""A store of images with everything around it, and archives to load into it."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

from tests.support.images import tar_of

from sampan.content.blobs import BlobStore, digest_of
from sampan.content.images import ImageStore
from sampan.content.layers import LayerBlobPolicy, LayerStore
from sampan.content.streams import Workers
from sampan.engine.events import Events
from sampan.engine.image.images import Images
from sampan.engine.image.users import ImageUser
from sampan.store.db import Database


class Users:
    def __init__(self) -> None:
        self.users: list[ImageUser] = []

    def image_users(self) -> list[ImageUser]:
        return self.users


class Box:
    """One store with everything around it."""

    def __init__(self, root: Path, db: str = ":memory:", policy: LayerBlobPolicy = "auto") -> None:
        self.root = root
        temporary = str(root / "tmp")
        self.db = Database(db)
        self.blobs = BlobStore(str(root / "image"), temporary)
        self.layers = LayerStore(str(root / "layers"), temporary, policy=policy)
        self.store = ImageStore(self.db, self.blobs, self.layers)
        self.users = Users()
        self.events = Events()
        self.workers = Workers(4)
        self.images = Images(self.store, self.users, self.events, self.workers)

    def actions(self) -> list[str]:
        return [event.action for event in self.events._recent]

    async def load(self, data: bytes, platform: str = "") -> list[str]:
        lines = self.images.load(chunks(data), True, platform)
        return [message.stream.strip() async for message in lines]

    async def save(self, *refs: str) -> bytes:
        return b"".join([chunk async for chunk in self.images.save(refs)])

    async def import_(self, data: bytes, **options: object) -> str:
        lines = [m async for m in self.images.import_(chunks(data), **options)]  # type: ignore[arg-type]
        return lines[-1].status

    def nothing_left(self) -> bool:
        return (
            not os.listdir(self.root / "tmp")
            and not list(self.blobs.digests())
            and not list(self.layers.chains())
        )

    def close(self) -> None:
        self.workers.close()
        self.db.close()


async def chunks(data: bytes, size: int = 5000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]
        await asyncio.sleep(0)


def files_of(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}  # type: ignore[union-attr]


def config_of(layers: list[bytes], **fields: object) -> bytes:
    return json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-05-06T07:08:09.5Z",
            "config": {"Cmd": ["sh"], "Labels": {"a": "b"}, "Env": None},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
            "history": [{"created_by": f"step {n}"} for n in range(len(layers))],
            **fields,
        }
    ).encode()


def docker_archive(*images: tuple[list[str] | None, bytes, list[bytes]], packed: bool = False) -> bytes:
    files: dict[str, bytes] = {}
    manifest = []
    for tags, config, layers in images:
        name = f"{digest_of(config)[7:]}.json"
        files[name] = config
        paths = []
        for layer in layers:
            paths.append(f"{digest_of(layer)[7:19]}/layer.tar")
            files[paths[-1]] = gzip.compress(layer) if packed else layer
        manifest.append({"Config": name, "RepoTags": tags, "Layers": paths})
    files["manifest.json"] = json.dumps(manifest).encode()
    return tar_of(files)
