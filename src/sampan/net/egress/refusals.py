"""What the kernel has refused, as it happens. The rules log at most ten packets a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sampan.kernel.nflog import Packet, PacketLog

from .rules import log_group, table_of


class Refusals:
    """Open from :meth:`begin` to :meth:`close`, in the event loop's thread."""

    def __init__(self, table: str, refused: Callable[[Packet], None]) -> None:
        self._table = table_of(table)
        self._refused = refused
        self._log: PacketLog | None = None

    def begin(self) -> None:
        """Raises OSError: this kernel does not tell, or somebody else listens."""
        self._log = PacketLog(log_group(self._table))
        asyncio.get_running_loop().add_reader(self._log.fileno(), self._readable)

    def _readable(self) -> None:
        assert self._log is not None
        for packet in self._log.read(self._table):
            self._refused(packet)

    def close(self) -> None:
        """Idempotent."""
        if self._log is not None:
            asyncio.get_running_loop().remove_reader(self._log.fileno())
            self._log.close()
            self._log = None
