"""sampan load, save, import and image bootstrap: images from and to files."""

from __future__ import annotations

import os
import sys

from sampan.cli import jsontext
from sampan.cli.failure import Failure
from sampan.cli.imagename import platform_json
from sampan.cli.options import BOOL, PLATFORM, STRING, Command, Option, Values
from sampan.cli.progress import follow
from sampan.cli.session import Session, is_terminal
from sampan.cli.stream import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK = 1 << 20


def _chunks(descriptor: int) -> Iterator[bytes]:
    while data := os.read(descriptor, _CHUNK):
        yield data


def _input(path: str, what: str) -> int:
    """A descriptor of the file, or standard input for "". Raises Failure."""
    if path in ("", "-"):
        if is_terminal(0):
            raise Failure(f"requested {what} from stdin, but stdin is empty")
        return 0
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Failure(f"open {path}: {(error.strerror or '').lower()}") from None


def load(session: Session, values: Values, words: list[str]) -> int:
    descriptor = _input(values.text("input"), "load")
    quiet = values.flag("quiet") or not is_terminal(1)
    query = [("quiet", "1")] if quiet else []
    query += [("platform", platform_json(text)) for text in values.many("platform")]
    headers = (("Content-Type", "application/x-tar"),)
    response = session.client.request("POST", "/images/load", query, _chunks(descriptor), headers)
    if "json" in response.headers.get("content-type", ""):
        follow(response)
    else:
        while data := response.read_some():
            write_all(1, data)
    return 0


class OutputFile:
    """A file that has its name only when it is complete; standard output for ""."""

    def __init__(self, path: str, what: str) -> None:
        self._path = path
        self._descriptor = 1
        self._temporary = ""
        if not path and is_terminal(1):
            raise Failure(f"cowardly refusing to {what} to a terminal. Use the -o flag or redirect")

    def __enter__(self) -> OutputFile:
        if not self._path:
            return self
        folder = os.path.dirname(self._path) or "."
        if not os.path.isdir(folder):
            raise Failure(f'invalid output path: directory "{folder}" does not exist')
        if os.path.isdir(self._path):
            raise Failure(f'invalid output path: "{self._path}" must be a regular file')
        if os.path.exists(self._path) and not os.path.isfile(self._path):
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            return self
        from tempfile import mkstemp

        self._descriptor, self._temporary = mkstemp(prefix=".sampan-", dir=folder)
        return self

    def write(self, data: bytes) -> None:
        write_all(self._descriptor, data)

    def __exit__(self, kind: object, *_: object) -> None:
        if self._descriptor != 1:
            os.close(self._descriptor)
        if not self._temporary:
            return
        if kind is None:
            os.chmod(self._temporary, 0o600)
            os.replace(self._temporary, self._path)
        else:
            os.unlink(self._temporary)


def save(session: Session, values: Values, words: list[str]) -> int:
    query = [("names", name) for name in words]
    query += [("platform", platform_json(text)) for text in values.many("platform")]
    with OutputFile(values.text("output"), "save") as output:
        response = session.client.request("GET", "/images/get", query)
        while data := response.read_some(_CHUNK):
            output.write(data)
    return 0


def import_image(session: Session, values: Values, words: list[str]) -> int:
    source = words[0]
    is_address = source.startswith(("http://", "https://"))
    query = [("fromSrc", source if is_address else "-")]
    if len(words) > 1:
        query.append(("repo", words[1]))
    if values.text("message"):
        query.append(("message", values.text("message")))
    query += [("changes", change) for change in values.many("change")]
    if values.text("platform"):
        query.append(("platform", values.text("platform")))
    headers = (("Content-Type", "application/x-tar"),)
    body = None if is_address else _chunks(_input(source, "import"))
    follow(session.client.request("POST", "/images/create", query, body, headers))
    return 0


def bootstrap(session: Session, values: Values, words: list[str]) -> int:
    directory = values.text("from-dir")
    if bool(words) == bool(directory):
        raise Failure("name either a recipe (busybox, debian, ...) or a directory with --from-dir")
    body = {
        "suite": values.text("suite"),
        "variant": values.text("variant"),
        "mirror": values.text("mirror"),
        "packages": [name for text in values.many("include") for name in text.split(",") if name],
        "directory": os.path.abspath(directory) if directory else "",
        "tag": values.text("tag"),
        "command": values.many("cmd"),
        "epoch_s": _epoch_s(values.text("source-date-epoch")),
    }
    if directory and not values.text("tag"):
        raise Failure("--from-dir needs a name for the image: --tag NAME")
    query = (("name", words[0] if words else "from-dir"),)
    headers = (("Content-Type", "application/json"),)
    encoded = jsontext.dumps(body).encode("utf-8", "surrogateescape")
    response = session.client.request("POST", "/sampan/images/bootstrap", query, encoded, headers)
    follow(response, quiet=values.flag("quiet"))
    sys.stdout.flush()
    return 0


def _epoch_s(given: str) -> int:
    """As https://reproducible-builds.org/specs/source-date-epoch/ has it; 0 when there is none."""
    text = given or os.environ.get("SOURCE_DATE_EPOCH", "")
    if text and not (text.isascii() and text.isdigit()):
        raise Failure(f"the source date epoch is a number of seconds, not {text!r}")
    return int(text or 0)


_PLATFORM = Option("platform", "", "list", "Only this platform, OS/ARCH[/VARIANT]")

LOAD = Command(
    "load",
    "[OPTIONS]",
    "Load images from a tar archive or standard input",
    load,
    (
        Option("input", "i", STRING, "Read this file instead of standard input", complete="file"),
        _PLATFORM,
        Option("quiet", "q", BOOL, "No progress"),
    ),
    maximum=0,
    examples=("sampan load -i busybox.tar",),
)
SAVE = Command(
    "save",
    "[OPTIONS] IMAGE [IMAGE...]",
    "Save images to a tar archive (standard output by default)",
    save,
    (Option("output", "o", STRING, "Write to this file", complete="file"), _PLATFORM),
    minimum=1,
    complete="image",
)
IMPORT = Command(
    "import",
    "[OPTIONS] FILE|URL|- [REPOSITORY[:TAG]]",
    "Make an image from a tar archive of a file system",
    import_image,
    (
        Option("change", "c", "list", "Dockerfile instruction to apply"),
        Option("message", "m", STRING, "Message of the image"),
        PLATFORM,
    ),
    minimum=1,
    maximum=2,
    complete="file",
)
BOOTSTRAP = Command(
    "image bootstrap",
    "[OPTIONS] [RECIPE]",
    "Make a base image from the distribution's own packages: busybox, debian, python, nginx",
    bootstrap,
    (
        Option("cmd", "", "list", "A word of the image's command"),
        Option("from-dir", "", STRING, "Make it of this directory instead", complete="file"),
        Option("include", "", "list", "More packages, with commas between them"),
        Option("mirror", "", STRING, "Mirror of the distribution"),
        Option("quiet", "q", BOOL, "No progress"),
        Option(
            "source-date-epoch",
            "",
            STRING,
            "No time in the image is later, in seconds (default: $SOURCE_DATE_EPOCH)",
        ),
        Option("suite", "", STRING, "Release of the distribution (default: this machine's)"),
        Option("tag", "t", STRING, "Name of the image (default: the recipe's)"),
        Option("variant", "", STRING, "How much of the distribution", default="minbase"),
    ),
    maximum=1,
    complete="recipe",
    examples=("sampan image bootstrap busybox", "sampan image bootstrap debian --suite bookworm"),
)
