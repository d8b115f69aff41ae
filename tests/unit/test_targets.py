"""What a name means: platforms, the leaves of an index, the image that is chosen, what a push sends."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.base.errors import InvalidArgument
from sampan.content.targets import (
    INDEXES,
    MANIFESTS,
    MAX_DEPTH,
    MAX_ENTRIES,
    BadIndex,
    Entry,
    PlatformNotHere,
    SeveralFit,
    attested,
    choose,
    decode_index,
    leaves,
    plan_push,
    select,
)
from sampan.formats.platform import Platform, is_same, parse_platform, platform, rank, read_platform
from sampan.model.image import Descriptor, Index

HOST = Platform(architecture="amd64")


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def described(text: str, number: int = 1, **changes: Any) -> Descriptor:
    os_, architecture, *variant = text.split("/")
    raw = {"os": os_, "architecture": architecture, **({"variant": variant[0]} if variant else {})}
    return Descriptor(**{"media_type": MANIFESTS[0], "digest": digest(number), "platform": raw, **changes})


# platforms


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux/amd64", "linux/amd64"),
        ("Linux/AMD64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm/7", "linux/arm/v7"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("arm64", "linux/arm64"),
        ("linux", "linux/riscv64"),
        ("windows", "windows/riscv64"),
    ],
)
def test_spellings(text: str, expected: str) -> None:
    assert parse_platform(text, "riscv64").text == expected


@pytest.mark.parametrize("text", ["", "/", "linux/", "a/b/c/d", "linux/amd64/", "toaster", "linux/a b"])
def test_what_is_no_platform(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is an invalid platform specifier"):
        parse_platform(text, "amd64")


@pytest.mark.parametrize(
    "raw", [None, {}, {"os": ["linux"]}, {"os": 7, "architecture": "x"}, {"variant": "v7"}]
)
def test_descriptors_without_a_platform(raw: Any) -> None:
    assert read_platform(raw) is None


PARTS = st.sampled_from(["linux", "windows", "darwin"])
ARCHITECTURES = st.sampled_from(["amd64", "arm64", "arm", "s390x", "riscv64"])
VARIANTS = st.sampled_from(["", "v5", "v6", "v7", "v8", "v9", "7", "v1"])
PLATFORMS = st.builds(platform, PARTS, ARCHITECTURES, VARIANTS)


@given(PLATFORMS)
def test_a_platform_is_read_back_from_its_text(one: Platform) -> None:
    assert parse_platform(one.text, "mips") == one
    assert platform(one.os, one.architecture, one.variant) == one
    assert is_same(one, one)
    assert rank(one, one) == 100


@given(PLATFORMS, PLATFORMS)
def test_what_is_asked_for_also_runs(found: Platform, wanted: Platform) -> None:
    if is_same(found, wanted):
        assert rank(found, wanted) is not None
        assert is_same(wanted, found)
    if rank(found, wanted) is not None:
        assert (found.os, found.architecture) == (wanted.os, wanted.architecture)


# indexes


@pytest.mark.parametrize(
    ("offered", "wanted", "expected"),
    [
        (["linux/arm64", "linux/amd64"], "linux/amd64", 1),
        (["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"], "linux/arm/v7", 1),
        (["linux/arm/v5", "linux/arm/v6"], "linux/arm/v7", 1),
        (["linux/arm64/v8"], "linux/arm64", 0),
        (["linux/amd64/v3", "linux/amd64"], "linux/amd64", 1),
        (["linux/amd64", "linux/amd64"], "linux/amd64", 0),
        (["unknown/unknown", "linux/amd64"], "linux/amd64", 1),
        ([], "linux/amd64", None),
        (["windows/amd64"], "linux/amd64", None),
        (["linux/arm/v7"], "linux/arm/v6", None),
    ],
)
def test_choice_among_what_a_registry_has(offered: list[str], wanted: str, expected: int | None) -> None:
    entries = [described(one, number) for number, one in enumerate(offered)]
    found = select(entries, parse_platform(wanted, "amd64"))
    assert found is (entries[expected] if expected is not None else None)


def test_other_kinds_are_no_images() -> None:
    notes = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": digest(9)}
    attestation = described("linux/amd64", annotations=notes)
    assert attested(attestation) == digest(9)
    assert select([attestation, described("linux/amd64", media_type="application/x")], HOST) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_an_index_or_are_refused(data: bytes) -> None:
    try:
        index = decode_index(data)
    except BadIndex:
        return
    assert isinstance(index, Index)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[" * 100_000, "unsupported manifest format"),
        (b'{"manifests": [{"digest": "sha256:../../etc/passwd"}]}', "unsupported digest"),
        (b'{"manifests": [{"digest": "%s", "size": -1}]}' % digest(1).encode(), "of -1 bytes"),
        (b'{"manifests": [' + b",".join([b"{}"] * (MAX_ENTRIES + 1)) + b"]}", "entries, more than"),
        (b" " * (5 << 20), "bytes, more than"),
    ],
    ids=["nested", "path", "size", "wide", "large"],
)
def test_indexes_that_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(BadIndex, match=message):
        decode_index(data)


def nested(number: int) -> Descriptor:
    return Descriptor(media_type=INDEXES[0], digest=digest(number))


def test_depth_is_bounded() -> None:
    """Each index names the next one; the last that may be looked into is the fourth."""
    chain = {digest(n): Index(manifests=[nested(n + 1)]) for n in range(MAX_DEPTH - 1)}
    assert [one.digest for one in leaves([nested(0)], lambda one: chain.get(one.digest))] == [
        digest(MAX_DEPTH - 1)
    ]
    chain = {digest(n): Index(manifests=[nested(n + 1)]) for n in range(MAX_DEPTH + 1)}
    with pytest.raises(BadIndex, match="nested more than"):
        leaves([nested(0)], lambda one: chain.get(one.digest))


def test_repetition_is_no_bomb() -> None:
    """Indexes that name the next one many times: 1000 to the fourth leaves, if each were followed."""
    chain = {digest(n): Index(manifests=[nested(n + 1)] * 500) for n in range(3)}
    asked: list[str] = []

    def read(one: Descriptor) -> Index | None:
        asked.append(one.digest)
        return chain.get(one.digest)

    assert [one.digest for one in leaves([nested(0)], read)] == [digest(3)]
    assert asked == [digest(n) for n in range(4)]


def test_an_index_that_contains_itself_ends() -> None:
    loop = Index(manifests=[nested(0), described("linux/amd64", 5)])
    assert [one.digest for one in leaves([nested(0)], lambda _: loop)] == [digest(5)]


@given(st.recursive(st.integers(1, 30), lambda inner: st.lists(inner, max_size=4), max_leaves=20))
def test_leaves_are_in_order_and_each_once(tree: Any) -> None:
    known: dict[str, Index] = {}
    numbers = iter(range(1000, 2000))

    def build(node: Any) -> Descriptor:
        if isinstance(node, int):
            return Descriptor(media_type=MANIFESTS[0], digest=digest(node))
        own = digest(next(numbers))
        known[own] = Index(manifests=[build(child) for child in node])
        return Descriptor(media_type=INDEXES[0], digest=own)

    def flat(node: Any) -> list[str]:
        return [digest(node)] if isinstance(node, int) else [leaf for child in node for leaf in flat(child)]

    try:
        found = leaves([build(tree)], lambda one: known.get(one.digest))
    except BadIndex:
        return
    assert [one.digest for one in found] == list(dict.fromkeys(flat(tree)))


# choosing


def entry(text: str, number: int, *, here: bool = True, arrived_ns: int = 0) -> Entry:
    return Entry(
        descriptor=described(text, number),
        platform=read_platform(described(text).platform),
        image_id=f"image-{number}" if here else "",
        arrived_ns=arrived_ns,
        is_here=here,
    )


ENTRIES = st.lists(
    st.builds(
        entry,
        st.sampled_from(["linux/amd64", "linux/arm64", "linux/arm/v6", "linux/arm/v7", "windows/amd64"]),
        st.integers(0, 99),
        here=st.booleans(),
        arrived_ns=st.integers(0, 5),
    ),
    max_size=6,
)


@given(ENTRIES)
def test_a_name_means_something_as_long_as_anything_of_it_is_here(entries: list[Entry]) -> None:
    found = choose(entries, HOST)
    here = [one for one in entries if one.image_id]
    assert (found is None) == (not here)
    if found is None:
        return
    assert found in here
    own = [one for one in here if one.platform is not None and is_same(one.platform, HOST)]
    if own:
        assert found in own
    else:
        assert found.arrived_ns == max(one.arrived_ns for one in here)


@given(ENTRIES, PLATFORMS)
def test_the_platform_that_is_asked_for_or_none(entries: list[Entry], wanted: Platform) -> None:
    here = [one for one in entries if one.image_id]
    fitting = [one for one in here if one.platform is not None and is_same(one.platform, wanted)]
    if here and not fitting:
        with pytest.raises(PlatformNotHere, match=f"the specified platform \\({wanted.text}\\)"):
            choose(entries, HOST, wanted, ref="a")
        return
    found = choose(entries, HOST, wanted, ref="a")
    assert found in fitting if here else found is None


@given(ENTRIES)
def test_what_is_not_here_changes_no_choice(entries: list[Entry]) -> None:
    assert choose(entries, HOST) == choose([one for one in entries if one.image_id], HOST)


# pushing


@given(ENTRIES, st.one_of(st.none(), PLATFORMS), st.booleans())
def test_what_a_push_sends(entries: list[Entry], wanted: Platform | None, whole: bool) -> None:
    try:
        plan = plan_push(entries, HOST, wanted, ref="a", whole=whole)
    except (PlatformNotHere, SeveralFit):
        assert wanted is not None or not whole
        return
    if plan.entry is None:
        assert whole
        assert wanted is None
        return
    assert plan.entry.image_id
    assert plan.instead == (wanted is None)
    if wanted is not None:
        assert plan.entry.platform is not None
        assert is_same(plan.entry.platform, wanted)


def test_pushes_that_cannot_decide() -> None:
    both = [entry("linux/arm64", 1), entry("linux/s390x", 2), entry("linux/amd64", 3, here=False)]
    with pytest.raises(SeveralFit, match="multiple matching manifests found but no specific platform"):
        plan_push(both, HOST, None, ref="a", whole=False)
    twins = [entry("linux/arm/v6", 1), entry("linux/arm/v7", 2)]
    with pytest.raises(SeveralFit, match="multiple manifests found for platform linux/arm"):
        plan_push(twins, HOST, Platform(architecture="arm"), ref="a", whole=True)
    exact = plan_push(twins, HOST, Platform(architecture="arm", variant="v6"), ref="a", whole=True)
    assert exact.entry == twins[0]
    with pytest.raises(PlatformNotHere, match="does not provide any platform"):
        plan_push([entry("linux/amd64", 1, here=False)], HOST, None, ref="a", whole=False)


def test_entries_can_be_told_apart() -> None:
    unknown = Entry(
        descriptor=described("unknown/unknown"), platform=Platform(os="unknown", architecture="x")
    )
    assert not unknown.is_image
    assert not Entry(descriptor=Descriptor(media_type="application/x")).is_image
    assert not Entry(descriptor=described("linux/amd64"), attests=digest(1)).is_image
    assert entry("linux/amd64", 1, here=False).is_image
    assert msgspec.structs.replace(unknown, image_id="here").is_image
