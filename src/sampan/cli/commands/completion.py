"""sampan completion: scripts for shells, which ask ``sampan __complete`` for the candidates."""

from __future__ import annotations

from sampan.cli.failure import Failure
from sampan.cli.globals import GLOBALS
from sampan.cli.options import BOOL, Command, Option, Values
from sampan.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_FILES = ":files"
_SIGNALS = ("HUP", "INT", "QUIT", "KILL", "USR1", "USR2", "TERM", "CONT", "STOP", "WINCH")
_CAPABILITIES = (
    *("ALL", "AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "BPF", "CHECKPOINT_RESTORE"),
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "IPC_LOCK", "IPC_OWNER", "KILL"),
    *("LEASE", "LINUX_IMMUTABLE", "MAC_ADMIN", "MAC_OVERRIDE", "MKNOD", "NET_ADMIN", "NET_BIND_SERVICE"),
    *("NET_BROADCAST", "NET_RAW", "PERFMON", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYSLOG"),
    *("SYS_ADMIN", "SYS_BOOT", "SYS_CHROOT", "SYS_MODULE", "SYS_NICE", "SYS_PACCT", "SYS_PTRACE"),
    *("SYS_RAWIO", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "WAKE_ALARM"),
)

_SCRIPTS = {
    "bash": """\
_sampan() {
    local line=${COMP_LINE:0:COMP_POINT} words current candidates
    read -ra words <<<"$line"
    [[ $line == *' ' ]] && words+=('')
    current=${words[-1]}
    mapfile -t candidates < <(sampan __complete "${words[@]:1}" 2>/dev/null | cut -f1)
    if [[ ${candidates[0]} == :files ]]; then
        compopt -o default
        COMPREPLY=()
        return
    fi
    mapfile -t COMPREPLY < <(compgen -W "${candidates[*]}" -- "$current")
    # To readline a word begins again after a colon.
    [[ $current == *:* ]] && COMPREPLY=("${COMPREPLY[@]#"${current%:*}:"}")
}
complete -F _sampan sampan
""",
    "zsh": """\
#compdef sampan
_sampan() {
    local -a lines described
    local line
    lines=("${(@f)$(sampan __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ $lines[1] == :files ]]; then
        _files
        return
    fi
    for line in $lines; do
        described+=("${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}")
    done
    _describe 'sampan' described
}
compdef _sampan sampan
""",
    "fish": """\
function __sampan_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l lines (sampan __complete $words[2..-1] 2>/dev/null)
    if test "$lines[1]" = :files
        __fish_complete_path (commandline -ct)
        return
    end
    printf '%s\\n' $lines
end
complete -c sampan -f -a '(__sampan_complete)'
""",
}


def completion(session: Session, values: Values, words: list[str]) -> int:
    script = _SCRIPTS.get(words[0])
    if script is None:
        raise Failure(f"no completion for the shell {words[0]!r}: choose one of {', '.join(_SCRIPTS)}")
    print(script, end="")
    return 0


def _containers(session: Session) -> list[str]:
    items = session.client.call("GET", "/containers/json", (("all", "1"),))
    return [f"{item['Names'][0].removeprefix('/')}\t{item['Image']} ({item['Status']})" for item in items]


def _images(session: Session) -> list[str]:
    items = session.client.call("GET", "/images/json")
    return [name for item in items for name in item.get("RepoTags") or ()]


def _repositories(session: Session) -> list[str]:
    from sampan.cli.commands.registryserver import RegistryClient

    return [str(item["name"]) for item in RegistryClient(session, "").items("repositories", ())]


_SOURCES: dict[str, Callable[[Session], Sequence[str]]] = {
    "container": _containers,
    "image": _images,
    "volume": lambda session: [
        item["Name"] for item in session.client.call("GET", "/volumes")["Volumes"] or ()
    ],
    "repository": _repositories,
    "network": lambda session: [item["Name"] for item in session.client.call("GET", "/networks")],
    "signal": lambda session: _SIGNALS,
    "capability": lambda session: _CAPABILITIES,
    "type": lambda session: ("container", "image", "network", "volume"),
    "recipe": lambda session: ("busybox", "debian", "python", "nginx"),
    "keys": lambda session: ("ctrl-p,ctrl-q", "ctrl-]"),
    "shell": lambda session: tuple(_SCRIPTS),
    "file": lambda session: (_FILES,),
    "command": lambda session: _commands(()),
}


def _values_of(session: Session, source: str) -> list[str]:
    if source not in _SOURCES:
        return []
    try:
        return list(_SOURCES[source](session))
    except Failure:
        return []  # no daemon: nothing to offer, and a message would disturb the line being typed


def _commands(group: Sequence[str]) -> list[str]:
    from sampan.cli.main import GROUPS, SUMMARIES, TOP, load

    if group:
        return [f"{word}\t{load(entry).summary}" for word, entry in GROUPS[group[0]].items()]
    words = [f"{word}\t{load(entry).summary}" for word, entry in TOP.items()]
    return words + [f"{word}\t{summary}" for word, summary in SUMMARIES.items()]


def _option_named(options: Sequence[Option], word: str) -> Option | None:
    """The option whose value comes next after ``word``."""
    for option in options:
        if option.kind == BOOL:
            continue
        ends = option.short and word[:1] == "-" and word[:2] != "--" and word.endswith(option.short)
        if word == f"--{option.name}" or ends:
            return option
    return None


def candidates(session: Session, words: list[str]) -> list[str]:
    """``word<TAB>description`` for the last of the words, which may be empty or incomplete."""
    from sampan.cli.main import ALIASES, GROUPS, TOP, load

    *before, current = words or [""]
    options: Sequence[Option] = GLOBALS
    while before and before[0].startswith("-"):
        skip = 2 if _option_named(options, before[0]) and len(before) > 1 else 1
        if _option_named(options, before[0]) and len(before) == 1:
            return []
        before = before[skip:]
    if not before:
        return _options(GLOBALS) if current.startswith("-") else _commands(())
    if before[0] in GROUPS:
        if len(before) == 1:
            return _commands(before)
        second = ALIASES.get((before[0], before[1]), before[1])
        entry = GROUPS[before[0]].get(second, "")
        rest = before[2:]
    else:
        entry, rest = TOP.get(before[0], ""), before[1:]
    if not entry:
        return []
    command = load(entry)
    if rest and (option := _option_named(command.options, rest[-1])) is not None:
        return _values_of(session, option.complete)
    if current.startswith("-"):
        return _options(command.options)
    positional = _positionals(command, rest)
    if positional and not command.interspersed:
        return [_FILES] if command.complete != "container" else []
    return _values_of(session, command.complete)


def _positionals(command: Command, words: list[str]) -> int:
    count, index = 0, 0
    while index < len(words):
        if words[index].startswith("-"):
            index += 2 if _option_named(command.options, words[index]) else 1
        else:
            count += 1
            index += 1
    return count


def _options(options: Sequence[Option]) -> list[str]:
    return [f"--{option.name}\t{option.help}" for option in options if not option.hidden] + [
        "--help\tShow help"
    ]


def complete(session: Session, values: Values, words: list[str]) -> int:
    current = words[-1] if words else ""
    for line in candidates(session, words):
        if line == _FILES or line.startswith(current):
            print(line.replace("\n", " "))
    return 0


COMPLETION = Command(
    "completion",
    "bash|zsh|fish",
    "Print the completion script for a shell",
    completion,
    minimum=1,
    maximum=1,
    complete="shell",
    examples=(
        "source <(sampan completion bash)",
        "sampan completion fish > ~/.config/fish/completions/sampan.fish",
    ),
)
COMPLETE = Command("__complete", "WORD...", "Candidates for a shell", complete, interspersed=False)
