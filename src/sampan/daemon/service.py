"""The life of the daemon inside the event loop: build, recover, listen, reload, stop."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

from sampan.front.docker.app import DockerApi
from sampan.front.docker.server import Server, make_server

from . import logs
from .notify import notify
from .options import SettingError
from .settings import Settings, reloaded
from .sockets import Listeners
from .wiring import Platform, build

if TYPE_CHECKING:
    from sampan.runtime.monitors import Spawner

log = logging.getLogger(__name__)
FORCED = 130
"""Exit status after the second signal to stop."""


class Service:
    """One daemon."""

    def __init__(self, settings: Settings, spawner: Spawner) -> None:
        self._settings = settings
        self._spawner = spawner
        self._stop = asyncio.Event()
        self._signals = 0
        self._platform: Platform | None = None

    async def run(self) -> int:
        """Until told to stop. Raises SettingError when it cannot start."""
        self._catch_signals()
        platform = build(self._settings, self._spawner)
        try:
            await platform.start()
        except BaseException:
            await platform.stop()
            raise
        server = make_server(DockerApi(platform.engine).handle)
        listeners = Listeners(self._settings)
        try:
            await listeners.open(server, os.environ)
            log.info("Daemon has completed initialization")
            notify(f"READY=1\nMAINPID={os.getpid()}", os.environ)
            _settle_memory()
            self._platform = platform
            await self._stop.wait()
        finally:
            notify("STOPPING=1", os.environ)
            await self._shut_down(listeners, server, platform)
        return 0

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_asked, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        faulthandler.register(signal.SIGUSR1, file=sys.stderr, all_threads=True)

    def _stop_asked(self, number: int) -> None:
        self._signals += 1
        if self._signals > 1:
            log.warning("second signal to stop: ending at once")
            os._exit(FORCED)
        log.info("Processing signal '%s': containers keep running", signal.Signals(number).name)
        self._stop.set()

    def _reload(self) -> None:
        """SIGHUP: the reloadable settings again from the file."""
        try:
            settings, changed = reloaded(self._settings)
            if self._platform is not None:
                self._platform.reload(settings)
        except SettingError as error:
            log.error("cannot reload the configuration: %s", error)
            return
        self._settings = settings
        logs.set_level(settings.log_level, debug=settings.debug)
        log.info("Reloaded configuration from %s: %s", self._settings.config_file or "-", ", ".join(changed))

    async def _shut_down(self, listeners: Listeners, server: Server, platform: Platform) -> None:
        """Finish what clients have asked for, within the time allowed; leave containers alone."""
        await listeners.close()
        server.pre_shutdown()
        await _finish_connections(server, self._settings.shutdown_timeout)
        await platform.stop()


async def _finish_connections(server: Server, timeout_s: int) -> None:
    """Streams that follow something without end are cut first: nothing will come through them any more."""
    for connection in server.connections:
        connection.cut_endless()  # type: ignore[attr-defined]
    await server.shutdown(timeout_s)


def _settle_memory() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()
