"""Writes docs/cli.md from the command tables: ``python -m sampan.cli.reference > docs/cli.md``."""

from __future__ import annotations

import sys

from sampan.cli.commands.help import names_of, option_default
from sampan.cli.globals import GLOBALS
from sampan.cli.main import GROUPS, NOT_YET, SUMMARIES, TOP, load
from sampan.cli.options import BOOL, Command, Option

_INTRODUCTION = """\
# The sampan command

This page is made from the command's own option tables; do not edit it.
`python -m sampan.cli.reference > docs/cli.md` writes it again.

`sampan` is a client of the Docker Engine API. It speaks to the daemon at the address of `-H`, else of
`SAMPAN_HOST`, else of `DOCKER_HOST`, else at `unix:///run/sampan/sampan.sock`. Addresses are `unix:///PATH`
and `tcp://HOST:PORT`, the latter with TLS when `--tls` or `--tlsverify` is given or `DOCKER_TLS_VERIFY` is
set (certificates from `DOCKER_CERT_PATH` or `~/.docker`).

Commands, options and their meaning are those of Docker's client; a command line that works there works here.

## Output

- Lists are tables. `--format` takes `table`, `table TEMPLATE`, `json` or a Go template, such as
  `--format '{{.Names}}: {{.Status}}'`; `--json` prints one JSON object per line.
- Templates know fields, variables, pipelines, `if`, `else`, `range`, `with`, `break`, `continue`, the
  comparisons, `and`, `or`, `not`, and the functions `index`, `len`, `slice`, `print`, `printf`, `println`,
  `json`, `join`, `split`, `lower`, `upper`, `title`, `pad` and `truncate`.
- Colours and progress in place appear on a terminal only, and colours not when `NO_COLOR` is set.

## Exit status

- 0: done. 1: the daemon refused, or some of several objects failed. 125: the options are wrong.
- `run`, `start -a`, `attach` and `exec` answer the status of the process. `run` answers 125 when the
  container could not be created or started, 126 when its command cannot be run, 127 when its command does
  not exist.

## Global options

"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _option_row(option: Option) -> str:
    spelled = f"`-{option.short}`, `--{option.name}`" if option.short else f"`--{option.name}`"
    kind = "" if option.kind == BOOL else f"`{option.kind}`"
    return f"| {spelled} | {kind} | {_cell(option.help + option_default(option))} |"


def _options(options: tuple[Option, ...]) -> list[str]:
    shown = sorted((option for option in options if not option.hidden), key=lambda option: option.name)
    if not shown:
        return []
    return ["| Option | Value | |", "|---|---|---|", *map(_option_row, shown), ""]


def _command(command: Command) -> list[str]:
    names = names_of(command)
    lines = [f"### sampan {names[0]}", "", f"{command.summary}.", ""]
    lines += ["```", f"sampan {names[0]} {command.usage}".rstrip(), "```", ""]
    if len(names) > 1:
        lines += ["Also: " + ", ".join(f"`sampan {name}`" for name in names[1:]), ""]
    lines += _options(tuple(command.options))
    if command.examples:
        lines += ["```", *command.examples, "```", ""]
    return lines


def reference() -> str:
    """The whole page."""
    lines = [_INTRODUCTION + "\n".join(_options(GLOBALS))]
    done: list[Command] = []
    sections = [("Commands", sorted(TOP.items()))]
    sections += [(SUMMARIES[group], sorted(members.items())) for group, members in GROUPS.items()]
    for title, members in sections:
        commands = [load(entry) for _, entry in members]
        fresh = [command for command in commands if command not in done]
        done += fresh
        lines += [f"## {title}", ""]
        for command in fresh:
            lines += _command(command)
    lines += ["## Docker's commands that do not exist yet", ""]
    lines += [f"- `{word}`: {text}" for word, text in sorted(NOT_YET.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
