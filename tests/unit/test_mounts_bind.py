"""What -v, --mount and --volumes-from may say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.formats.bind import (
    InvalidMount,
    bind_conflict,
    clean_path,
    is_local,
    parse_bind,
    parse_volumes_from,
    point_of,
    tmpfs_data,
    valid_mode,
    validate,
)
from sampan.formats.size import parse_binary, parse_decimal
from sampan.model.container import BindOptions, ImageOptions, Mount, TmpfsOptions, VolumeOptions


@pytest.mark.parametrize(
    ("text", "kind", "name", "source", "destination", "rw"),
    [
        ("/data", "volume", "", "", "/data", True),
        ("webdata:/data", "volume", "webdata", "", "/data", True),
        ("webdata:/data/:ro", "volume", "webdata", "", "/data", False),
        ("/srv:/data", "bind", "", "/srv", "/data", True),
        ("/srv//x/../y:/data:ro,z", "bind", "", "/srv/y", "/data", False),
        ("/srv:/data:rw,Z,rshared,cached", "bind", "", "/srv", "/data", True),
        ("webdata:/data:nocopy", "volume", "webdata", "", "/data", True),
    ],
)
def test_binds(text: str, kind: str, name: str, source: str, destination: str, rw: bool) -> None:
    parsed = parse_bind(text)
    point = point_of(parsed.mount, parsed.mode)
    assert (point.type, point.name, point.source) == (kind, name, source)
    assert (point.destination, point.rw) == (destination, rw)
    assert point.copy_up == (kind == "volume" and "nocopy" not in text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid volume specification: ''"),
        (":/x", "invalid volume specification: ':/x'"),
        ("/x:rw", "invalid volume specification: '/x:rw'"),
        ("/x:", "invalid volume specification: '/x:'"),
        ("a:/b:rw:ro", "invalid volume specification: 'a:/b:rw:ro'"),
        ("a:/b:ro,rw", "invalid mode: ro,rw"),
        ("a:/b:sometimes", "invalid mode: sometimes"),
        (
            "/a:b",
            (
                "invalid volume specification: '/a:b': invalid mount config for type \"bind\": "
                "invalid mount path: 'b' mount path must be absolute"
            ),
        ),
        (
            "a:/x/..",
            (
                "invalid volume specification: 'a:/x/..': invalid mount config for type \"volume\": "
                "invalid specification: destination can't be '/'"
            ),
        ),
        (
            "a:/b:rshared",
            (
                "invalid volume specification: 'a:/b:rshared': invalid mount config for type \"volume\": "
                "field BindOptions must not be specified"
            ),
        ),
    ],
)
def test_refused_binds(text: str, message: str) -> None:
    with pytest.raises(InvalidMount) as caught:
        parse_bind(text)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        (Mount(type="bind", target="/x"), "field Source must not be empty"),
        (
            Mount(type="bind", source="rel", target="/x"),
            "invalid mount path: 'rel' mount path must be absolute",
        ),
        (
            Mount(type="bind", source="/a", target="/x", bind_options=BindOptions(propagation="wild")),
            "invalid propagation mode: wild",
        ),
        (Mount(type="volume", source="v"), "field Target must not be empty"),
        (
            Mount(type="volume", target="/x", volume_options=VolumeOptions(subpath="a")),
            "must not set Subpath when using anonymous volumes",
        ),
        (
            Mount(type="volume", source="v", target="/x", volume_options=VolumeOptions(subpath="a/../../b")),
            "subpath must be a relative path within the volume",
        ),
        (Mount(type="tmpfs", source="x", target="/x"), "field Source must not be specified"),
        (
            Mount(type="tmpfs", target="/x", bind_options=BindOptions()),
            "field BindOptions must not be specified",
        ),
        (
            Mount(type="tmpfs", target="/x", tmpfs_options=TmpfsOptions(options=[["suid"]])),
            "invalid option: suid",
        ),
        (
            Mount(type="image", source="i", target="/x", image_options=ImageOptions(subpath="/abs")),
            "subpath must be a relative path within the volume",
        ),
        (Mount(type="npipe", source="a", target="/x"), "mount type unknown"),
    ],
)
def test_refused_mounts(mount: Mount, message: str) -> None:
    with pytest.raises(InvalidMount) as caught:
        validate(mount)
    assert caught.value.message == f'invalid mount config for type "{mount.type}": {message}'


def test_volumes_from() -> None:
    assert parse_volumes_from("web") == ("web", True)
    assert parse_volumes_from("web:ro") == ("web", False)
    assert parse_volumes_from("web:z") == ("web", True)
    for text in ("", "web:nocopy", "web:rshared", "web:maybe"):
        with pytest.raises(InvalidMount):
            parse_volumes_from(text)


def test_tmpfs_data() -> None:
    assert tmpfs_data(None, False) == ""
    options = TmpfsOptions(size_bytes=64 << 20, mode=0o1777, options=[["exec"]])
    assert tmpfs_data(options, True) == "ro,mode=1777,size=64m,exec"
    assert tmpfs_data(TmpfsOptions(size_bytes=1000), False) == "size=1000"


def test_contradicting_read_only_options() -> None:
    mount = Mount(
        type="bind", source="/a", target="/b", bind_options=BindOptions(read_only_force_recursive=True)
    )
    assert bind_conflict(mount) == "mount options conflict: !ReadOnly && BindOptions.ReadOnlyForceRecursive"


@given(st.lists(st.sampled_from(["ro", "rw", "z", "Z", "nocopy", "shared", "rslave", "cached", "x", ""])))
def test_a_mode_names_each_kind_once(words: list[str]) -> None:
    kinds = {"ro": 1, "rw": 1, "z": 2, "Z": 2, "nocopy": 3, "shared": 4, "rslave": 4, "cached": 5}
    found = [kinds.get(word, 0) for word in words]
    expected = not ",".join(words) or (0 not in found and len(set(found)) == len(found))
    assert valid_mode(",".join(words)) == expected


@given(st.lists(st.sampled_from(["a", "..", ".", "", "b"])).map("/".join))
def test_a_local_subpath_never_climbs_above_its_start(text: str) -> None:
    depth, lowest = 0, 0
    for part in text.split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
        lowest = min(lowest, depth)
    if is_local(text):
        assert not text.startswith("/")
        assert depth >= 0
    elif not text.startswith("/"):
        assert lowest < 0


@given(st.text("/a.", max_size=12))
def test_cleaned_paths_are_stable_and_have_one_slash_at_most_in_a_row(text: str) -> None:
    cleaned = clean_path(text)
    assert clean_path(cleaned) == cleaned
    assert "//" not in cleaned


@pytest.mark.parametrize(
    ("text", "binary", "decimal"), [("512", 512, 512), ("20m", 20 << 20, 20_000_000), ("1.5kB", 1536, 1500)]
)
def test_sizes(text: str, binary: int, decimal: int) -> None:
    assert (parse_binary(text), parse_decimal(text)) == (binary, decimal)


@pytest.mark.parametrize("text", ["", "m", "-1", "1x", "1 m m"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="invalid size"):
        parse_binary(text)
