"""``--cidfile``: a file that is made before the container, so that two runs cannot share one."""

from __future__ import annotations

import posix

from sampan.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self


class CidFile:
    """Empty path: no file. A file that was never written to is removed again."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1
        self._written = False

    def __enter__(self) -> Self:
        if self._path:
            flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC
            try:
                self._descriptor = posix.open(self._path, flags, 0o644)
            except FileExistsError:
                raise Failure(
                    "container ID file found, make sure the other container isn't running or delete "
                    f"{self._path}",
                    125,
                ) from None
            except OSError as error:
                raise Failure(
                    f"failed to create the container ID file: open {self._path}: "
                    f"{(error.strerror or '').lower()}",
                    125,
                ) from None
        return self

    def write(self, identifier: str) -> None:
        if self._descriptor >= 0:
            posix.write(self._descriptor, identifier.encode())
            self._written = True

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            posix.close(self._descriptor)
            if not self._written:
                posix.unlink(self._path)
