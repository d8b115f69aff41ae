"""How a command ends when it does not succeed: a message for people and an exit status for scripts."""

from __future__ import annotations


class Failure(Exception):
    """Ends the command. ``message`` may be empty when the status says everything."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


class UsageFailure(Failure):
    """The command line is wrong; the usage line is shown below the message."""


class Refused(Failure):
    """The daemon answered with an error. ``code`` is the HTTP status."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(f"Error response from daemon: {message}")
        self.reason = message
        self.code = code


class Unreachable(Failure):
    """No daemon answers at the address."""
