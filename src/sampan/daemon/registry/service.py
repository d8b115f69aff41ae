"""The life of the registry inside the event loop: build, listen, reload, stop."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence

from sampan.daemon import logs
from sampan.daemon.notify import notify
from sampan.daemon.options import SettingError
from sampan.front.registry.server import Server, make_server

from .house import House
from .listeners import Listeners
from .sections import Settings
from .settings import load

log = logging.getLogger(__name__)
FORCED = 130
"""Exit status after the second signal to stop."""


class Service:
    """One registry."""

    def __init__(self, settings: Settings, words: Sequence[str]) -> None:
        """``words``: the command line, read again with the file at SIGHUP."""
        self._settings = settings
        self._words = words
        self._stop = asyncio.Event()
        self._signals = 0

    async def run(self) -> int:
        """Until told to stop. Raises SettingError and SampanError when it cannot start."""
        listeners = Listeners(self._settings)
        house = await House.open(self._settings)
        try:
            self._catch_signals(listeners, house)
            servers = [make_server(handle) for handle in house.handlers()]
            try:
                await listeners.open(servers[0], servers[1], os.environ)
                self._warn()
                house.start()
                notify(f"READY=1\nMAINPID={os.getpid()}", os.environ)
                log.info("the registry serves %s", self._settings.root)
                _settle_memory()
                await self._stop.wait()
            finally:
                notify("STOPPING=1", os.environ)
                await self._finish(listeners, servers)
        finally:
            await house.close()
        return 0

    async def _finish(self, listeners: Listeners, servers: Sequence[Server]) -> None:
        """What clients have asked for, within the time allowed."""
        await listeners.close()
        for server in servers:
            server.pre_shutdown()
        timeout_s = self._settings.shutdown_timeout.seconds
        await asyncio.gather(*(server.shutdown(timeout_s) for server in servers))

    def _warn(self) -> None:
        settings = self._settings
        if settings.is_local:
            return
        if settings.is_open:
            log.warning("whoever reaches the registry may pull, push and delete: set [auth]")
        elif settings.tls is None and not settings.public_url.startswith("https://"):
            log.warning("passwords and tokens come without TLS: set [tls], or public-url behind a proxy")

    def _catch_signals(self, listeners: Listeners, house: House) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_asked, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload, listeners, house)
        faulthandler.register(signal.SIGUSR1, file=sys.stderr, all_threads=True)

    def _stop_asked(self, number: int) -> None:
        self._signals += 1
        if self._signals > 1:
            log.warning("second signal to stop: ending at once")
            os._exit(FORCED)
        log.info("stopping: %s", signal.Signals(number).name)
        self._stop.set()

    def _reload(self, listeners: Listeners, house: House) -> None:
        """SIGHUP: rules, policies, intervals and the certificate again; the rest needs a new start."""
        try:
            settings, _ = load(self._words)
            listeners.reload(settings)
            left = house.reload(settings)
        except SettingError as error:
            log.error("the settings stay as they were: %s", error)
            return
        logs.set_level(settings.log_level, debug=False)
        log.info("settings read again%s", f"; a new start is needed for {', '.join(left)}" if left else "")


def _settle_memory() -> None:
    """What start-up has made stays and is looked at by no collection any more."""
    gc.collect()
    gc.freeze()
    gc.enable()
