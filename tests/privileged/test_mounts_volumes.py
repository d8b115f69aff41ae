"""Volumes and mount points on a real file system: copy-up, subpaths, options, and what is left behind."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from sampan.base.errors import NotFound, ResourceExhausted, SystemFailure
from sampan.engine.container.layout import Layout
from sampan.engine.container.lifecycle import Life
from sampan.engine.container.registry import Entry, Registry
from sampan.engine.events import Events
from sampan.engine.files.mounts import DuplicateMount, MountResolver
from sampan.engine.files.volumes import NoSuchVolume, NoSuchVolumeDriver, VolumeInUse, Volumes
from sampan.engine.filters import InvalidFilter
from sampan.engine.locks import KeyedLocks
from sampan.formats.bind import InvalidMount
from sampan.kernel import mountinfo
from sampan.model.container import (
    BindOptions,
    Container,
    ContainerConfig,
    ExitRecord,
    HostConfig,
    Mount,
    MountPoint,
    TmpfsOptions,
    VolumeDriverConfig,
    VolumeOptions,
)
from sampan.model.image import Image, ImageConfig
from sampan.store.db import Database
from sampan.store.volumes import VolumeTable
from sampan.volumes.errors import InvalidVolume, SubpathNotFound, VolumeNotMounted
from sampan.volumes.local import LocalDriver

pytestmark = pytest.mark.root

IMAGE = Image(
    id="sha256:" + "1" * 64,
    config=ImageConfig(),
    manifest_digest="",
    repo_tags=[],
    repo_digests=[],
    chain_ids=["sha256:bottom", "sha256:top"],
    layer_sizes=[],
    size_bytes=0,
    created_ns=0,
)


class OneImage:
    async def resolve(self, ref: str, platform: str = "") -> Image:
        if ref not in ("box", IMAGE.id):
            raise NotFound(f"No such image: {ref}")
        return IMAGE


class Bench:
    """The services over a temporary root."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(str(root), str(root / "run"))
        self.table = VolumeTable(Database(str(root / "db")))
        self.events = Events(now=lambda: 1)
        self.registry = Registry()
        self.driver = LocalDriver(str(root / "volumes"), str(root / "tmp"))
        self.volumes = self.fresh_volumes()
        self.mounts = MountResolver(
            self.registry, self.volumes, self.driver, OneImage(), self.layout, self.events
        )

    def fresh_volumes(self) -> Volumes:
        """As after a restart of the daemon."""
        volumes = Volumes(self.table, self.driver, self.events, KeyedLocks())
        volumes.load([entry.record for entry in self.registry])
        return volumes

    async def create(
        self, id_: str, host: HostConfig | None = None, volumes: list[str] | None = None
    ) -> Container:
        config = ContainerConfig(volumes={path: {} for path in volumes or []})
        host = host or HostConfig()
        mounts = await self.mounts.resolve(id_, config, host, IMAGE)
        record = Container(
            id=id_,
            name=id_,
            created_ns=1,
            image_id=IMAGE.id,
            image_ref="box",
            path="sh",
            args=[],
            config=config,
            host=host,
            networks={},
            mounts=mounts,
            layer_ids=IMAGE.chain_ids,
        )
        self.registry.insert(Entry(record, Life(phase="created", exit=ExitRecord()), None))
        return record

    async def remove(self, record: Container, *, anonymous: bool) -> None:
        self.registry.delete(self.registry.require(record.id))
        await self.mounts.release(record.id, record.mounts, anonymous=anonymous)

    async def names(self, **filters: list[str]) -> list[str]:
        return [volume.name for volume in (await self.volumes.list(filters))[0]]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    for layer in ("bottom", "top"):
        (tmp_path / "layers" / layer / "diff").mkdir(parents=True)
    made = Bench(tmp_path)
    descriptors = len(os.listdir("/proc/self/fd"))
    yield made
    assert not [target for target in mountinfo.targets() if target.startswith(str(tmp_path))]
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def layer(bench: Bench, name: str = "bottom") -> Path:
    return Path(bench.layout.layer(name))


def data(point: MountPoint) -> Path:
    return Path(point.source)


async def test_a_volume_takes_over_everything_of_the_image(bench: Bench) -> None:
    web = layer(bench) / "web"
    (web / "sub").mkdir(parents=True)
    (web / "file").write_bytes(b"text")
    (web / "sub" / "linked").hardlink_to(web / "file")
    (web / "link").symlink_to("/etc/passwd")
    os.mkfifo(web / "pipe")
    os.mknod(web / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    with (web / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 24)
        sparse.seek(1 << 23)
        sparse.write(b"middle")
    os.chown(web / "file", 1000, 1001)
    os.chmod(web / "file", 0o4750)
    os.setxattr(web / "sub", "user.note", b"kept")
    os.chown(web, 33, 34)
    os.chmod(web, 0o2775)
    os.utime(web / "sub", ns=(5, 7_000_000_000))
    record = await bench.create("c1", volumes=["/web/"])
    (point,) = record.mounts
    target = data(point)
    assert (point.destination, point.rw, point.copy_up, point.created_by_mount) == ("/web", True, True, True)
    root, file = target.stat(), (target / "file").stat()
    assert (root.st_uid, root.st_gid, stat.S_IMODE(root.st_mode)) == (33, 34, 0o2775)
    assert (file.st_uid, file.st_gid, stat.S_IMODE(file.st_mode), file.st_nlink) == (1000, 1001, 0o4750, 2)
    assert (target / "sub" / "linked").stat().st_ino == file.st_ino
    assert os.readlink(target / "link") == "/etc/passwd"
    assert stat.S_ISFIFO((target / "pipe").stat().st_mode)
    assert (target / "null").stat().st_rdev == os.makedev(1, 3)
    assert (target / "sparse").read_bytes() == (web / "sparse").read_bytes()
    assert (target / "sparse").stat().st_blocks * 512 < 1 << 20
    assert os.getxattr(target / "sub", "user.note") == b"kept"
    assert (target / "sub").stat().st_mtime_ns == 7_000_000_000


async def test_copy_up_sees_the_layers_as_one_and_follows_links_inside_the_image_only(bench: Bench) -> None:
    (layer(bench) / "data").mkdir()
    (layer(bench) / "data" / "low").write_text("low")
    (layer(bench, "top") / "data").mkdir()
    (layer(bench, "top") / "data" / "high").write_text("high")
    (layer(bench) / "alias").symlink_to("/data")
    (layer(bench) / "out").symlink_to("/../../../../../../etc")
    record = await bench.create("c1", volumes=["/alias", "/out"])
    alias, out = record.mounts
    assert sorted(os.listdir(data(alias))) == ["high", "low"]
    assert os.listdir(data(out)) == []


async def test_what_is_in_a_volume_stays(bench: Bench) -> None:
    (layer(bench) / "web").mkdir()
    (layer(bench) / "web" / "index").write_text("image")
    volume = await bench.volumes.create("web")
    (Path(volume.mountpoint) / "index").write_text("mine")
    await bench.create("c1", HostConfig(binds=["web:/web"]))
    assert (Path(volume.mountpoint) / "index").read_text() == "mine"
    await bench.create("c2", HostConfig(binds=["other:/web:nocopy"]))
    assert os.listdir(bench.driver.path("other")) == []


async def test_the_data_volume_pattern(bench: Bench) -> None:
    host_dir = Path(bench.layout.root) / "host"
    webdata = await bench.create("webdata", HostConfig(binds=[f"{host_dir}:/h:ro"]), volumes=["/webapp"])
    user = await bench.create("user", HostConfig(volumes_from=["webdata:ro"]), volumes=["/webapp"])
    by_destination = {point.destination: point for point in user.mounts}
    assert by_destination["/webapp"].name == webdata.mounts[-1].name
    assert [point.rw for point in user.mounts] == [False, False]
    writer = await bench.create("writer", HostConfig(volumes_from=["webdata"], binds=["own:/webapp"]))
    assert {point.destination: (point.name, point.rw) for point in writer.mounts} == {
        "/webapp": ("own", True),
        "/h": ("", False),
    }
    with pytest.raises(InvalidMount, match="No such container: nobody"):
        await bench.create("c", HostConfig(volumes_from=["nobody"]))
    # the volume outlives the container that made it, and goes with the last that knows it
    await bench.remove(webdata, anonymous=True)
    assert await bench.names() == sorted(["own", by_destination["/webapp"].name])
    await bench.remove(user, anonymous=True)
    assert await bench.names() == ["own"]


async def test_removal_of_anonymous_volumes_is_asked_for(bench: Bench) -> None:
    kept, gone = await bench.create("c1", volumes=["/a"]), await bench.create("c2", volumes=["/a"])
    await bench.remove(kept, anonymous=False)
    await bench.remove(gone, anonymous=True)
    assert await bench.names() == [kept.mounts[0].name]
    assert os.listdir(bench.driver.root) == [kept.mounts[0].name]
    assert os.listdir(os.path.join(bench.layout.root, "tmp")) == []


async def test_a_failing_create_leaves_nothing(bench: Bench) -> None:
    with pytest.raises(DuplicateMount, match=r"^Duplicate mount point: /x$"):
        await bench.create("c1", HostConfig(binds=["/x", "named:/x"]))
    with pytest.raises(DuplicateMount):
        await bench.create("c1", HostConfig(binds=["/x"], tmpfs={"/x": ""}))
    with pytest.raises(InvalidVolume, match="includes invalid characters for a local volume name"):
        await bench.create("c1", HostConfig(binds=["/anonymous", "a/../b:/x"]))
    with pytest.raises(InvalidMount, match="bind source path does not exist: /nowhere"):
        await bench.create("c1", HostConfig(mounts=[Mount(type="bind", source="/nowhere", target="/x")]))
    (layer(bench) / "file").touch()
    with pytest.raises(InvalidMount, match="cannot mount volume over existing file"):
        await bench.create("c1", volumes=["/file"])
    assert await bench.names() == []
    assert os.listdir(bench.driver.root) == []


async def test_starts_make_missing_directories_of_v_but_not_of_mount(bench: Bench, tmp_path: Path) -> None:
    record = await bench.create("c1", HostConfig(binds=[f"{tmp_path}/new/dir:/x"]))
    assert not (tmp_path / "new").exists()
    (point,) = await bench.mounts.prepare(record)
    assert stat.S_IMODE((tmp_path / "new" / "dir").stat().st_mode) == 0o755
    assert point.source == f"{tmp_path}/new/dir"
    (tmp_path / "there").mkdir()
    record = await bench.create(
        "c2", HostConfig(mounts=[Mount(type="bind", source=f"{tmp_path}/there", target="/x")])
    )
    (tmp_path / "there").rmdir()
    with pytest.raises(InvalidMount, match="bind source path does not exist"):
        await bench.mounts.prepare(record)


async def test_outer_destinations_come_first_and_tmpfs_covers(bench: Bench) -> None:
    host = HostConfig(
        binds=["deep:/a/b/c", "shallow:/a", "hidden:/t"],
        tmpfs={},
        mounts=[Mount(type="tmpfs", target="/a/t", tmpfs_options=TmpfsOptions(size_bytes=1 << 20))],
    )
    record = await bench.create("c1", host)
    record = msgspec.structs.replace(record, host=msgspec.structs.replace(host, tmpfs={"/t": ""}))
    points = await bench.mounts.prepare(record)
    assert [point.destination for point in points] == ["/a", "/a/t", "/a/b/c"]
    assert [point.mode for point in points] == ["z", "", "z"]


async def test_sharing_mounts_with_the_host_needs_a_shared_mount(bench: Bench, tmp_path: Path) -> None:
    from sampan.kernel import mount

    target = tmp_path / "private"
    target.mkdir()
    mount.mount("none", str(target), "tmpfs", 0)
    try:
        mount.mount("", str(target), "", mount.MS_PRIVATE)
        record = await bench.create("c1", HostConfig(binds=[f"{target}:/x:rshared"]))
        with pytest.raises(SystemFailure, match=f"is mounted on {target} but it is not a shared mount"):
            await bench.mounts.prepare(record)
    finally:
        mount.unmount(str(target))


async def test_subpaths_stay_inside_the_volume(bench: Bench, tmp_path: Path) -> None:
    volume = await bench.volumes.create("vol")
    (Path(volume.mountpoint) / "sub").mkdir()
    (Path(volume.mountpoint) / "sub" / "here").touch()
    (Path(volume.mountpoint) / "evil").symlink_to(tmp_path)

    def mounting(subpath: str) -> HostConfig:
        options = VolumeOptions(subpath=subpath)
        return HostConfig(mounts=[Mount(type="volume", source="vol", target="/x", volume_options=options)])

    record = await bench.create("c1", mounting("sub"))
    (point,) = await bench.mounts.prepare(record)
    assert os.listdir(point.source) == ["here"]
    (Path(volume.mountpoint) / "sub").rename(Path(volume.mountpoint) / "moved")
    assert os.listdir(point.source) == ["here"]  # a descriptor, not a name
    bench.mounts.launched(record.id)
    assert not os.path.exists(point.source)
    for bad in ("evil", "evil/x", "missing"):
        record = await bench.create(f"c-{bad.replace('/', '-')}", mounting(bad))
        with pytest.raises(SubpathNotFound, match="cannot access path"):
            await bench.mounts.prepare(record)


async def test_options_are_mounted_only_while_somebody_uses_the_volume(bench: Bench) -> None:
    driver = VolumeDriverConfig(
        name="local", options={"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=7"}
    )
    mount = Mount(
        type="volume", source="ram", target="/ram", volume_options=VolumeOptions(driver_config=driver)
    )
    (layer(bench) / "ram").mkdir()
    one = await bench.create("c1", HostConfig(mounts=[mount]))
    two = await bench.create("c2", HostConfig(binds=["ram:/ram:ro"]))
    path = bench.driver.path("ram")
    assert path not in mountinfo.targets()
    await bench.mounts.prepare(one)
    assert os.stat(path).st_uid == 7
    Path(path, "shared").touch()
    await bench.mounts.prepare(two)
    assert os.listdir(path) == ["shared"]
    await bench.mounts.finish(one)
    assert path in mountinfo.targets()
    await bench.mounts.finish(two)
    await bench.mounts.finish(two)
    assert path not in mountinfo.targets()


async def test_a_restarted_daemon_unmounts_what_nobody_uses(bench: Bench) -> None:
    options = {"type": "tmpfs", "device": "tmpfs"}
    await bench.volumes.create("used", options=options)
    await bench.volumes.create("unused", options=options)
    record = await bench.create("c1", HostConfig(binds=["used:/u"]))
    await bench.volumes.mount("used", record.id)
    await bench.volumes.mount("unused", "somebody")
    again = LocalDriver(bench.driver.root, os.path.join(bench.layout.root, "tmp"))
    volumes = Volumes(bench.table, again, bench.events, KeyedLocks())
    volumes.load([record])
    volumes.still_mounted("used", record.id)
    volumes.unmount_unused()
    mounted = [target for target in mountinfo.targets() if target.startswith(again.root)]
    assert mounted == [again.path("used")]
    await volumes.unmount("used", record.id)


async def test_bind_volumes_and_the_text_when_a_mount_fails(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "f").touch()
    await bench.volumes.create("bound", options={"type": "none", "device": f"{tmp_path}/src", "o": "bind,ro"})
    path = await bench.volumes.mount("bound", "c")
    assert os.listdir(path) == ["f"]
    with pytest.raises(OSError, match="Read-only"):
        Path(path, "g").touch()
    await bench.volumes.unmount("bound", "c")
    await bench.volumes.create("bad", options={"type": "none", "device": "/nowhere", "o": "bind"})
    with pytest.raises(VolumeNotMounted) as caught:
        await bench.volumes.mount("bad", "c")
    assert caught.value.message == (
        f"error while mounting volume '{bench.driver.path('bad')}': failed to mount local volume: "
        f"mount /nowhere:{bench.driver.path('bad')}, flags: 0x1000: no such file or directory"
    )


async def test_the_verbs_of_volumes(bench: Bench) -> None:
    one = await bench.volumes.create("one", labels={"env": "test"})
    assert await bench.volumes.create("one", "local", labels={"env": "other"}) is one
    with pytest.raises(NoSuchVolumeDriver, match='plugin "nfs" not found'):
        await bench.volumes.create("two", "nfs")
    with pytest.raises(InvalidVolume, match="too short"):
        await bench.volumes.create("x")
    with pytest.raises(InvalidVolume, match='create two: invalid option: "size2"'):
        await bench.volumes.create("two", options={"size2": "1"})
    anonymous = await bench.volumes.create()
    assert anonymous.labels == {"com.docker.volume.anonymous": ""}
    record = await bench.create("c1", HostConfig(binds=["used:/u"]))
    assert await bench.names(dangling=["true"]) == sorted(["one", anonymous.name])
    assert await bench.names(dangling=["0"]) == ["used"]
    assert await bench.names(label=["env=test"]) == await bench.names(name=["^on"]) == ["one"]
    assert await bench.names(driver=["other"]) == []
    with pytest.raises(InvalidFilter, match="invalid filter 'colour'"):
        await bench.names(colour=["red"])
    with pytest.raises(VolumeInUse, match=r"^remove used: volume is in use - \[c1\]$"):
        await bench.volumes.remove("used")
    with pytest.raises(NoSuchVolume, match=r"^get none: no such volume$"):
        await bench.volumes.remove("none")
    await bench.volumes.remove("none", force=True)
    await bench.remove(record, anonymous=True)
    await bench.volumes.remove("used")
    assert await bench.names() == sorted(["one", anonymous.name])


async def test_a_volume_that_cannot_be_recorded_leaves_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> None:
        raise ResourceExhausted("no space left on device")

    monkeypatch.setattr(bench.table, "put", full)
    with pytest.raises(ResourceExhausted):
        await bench.volumes.create("data")
    assert os.listdir(bench.driver.root) == []


async def test_prune_takes_anonymous_volumes_and_others_on_request(bench: Bench) -> None:
    await bench.volumes.create("keep", labels={"keep": "1"})
    named = await bench.volumes.create("named")
    (Path(named.mountpoint) / "f").write_bytes(b"x" * 1000)
    anonymous = await bench.volumes.create()
    await bench.volumes.create("options", options={"type": "tmpfs", "device": "tmpfs"})
    usage = {row.volume.name: (row.size_bytes, row.ref_count) for row in await bench.volumes.usage()}
    assert usage == {"keep": (0, 0), "named": (1000, 0), anonymous.name: (0, 0)}
    assert (await bench.volumes.prune()).deleted == [anonymous.name]
    result = await bench.volumes.prune({"all": ["1"], "label!": ["keep"]})
    assert (result.deleted, result.space_reclaimed) == (["named"], 1000)
    assert await bench.names() == ["keep", "options"]


async def test_start_up_compares_the_store_with_the_disk(bench: Bench) -> None:
    await bench.volumes.create("vanished")
    os.rmdir(bench.driver.path("vanished"))
    os.rmdir(os.path.dirname(bench.driver.path("vanished")))
    os.makedirs(bench.driver.path("restored"))
    orphan = await bench.create("never-stored", volumes=["/data"])
    bench.registry.delete(bench.registry.require(orphan.id))
    dangling = await bench.create("c2", volumes=["/data"])
    await bench.remove(dangling, anonymous=False)
    bench.volumes = bench.fresh_volumes()
    assert await bench.names() == sorted(["restored", dangling.mounts[0].name])
    assert os.listdir(os.path.join(bench.layout.root, "tmp")) == []


async def test_events_tell_of_volumes(bench: Bench) -> None:
    record = await bench.create("c1", HostConfig(binds=["vol:/v:ro"]))
    await bench.mounts.prepare(record)
    await bench.mounts.finish(record)
    await bench.remove(record, anonymous=True)
    await bench.volumes.remove("vol")
    seen = [
        (event.action, event.attributes)
        async for event in bench.events.subscribe(since_ns=1, until_ns=1, filters={"type": ["volume"]})
    ]
    mounted = {"driver": "local", "container": "c1"}
    detail = {"destination": "/v", "read/write": "false", "propagation": ""}
    assert seen == [
        ("create", {"driver": "local"}),
        ("mount", {**mounted, **detail}),
        ("unmount", mounted),
        ("destroy", {"driver": "local"}),
    ]


async def test_image_mounts_stand_on_the_layers(bench: Bench) -> None:
    record = await bench.create("c1", HostConfig(mounts=[Mount(type="image", source="box", target="/i")]))
    (shown,) = record.mounts
    assert (shown.name, shown.source, shown.rw) == ("box", IMAGE.id, False)
    (point,) = await bench.mounts.prepare(record)
    assert point.source == f"{layer(bench, 'top')}:{layer(bench)}"


async def test_contradicting_options_are_told_at_start(bench: Bench, tmp_path: Path) -> None:
    options = BindOptions(read_only_force_recursive=True)
    mount = Mount(type="bind", source=str(tmp_path), target="/x", bind_options=options)
    record = await bench.create("c1", HostConfig(mounts=[mount]))
    with pytest.raises(InvalidMount, match="mount options conflict: !ReadOnly"):
        await bench.mounts.prepare(record)
