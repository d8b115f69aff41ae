"""A layer's archive comes back byte for byte from its files and its recipe, whatever it looked like."""

from __future__ import annotations

import gzip
import io
import os
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.support.image_box import Box

from sampan.base.errors import InvalidArgument
from sampan.content.blobs import digest_of
from sampan.content.errors import ContentDamaged, HostileArchive
from sampan.content.layers import LayerStore, StagedLayer
from sampan.content.packing import Packer, is_ours
from sampan.content.recipe import Reproduction, archive_length

NAMES = ("a", "b", "a/x", "a/y", "b/x", "c/d/e", "c/d", "c", "link/x", "link", "a/x/deep", "./a/x", "a//y")
LONG = "n" * 90 + "/" + "m" * 120 + "/" + "o" * 70
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)

Entry = tuple[str, str, str, int, int, bool]
"""Kind, name, target, length of the data, format, whether the padding is noise."""

OTHERS = {"fifo": b"6", "label": b"V", "device": b"3"}
SPECIAL = ("whiteout", "opaque", "sparse", "pax-sparse", "global", *OTHERS)
KINDS = ("file", "file", "file", "directory", "symlink", "hardlink", *SPECIAL)
entries = st.tuples(
    st.sampled_from(KINDS),
    st.sampled_from((*NAMES, LONG, "umlaut-ü")),
    st.sampled_from((*NAMES, LONG, "..", "/a")),
    st.sampled_from((0, 1, 511, 512, 513, 1500, 20_000)),
    st.sampled_from(range(3)),
    st.booleans(),
)


class Source:
    """Bytes in chunks of odd lengths."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data = io.BytesIO(data)
        self._size = size

    def __call__(self) -> bytes:
        return self._data.read(self._size)


def header(name: str, kind: bytes, size: int, form: int, link: str = "", **fields: object) -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname, member.mtime = kind, size, link, 1_700_000_000
    for key, value in fields.items():
        setattr(member, key, value)
    try:
        return member.tobuf(FORMATS[form], "utf-8", "surrogateescape")
    except ValueError:  # ustar cannot say it
        return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def padded(data: bytes, noise: bool) -> bytes:
    rest = -len(data) % 512
    return data + (b"\xff" * rest if noise else bytes(rest))


def sparse(name: str, data: bytes, noise: bool) -> bytes:
    """GNU's old format: two pieces behind a hole each."""
    half = len(data) // 2
    pieces = [(4096, half), (4096 + half + 8192, len(data) - half)]
    block = bytearray(header(name[:90], b"S", len(data), 1))[:512]
    for place, (offset, length) in enumerate(pieces):
        block[386 + 24 * place : 410 + 24 * place] = b"%011o\0%011o\0" % (offset, length)
    block[483:495] = b"%011o\0" % (pieces[1][0] + pieces[1][1])
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + padded(data, noise)


def pax_sparse(name: str, data: bytes, noise: bool) -> bytes:
    """GNU's format 1.0: the map stands in front of the data."""
    table = padded(b"1\n512\n%d\n" % len(data), noise=False)
    records = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": name,
        "GNU.sparse.realsize": str(512 + len(data)),
    }
    head = header("sparse", b"0", len(table) + len(data), 2, pax_headers=records)
    return head + table + padded(data, noise)


def encode(entry: Entry, number: int) -> bytes:
    kind, name, target, size, form, noise = entry
    data = random.Random(number).randbytes(size)
    if kind == "file":
        return header(name, b"0", size, form) + padded(data, noise)
    if kind == "sparse":
        return sparse(name, data, noise)
    if kind == "pax-sparse":
        return pax_sparse(name, data, noise)
    if kind == "whiteout":
        folder, _, base = name.rpartition("/")
        return header(f"{folder}/.wh.{base}".lstrip("/"), b"0", size, form) + padded(data, noise)
    if kind == "opaque":
        return header(f"{name}/.wh..wh..opq", b"0", 0, form)
    if kind == "global":
        text = b" comment=%s\n" % name.encode()
        record = b"%03d" % (len(text) + 3) + text
        return header("pax_global_header", b"g", len(record), form) + padded(record, noise)
    if kind in OTHERS:
        return header(name, OTHERS[kind], 0, form, devmajor=1, devminor=3)
    types = {"directory": b"5", "symlink": b"2", "hardlink": b"1"}
    return header(name, types[kind], 0, form, target if kind != "directory" else "")


def archive_of(chosen: list[Entry], ending: bytes = bytes(1024)) -> bytes:
    return b"".join(encode(entry, number) for number, entry in enumerate(chosen)) + ending


def staged(layers: LayerStore, data: bytes, chunk: int = 4096) -> StagedLayer:
    return layers.stage(Source(data, chunk))


def reproduced(path: str, diff_id: str) -> bytes:
    with Reproduction(path, diff_id) as again:
        return b"".join(iter(again.read, b""))


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LayerStore]:
    root = tmp_path_factory.mktemp("layers")
    yield LayerStore(str(root / "layers"), str(root / "tmp"))
    assert os.listdir(root / "tmp") == []


def file_entry(name: str, size: int = 513) -> Entry:
    return ("file", name, "", size, 0, False)


def link_entry(name: str, target: str) -> Entry:
    return ("symlink", name, target, 0, 0, False)


@given(
    chosen=st.lists(entries, max_size=12),
    ending=st.sampled_from((b"", bytes(512), bytes(1024), bytes(10240), bytes(1024) + b"garbage" * 99)),
    second=st.lists(entries, max_size=2),
    chunk=st.sampled_from((1, 511, 512, 700, 4096, 1 << 20)),
)
@example([file_entry("a/x"), file_entry("a/x", 20), file_entry("a"), file_entry("a/x")], bytes(1024), [], 512)
@example([file_entry("b/x"), link_entry("link", "b"), file_entry("link/x", 9)], bytes(1024), [], 512)
@example([file_entry("b/x"), link_entry("link", "b"), file_entry("link/x"), file_entry("b")], b"", [], 700)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_archive_that_unpacks_comes_back(
    layers: LayerStore, chosen: list[Entry], ending: bytes, second: list[Entry], chunk: int
) -> None:
    data = archive_of(chosen, ending)
    if second:
        data += archive_of(second)
    try:
        layer = staged(layers, data, chunk)
    except InvalidArgument:
        return  # not one that becomes a layer: nothing is left of it, as the fixture checks
    try:
        assert layer.diff_id == digest_of(data)
        assert reproduced(layer.path, layer.diff_id) == data
        assert archive_length(layer.path) == len(data)
    finally:
        layers.discard(layer)


def test_examples_that_replace_files_do_unpack(layers: LayerStore) -> None:
    data = archive_of([file_entry("a/x"), file_entry("a/x", 20), file_entry("a", 7), file_entry("c/d")])
    layer = staged(layers, data)
    try:
        assert sorted(os.listdir(f"{layer.path}/replaced")) == ["0", "1"]
        assert os.path.getsize(f"{layer.path}/diff/a") == 7
        assert reproduced(layer.path, layer.diff_id) == data
    finally:
        layers.discard(layer)


def change(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


def shorten(path: Path) -> None:
    os.truncate(path, 100)


def link_elsewhere(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = [change, shorten, link_elsewhere, make_directory, os.unlink]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__)
def test_damage_of_a_file_is_found(layers: LayerStore, damage) -> None:  # type: ignore[no-untyped-def]
    layer = staged(layers, archive_of([file_entry("a/x"), file_entry("b/x")]))
    try:
        damage(Path(layer.path, "diff/b/x"))
        with pytest.raises(ContentDamaged, match=r"damaged on disk.*remove its image, then load or"):
            reproduced(layer.path, layer.diff_id)
    finally:
        layers.discard(layer)


@pytest.mark.parametrize("keep", [0, 20, 60, -1])
def test_damage_of_the_recipe_is_found(layers: LayerStore, keep: int) -> None:
    layer = staged(layers, archive_of([file_entry("a/x"), file_entry("b/x")]))
    try:
        recipe = Path(layer.path, "recipe")
        recipe.write_bytes(recipe.read_bytes()[:keep])
        with pytest.raises(ContentDamaged):
            reproduced(layer.path, layer.diff_id)
    finally:
        layers.discard(layer)


def test_replacing_without_end_is_refused(layers: LayerStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sampan.content.recipe._MAX_MOVED", 3)
    with pytest.raises(HostileArchive, match="replaces more than 3"):
        staged(layers, archive_of([file_entry("a")] * 5))


def test_a_recipe_is_small(layers: LayerStore) -> None:
    """Below a twentieth of the headers and padding that it stands for, whatever the files hold."""
    data = archive_of([file_entry(f"folder/{number:04}") for number in range(500)])
    layer = staged(layers, data)
    try:
        assert os.path.getsize(f"{layer.path}/recipe") * 20 < 500 * 1024
    finally:
        layers.discard(layer)


def test_what_follows_an_archive_costs_no_memory(layers: LayerStore) -> None:
    """Sixteen megabytes of nothing are a few hundred bytes of recipe, and come out in pieces."""
    ending = bytes(16 << 20)
    layer = staged(layers, archive_of([file_entry("a")], ending), 1 << 20)
    try:
        assert os.path.getsize(f"{layer.path}/recipe") < 4096
        with Reproduction(layer.path, layer.diff_id) as again:
            longest = max(len(chunk) for chunk in iter(again.read, b""))
        assert longest <= 4 << 20
    finally:
        layers.discard(layer)


# blobs that were packed here


def packed(data: bytes, piece: int) -> bytes:
    packer = Packer()
    parts = [packer.pack(data[start : start + piece]) for start in range(0, len(data), piece)]
    return b"".join([*parts, packer.finish()])


@pytest.mark.parametrize("length", [0, 1, 1 << 20, (3 << 20) + 17])
def test_packing_gives_the_same_bytes_however_they_come(length: int) -> None:
    data = (random.Random(1).randbytes(1000) + bytes(3000)) * (length // 4000 + 1)
    data = data[:length]
    whole = packed(data, max(length, 1))
    assert gzip.decompress(whole) == data
    assert is_ours(whole)
    assert not is_ours(gzip.compress(data))
    for piece in (977, 70_000, 1 << 20, 5 << 20):
        if length // piece < 3000:
            assert packed(data, piece) == whole


async def test_a_blob_packed_here_is_dropped_once_it_is_proved(tmp_path: Path) -> None:
    box = Box(tmp_path)
    try:
        layer = archive_of([file_entry("a/x"), file_entry("b", 70_000)])
        ours, foreign = packed(layer, 1 << 20), gzip.compress(archive_of([file_entry("c")]))
        for data in (ours, foreign):
            await box.import_(data)
        digests = {digest_of(ours): True, digest_of(foreign): False}
        assert all(box.blobs.find(digest) for digest in digests)
        # only ours has a recipe to be written again from
        [(record, digest)] = box.store.doubled()
        assert digests[digest]
        found = box.store.layer_blobs.find_packing(record, digest)
        assert found is not None
        box.store.remember_packed(record.diff_id, found)
        await box.images.catalog.collect()
        assert [box.blobs.find(digest) is None for digest in digests] == list(digests.values())
        with box.store.layer_blobs.open(digest) as reader:
            assert b"".join(iter(reader.read, b"")) == ours
        # another isal packs otherwise: the layer is there, its blob is not
        box.store.remember_packed(record.diff_id, msgspec.structs.replace(found, codec="another isal"))
        assert box.store.layer_blobs.find(digest) is None
        image = next(one for one in box.store.all() if record.chain_id in one.chain_ids)
        assert layer in await box.save(image.id)
    finally:
        box.close()
