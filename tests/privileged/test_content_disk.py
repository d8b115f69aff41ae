"""A full disk: the answer says so, and nothing is left."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import AsyncIterator, Iterator

import pytest

from sampan.base.errors import ResourceExhausted
from sampan.content.blobs import BlobStore
from sampan.content.images import ImageStore
from sampan.content.layers import LayerStore
from sampan.content.streams import Workers
from sampan.engine.events import Events
from sampan.engine.image.images import Images
from sampan.engine.image.users import ImageUser
from sampan.kernel.mount import detached
from sampan.store.db import Database

pytestmark = pytest.mark.root


class NoUsers:
    def image_users(self) -> list[ImageUser]:
        return []


@pytest.fixture
def small_disk() -> Iterator[str]:
    """4 MB that are mounted nowhere."""
    fd = detached("tmpfs", [("size", "4m")])
    yield f"/proc/self/fd/{fd}"
    os.close(fd)


def archive(files: int, size: int) -> bytes:
    def add(target: tarfile.TarFile, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        target.addfile(member, io.BytesIO(data))

    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as inner:
        for number in range(files):
            add(inner, f"file{number}", os.urandom(size))
    diff_id = "sha256:" + hashlib.sha256(layer.getvalue()).hexdigest()
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [diff_id]}}
    outer = io.BytesIO()
    with tarfile.open(fileobj=outer, mode="w") as target:
        add(target, "layer.tar", layer.getvalue())
        add(target, "config.json", json.dumps(config).encode())
        item = {"Config": "config.json", "RepoTags": ["x:1"], "Layers": ["layer.tar"]}
        add(target, "manifest.json", json.dumps([item]).encode())
    return outer.getvalue()


# the first does not fit as a blob, the second only not when unpacked as well
@pytest.mark.parametrize(("files", "size"), [(1, 6_000_000), (60, 90_000)])
async def test_load_on_a_full_disk_leaves_nothing(small_disk: str, files: int, size: int) -> None:
    temporary = f"{small_disk}/tmp"
    store = ImageStore(
        Database(":memory:"),
        BlobStore(f"{small_disk}/image", temporary),
        LayerStore(f"{small_disk}/layers", temporary),
    )
    workers = Workers(2)
    images = Images(store, NoUsers(), Events(), workers)
    free = os.statvfs(small_disk).f_bfree
    data = archive(files, size)

    async def body() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]

    with pytest.raises(ResourceExhausted, match=r"(?i)no space left on device"):
        async for _ in images.load(body()):
            pass
    assert os.listdir(temporary) == []
    assert os.statvfs(small_disk).f_bfree == free
    assert store.all() == []
    workers.close()
