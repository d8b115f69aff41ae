"""Layers on a real file system: what overlayfs needs to see, and what no archive may do."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
import zstandard

from sampan.base.errors import InvalidArgument, SampanError
from sampan.content.compression import Decompressor
from sampan.content.container_files import extract, pack_path, stat_path
from sampan.content.errors import DigestMismatch, HostileArchive
from sampan.content.layers import LayerStore, StagedLayer, chain_ids
from sampan.content.pack import Packer, PackPolicy
from sampan.content.tree_changes import changes, mount_points
from sampan.content.unpack import ArchiveLimits
from sampan.formats.tar import BadTar
from sampan.kernel.fileflags import spread_directories
from sampan.kernel.mount import detached_overlay

pytestmark = pytest.mark.root

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


class Layer:
    """Builds an archive member by member."""

    def __init__(self) -> None:
        self.buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self.buffer, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def add(self, name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: object) -> Layer:
        member = tarfile.TarInfo(name)
        member.type, member.size, member.mode = kind, len(data), 0o755 if kind == tarfile.DIRTYPE else 0o644
        for key, value in fields.items():
            setattr(member, key, value)
        self._tar.addfile(member, io.BytesIO(data))
        return self

    def bytes(self) -> bytes:
        self._tar.close()
        return self.buffer.getvalue()


def source(data: bytes, size: int = 4096):  # type: ignore[no-untyped-def]
    stream = io.BytesIO(data)
    return lambda: stream.read(size)


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    return LayerStore(str(tmp_path / "layers"), str(tmp_path / "tmp"))


def unpack(store: LayerStore, layer: Layer) -> Path:
    staged = store.stage(source(layer.bytes()))
    return Path(staged.path) / "diff"


def assert_empty(tmp_path: Path) -> None:
    assert os.listdir(tmp_path / "tmp") == []
    assert os.listdir(tmp_path / "layers") == []


def test_kinds_owners_modes_and_times(store: LayerStore) -> None:
    layer = (
        Layer()
        .add("d", tarfile.DIRTYPE, mode=0o1777, uid=5, gid=6, mtime=1_000_000_000)
        .add("d/f", data=b"text", mode=0o4751, uid=1000, gid=1001, mtime=1_234_567_890)
        .add("d/plain", data=b"x", mode=0o666, mtime=1)
        .add("d/soft", tarfile.SYMTYPE, linkname="/etc/passwd", uid=7, gid=8, mtime=3)
        .add("d/hard", tarfile.LNKTYPE, linkname="d/f")
        .add("d/fifo", tarfile.FIFOTYPE, mode=0o622, uid=9)
        .add("d/null", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3)
        .add("d/disk", tarfile.BLKTYPE, mode=0o660, devmajor=8, devminor=1, gid=6)
    )
    root = unpack(store, layer)
    folder = os.stat(root / "d")
    assert (stat.S_IMODE(folder.st_mode), folder.st_uid, folder.st_gid) == (0o1777, 5, 6)
    assert folder.st_mtime == 1_000_000_000
    file = os.stat(root / "d/f")
    assert (stat.S_IMODE(file.st_mode), file.st_uid, file.st_gid, file.st_mtime) == (
        0o4751,
        1000,
        1001,
        1_234_567_890,
    )
    assert os.stat(root / "d/hard").st_ino == file.st_ino
    assert stat.S_IMODE(os.stat(root / "d/plain").st_mode) == 0o666
    soft = os.lstat(root / "d/soft")
    assert (os.readlink(root / "d/soft"), soft.st_uid, soft.st_gid, soft.st_mtime) == ("/etc/passwd", 7, 8, 3)
    fifo, null, disk = (os.lstat(root / "d" / name) for name in ("fifo", "null", "disk"))
    assert stat.S_ISFIFO(fifo.st_mode)
    assert (stat.S_IMODE(fifo.st_mode), fifo.st_uid) == (0o622, 9)
    assert stat.S_ISCHR(null.st_mode)
    assert (null.st_rdev, stat.S_IMODE(null.st_mode)) == (os.makedev(1, 3), 0o666)
    assert stat.S_ISBLK(disk.st_mode)
    assert (disk.st_rdev, disk.st_gid) == (os.makedev(8, 1), 6)


def test_attributes_and_capabilities(store: LayerStore) -> None:
    headers = {
        "SCHILY.xattr.security.capability": CAPABILITY.decode("latin-1"),
        "SCHILY.xattr.user.note": "kept",
        "SCHILY.xattr.trusted.overlay.redirect": "/elsewhere",
    }
    layer = Layer().add("ping", data=b"x", uid=3, pax_headers=headers)
    root = unpack(store, layer)
    assert os.getxattr(root / "ping", "security.capability") == CAPABILITY
    assert os.getxattr(root / "ping", "user.note") == b"kept"
    assert "trusted.overlay.redirect" not in os.listxattr(root / "ping")


def test_long_names_and_deep_folders(store: LayerStore) -> None:
    name = "/".join(["d" * 100] * 5) + "/" + "f" * 200
    root = unpack(store, Layer().add(name, data=b"deep"))
    assert (root / name).read_bytes() == b"deep"


def test_sparse_file_keeps_its_holes(store: LayerStore, tmp_path: Path) -> None:
    import subprocess

    with (tmp_path / "sparse").open("wb") as file:
        file.seek(64 << 20)
        file.write(b"end")
    packed = subprocess.run(
        ["tar", "--sparse", "-cf", "-", "sparse"], cwd=tmp_path, check=True, capture_output=True
    ).stdout
    staged = store.stage(source(packed))
    made = Path(staged.path) / "diff" / "sparse"
    assert made.stat().st_size == (64 << 20) + 3
    assert made.stat().st_blocks * 512 < 1 << 20
    assert made.read_bytes()[-3:] == b"end"
    assert staged.result.size_bytes == (64 << 20) + 3


def test_whiteouts_hide_what_is_below(store: LayerStore) -> None:
    lower = unpack(
        store,
        Layer()
        .add("keep", data=b"1")
        .add("gone", data=b"1")
        .add("tree/a", data=b"1")
        .add("opaque/old", data=b"1"),
    )
    upper = unpack(
        store,
        Layer()
        .add(".wh.gone")
        .add(".wh.tree")
        .add("opaque", tarfile.DIRTYPE)
        .add("opaque/.wh..wh..opq")
        .add("opaque/new", data=b"2")
        .add(".wh..wh.plnk/1.2", data=b"aufs"),
    )
    assert os.lstat(upper / "gone").st_rdev == 0
    assert stat.S_ISCHR(os.lstat(upper / "gone").st_mode)
    assert os.getxattr(upper / "opaque", "trusted.overlay.opaque") == b"y"
    fd = detached_overlay([str(upper), str(lower)])
    try:
        root = os.open(".", os.O_RDONLY, dir_fd=fd)
        try:
            assert sorted(name for name in os.listdir(root) if not name.startswith(".wh")) == [
                "keep",
                "opaque",
            ]
            inner = os.open("opaque", os.O_RDONLY, dir_fd=root)
            assert os.listdir(inner) == ["new"]
            os.close(inner)
        finally:
            os.close(root)
    finally:
        os.close(fd)


def test_whiteout_never_hides_what_its_own_layer_brings(store: LayerStore) -> None:
    root = unpack(
        store,
        Layer()
        .add("f", data=b"mine")
        .add(".wh.f")
        .add("d/x", data=b"mine")
        .add(".wh.d")
        .add(".wh.later")
        .add("later", data=b"mine"),
    )
    assert (root / "f").read_bytes() == (root / "later").read_bytes() == b"mine"
    assert os.getxattr(root / "d", "trusted.overlay.opaque") == b"y"


def test_later_entries_replace_earlier_ones(store: LayerStore) -> None:
    root = unpack(
        store,
        Layer()
        .add("a", data=b"1")
        .add("a", tarfile.DIRTYPE, mode=0o700)
        .add("a/b", data=b"2")
        .add("c/d/e", data=b"3")
        .add("c", tarfile.SYMTYPE, linkname="a")
        .add("c/f", data=b"through a relative link inside"),
    )
    assert (root / "a/b").read_bytes() == b"2"
    assert (root / "a/f").exists()
    assert os.readlink(root / "c") == "a"


@pytest.mark.parametrize(
    "layer",
    [
        Layer().add("/absolute", data=b"x"),
        Layer().add("//absolute", data=b"x"),
        Layer().add("../outside", data=b"x"),
        Layer().add("a/../../outside", data=b"x"),
        Layer().add("link", tarfile.SYMTYPE, linkname="/").add("link/outside", data=b"x"),
        Layer().add("link", tarfile.SYMTYPE, linkname="../..").add("link/outside", data=b"x"),
        Layer().add("link", tarfile.SYMTYPE, linkname="nowhere").add("link/outside", data=b"x"),
        Layer().add("link", tarfile.SYMTYPE, linkname="link").add("link/outside", data=b"x"),
        Layer().add("hard", tarfile.LNKTYPE, linkname="../../../etc/passwd"),
        Layer().add("hard", tarfile.LNKTYPE, linkname="/etc/passwd"),
        Layer()
        .add("link", tarfile.SYMTYPE, linkname="/etc")
        .add("hard", tarfile.LNKTYPE, linkname="link/passwd"),
        Layer().add("/".join("d" * 600), data=b"x"),
        Layer().add(".wh...", data=b"x"),
        Layer().add("f", data=b"x").add("f/below", data=b"x"),
    ],
)
def test_hostile_archives_leave_nothing(store: LayerStore, tmp_path: Path, layer: Layer) -> None:
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(InvalidArgument):
        unpack(store, layer)
    assert_empty(tmp_path)
    assert sorted(os.listdir(tmp_path)) == before
    assert not Path("/absolute").exists()
    assert not Path("/outside").exists()


def test_a_link_to_a_file_is_replaced_not_followed(store: LayerStore, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    root = unpack(
        store, Layer().add("l", tarfile.SYMTYPE, linkname=str(victim)).add("l", data=b"mine", mode=0o777)
    )
    assert victim.read_text() == "untouched"
    assert (root / "l").read_bytes() == b"mine"


def test_folder_metadata_does_not_go_through_a_link(store: LayerStore, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    unpack(
        store,
        Layer()
        .add("d", tarfile.DIRTYPE, mode=0o777, uid=1234)
        .add("d", tarfile.SYMTYPE, linkname=str(victim)),
    )
    status = victim.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o700, os.geteuid())


@pytest.mark.parametrize("cut", [1000, 600, 70_000])
def test_truncated_layers_leave_nothing(store: LayerStore, tmp_path: Path, cut: int) -> None:
    data = Layer().add("a", data=os.urandom(100_000)).bytes()
    with pytest.raises(BadTar):
        store.stage(source(data[:cut]))
    assert_empty(tmp_path)


def test_wrong_diff_id_leaves_nothing(store: LayerStore, tmp_path: Path) -> None:
    with pytest.raises(DigestMismatch):
        store.stage(source(Layer().add("a").bytes()), "sha256:" + "0" * 64)
    assert_empty(tmp_path)


def test_bombs_are_refused(tmp_path: Path) -> None:
    limits = ArchiveLimits(total_bytes=1 << 20, entries=5, ratio=100, ratio_from_bytes=1 << 19)
    store = LayerStore(str(tmp_path / "layers"), str(tmp_path / "tmp"), limits)
    for data in (
        Layer().add("big", data=os.urandom((1 << 20) + 1)).bytes(),
        gzip.compress(Layer().add("zeros", data=bytes(1 << 20)).bytes()),
    ):
        with pytest.raises(HostileArchive, match="bomb"):
            store.stage(source(data))
    many = Layer()
    for number in range(6):
        many.add(f"f{number}")
    with pytest.raises(HostileArchive, match="bomb"):
        store.stage(source(many.bytes()))
    assert_empty(tmp_path)


@pytest.mark.parametrize("kind", ["plain", "gzip", "members", "zstd", "frames", "bzip2", "xz"])
def test_compressions_give_the_same_layer(store: LayerStore, kind: str) -> None:
    import bz2
    import lzma

    plain = Layer().add("f", data=os.urandom(3_000_000)).bytes()
    half = len(plain) // 2
    zstd = zstandard.ZstdCompressor()
    packed = {
        "plain": plain,
        "gzip": gzip.compress(plain),
        "members": gzip.compress(plain[:half]) + gzip.compress(plain[half:]) + bytes(512),
        "zstd": zstd.compress(plain),
        "frames": b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip"
        + zstd.compress(plain[:half])
        + zstd.compress(plain[half:]),
        "bzip2": bz2.compress(plain),
        "xz": lzma.compress(plain),
    }[kind]
    staged = store.stage(source(packed, 10_007))
    assert staged.diff_id == "sha256:" + hashlib.sha256(plain).hexdigest()
    assert staged.result.size_bytes == 3_000_000


@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2", "xz"])
def test_damaged_compression_is_refused(kind: str) -> None:
    import bz2
    import lzma

    data = os.urandom(100_000)
    pack = {
        "gzip": gzip.compress,
        "zstd": zstandard.ZstdCompressor().compress,
        "bzip2": bz2.compress,
        "xz": lzma.compress,
    }[kind]
    packed = pack(data)
    stream = Decompressor(source(packed[: len(packed) // 2]))
    if kind == "zstd":
        # the library reports a truncated frame as an early end; the tar reader and the digest notice
        assert len(b"".join(iter(stream.read, b""))) < len(data)
        return
    with pytest.raises(BadTar):
        b"".join(iter(stream.read, b""))


def test_published_layers_are_found_and_the_faster_load_wins(store: LayerStore, tmp_path: Path) -> None:
    data = Layer().add("f", data=b"x").bytes()
    first, second = store.stage(source(data)), store.stage(source(data))
    store.sync()
    chain = chain_ids([first.diff_id])[0]
    store.publish(first, chain)
    store.publish(second, chain)
    assert store.exists(chain)
    assert list(store.chains()) == [chain]
    assert os.listdir(tmp_path / "tmp") == []
    grave = store.bury(chain)
    assert not store.exists(chain)
    assert store.bury(chain) == ""
    store.sweep()
    assert not Path(grave).exists()


def test_chain_ids_are_those_of_the_specification() -> None:
    diff_ids = [f"sha256:{letter * 64}" for letter in "abc"]
    chains = chain_ids(diff_ids)
    assert chains[0] == diff_ids[0]
    for place in (1, 2):
        text = f"{chains[place - 1]} {diff_ids[place]}".encode()
        assert chains[place] == "sha256:" + hashlib.sha256(text).hexdigest()


def test_what_is_packed_unpacks_to_the_same(store: LayerStore) -> None:
    layer = (
        Layer()
        .add("d", tarfile.DIRTYPE, mode=0o751, uid=4)
        .add("d/f", data=b"text" * 1000, uid=1000, pax_headers={"SCHILY.xattr.user.k": "v"})
        .add("d/g", tarfile.LNKTYPE, linkname="d/f")
        .add("d/" + "n" * 150, tarfile.SYMTYPE, linkname="t" * 180)
        .add(".wh.removed")
        .add("d/.wh..wh..opq")
    )
    root = unpack(store, layer)
    parts: list[bytes] = []
    fd = os.open(root, os.O_RDONLY)
    try:
        packer = Packer(parts.append, PackPolicy(overlay_whiteouts=True))
        packer.add_tree(fd)
        packer.finish()
    finally:
        os.close(fd)
    again = Path(store.stage(source(b"".join(parts))).path) / "diff"

    def listing(tree: Path) -> list[tuple[object, ...]]:
        found = []
        for path in sorted(tree.rglob("*")):
            status = path.lstat()
            found.append(
                (
                    str(path.relative_to(tree)),
                    status.st_mode,
                    status.st_uid,
                    status.st_rdev,
                    status.st_nlink,
                    int(status.st_mtime),
                    sorted(os.listxattr(path, follow_symlinks=False)),
                )
            )
        return found

    assert listing(again) == listing(root)
    assert packer.size_bytes == 4000


# docker cp


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "data/inner").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (root / "abs").symlink_to("/data")
    (root / "up").symlink_to("../../../etc/passwd")
    (root / "data/f").write_text("f")
    return root


def opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


def test_stat_resolves_inside_the_root(tree: Path) -> None:
    fd = opened(tree)
    try:
        folder = stat_path(fd, "/abs/")
        assert (folder.name, folder.is_directory) == ("abs", True)
        link = stat_path(fd, "abs")
        assert (link.mode >> 27 & 1, link.link_target) == (1, "/data")
        up = stat_path(fd, "/up")
        assert up.link_target == "/etc/passwd"
        assert stat_path(fd, "/").is_directory
        assert stat_path(fd, "/abs/f").size == 1
        with pytest.raises(FileNotFoundError):
            stat_path(fd, "/missing")
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/data", ["data", "data/f", "data/inner"]),
        ("/data/", ["data", "data/f", "data/inner"]),
        ("/data/.", [".", "f", "inner"]),
        ("/abs", ["abs"]),
        ("/abs/", ["abs", "abs/f", "abs/inner"]),
        ("/data/f", ["f"]),
    ],
)
def test_pack_names_what_was_asked_for(tree: Path, path: str, names: list[str]) -> None:
    parts: list[bytes] = []
    fd = opened(tree)
    try:
        pack_path(fd, path, parts.append)
    finally:
        os.close(fd)
    with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as archive:
        assert [os.path.normpath(member.name) for member in archive] == names


def test_extract_follows_links_inside_the_root_only(tree: Path, tmp_path: Path) -> None:
    (tree / "data/out").symlink_to("/etc")
    layer = Layer().add("new", data=b"n", uid=5, gid=6).add("out/added", data=b"a").add("/lead/x", data=b"l")
    fd = opened(tree)
    try:
        extract(fd, "/abs", source(layer.bytes()), keep_directory_kind=False, owner=None)
        assert (tree / "data/new").stat().st_uid == 5
        assert (tree / "etc/added").read_bytes() == b"a"
        assert (tree / "data/lead/x").read_bytes() == b"l"
        assert not Path("/etc/added").exists()
        extract(
            fd,
            "/data",
            source(Layer().add("own", data=b"o", uid=5).bytes()),
            keep_directory_kind=False,
            owner=(7, 8),
        )
        assert ((tree / "data/own").stat().st_uid, (tree / "data/own").stat().st_gid) == (7, 8)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("layer", "path"),
    [
        (Layer().add("../../outside", data=b"x"), "/data"),
        (Layer().add("inner", data=b"x"), "/data"),
        (Layer().add("f", tarfile.DIRTYPE), "/data"),
        (Layer().add("x", data=b"x"), "/data/f"),
    ],
)
def test_extract_refuses(tree: Path, layer: Layer, path: str) -> None:
    fd = opened(tree)
    try:
        with pytest.raises((InvalidArgument, SampanError)):
            extract(fd, path, source(layer.bytes()), keep_directory_kind=True, owner=None)
    finally:
        os.close(fd)
    assert (tree / "data/f").read_text() == "f"
    assert (tree / "data/inner").is_dir()


def test_changes_against_the_layers(tmp_path: Path) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    for path in ("etc", "a/b", "gone", "same"):
        (lower / path).mkdir(parents=True)
    (lower / "a/b/old").write_text("1")
    (lower / "a/mod").write_text("1")
    upper.mkdir()
    for path in ("etc", "a", "new/sub", "same", "dev/pts", "proc"):
        (upper / path).mkdir(parents=True)
    (upper / "etc/hosts").touch()
    (upper / "a/mod").write_text("22")
    (upper / "new/sub/f").write_text("x")
    os.mknod(upper / "gone", stat.S_IFCHR, 0)
    (upper / "a/b").mkdir()
    os.setxattr(upper / "a/b", "trusted.overlay.opaque", b"y")
    above, below = opened(upper), opened(lower)
    try:
        found = [(change.kind, change.path) for change in changes(above, below)]
        hidden = mount_points(above, below)
    finally:
        os.close(above)
        os.close(below)
    assert found == [
        (0, "/a"),
        (0, "/a/b"),
        (2, "/a/b/old"),
        (0, "/a/mod"),
        (2, "/gone"),
        (1, "/new"),
        (1, "/new/sub"),
        (1, "/new/sub/f"),
    ]
    assert hidden == {b"etc", b"etc/hosts", b"dev", b"dev/pts", b"proc"}


def test_flag_for_directories_is_set_where_there_is_one(tmp_path: Path) -> None:
    first = spread_directories(str(tmp_path))
    assert spread_directories(str(tmp_path)) == first
    assert not spread_directories("/proc/self")


def test_staged_layer_is_discarded_once(store: LayerStore, tmp_path: Path) -> None:
    staged: StagedLayer = store.stage(source(Layer().add("a").bytes()))
    store.discard(staged)
    store.discard(staged)
    assert_empty(tmp_path)
