"""``sampan registry htpasswd``: one user's line in the file of passwords."""

from __future__ import annotations

import contextlib
import getpass
import os
import sys
import tempfile
from collections.abc import Sequence

import bcrypt

from sampan.base.errors import SampanError
from sampan.registry.access.htpasswd import parse

COST = 10
_COSTS = range(8, 16)
"""Less is guessed too fast, more takes seconds for each login."""
_LONGEST = 72


class UsersProblem(Exception):
    """What to tell the person who called."""


def main(argv: Sequence[str] | None = None) -> int:
    """``[--password-stdin] [--delete] [--cost=N] -- FILE USER``, as the command line has checked it."""
    words = list(sys.argv[1:] if argv is None else argv)
    split = words.index("--")
    flags, (path, name) = words[:split], words[split + 1 :]
    cost = next((int(flag.partition("=")[2]) for flag in flags if flag.startswith("--cost=")), COST)
    try:
        if "--delete" in flags:
            change(path, name, None)
        else:
            change(path, name, hashed(_asked(from_stdin="--password-stdin" in flags), cost))
    except (UsersProblem, SampanError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _asked(*, from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise UsersProblem("cannot ask for a password without a terminal: use --password-stdin")
    password = getpass.getpass("New password: ")
    if getpass.getpass("Again: ") != password:
        raise UsersProblem("the two are not the same: nothing was changed")
    return password


def hashed(password: str, cost: int) -> bytes:
    """Raises UsersProblem."""
    data = password.encode("utf-8", "surrogateescape")
    if not data:
        raise UsersProblem("the password is empty: nothing was changed")
    if len(data) > _LONGEST:
        raise UsersProblem(f"the password has more than the {_LONGEST} bytes that bcrypt looks at")
    if cost not in _COSTS:
        raise UsersProblem(f"the cost must be between {_COSTS[0]} and {_COSTS[-1]}")
    return bcrypt.hashpw(data, bcrypt.gensalt(cost))


def change(path: str, name: str, value: bytes | None) -> None:
    """Set the user's line, or remove it (None); other lines stay as they are. Atomic.

    Raises UsersProblem, BadUsersFile, OSError.
    """
    if not name or ":" in name or name.startswith("#") or not name.isprintable():
        raise UsersProblem(f"invalid name {name!r}: it must not be empty, begin with # or contain a colon")
    mode, lines = 0o600, []
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
        text = file.read()
        parse(text, path)
        lines = text.splitlines()
    mark = name.encode("utf-8", "surrogateescape") + b":"
    kept = [line for line in lines if not line.strip().startswith(mark)]
    if value is None and len(kept) == len(lines):
        raise UsersProblem(f"there is no user {name} in {path}")
    if value is not None:
        kept.append(mark + value)
    _replace(path, b"".join(line + b"\n" for line in kept), mode)


def _replace(path: str, content: bytes, mode: int) -> None:
    folder = os.path.dirname(os.path.abspath(path))
    fd, temporary = tempfile.mkstemp(dir=folder, prefix=".users-")
    try:
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(fd, mode)
            with contextlib.suppress(FileNotFoundError):
                owner = os.stat(path)
                os.fchown(fd, owner.st_uid, owner.st_gid)
            os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


if __name__ == "__main__":
    sys.exit(main())
