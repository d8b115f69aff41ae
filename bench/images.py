"""The images every engine gets: archives as `docker save` writes them, the same bytes each time."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

EPOCH = 1_700_000_000
BUSYBOX = "sampan-bench/busybox:latest"
LARGE = "sampan-bench/large:latest"
LARGE_FILES = 20_000
LARGE_BYTES = 540_000_000
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
APPLETS = [
    "sh",
    "true",
    "false",
    "echo",
    "cat",
    "ls",
    "sleep",
    "yes",
    "head",
    "tail",
    "wc",
    "seq",
    "id",
    "env",
    "ps",
    "kill",
    "mkdir",
    "rm",
    "cp",
    "mv",
    "ln",
    "touch",
    "stat",
    "dd",
    "od",
    "grep",
    "sed",
    "awk",
    "tar",
    "find",
    "hostname",
    "ip",
    "ping",
    "nc",
    "nslookup",
    "mount",
    "umount",
    "df",
    "du",
    "date",
    "test",
    "top",
    "nproc",
    "ulimit",
    "chmod",
    "chown",
    "readlink",
    "sort",
    "uniq",
    "tr",
    "cut",
    "xargs",
    "printf",
    "pwd",
    "sync",
    "uname",
    "vi",
    "wget",
    "httpd",
    "route",
    "ifconfig",
    "sha256sum",
    "tty",
    "stty",
]


def _member(name: str, kind: bytes, size: int = 0, mode: int = 0o755, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.mode, member.linkname, member.mtime = kind, size, mode, link, EPOCH
    return member


def _text(archive: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode()
    archive.addfile(_member(name, tarfile.REGTYPE, len(data), 0o644), io.BytesIO(data))


def _busybox_layer(target: Path) -> None:
    found = shutil.which("busybox")
    if found is None:
        raise SystemExit("busybox is missing: apt-get install busybox-static")
    program = Path(found).read_bytes()
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for folder in ("bin", "etc", "dev", "proc", "sys", "usr", "var", "root", "tmp", "home"):
            archive.addfile(_member(folder, tarfile.DIRTYPE, mode=0o1777 if folder == "tmp" else 0o755))
        archive.addfile(_member("bin/busybox", tarfile.REGTYPE, len(program)), io.BytesIO(program))
        for applet in APPLETS:
            archive.addfile(_member(f"bin/{applet}", tarfile.SYMTYPE, link="busybox"))
        root = "root:x:0:0:root:/root:/bin/sh\n"
        users = f"{root}daemon:x:1:1::/:/bin/false\nnobody:x:65534:65534::/home:/bin/false\n"
        _text(archive, "etc/passwd", users)
        _text(archive, "etc/group", "root:x:0:\ndaemon:x:1:\ntty:x:5:\naudio:x:29:\nnogroup:x:65534:\n")


def _large_layer(target: Path, number: int) -> None:
    """Files of 1 kB to 200 kB, half of each compressible, in folders of one hundred."""
    generator = random.Random(number)
    noise = generator.randbytes(1 << 20)
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        left = LARGE_BYTES
        for number in range(LARGE_FILES):
            if number % 100 == 0:
                archive.addfile(_member(f"data/{number // 100:03}", tarfile.DIRTYPE))
            mean = left // (LARGE_FILES - number)
            size = (
                left if number == LARGE_FILES - 1 else generator.randrange(mean // 30, mean * 2 - mean // 30)
            )
            left -= size
            half = size // 2
            start = generator.randrange(len(noise) // 2)
            data = (noise[start : start + half] * 2)[:half] + f"{number:08}".encode() * (size // 8 + 1)
            name = f"data/{number // 100:03}/{number:05}"
            archive.addfile(_member(name, tarfile.REGTYPE, size, 0o644), io.BytesIO(data[:size]))


def _save(layer: Path, target: Path, tag: str) -> None:
    """Wrap one layer tar as a `docker save` archive."""
    with layer.open("rb") as source:
        diff_id = hashlib.file_digest(source, "sha256").hexdigest()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2023-11-14T22:13:20Z",
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Cmd": ["sh"],
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}"]},
            "history": [{"created": "2023-11-14T22:13:20Z", "created_by": "sampan bench"}],
        }
    ).encode()
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = [{"Config": config_name, "RepoTags": [tag], "Layers": [f"{diff_id}/layer.tar"]}]
    unfinished = target.with_suffix(".tmp")
    with tarfile.open(unfinished, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(_member(config_name, tarfile.REGTYPE, len(config), 0o644), io.BytesIO(config))
        archive.addfile(_member(diff_id, tarfile.DIRTYPE))
        with layer.open("rb") as source:
            size = layer.stat().st_size
            archive.addfile(_member(f"{diff_id}/layer.tar", tarfile.REGTYPE, size, 0o644), source)
        _text(archive, "manifest.json", json.dumps(manifest))
    unfinished.rename(target)


def busybox_archive(folder: Path) -> Path:
    """busybox.tar in folder, from this machine's static busybox."""
    return _ensure(folder, "busybox", BUSYBOX)


def large_archive(folder: Path, number: int) -> Path:
    """540 MB in 20,000 files; each number is another image, of which nothing is there yet."""
    return _ensure(folder, f"large{number}", LARGE, number)


def large_layer(folder: Path) -> Path:
    """The layer of large_archive(folder, 0) by itself."""
    return folder / "large0.layer"


def _ensure(folder: Path, name: str, tag: str, number: int = 0) -> Path:
    target = folder / f"{name}.tar"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        layer = folder / f"{name}.layer"
        if tag == BUSYBOX:
            _busybox_layer(layer)
        else:
            _large_layer(layer, number)
        _save(layer, target, tag)
        if layer != large_layer(folder):
            layer.unlink()
    return target


@dataclass(frozen=True)
class Blobs:
    """An image as a registry holds it: one layer, gzipped at the level most builders use."""

    config: bytes
    layer: Path
    layer_digest: str

    @property
    def config_digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.config).hexdigest()}"

    @property
    def manifest(self) -> bytes:
        config = {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "size": len(self.config),
            "digest": self.config_digest,
        }
        layer = {
            "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "size": self.layer.stat().st_size,
            "digest": self.layer_digest,
        }
        head = {"schemaVersion": 2, "mediaType": DOCKER_MANIFEST}
        return json.dumps({**head, "config": config, "layers": [layer]}).encode()


def large_blobs(folder: Path, number: int) -> Blobs:
    """The image of large_archive(folder, number) for a registry."""
    with tarfile.open(large_archive(folder, number)) as archive:
        contents = archive.extractfile("manifest.json")
        assert contents is not None
        [described] = json.load(contents)
        config, layer = (archive.extractfile(name) for name in (described["Config"], described["Layers"][0]))
        assert config is not None
        assert layer is not None
        packed = folder / f"large{number}.layer.gz"
        if not packed.exists():
            unfinished = packed.with_suffix(".tmp")
            with unfinished.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as target:
                shutil.copyfileobj(layer, target, 1 << 20)
            unfinished.rename(packed)
        with packed.open("rb") as source:
            digest = f"sha256:{hashlib.file_digest(source, 'sha256').hexdigest()}"
        return Blobs(config.read(), packed, digest)
