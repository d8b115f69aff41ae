"""``python -m sampan.daemon.registry``, which ``sampan registry serve`` becomes."""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
from collections.abc import Sequence

from sampan.base.errors import SampanError
from sampan.daemon import logs
from sampan.daemon.options import SettingError

from .sections import Settings
from .settings import help_text, load


def main(argv: Sequence[str] | None = None) -> int:
    """The program. Returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "--help" in words or "-h" in words:
        print(help_text())
        return 0
    try:
        settings, only_check = load(words)
    except SettingError as error:
        print(error, file=sys.stderr)
        return 1
    if only_check:
        print("configuration OK")
        return 0
    return run(settings, words)


def run(settings: Settings, words: Sequence[str]) -> int:
    import uvloop

    from .service import Service

    logs.set_up(settings.log_level, settings.log_format, debug=False)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(Service(settings, words).run())
    except (SettingError, SampanError) as error:
        print(f"failed to start the registry: {error}", file=sys.stderr)
        return 1
