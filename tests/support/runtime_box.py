"""A container for tests of the runtime: Debian's busybox over an overlay, without an engine around it."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import msgspec

from sampan.model.launch import ExitStatus, LaunchRequest, LogSink, OverlayRoot, Stdio
from sampan.model.oci import CapabilitySets, Linux, Namespace, OCIMount, Process, Root, RuntimeSpec
from sampan.runtime.client import RuntimeClient
from sampan.runtime.streams import SocketStream

CAPS = ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID"]
MOUNTS = [
    OCIMount(destination="/proc", type="proc", source="proc", options=["nosuid", "noexec", "nodev"]),
    OCIMount(destination="/dev", type="tmpfs", source="tmpfs", options=["nosuid", "mode=755", "size=64k"]),
    OCIMount(
        destination="/dev/pts",
        type="devpts",
        source="devpts",
        options=["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
    ),
    OCIMount(destination="/sys", type="sysfs", source="sysfs", options=["nosuid", "noexec", "nodev", "ro"]),
]


class Watcher:
    """A client attached from the start that keeps what it hears."""

    def __init__(self, stdin: bool = False) -> None:
        self.stdin, self.stdout, self.stderr = stdin, True, True
        self.stream: SocketStream | None = None

    def connected(self, stream: SocketStream) -> None:
        self.stream = stream

    async def everything(self) -> bytes:
        assert self.stream is not None
        heard = b""
        while data := await self.stream.read():
            heard += data
        self.stream.close()
        return heard


class Box:
    """One container's directories and the ways to start processes in it."""

    def __init__(self, root: Path, client: RuntimeClient) -> None:
        self.root = root
        self.client = client
        self.id = uuid.uuid4().hex
        self.group = f"/sampan-box-{self.id}"

    @property
    def run_dir(self) -> str:
        return str(self.root / "run")

    def request(self, *args: str, tty: bool = False, stdin: bool = False, **changes: object) -> LaunchRequest:
        process = Process(
            args=list(args),
            env=["PATH=/bin"],
            terminal=tty,
            capabilities=CapabilitySets(bounding=CAPS, effective=CAPS, permitted=CAPS),
        )
        spec = RuntimeSpec(
            process=process,
            root=Root(path="/"),
            hostname="box",
            mounts=MOUNTS,
            linux=Linux(
                cgroups_path=self.group,
                namespaces=[Namespace(type=kind) for kind in ("mount", "pid", "network", "ipc", "uts")],
                masked_paths=["/proc/kcore", "/sys/firmware"],
                readonly_paths=["/proc/sys"],
            ),
        )
        request = LaunchRequest(
            id=self.id,
            run_dir=self.run_dir,
            spec=spec,
            root=OverlayRoot(
                lower=[str(self.root / "lower")],
                upper=str(self.root / "upper"),
                work=str(self.root / "work"),
            ),
            stdio=Stdio(
                tty=tty, open_stdin=stdin, stdin_once=stdin, log=LogSink(path=str(self.root / "log"))
            ),
            user="",
        )
        return msgspec.structs.replace(request, **changes)

    async def run(self, *args: str, **options: object) -> tuple[bytes, ExitStatus]:
        watcher = Watcher()
        process = await self.client.launch(self.request(*args, **options), [watcher])  # type: ignore[arg-type]
        heard = await watcher.everything()
        status = await process.wait()
        await process.released()
        return heard, status


def make_tree(tmp_path: Path) -> None:
    """The directories of a box, with a small image in ``lower``."""
    for name in ("lower/bin", "lower/etc", "lower/tmp", "lower/dir", "upper", "work"):
        (tmp_path / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox is not None, "the tests need Debian's busybox-static"
    shutil.copy(busybox, tmp_path / "lower/bin/busybox")
    for applet in ("sh", "cat", "id", "ls", "sleep", "true", "grep", "stty", "mount", "hostname", "head"):
        (tmp_path / "lower/bin" / applet).symlink_to("busybox")
    (tmp_path / "lower/etc/passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/app:/bin/sh\n")
    (tmp_path / "lower/etc/plain").write_text("not a program\n")


def groups() -> list[str]:
    return [
        str(path) for hierarchy in Path("/sys/fs/cgroup").iterdir() for path in hierarchy.glob("sampan-box-*")
    ] + [str(path) for path in Path("/sys/fs/cgroup").glob("sampan-box-*")]


def frames(data: bytes) -> dict[int, bytes]:
    streams: dict[int, bytes] = {}
    while data:
        size = int.from_bytes(data[4:8], "big")
        streams[data[0]] = streams.get(data[0], b"") + data[8 : 8 + size]
        data = data[8 + size :]
    return streams
