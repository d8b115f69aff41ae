"""``sampan registry serve`` as a process, as a user starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

LAUNCHER = Path(__file__).parents[2] / "packaging" / "sampan"
_LISTENING = re.compile(r'msg="listening on ([0-9.:]+)')
_READY = "the registry serves"


class ServedRegistry:
    """``with ServedRegistry(folder, toml) as registry``: serves at ``registry.host``."""

    def __init__(self, folder: Path, settings: str = "") -> None:
        """``settings``: what the file has beside the addresses and the root."""
        self.folder = folder
        self.socket = f"unix://{folder}/admin.sock"
        self.path = folder / "registry.toml"
        self.log: list[str] = []
        self.host = ""
        self._environment = {**os.environ, "SAMPAN_PYTHON": sys.executable, "SAMPAN_REGISTRY": self.socket}
        self._environment.pop("NOTIFY_SOCKET", None)
        addresses = f'listen = "127.0.0.1:0"\nadmin-socket = "{folder}/admin.sock"\n'
        self.path.write_text(f'{addresses}root = "{folder}/root"\n{settings}')
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> ServedRegistry:
        self._process = subprocess.Popen(
            [str(LAUNCHER), "registry", "serve", "--config", str(self.path)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
        )
        self.read_until(_READY)
        self.host = next(found[1] for line in self.log if (found := _LISTENING.search(line)))
        return self

    def read_until(self, text: str) -> str:
        """The first line of the log with the text that was not read before."""
        assert self._process is not None
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.log.append(line)
            if text in line:
                return line
        raise AssertionError(f"the registry has ended without {text!r}:\n{''.join(self.log)}")

    def reload(self) -> str:
        """SIGHUP; what the log says of it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)
        return self.read_until("settings")

    def command(self, *words: str, code: int = 0, stdin: str = "") -> str:
        """``sampan registry …`` on this machine; standard output."""
        ended = subprocess.run(
            [str(LAUNCHER), "registry", *words],
            input=stdin,
            capture_output=True,
            text=True,
            env=self._environment,
            timeout=60,
            check=False,
        )
        assert ended.returncode == code, (words, ended)
        return ended.stdout

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        assert self._process.stderr is not None
        self._process.send_signal(signal.SIGTERM)
        self.log += self._process.stderr.readlines()
        self._process.stderr.close()
        return self._process.wait(30)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.returncode is None:
            status = self.stop()
            assert status == 0 or error is not None, "".join(self.log)
