"""One SQLite connection in WAL mode, used from the event loop's thread alone.

A durable commit of a few kilobytes takes about 0.2 ms, less than handing it to a thread would, so the
calls are synchronous: between ``with db.transaction()`` and its end no other task runs, and there is
nothing to lock.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from sampan.base.errors import FailedPrecondition, ResourceExhausted, SystemFailure

from .migrations import MIGRATIONS


class StoreTooNew(FailedPrecondition):
    """The file was written by a later version of Sampan."""


class Database:
    """The connection and its transactions. Tables live in the modules beside this one."""

    def __init__(self, path: str, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> None:
        """``path`` is a file (its directory exists) or ``:memory:``. Applies outstanding migrations."""
        self.path = path
        if path != ":memory:":
            # containers' environments hold secrets; SQLite gives the log beside the file the file's mode
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.fchmod(fd, 0o600)
            os.close(fd)
        # isolation_level=None: the driver opens no transactions of its own
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=5.0)
        self._depth = 0
        self._connection.execute("PRAGMA journal_mode=WAL")
        # FULL: a commit in WAL mode survives a power cut only when the log is synced at each commit
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute("PRAGMA foreign_keys=ON")
        self._migrate(migrations)

    def _migrate(self, migrations: Sequence[Sequence[str]]) -> None:
        version = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
        if version > len(migrations):
            raise StoreTooNew(
                f"{self.path} has schema {version}, this version knows {len(migrations)}: "
                "start the newer Sampan that wrote it, or use another data root"
            )
        for number, statements in enumerate(migrations[version:], start=version + 1):
            with self.transaction():
                for statement in statements:
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version={number}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; an inner one joins the outer one. Never await inside.

        Raises ResourceExhausted when the disk is full, SystemFailure on other failures of the file.
        """
        if self._depth:
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
            return
        self._execute("BEGIN IMMEDIATE")
        self._depth = 1
        try:
            yield
            self._execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        finally:
            self._depth = 0

    @contextmanager
    def relaxed(self) -> Iterator[None]:
        """Commits within survive the death of the daemon at once, and a power cut with the next durable
        commit or when the kernel writes the log back (some 30 s). For what a power cut makes void anyway:
        it ends every container, whatever was recorded of their running. Within a transaction it changes
        nothing: that one decides."""
        if self._depth:
            yield
            return
        self._connection.execute("PRAGMA synchronous=NORMAL")
        try:
            yield
        finally:
            self._connection.execute("PRAGMA synchronous=FULL")

    def write(self, statement: str, parameters: Sequence[object] = ()) -> int:
        """Run one changing statement, within the current transaction or as its own. Rows changed."""
        return self._execute(statement, parameters).rowcount

    def rows(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        return self._execute(statement, parameters).fetchall()

    def _execute(self, statement: str, parameters: Sequence[object] = ()) -> sqlite3.Cursor:
        try:
            return self._connection.execute(statement, parameters)
        except sqlite3.OperationalError as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code == sqlite3.SQLITE_FULL:
                raise ResourceExhausted(f"write {self.path}: no space left on device") from error
            raise SystemFailure(f"{self.path}: {error}") from error

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
