"""``--change`` of commit and import: the Dockerfile instructions that alter a config and need no build.

Grammar: Dockerfile reference (CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER,
VOLUME, WORKDIR), with its quoting and ``$VARIABLE`` substitution.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Sequence

import msgspec

from sampan.base.errors import InvalidArgument
from sampan.model.container import ContainerConfig, HealthConfig

_DEFAULT_SHELL = ["/bin/sh", "-c"]
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_json_words = msgspec.json.Decoder(list[str]).decode


class BadChange(InvalidArgument):
    """An instruction that a change may not be, or that is written wrongly."""


class _State:
    """The config while it is being changed."""

    def __init__(self, config: ContainerConfig) -> None:
        self.config = config
        self.cmd_set = False

    def set(self, **fields: object) -> None:
        self.config = msgspec.structs.replace(self.config, **fields)

    @property
    def env(self) -> dict[str, str]:
        return dict(item.partition("=")[::2] for item in self.config.env or ())


def apply_changes(config: ContainerConfig, changes: Sequence[str]) -> ContainerConfig:
    """The config after all instructions, in order. Raises BadChange."""
    state = _State(config)
    for line in "\n".join(changes).splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        word, _, rest = text.partition(" ")
        handler = _HANDLERS.get(word.upper())
        if handler is None:
            raise BadChange(f"{word} is not a valid change command")
        rest = rest.strip()
        if not rest:
            raise BadChange(f"{word.upper()} requires at least one argument")
        handler(state, rest)
    return state.config


def _words_or_shell(state: _State, text: str) -> list[str]:
    """The JSON form, or a line for the shell."""
    words = _json_list(text)
    if words is not None:
        return words
    return [*(state.config.shell or _DEFAULT_SHELL), text]


def _json_list(text: str) -> list[str] | None:
    if not text.startswith("["):
        return None
    try:
        return _json_words(text.encode())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _cmd(state: _State, text: str) -> None:
    state.set(cmd=_words_or_shell(state, text))
    state.cmd_set = True


def _entrypoint(state: _State, text: str) -> None:
    state.set(entrypoint=_words_or_shell(state, text))
    if not state.cmd_set:
        # an inherited CMD was meant for the former entry point
        state.set(cmd=None)


def _env(state: _State, text: str) -> None:
    env = state.env
    for name, value in _pairs(state, text, "ENV"):
        env[name] = value
    state.set(env=[f"{name}={value}" for name, value in env.items()])


def _label(state: _State, text: str) -> None:
    state.set(labels={**(state.config.labels or {}), **dict(_pairs(state, text, "LABEL"))})


def _expose(state: _State, text: str) -> None:
    ports = dict(state.config.exposed_ports or {})
    for word in _split(text, state.env):
        match = _PORT.fullmatch(word.rpartition(":")[2])
        if match is None:
            raise BadChange(f"invalid containerPort: {word}")
        first, last = int(match[1]), int(match[2] or match[1])
        if not 0 < first <= last <= 65535:
            raise BadChange(f"invalid range format: {word}")
        for port in range(first, last + 1):
            ports[f"{port}/{(match[3] or 'tcp').lower()}"] = {}
    state.set(exposed_ports=ports)


def _user(state: _State, text: str) -> None:
    state.set(user=_single(state, text, "USER"))


def _stop_signal(state: _State, text: str) -> None:
    signal = _single(state, text, "STOPSIGNAL")
    if not re.fullmatch(r"(?:SIG)?[A-Z][A-Z0-9+-]*|\d{1,2}", signal, re.IGNORECASE):
        raise BadChange(f"Invalid signal: {signal}")
    state.set(stop_signal=signal)


def _workdir(state: _State, text: str) -> None:
    path = " ".join(_split(text, state.env))
    state.set(working_dir=posixpath.normpath(posixpath.join("/", state.config.working_dir, path)))


def _volume(state: _State, text: str) -> None:
    words = _json_list(text)
    if words is None:
        words = _split(text, state.env)
    volumes = dict(state.config.volumes or {})
    for word in words:
        if not word.strip():
            raise BadChange("VOLUME specified can not be an empty string")
        volumes[word.strip()] = {}
    state.set(volumes=volumes)


def _on_build(state: _State, text: str) -> None:
    trigger = text.split()[0].upper()
    if trigger == "ONBUILD":
        raise BadChange("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("FROM", "MAINTAINER"):
        raise BadChange(f"{trigger} isn't allowed as an ONBUILD trigger")
    state.set(on_build=[*(state.config.on_build or ()), text])


def _healthcheck(state: _State, text: str) -> None:
    options: dict[str, int] = {}
    while match := re.match(r"--([a-z-]+)=(\S+)\s*", text):
        name, value = match[1], match[2]
        if name == "retries":
            if not value.isdigit():
                raise BadChange(f"--retries cannot be negative or not a number ({value})")
            options["retries"] = int(value)
        elif name in ("interval", "timeout", "start-period", "start-interval"):
            options[name.replace("-", "_")] = _duration(name, value)
        else:
            raise BadChange(f"unknown flag: --{name}")
        text = text[match.end() :]
    kind, _, command = text.partition(" ")
    command = command.strip()
    if kind.upper() == "NONE":
        if command or options:
            raise BadChange("HEALTHCHECK NONE takes no arguments")
        state.set(healthcheck=HealthConfig(test=["NONE"]))
        return
    if kind.upper() != "CMD":
        raise BadChange(f'Unknown type "{kind.upper()}" in HEALTHCHECK (try CMD)')
    if not command:
        raise BadChange("Missing command after HEALTHCHECK CMD")
    words = _json_list(command)
    test = ["CMD-SHELL", command] if words is None else ["CMD", *words]
    state.set(healthcheck=HealthConfig(test=test, **options))


def _duration(name: str, text: str) -> int:
    """Nanoseconds of Go's ``1m30s``."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise BadChange(f'time: invalid duration "{text}"')
    total = sum(int(float(number) * _UNITS[unit]) for number, unit in parts)
    if 0 < total < 10**6:
        raise BadChange(f'Interval "{name}" cannot be less than 1ms')
    return total


_HANDLERS: dict[str, Callable[[_State, str], None]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _on_build,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}


def _single(state: _State, text: str, command: str) -> str:
    words = _split(text, state.env)
    if len(words) != 1:
        raise BadChange(f"{command} requires exactly one argument")
    return words[0]


def _pairs(state: _State, text: str, command: str) -> list[tuple[str, str]]:
    """``a=b c="d e"``, or the old form ``a the rest``."""
    first = text.split(None, 1)[0]
    if "=" not in first:
        name, _, value = text.partition(" ")
        if not value.strip():
            raise BadChange(f"{command} must have two arguments")
        return [(name, _expand(value.strip(), state.env))]
    pairs = []
    for word in _split(text, state.env):
        name, equals, value = word.partition("=")
        if not equals:
            raise BadChange(f"Syntax error - can't find = in {word!r}. Must be of the form: name=value")
        if not name:
            raise BadChange(f"{command} names can not be blank")
        pairs.append((name, value))
    return pairs


def _expand(text: str, env: dict[str, str]) -> str:
    return " ".join(_split(text, env)) if any(mark in text for mark in "\"'\\$") else text


def _split(text: str, env: dict[str, str]) -> list[str]:
    """Words, with quotes taken away and variables replaced. Raises BadChange on an open quote."""
    words: list[str] = []
    word: list[str] = []
    quote = ""
    started = False
    position = 0
    while position < len(text):
        char = text[position]
        position += 1
        if quote == "'" and char != "'":
            word.append(char)
        elif char in "'\"" and quote in ("", char):
            quote = "" if quote else char
            started = True
        elif char == "\\" and position < len(text):
            following = text[position]
            position += 1
            word.append(following if not quote or following in '"\\$' else char + following)
        elif char == "$":
            value, position = _variable(text, position, env)
            word.append(value)
        elif char.isspace() and not quote:
            if word or started:
                words.append("".join(word))
            word, started = [], False
        else:
            word.append(char)
    if quote:
        raise BadChange("unexpected end of statement while looking for matching quote")
    if word or started:
        words.append("".join(word))
    return words


def _variable(text: str, position: int, env: dict[str, str]) -> tuple[str, int]:
    """The value of ``$NAME``, ``${NAME}``, ``${NAME:-default}`` or ``${NAME:+other}`` at ``position``."""
    match = re.compile(r"\{(\w+)(?::([-+])([^}]*))?\}|(\w+)").match(text, position)
    if match is None:
        return "$", position
    value = env.get(match[1] or match[4], "")
    if match[2] == "-":
        value = value or match[3]
    elif match[2] == "+":
        value = match[3] if value else ""
    return value, match.end()
