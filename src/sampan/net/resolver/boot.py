"""How the process begins: away from the daemon, which does not wait for it.

Standard library only.
"""

from __future__ import annotations

import gc
import os


def boot(path: str, version: str, ready_fd: int) -> None:
    """Go on as a process of init's in a session of its own. The process that was
    started ends here."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.set_inheritable(ready_fd, False)
    from .server import main

    gc.freeze()
    main(path, version, ready_fd)
