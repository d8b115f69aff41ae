"""A container's files while it does not run: its overlay and its binds, mounted for one thread alone.

The thread gets a mount namespace of its own (unshare(2)), so nothing is mounted on the host, and the kernel
takes everything away with the thread, also after a crash.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from .mount import (
    MOUNT_ATTR_RDONLY,
    MS_PRIVATE,
    MS_REC,
    MS_SLAVE,
    attach,
    clone_tree,
    detached_overlay,
    mount,
    set_attributes,
)
from .paths import make_directories, make_file, open_in_root
from .syscalls import check, libc

_CLONE_NEWNS = 0x00020000

Result = TypeVar("Result")


class ViewMount(NamedTuple):
    """A bind of the container."""

    source: str
    destination: str
    writable: bool
    recursive: bool = True


class View(NamedTuple):
    """What to show. ``place`` is an existing directory of the host that the view hides from its thread."""

    lower: list[str]
    """Topmost first."""
    upper: str
    work: str
    place: str
    mounts: list[ViewMount]


def open_layers(lower: list[str]) -> int:
    """A read-only descriptor of stacked directories, topmost first; -1 when there is none."""
    return detached_overlay(lower) if lower else -1


def in_view(view: View, writable: bool, action: Callable[[int], Result]) -> Result:
    """Call ``action`` with a descriptor of the root, in a thread that sees the view. Blocks; raises what
    mounting or the action raises.

    Without ``writable`` the upper directory is only one more layer, so that a container which starts
    meanwhile does not share it with a second writable overlay, which overlayfs forbids. Mount points that do
    not exist yet have to be made, and so make the view writable.
    """
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(_run(view, writable, action))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            failure.append(error)

    thread = threading.Thread(target=run, name="container-view")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def _run(view: View, writable: bool, action: Callable[[int], Result]) -> Result:
    check(libc.unshare(ctypes.c_int(_CLONE_NEWNS)), "unshare")
    # nothing that is mounted from here on may reach the host's namespace
    mount("", "/", "", MS_REC | MS_SLAVE)
    trees = []
    root = -1
    try:
        for item in sorted(view.mounts, key=lambda item: item.destination.count("/")):
            tree = clone_tree(item.source, item.recursive)
            set_attributes(tree, propagation=MS_PRIVATE, recursive=item.recursive)
            if not item.writable:
                set_attributes(tree, add=MOUNT_ATTR_RDONLY, recursive=item.recursive)
            trees.append((tree, item))
        root = _open_root(view, writable)
        if not writable and any(_is_missing(root, item.destination) for _, item in trees):
            os.close(root)
            root = _open_root(view, True)
        place = os.open(view.place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            attach(root, place)
        finally:
            os.close(place)
        for tree, item in trees:
            _bind(root, tree, item)
        return action(root)
    finally:
        for tree, _ in trees:
            os.close(tree)
        if root >= 0:
            os.close(root)


def _open_root(view: View, writable: bool) -> int:
    if writable and view.lower:
        return detached_overlay(view.lower, view.upper, view.work)
    if writable:
        return clone_tree(view.upper, False)
    return detached_overlay([view.upper, *view.lower])


def _is_missing(root: int, path: str) -> bool:
    try:
        os.close(open_in_root(root, path))
    except OSError:
        return True
    return False


def _bind(root: int, tree: int, item: ViewMount) -> None:
    is_directory = os.path.isdir(item.source)
    target = make_directories(root, item.destination) if is_directory else make_file(root, item.destination)
    try:
        attach(tree, target)
    finally:
        os.close(target)
