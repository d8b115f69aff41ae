"""Clients that attached before the start, by container."""

from __future__ import annotations

from collections.abc import Sequence

from .attach import AttachSession


class Attachments:
    """Waiting sessions; the launch connects them, so nothing that the process writes is lost."""

    def __init__(self) -> None:
        self._pending: dict[str, list[AttachSession]] = {}

    def add(self, container_id: str, session: AttachSession) -> None:
        self._pending.setdefault(container_id, []).append(session)

        def forget(closed: AttachSession) -> None:
            waiting = self._pending.get(container_id)
            if waiting is not None and closed in waiting:
                waiting.remove(closed)
                if not waiting:
                    del self._pending[container_id]

        session.on_close = forget

    def pending(self, container_id: str) -> Sequence[AttachSession]:
        return tuple(self._pending.get(container_id, ()))

    def launched(self, container_id: str, connected: Sequence[AttachSession]) -> list[AttachSession]:
        """``connected`` are. Answers those that came while the launch was under way."""
        waiting = self._pending.pop(container_id, ())
        return [session for session in waiting if session not in connected]

    def abandon(self, container_id: str) -> None:
        """The start failed or the container is gone: their output ends."""
        for session in self._pending.pop(container_id, ()):
            session.abandon()
