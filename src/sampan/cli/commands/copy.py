"""sampan cp and sampan export."""

from __future__ import annotations

import os

from sampan.cli import jsontext
from sampan.cli.commands.archives import OutputFile
from sampan.cli.failure import Failure
from sampan.cli.options import BOOL, STRING, Command, Option, Values
from sampan.cli.session import Session, is_terminal
from sampan.cli.stream import write_all
from sampan.cli.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sampan.cli.http import Response

_CHUNK = 1 << 20
# Go's os.FileMode
_DIRECTORY = 1 << 31
_SYMLINK = 1 << 27


class RemotePath:
    """What the daemon says of a path in a container."""

    def __init__(self, header: str) -> None:
        from base64 import b64decode

        stat = jsontext.loads(b64decode(header))
        self.name: str = stat["name"]
        self.mode: int = stat["mode"]
        self.link_target: str = stat.get("linkTarget") or ""

    @property
    def is_directory(self) -> bool:
        return bool(self.mode & _DIRECTORY)

    @property
    def is_symlink(self) -> bool:
        return bool(self.mode & _SYMLINK)


def split_location(text: str) -> tuple[str, str]:
    """``(container, path)`` of ``container:path``; a local path gives ("", path)."""
    if os.path.isabs(text):
        return "", text
    head, mark, path = text.partition(":")
    if not mark or head.startswith("."):
        return "", text
    return head, path


def copy(session: Session, values: Values, words: list[str]) -> int:
    source_container, source = split_location(words[0])
    target_container, target = split_location(words[1])
    if source_container and target_container:
        raise Failure("copying between containers is not supported")
    if not source_container and not target_container:
        raise Failure("must specify at least one container source")
    if not source or not target:
        raise Failure("source and destination cannot be empty")
    quiet = values.flag("quiet") if values.given("quiet") else not is_terminal(1)
    if source_container:
        size, name = _copy_out(session, values, source_container, source, target), target
    else:
        size = _copy_in(session, values, source, target_container, target)
        name = f"{target_container}:{target}"
    if not quiet and target != "-":
        session.warn(f"Successfully copied {human_size(size, 3)} to {name}")
    return 0


def _stat(session: Session, container: str, path: str) -> RemotePath | None:
    response = session.client.send("HEAD", f"/containers/{container}/archive", (("path", path),))
    header = response.headers.get("x-docker-container-path-stat", "")
    if response.status == 404 and not header:
        return None
    if response.status >= 400:
        # A HEAD has no body; the GET of the same path says why.
        session.client.request("GET", f"/containers/{container}/archive", (("path", path),)).close()
    return RemotePath(header)


def _resolved(container_path: str, link_target: str) -> str:
    from posixpath import dirname, isabs, join

    return link_target if isabs(link_target) else join(dirname(container_path), link_target)


def _copy_out(session: Session, values: Values, container: str, path: str, target: str) -> int:
    if values.flag("follow-link"):
        stat = _stat(session, container, path)
        if stat and stat.is_symlink and stat.link_target:
            path = _resolved(path, stat.link_target)
    response = session.client.request("GET", f"/containers/{container}/archive", (("path", path),))
    if target == "-":
        if is_terminal(1):
            raise Failure("cowardly refusing to copy a tar archive to a terminal. Redirect standard output")
        while data := response.read_some(_CHUNK):
            write_all(1, data)
        return 0
    from sampan.cli.unpacking import Unpacker

    stat = RemotePath(response.headers["x-docker-container-path-stat"])
    folder, name = _local_place(target, path, stat)
    unpacker = Unpacker(folder, name, keep_owner=values.flag("archive"))
    unpacker.unpack(ResponseFile(response))
    return unpacker.size_bytes


def _contents_only(path: str) -> bool:
    return path.endswith("/.") or path == "."


def _local_place(target: str, source: str, stat: RemotePath) -> tuple[str, str]:
    """The existing directory to unpack into and the name the source gets there ("" for its contents)."""
    if os.path.isdir(target):
        if stat.is_directory and _contents_only(source):
            return target, ""
        return target, stat.name.strip("/") or ""
    if os.path.lexists(target) and stat.is_directory:
        raise Failure(f"cannot copy directory {source!r} over the file {target!r}")
    if target.endswith("/") and not stat.is_directory:
        raise Failure(f"destination directory {target!r} does not exist")
    folder, name = os.path.split(target.rstrip("/"))
    folder = folder or "."
    if not os.path.isdir(folder):
        raise Failure(f'invalid output path: directory "{folder}" does not exist')
    return folder, name


class ResponseFile:
    """An answer's body as the file that tarfile reads."""

    def __init__(self, response: Response) -> None:
        self._response = response
        self._buffer = bytearray()

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._buffer) < size:
            data = self._response.read_some(_CHUNK)
            if not data:
                break
            self._buffer += data
        end = len(self._buffer) if size < 0 else size
        data = bytes(self._buffer[:end])
        del self._buffer[:end]
        return data


def _copy_in(session: Session, values: Values, source: str, container: str, target: str) -> int:
    stat = _stat(session, container, target)
    if stat and stat.is_symlink and stat.link_target:
        target = _resolved(target, stat.link_target)
        stat = _stat(session, container, target)
    query = [("noOverwriteDirNonDir", "true")]
    if values.flag("archive"):
        query.append(("copyUIDGID", "true"))
    if source == "-":
        if stat and not stat.is_directory:
            raise Failure(f'destination "{container}:{target}" must be a directory')
        return _put(session, container, target, query, _standard_input())
    from sampan.cli.packing import Packer

    follow = values.flag("follow-link")
    try:
        is_directory = os.path.isdir(source) and (
            follow or source.endswith("/") or not os.path.islink(source)
        )
        os.stat(source) if follow else os.lstat(source.rstrip("/") or "/")
    except OSError as error:
        raise Failure(f"lstat {source}: {(error.strerror or '').lower()}") from None
    folder, name = _remote_place(source, is_directory, target, stat)
    packer = Packer(source, name, follow=follow)
    _put(session, container, folder, query, packer.chunks())
    return packer.size_bytes


def _remote_place(source: str, is_directory: bool, target: str, stat: RemotePath | None) -> tuple[str, str]:
    """The existing directory in the container and the name the source gets there ("" for its contents)."""
    from posixpath import split

    if stat and stat.is_directory:
        if is_directory and _contents_only(source):
            return target, ""
        return target, os.path.basename(os.path.abspath(source))
    if stat and is_directory:
        raise Failure(f"cannot copy directory {source!r} over the file {target!r}")
    if not stat and target.endswith("/") and not is_directory:
        raise Failure(f"no such directory: {target}")
    folder, name = split(target.rstrip("/"))
    return folder or "/", name


def _standard_input() -> Iterator[bytes]:
    while data := os.read(0, _CHUNK):
        yield data


def _put(
    session: Session, container: str, folder: str, query: list[tuple[str, str]], body: Iterator[bytes]
) -> int:
    size = 0

    def counted() -> Iterator[bytes]:
        nonlocal size
        for data in body:
            size += len(data)
            yield data

    headers = (("Content-Type", "application/x-tar"),)
    path = f"/containers/{container}/archive"
    session.client.request("PUT", path, [("path", folder), *query], counted(), headers).read()
    return size


def export(session: Session, values: Values, words: list[str]) -> int:
    with OutputFile(values.text("output"), "export") as output:
        response = session.client.request("GET", f"/containers/{words[0]}/export")
        while data := response.read_some(_CHUNK):
            output.write(data)
    return 0


COPY = Command(
    "cp",
    "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n  sampan cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
    "Copy files and directories between a container and this machine",
    copy,
    (
        Option("archive", "a", BOOL, "Keep owners and groups"),
        Option("follow-link", "L", BOOL, "Copy what a symbolic link SRC_PATH points to"),
        Option("quiet", "q", BOOL, "Say nothing on success"),
    ),
    minimum=2,
    maximum=2,
    complete="container",
)
EXPORT = Command(
    "export",
    "[OPTIONS] CONTAINER",
    "Export a container's file system as a tar archive",
    export,
    (Option("output", "o", STRING, "Write to this file", complete="file"),),
    minimum=1,
    maximum=1,
    complete="container",
)
