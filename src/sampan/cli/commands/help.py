"""Help texts, made from the command tables."""

from __future__ import annotations

import posix

from sampan.cli.failure import Failure
from sampan.cli.globals import GLOBALS
from sampan.cli.options import BOOL, INT, Command, Option, Values
from sampan.cli.session import Session, environment, is_terminal

_COMMON = ("run", "exec", "ps", "images", "pull", "version", "info")


def _width() -> int:
    if not is_terminal(1):
        return 80
    try:
        return max(60, min(posix.get_terminal_size(1)[0], 120))
    except OSError:
        return 80


def _bold(text: str) -> str:
    if is_terminal(1) and not environment("NO_COLOR") and environment("TERM") != "dumb":
        return f"\x1b[1m{text}\x1b[0m"
    return text


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` characters, broken at spaces; line breaks in the text stay."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            if line and len(line) + 1 + len(word) > width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}" if line else word
        lines.append(line)
    return lines


def option_label(option: Option) -> str:
    short = f"-{option.short}, " if option.short else "    "
    return f"{short}--{option.name}" + ("" if option.kind == BOOL else f" {option.kind}")


def option_default(option: Option) -> str:
    if option.default in (None, False, "", 0):
        return ""
    shown = "true" if option.default is True else str(option.default)
    return f" (default {shown})" if option.kind in (INT, BOOL) else f' (default "{shown}")'


def option_lines(options: tuple[Option, ...], width: int) -> list[str]:
    shown = sorted((option for option in options if not option.hidden), key=lambda option: option.name)
    indent = max((len(option_label(option)) for option in shown), default=0) + 3
    lines = []
    for option in shown:
        texts = wrap(option.help + option_default(option), max(30, width - indent - 2))
        lines.append(f"  {option_label(option):<{indent}}{texts[0]}")
        lines += [" " * (indent + 2) + text for text in texts[1:]]
    return lines


def show_command(command: Command, called: str) -> int:
    print(f"{_bold('Usage:')}  sampan {called} {command.usage}".rstrip())
    print(f"\n{command.summary}")
    aliases = names_of(command)
    if len(aliases) > 1:
        print(f"\n{_bold('Aliases:')}\n  " + ", ".join(f"sampan {name}" for name in aliases))
    if command.options:
        print(f"\n{_bold('Options:')}")
        print("\n".join(option_lines(tuple(command.options), _width())))
    if command.examples:
        print(f"\n{_bold('Examples:')}")
        print("\n".join(f"  {example}" for example in command.examples))
    return 0


def names_of(command: Command) -> list[str]:
    """Every way to call a command, aliases included."""
    from sampan.cli.main import ALIASES, GROUPS, TOP, load

    names = [word for word, entry in TOP.items() if load(entry) is command]
    for group, members in GROUPS.items():
        for word, entry in members.items():
            if load(entry) is command:
                names.append(f"{group} {word}")
                names += [
                    f"{group} {alias}" for (of, alias), real in ALIASES.items() if (of, real) == (group, word)
                ]
    return names


def _entries(words: list[tuple[str, str]]) -> list[str]:
    indent = max(len(word) for word, _ in words) + 2
    return [f"  {word:<{indent}}{summary}" for word, summary in words]


def show_group(group: str) -> int:
    from sampan.cli.main import GROUPS, SUMMARIES, load

    print(f"{_bold('Usage:')}  sampan {group} COMMAND\n\n{SUMMARIES[group]}\n\n{_bold('Commands:')}")
    print("\n".join(_entries([(word, load(entry).summary) for word, entry in sorted(GROUPS[group].items())])))
    print(f"\nRun 'sampan {group} COMMAND --help' for more information on a command.")
    return 0


def show_overview() -> int:
    from sampan.cli.main import SUMMARIES, TOP, load

    print(f"{_bold('Usage:')}  sampan [OPTIONS] COMMAND\n\nRuns containers.")
    common = [(word, load(TOP[word]).summary) for word in _COMMON]
    others = [(word, load(entry).summary) for word, entry in sorted(TOP.items()) if word not in _COMMON]
    for title, words in (
        ("Common Commands:", common),
        ("Management Commands:", sorted(SUMMARIES.items())),
        ("Commands:", others),
    ):
        print(f"\n{_bold(title)}")
        print("\n".join(_entries(words)))
    print(f"\n{_bold('Global Options:')}")
    print("\n".join(option_lines(GLOBALS, _width())))
    print("\nRun 'sampan COMMAND --help' for more information on a command.")
    return 0


def show_help(session: Session, values: Values, words: list[str]) -> int:
    from sampan.cli.main import GROUPS, find

    if not words:
        return show_overview()
    if words[0] in GROUPS and len(words) == 1:
        return show_group(words[0])
    command, called, rest = find(words)
    if rest:
        raise Failure(f"no help for {' '.join(words)!r}: 'sampan {called}' has no subcommands")
    return show_command(command, called)


HELP = Command("help", "[COMMAND]", "Help about a command", show_help, complete="command")
