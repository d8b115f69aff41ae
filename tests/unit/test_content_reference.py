"""Docker's grammar of image names, and its messages."""

from __future__ import annotations

import pytest

from sampan.formats.reference import InvalidReference, check_digest, parse_name, parse_tagged

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "familiar", "normalised"),
    [
        ("busybox", "busybox:latest", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "busybox:1.36", "docker.io/library/busybox:1.36"),
        ("docker.io/busybox", "busybox:latest", "docker.io/library/busybox:latest"),
        ("index.docker.io/library/busybox", "busybox:latest", "docker.io/library/busybox:latest"),
        ("me/app", "me/app:latest", "docker.io/me/app:latest"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/app:x", "localhost:5000/app:x", "localhost:5000/app:x"),
        ("ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1"),
        ("[2001:db8::1]:5000/repo", "[2001:db8::1]:5000/repo:latest", "[2001:db8::1]:5000/repo:latest"),
        ("Uppercase.io/x", "Uppercase.io/x:latest", "Uppercase.io/x:latest"),
        (f"busybox@{DIGEST}", f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        (f"busybox:1@{DIGEST}", f"busybox:1@{DIGEST}", f"docker.io/library/busybox:1@{DIGEST}"),
        ("a__b/c--d", "a__b/c--d:latest", "docker.io/a__b/c--d:latest"),
        ("library/x/y", "library/x/y:latest", "docker.io/library/x/y:latest"),
    ],
)
def test_names(text: str, familiar: str, normalised: str) -> None:
    name = parse_tagged(text)
    assert (name.familiar, name.normalised) == (familiar, normalised)
    assert parse_tagged(name.normalised).familiar == familiar


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid reference format"),
        ("Busybox", "repository name (library/Busybox) must be lowercase"),
        ("a/Bc:x", "repository name (a/Bc) must be lowercase"),
        ("busybox:", "invalid reference format"),
        ("busybox:a b", "invalid reference format"),
        ("-busybox", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("a___b", "invalid reference format"),
        ("busybox:" + "x" * 129, "invalid reference format"),
        ("busybox@sha256:abc", "invalid reference format"),
        ("busybox@md5:" + "a" * 32, "unsupported digest algorithm"),
        ("a" * 300, "repository name must not be more than 255 characters"),
        ("b" * 64, "cannot specify 64-byte hexadecimal strings"),
        ("busybox\n", "invalid reference format"),
    ],
)
def test_bad_names(text: str, message: str) -> None:
    with pytest.raises(InvalidReference) as raised:
        parse_name(text)
    assert message in raised.value.message


def test_tag_is_checked() -> None:
    assert parse_name("a").with_tag("v1_x.y-z").familiar == "a:v1_x.y-z"
    for bad in ("", ".x", "a b", "x" * 129, "ü"):
        with pytest.raises(InvalidReference, match="invalid tag format"):
            parse_name("a").with_tag(bad)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sha256:zz", "length"),
        ("sha256:" + "G" * 64, "format"),
        ("nonsense", "format"),
        ("sha257:" + "a" * 64, "unsupported"),
    ],
)
def test_digests(text: str, message: str) -> None:
    check_digest(DIGEST)
    with pytest.raises(InvalidReference, match=message):
        check_digest(text)
