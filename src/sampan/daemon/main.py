"""``sampand``: from the command line to a daemon that listens, and back.

Containers keep running when the daemon ends, by design: each belongs to its own monitor process, and the
next daemon finds them again.
"""

from __future__ import annotations

import gc
import os
import resource
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sampan import __version__
from sampan.base.errors import SampanError

from .notify import remove_pidfile, write_pidfile
from .options import SettingError
from .settings import Settings, help_text, load

if TYPE_CHECKING:
    from sampan.runtime.monitors import Spawner

API_VERSION = "1.51"


def main(argv: Sequence[str] | None = None) -> int:
    """The program. Returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "--help" in words or "-h" in words:
        print(help_text())
        return 0
    if "--version" in words or "-v" in words:
        print(f"Sampan version {__version__}, Docker Engine API {API_VERSION}")
        return 0
    try:
        settings = load(words, os.environ)
    except SettingError as error:
        print(error, file=sys.stderr)
        return 1
    if settings.validate:
        print("configuration OK")
        return 0
    return run(settings)


def run(settings: Settings) -> int:
    """Start the spawner while this process is small, then everything else."""
    if os.geteuid() != 0:
        print("sampand needs to be started with root privileges", file=sys.stderr)
        return 1
    try:
        _make_directories(settings)
        write_pidfile(settings.pid_path)
    except (SettingError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    try:
        return _run_with_pidfile(settings)
    finally:
        remove_pidfile(settings.pid_path)


def _run_with_pidfile(settings: Settings) -> int:
    from sampan.runtime.monitors import Spawner

    from .logs import set_up

    set_up(settings.log_level, settings.log_format, debug=settings.debug)
    spawner = Spawner()
    spawner.start()
    try:
        return _serve(settings, spawner)
    except (SettingError, SampanError) as error:
        print(f"failed to start daemon: {error}", file=sys.stderr)
        return 1
    finally:
        spawner.stop()


def _serve(settings: Settings, spawner: Spawner) -> int:
    import asyncio

    import uvloop

    from .service import Service

    _allow_descriptors()
    # Collections during start-up find nothing; afterwards what was loaded stays and is looked at no more.
    gc.disable()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Service(settings, spawner).run())


def _allow_descriptors() -> None:
    """Every running container and every published port keeps one open, and select(2) is not used here. Not
    before the spawner has started: containers inherit its limits."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _make_directories(settings: Settings) -> None:
    os.makedirs(settings.exec_root, mode=0o711, exist_ok=True)
    os.makedirs(settings.data_root, mode=0o710, exist_ok=True)
    # Images bring setuid programs: no user of the host may get at them (CVE-2021-41091). As dockerd does,
    # also for a directory that was there before.
    os.chmod(settings.data_root, 0o710)


if __name__ == "__main__":
    sys.exit(main())
