"""The store: what is written comes back, transactions are all or nothing, migrations only go forward."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from sampan.model.container import Container, ContainerConfig, ExitRecord, HostConfig
from sampan.model.network import Network
from sampan.model.volume import Volume
from sampan.store.containers import ContainerTable, RunRecord
from sampan.store.db import Database, StoreTooNew
from sampan.store.images import ImageTable, LayerRecord, LayerTable, ManifestRecord, ReferenceRow
from sampan.store.migrations import MIGRATIONS
from sampan.store.networks import NetworkTable
from sampan.store.volumes import VolumeTable


def make_container(id_: str = "a" * 64, name: str = "web", created_ns: int = 1) -> Container:
    return Container(
        id=id_,
        name=name,
        created_ns=created_ns,
        image_id="sha256:1",
        image_ref="busybox",
        path="sh",
        args=[],
        config=ContainerConfig(env=["A=b"]),
        host=HostConfig(memory=7),
        networks={},
        mounts=[],
        layer_ids=[],
    )


def test_container_survives_reopening(tmp_path: Path) -> None:
    path = str(tmp_path / "s.db")
    run = RunRecord(cgroup_path="/docker/x")
    with Database(path) as db:
        table = ContainerTable(db)
        table.insert(make_container(), ExitRecord())
        table.set_run("a" * 64, ExitRecord(started_ns=5, wanted_running=True), run)
    with Database(path) as db:
        (stored,) = ContainerTable(db).load()
    assert stored.container == make_container()
    assert stored.exit == ExitRecord(started_ns=5, wanted_running=True)
    assert stored.run == run


def test_containers_load_oldest_first() -> None:
    table = ContainerTable(Database(":memory:"))
    table.insert(make_container("b" * 64, "late", 20), ExitRecord())
    table.insert(make_container("c" * 64, "early", 10), ExitRecord())
    assert [s.container.name for s in table.load()] == ["early", "late"]


def test_names_are_unique_and_a_failed_insert_leaves_nothing() -> None:
    table = ContainerTable(Database(":memory:"))
    table.insert(make_container(), ExitRecord())
    with pytest.raises(sqlite3.IntegrityError):
        table.insert(make_container("b" * 64), ExitRecord())
    assert len(table.load()) == 1


def test_delete_takes_the_run_row_along() -> None:
    db = Database(":memory:")
    table = ContainerTable(db)
    table.insert(make_container(), ExitRecord())
    table.delete(make_container())
    assert db.rows("SELECT count(*) FROM container_run") == [(0,)]


@pytest.mark.parametrize(("auto_remove", "expected"), [(False, {2}), (True, {1})])
def test_what_a_power_cut_ends_anyway_is_not_synced(auto_remove: bool, expected: set[int]) -> None:
    """synchronous is FULL (2) while an ordinary container is written, NORMAL (1) for ``--rm``."""
    db = Database(":memory:")
    levels: set[int] = set()
    write = db.write

    def watched(statement: str, parameters: Sequence[object] = ()) -> int:
        levels.add(int(str(db.rows("PRAGMA synchronous")[0][0])))
        return write(statement, parameters)

    db.write = watched  # type: ignore[method-assign]
    table = ContainerTable(db)
    container = msgspec.structs.replace(make_container(), host=HostConfig(auto_remove=auto_remove))
    table.insert(container, ExitRecord())
    table.delete(container)
    assert levels == expected
    assert db.rows("PRAGMA synchronous") == [(2,)]


def test_transaction_rolls_back_as_a_whole() -> None:
    db = Database(":memory:")
    table = VolumeTable(db)
    volume = Volume(name="v", mountpoint="/v", created_ns=1)

    def fail_after_two_writes() -> None:
        with db.transaction():
            table.put(volume)
            with db.transaction():
                table.put(Volume(name="w", mountpoint="/w", created_ns=1))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_after_two_writes()
    assert table.load() == []
    table.put(volume)
    assert table.load() == [volume]


def test_networks_and_volumes_are_replaced_in_place() -> None:
    db = Database(":memory:")
    networks = NetworkTable(db)
    networks.put(Network(id="1", name="bridge", driver="bridge", created_ns=1))
    networks.put(Network(id="1", name="bridge", driver="bridge", created_ns=2))
    assert [n.created_ns for n in networks.load()] == [2]
    networks.delete("1")
    assert networks.load() == []


def test_names_move_between_documents_that_are_here() -> None:
    db = Database(":memory:")
    images = ImageTable(db)
    for digest in ("sha256:1", "sha256:2"):
        images.put_manifest(ManifestRecord(digest=digest, image_id="sha256:i"))
    images.put_reference(ReferenceRow(name="a:latest", kind="tag", target="sha256:1"))
    images.put_reference(ReferenceRow(name="a:latest", kind="tag", target="sha256:2"))
    assert [(r.name, r.target) for r in images.load_references()] == [("a:latest", "sha256:2")]
    with pytest.raises(sqlite3.IntegrityError):
        images.delete_manifest("sha256:2")
    images.delete_reference("a:latest")
    images.delete_manifest("sha256:2")
    assert [record.digest for record in images.load_manifests()] == ["sha256:1"]


def test_names_of_images_become_names_of_their_manifests(tmp_path: Path) -> None:
    path = str(tmp_path / "s.db")
    connection = sqlite3.connect(path)
    for statement in MIGRATIONS[0]:
        connection.execute(statement)
    for number in (1, 2):
        record = json.dumps({"id": f"sha256:i{number}", "manifest_digest": f"sha256:m{number}"}).encode()
        connection.execute("INSERT INTO image (id, record) VALUES (?, ?)", (f"sha256:i{number}", record))
        connection.execute(
            "INSERT INTO reference (name, kind, image_id) VALUES (?, 'tag', ?)",
            (f"a:{number}", f"sha256:i{number}"),
        )
    connection.execute("PRAGMA user_version=1")
    connection.commit()
    connection.close()
    with Database(path) as db:
        table = ImageTable(db)
        assert {row.name: row.target for row in table.load_references()} == {
            "a:1": "sha256:m1",
            "a:2": "sha256:m2",
        }
        assert [(one.digest, one.image_id) for one in table.load_manifests()] == [
            ("sha256:m1", "sha256:i1"),
            ("sha256:m2", "sha256:i2"),
        ]


def test_layers_are_stored() -> None:
    db = Database(":memory:")
    layers = LayerTable(db)
    layers.put(LayerRecord(chain_id="sha256:9", diff_id="sha256:8"))
    assert [layer.diff_id for layer in layers.load()] == ["sha256:8"]


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "s.db")
    Database(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(StoreTooNew, match="newer Sampan"):
        Database(path)
