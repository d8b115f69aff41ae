"""Where a container's files can be reached now: through its process, or in a private view of its layers."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from sampan.base.errors import Conflict
from sampan.engine.container.layout import Layout
from sampan.engine.container.registry import Entry
from sampan.kernel.fsview import View, ViewMount, in_view, open_layers
from sampan.model.container import Container, MountPoint

Result = TypeVar("Result")


class ContainerRoots:
    """All methods but :meth:`require_present` block and run in a thread."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def require_present(self, entry: Entry, verb: str) -> None:
        """Raises Conflict, with Docker's text, for a container that is going away."""
        if entry.life.phase == "dead":
            raise Conflict(f"You cannot {verb} container {entry.id} which is Dead")
        if entry.life.phase == "removing":
            raise Conflict(f"You cannot {verb} container {entry.id} which is being removed")

    def run(self, entry: Entry, writable: bool, action: Callable[[int], Result]) -> Result:
        """Call ``action`` with a descriptor of the root as the container sees it, volumes included."""
        pid = entry.life.pid
        if pid:
            try:
                root = os.open(f"/proc/{pid}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except (FileNotFoundError, PermissionError):
                pass  # it has ended just now: a zombie has no root any more
            else:
                try:
                    return action(root)
                finally:
                    os.close(root)
        return in_view(self._view(entry.record), writable, action)

    def without_mounts(self, entry: Entry, action: Callable[[int], Result]) -> Result:
        """Call ``action`` with a read-only descriptor of the layers and the container's own changes."""
        view = self._view(entry.record)
        return in_view(view._replace(mounts=[]), False, action)

    def _view(self, record: Container) -> View:
        return View(
            lower=self._lower(record),
            upper=self._layout.upper(record.id),
            work=self._layout.work(record.id),
            place=self._layout.container(record.id),
            mounts=[
                _view_mount(point) for point in record.mounts if point.type in ("bind", "volume", "image")
            ],
        )

    def _lower(self, record: Container) -> list[str]:
        return self._layout.lower(record.layer_ids)

    def with_changes(self, record: Container, action: Callable[[int, int], Result]) -> Result:
        """Call ``action`` with descriptors of the upper directory and of the image (-1: it has no layers)."""
        upper = os.open(self._layout.upper(record.id), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            tree = open_layers(self._lower(record))
            lower = -1
            try:
                if tree >= 0:
                    # fsmount and open_tree give O_PATH descriptors, which cannot be listed
                    lower = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree)
                return action(upper, lower)
            finally:
                for fd in (lower, tree):
                    if fd >= 0:
                        os.close(fd)
        finally:
            os.close(upper)


def _view_mount(point: MountPoint) -> ViewMount:
    bind = point.spec.bind_options if point.spec is not None else None
    return ViewMount(
        source=point.source,
        destination=point.destination,
        writable=point.rw,
        recursive=not (bind is not None and bind.non_recursive),
    )
