"""How much disk a tree takes."""

from __future__ import annotations

import os


def tree_size_bytes(path: str) -> int:
    """Apparent size of the regular files, each inode once, symlinks not followed; 0 for what is not there.

    Files that vanish while we look are not counted.
    """
    total = 0
    seen: set[tuple[int, int]] = set()
    pending = [path]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                        continue
                    status = entry.stat(follow_symlinks=False)
                    if status.st_nlink > 1:
                        key = (status.st_dev, status.st_ino)
                        if key in seen:
                            continue
                        seen.add(key)
                    total += status.st_size
        except (FileNotFoundError, NotADirectoryError):
            continue
    return total
