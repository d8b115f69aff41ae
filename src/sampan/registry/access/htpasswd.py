"""Users and passwords: an htpasswd file with bcrypt hashes, as ``sampan registry htpasswd`` writes it.

bcrypt takes a tenth of a second on purpose. It runs in threads, two at a time, and a password that was right
is remembered for some minutes (its HMAC under a key of this process, not itself).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import re
import stat
from collections import OrderedDict
from collections.abc import Callable

import bcrypt

from sampan.base.errors import InvalidArgument

from ..errors import TooManyRequests

log = logging.getLogger(__name__)

_HASH = re.compile(rb"\$2[aby]\$(0[4-9]|1[0-9])\$[./A-Za-z0-9]{53}")
_LIMIT_BYTES = 16 << 20
_PASSWORD_BYTES = 72
"""What bcrypt looks at; other tools cut off the rest too, so longer passwords of theirs still fit."""
_AT_ONCE = 2
_MOST_WAITING = 64
_REMEMBERED = 1024
_REMEMBERED_S = 300.0


class BadUsersFile(InvalidArgument):
    """The file cannot be read or is no htpasswd file of bcrypt hashes."""


def parse(text: bytes, path: str) -> dict[str, bytes]:
    """Hash by user name. Raises BadUsersFile with the line's number."""
    users: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith(b"#"):
            continue
        name, colon, hashed = line.partition(b":")
        if not colon or not name:
            raise BadUsersFile(f"{path}, line {number}: expected NAME:HASH")
        if not _HASH.fullmatch(hashed):
            raise BadUsersFile(
                f"{path}, line {number}: the password of {name.decode('utf-8', 'replace')} is not hashed "
                "with bcrypt: set it again with 'sampan registry htpasswd' or 'htpasswd -B'"
            )
        users[name.decode("utf-8", "surrogateescape")] = hashed
    return users


class Passwords:
    """The file, read again when it has changed."""

    def __init__(self, path: str, now_s: Callable[[], float]) -> None:
        """Raises BadUsersFile."""
        self._path = path
        self._now_s = now_s
        self._key = os.urandom(32)
        self._right: OrderedDict[bytes, float] = OrderedDict()
        """Until when a proof of user, password and hash is good."""
        self._busy = asyncio.Semaphore(_AT_ONCE)
        self._checks: dict[bytes, asyncio.Task[bool]] = {}
        """Under way, by proof: a push logs in several times at once."""
        self._stamp: tuple[int, int, int] = (0, 0, 0)
        self._users: dict[str, bytes] = {}
        self._read()

    def _read(self) -> None:
        try:
            with open(self._path, "rb") as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode) or found.st_size > _LIMIT_BYTES:
                    raise BadUsersFile(f"{self._path} is no file of at most {_LIMIT_BYTES >> 20} MiB")
                text = file.read(_LIMIT_BYTES)
        except OSError as error:
            raise BadUsersFile(f"{self._path}: {error.strerror}") from None
        self._users = parse(text, self._path)
        self._stamp = (found.st_ino, found.st_mtime_ns, found.st_size)

    def refresh(self) -> None:
        """Read the file again if it is another one. A file that became unreadable changes nothing."""
        try:
            found = os.stat(self._path)
            if self._stamp != (found.st_ino, found.st_mtime_ns, found.st_size):
                self._read()
                log.info("read %d users again from %s", len(self._users), self._path)
        except (OSError, BadUsersFile) as error:
            log.warning("users stay as they were: %s", error)

    def remembers(self, name: str, password: str) -> bool:
        """Whether the password was found right some minutes ago, and is the user's still: costs nothing."""
        self.refresh()
        hashed = self._users.get(name)
        proof = self._proof(name, password, hashed or b"")
        until = self._right.get(proof)
        if hashed is None or until is None:
            return False
        if until < self._now_s():
            del self._right[proof]
            return False
        return True

    def is_checking(self, name: str, password: str) -> bool:
        """Whether the same password is being compared now: :meth:`verify` waits for that comparison."""
        return self._proof(name, password, self._users.get(name, b"")) in self._checks

    async def verify(self, name: str, password: str) -> bool:
        """Takes as long for a user who does not exist. Raises TooManyRequests when too many wait."""
        if self.remembers(name, password):
            return True
        proof = self._proof(name, password, self._users.get(name, b""))
        check = self._checks.get(proof)
        if check is None:
            if len(self._checks) >= _MOST_WAITING:
                raise TooManyRequests("too many logins at once: try again", 2)
            check = asyncio.create_task(self._check(proof, password, self._users.get(name)))
            self._checks[proof] = check
            check.add_done_callback(lambda _: self._checks.pop(proof, None))
        # who gives up waiting must not take the comparison from the others
        return await asyncio.shield(check)

    async def _check(self, proof: bytes, password: str, hashed: bytes | None) -> bool:
        against = hashed or next(iter(self._users.values()), _NOBODY)
        async with self._busy:
            right = await asyncio.to_thread(_matches, password, against)
        if not right or hashed is None:
            return False
        self._remember(proof)
        return True

    def _proof(self, name: str, password: str, hashed: bytes) -> bytes:
        text = b"\0".join((_bytes(name), hashed, _bytes(password)))
        return hmac.digest(self._key, text, hashlib.sha256)

    def _remember(self, proof: bytes) -> None:
        self._right[proof] = self._now_s() + _REMEMBERED_S
        self._right.move_to_end(proof)
        if len(self._right) > _REMEMBERED:
            self._right.popitem(last=False)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _matches(password: str, hashed: bytes) -> bool:
    try:
        return bcrypt.checkpw(_bytes(password)[:_PASSWORD_BYTES], hashed)
    except ValueError as error:  # of the right shape, but no salt that bcrypt can decode
        log.warning("a hash in the users' file cannot be used: %s", error)
        return False


_NOBODY = b"$2b$10$RNLYFRwMYbIA4yqo8Xd/UeF8boFfPCpPT3XZyLu/7k9cDlL/JdaRu"
"""Compared with when there is no user at all."""
