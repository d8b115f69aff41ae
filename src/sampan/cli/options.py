"""Command-line options as tables: parsing, help texts and completion all read the same rows.

The syntax is that of Docker's client (POSIX short options, which combine, and GNU long ones): ``-it``,
``-n5``, ``-n 5``, ``--tail=5``, ``--tail 5``, ``--sig-proxy=false``, ``--``.
"""

from __future__ import annotations

from sampan.cli.failure import UsageFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from sampan.cli.session import Session

    Check = Callable[[str], Any]
    Run = Callable[[Session, "Values", list[str]], int]

BOOL = "bool"
STRING = "string"
INT = "int"
LIST = "list"

_TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))
_FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))


class Option:
    """One row. ``kind`` is shown in help; a kind other than bool takes a value.

    ``repeats`` collects a list; otherwise the last one counts. ``stores`` names the option this one is
    another spelling of. ``check`` turns the text into the value and
    raises ValueError with the reason. ``complete`` names what a shell offers for the value.
    """

    __slots__ = (
        "check",
        "complete",
        "default",
        "help",
        "hidden",
        "kind",
        "name",
        "repeats",
        "short",
        "stores",
    )

    def __init__(
        self,
        name: str,
        short: str = "",
        kind: str = STRING,
        help: str = "",  # noqa: A002 - the word that a reader of the tables expects
        *,
        default: bool | int | str | None = None,
        repeats: bool = False,
        check: Check | None = None,
        complete: str = "",
        hidden: bool = False,
        stores: str = "",
    ) -> None:
        self.name = name
        self.short = short
        self.kind = kind
        self.help = help
        self.default = default
        self.repeats = repeats or kind == LIST
        self.check = check
        self.complete = complete
        self.hidden = hidden
        self.stores = stores or name

    @property
    def label(self) -> str:
        return f"-{self.short}, --{self.name}" if self.short else f"--{self.name}"


PLATFORM = Option("platform", "", STRING, "Platform of the image, OS/ARCH[/VARIANT]")


class Command:
    """A command: its words, its options and what runs it."""

    __slots__ = (
        "complete",
        "examples",
        "interspersed",
        "maximum",
        "minimum",
        "options",
        "path",
        "run",
        "status",
        "summary",
        "usage",
    )

    def __init__(
        self,
        path: str,
        usage: str,
        summary: str,
        run: Run,
        options: Sequence[Option] = (),
        *,
        minimum: int = 0,
        maximum: int | None = None,
        interspersed: bool = True,
        complete: str = "",
        examples: Sequence[str] = (),
        status: int = 1,
    ) -> None:
        self.path = path
        self.usage = usage
        self.summary = summary
        self.run = run
        self.options = options
        self.minimum = minimum
        self.maximum = maximum
        self.interspersed = interspersed
        self.complete = complete
        self.examples = examples
        self.status = status


class Values:
    """What was given on the command line, by option name."""

    __slots__ = ("_options", "_values", "command")

    def __init__(self, command: str, options: Sequence[Option]) -> None:
        self.command = command
        self._options = {option.name: option for option in options}
        self._values: dict[str, Any] = {}

    def put(self, option: Option, value: Any) -> None:
        if option.repeats:
            self._values.setdefault(option.stores, []).append(value)
        else:
            self._values[option.stores] = value

    def given(self, name: str) -> bool:
        return name in self._values

    def flag(self, name: str) -> bool:
        value = self._values.get(name)
        return bool(self._options[name].default) if value is None else bool(value)

    def text(self, name: str) -> str:
        value = self._values.get(name)
        return str(self._options[name].default or "") if value is None else str(value)

    def number(self, name: str) -> int:
        value = self._values.get(name)
        return int(self._options[name].default or 0) if value is None else int(value)

    def many(self, name: str) -> list[Any]:
        """The checked values of a repeated option, in order."""
        return list(self._values.get(name, ()))


def boolean(text: str) -> bool:
    """As Go's ParseBool. Raises ValueError."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def integer(text: str) -> int:
    """A decimal integer, or one with Go's prefix 0x, 0o, 0b or 0. Raises ValueError."""
    try:
        digits = text.lstrip("+-")
        if len(digits) > 1 and digits[0] == "0" and digits.isdigit():
            return int(text, 8)
        value = int(text, 0)
    except ValueError:
        raise ValueError(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f'strconv.ParseInt: parsing "{text}": value out of range')
    return value


_CHECKS: dict[str, Check] = {BOOL: boolean, INT: integer}


def _checked(option: Option, text: str) -> Any:
    check = option.check or _CHECKS.get(option.kind)
    if check is None:
        return text
    try:
        return check(text)
    except ValueError as error:
        raise UsageFailure(f'invalid argument "{text}" for "{option.label}" flag: {error}', 125) from None


class _Parser:
    def __init__(self, command: Command, arguments: list[str]) -> None:
        self.by_name = {option.name: option for option in command.options}
        self.by_short = {option.short: option for option in command.options if option.short}
        self.values = Values(command.path, command.options)
        self.rest = arguments
        self.index = 0

    def next_value(self, label: str) -> str:
        if self.index >= len(self.rest):
            raise UsageFailure(f"flag needs an argument: {label}", 125)
        self.index += 1
        return self.rest[self.index - 1]

    def long(self, text: str) -> None:
        name, mark, value = text[2:].partition("=")
        option = self.by_name.get(name)
        if option is None:
            if name == "help":
                raise HelpWanted
            raise UsageFailure(f"unknown flag: --{name}{suggestion('--' + name, self.spelled())}", 125)
        if not mark:
            value = "true" if option.kind == BOOL else self.next_value("--" + name)
        self.values.put(option, _checked(option, value))

    def shorts(self, text: str) -> None:
        position = 1
        while position < len(text):
            letter = text[position]
            position += 1
            option = self.by_short.get(letter)
            if option is None:
                if letter == "h" and len(text) == 2:
                    raise HelpWanted
                raise UsageFailure(f"unknown shorthand flag: '{letter}' in {text}", 125)
            remainder = text[position:]
            if option.kind == BOOL and not remainder.startswith("="):
                self.values.put(option, True)
                continue
            value = remainder.removeprefix("=") if remainder else self.next_value(f"'{letter}' in {text}")
            self.values.put(option, _checked(option, value))
            return

    def spelled(self) -> list[str]:
        return ["--" + name for name, option in self.by_name.items() if not option.hidden]


class HelpWanted(Exception):
    """--help (or -h where no option has that letter) was given."""


def parse(command: Command, arguments: list[str]) -> tuple[Values, list[str]]:
    """The options and the remaining words. Raises UsageFailure, HelpWanted."""
    parser = _Parser(command, arguments)
    words: list[str] = []
    while parser.index < len(arguments):
        text = arguments[parser.index]
        parser.index += 1
        if text == "--":
            words += arguments[parser.index :]
            break
        if text.startswith("--"):
            parser.long(text)
        elif len(text) > 1 and text[0] == "-":
            parser.shorts(text)
        elif command.interspersed:
            words.append(text)
        else:
            words += arguments[parser.index - 1 :]
            break
    _check_count(command, len(words))
    return parser.values, words


def _check_count(command: Command, count: int) -> None:
    low, high = command.minimum, command.maximum
    if count >= low and (high is None or count <= high):
        return
    if low == high:
        wanted = "no arguments" if not low else f"{low} argument{'s' if low > 1 else ''}"
        text = f"'sampan {command.path}' {'accepts' if not low else 'requires'} {wanted}"
    elif count < low:
        text = f"'sampan {command.path}' requires at least {low} argument{'s' if low > 1 else ''}"
    else:
        text = f"'sampan {command.path}' requires at most {high} argument{'s' if high != 1 else ''}"
    raise UsageFailure(text, 1)


def suggestion(wrong: str, known: Sequence[str]) -> str:
    """``. Did you mean X?`` when something known is close to what was typed, else nothing."""
    from sampan.cli.spelling import nearest

    found = nearest(wrong, known)
    return f"\n\nDid you mean {' or '.join(found)}?" if found else ""
