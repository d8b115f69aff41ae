"""Signal names and numbers as clients write them."""

from __future__ import annotations

import signal

from sampan.base.errors import InvalidArgument

# by name without SIG; the real-time ones as moby/sys/signal spells them
_NUMBERS = {s.name.removeprefix("SIG"): int(s) for s in signal.Signals if s.name.startswith("SIG")}
_NUMBERS |= {f"RTMIN+{n}": int(signal.SIGRTMIN) + n for n in range(1, 16)}
_NUMBERS |= {f"RTMAX-{n}": int(signal.SIGRTMAX) - n for n in range(1, 15)}
_NUMBERS |= {"CLD": int(signal.SIGCHLD), "POLL": int(signal.SIGIO), "IOT": int(signal.SIGABRT), "STKFLT": 16}
HIGHEST = int(signal.SIGRTMAX)


class InvalidSignal(InvalidArgument):
    def __init__(self, text: str) -> None:
        super().__init__(f"invalid signal: {text}")


def parse_signal(text: str) -> int:
    """``KILL``, ``SIGKILL``, ``sigkill`` or ``9``. Raises InvalidSignal."""
    if text.isascii() and text.isdigit():
        number = int(text)
        if not 0 < number <= HIGHEST:
            raise InvalidSignal(text)
        return number
    number = _NUMBERS.get(text.upper().removeprefix("SIG"), 0)
    if not number:
        raise InvalidSignal(text)
    return number
