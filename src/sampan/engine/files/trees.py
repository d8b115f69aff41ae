"""Deleting directories that belong to nobody any more."""

from __future__ import annotations

import asyncio
import os
import shutil

AT_ONCE = 64
"""Entries that are deleted without a thread: the thread would cost more than the work."""


async def remove_tree(path: str) -> None:
    """Delete a tree, a large one in a thread. Idempotent. Raises OSError."""
    try:
        if remove_within(path, AT_ONCE) < 0:
            await asyncio.to_thread(shutil.rmtree, path)
    except FileNotFoundError:
        if os.path.lexists(path):
            raise


def remove_within(path: str, budget: int) -> int:
    """Delete a tree of at most ``budget`` entries. What is left of the budget; below zero it was given
    up half way. Links are deleted, never followed. Nobody else may be changing the tree."""
    with os.scandir(path) as entries:
        listed = list(entries)
    budget -= len(listed)
    if budget < 0:
        return budget
    for entry in listed:
        if entry.is_dir(follow_symlinks=False):
            budget = remove_within(entry.path, budget)
            if budget < 0:
                return budget
        else:
            os.unlink(entry.path)
    os.rmdir(path)
    return budget
