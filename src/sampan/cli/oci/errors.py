"""What goes wrong with a container of ``sampan-oci``."""

from __future__ import annotations

from sampan.base.errors import Conflict, InvalidArgument, NotFound


class NoSuchContainer(NotFound):
    def __init__(self, container_id: str) -> None:
        super().__init__(f"container {container_id!r} does not exist")


class WrongState(Conflict):
    """The container is not in a state that allows the command."""


class InvalidBundle(InvalidArgument):
    """config.json is missing, not JSON, or against the specification."""
