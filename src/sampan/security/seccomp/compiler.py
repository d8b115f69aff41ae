"""From an OCI ``seccomp`` section to classic BPF: seccomp(2), userspace-api/seccomp_filter.rst.

The numbers of each architecture are cut into ranges with one answer, and a balanced tree of comparisons finds
the range: about log2(ranges) instructions per call, where libseccomp's list has one per name. The meaning is
libseccomp's as runc uses it:

- a rule whose answer is the default answer is left out, an unknown name too;
- a call that has a rule without arguments is decided by it, whatever rules with arguments it has besides;
- several comparisons in one rule must all hold, unless two are of the same argument: then any of them;
- calls newer than the newest one a restrictive profile names answer ENOSYS, so that libraries fall back;
- an architecture that is not listed is killed.
"""

from __future__ import annotations

import struct

from sampan.base.errors import InvalidArgument
from sampan.model.oci import Seccomp, SyscallArg, SyscallRule

from .syscalls import X32_BIT, numbers

Instruction = tuple[int, int, int, int]
"""code, jt, jf, k of struct sock_filter."""
Code = list[Instruction]

_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_JUMP, _JEQ, _JGT, _JGE = 0x05, 0x15, 0x25, 0x35
_NR_OFFSET, _ARCH_OFFSET, _ARGS_OFFSET = 0, 4, 16
_MAX_INSTRUCTIONS = 4096
_EPERM, _ENOSYS = 1, 38

_PLAIN_ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_DATA_ACTIONS = {"SCMP_ACT_ERRNO": 0x00050000, "SCMP_ACT_TRACE": 0x7FF00000}
_PERMISSIVE = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY")
_KILL_THREAD = 0

_AUDIT = {
    "x86_64": 0xC000003E,
    "x32": 0xC000003E,
    "x86": 0x40000003,
    "aarch64": 0xC00000B7,
    "arm": 0x40000028,
}
_NAMES = {
    "SCMP_ARCH_X86_64": "x86_64",
    "SCMP_ARCH_X86": "x86",
    "SCMP_ARCH_X32": "x32",
    "SCMP_ARCH_AARCH64": "aarch64",
    "SCMP_ARCH_ARM": "arm",
}
_WIDE = ("x86_64", "aarch64")
"""Arguments of 64 bits. x32 counts as narrow, as in libseccomp: its ABI has 32-bit arguments."""

_SOCKETCALL_WORDS = (
    "socket bind connect listen accept getsockname getpeername socketpair send recv sendto recvfrom shutdown"
    " setsockopt getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg"
)
_SOCKETCALLS = {name: number for number, name in enumerate(_SOCKETCALL_WORDS.split(), 1)}
"""socketcall(2)'s first argument (include/uapi/linux/net.h)."""
_IPC_CALLS = {
    "semop": 1,
    "semget": 2,
    "semctl": 3,
    "semtimedop": 4,
    "msgsnd": 11,
    "msgrcv": 12,
    "msgget": 13,
    "msgctl": 14,
    "shmat": 21,
    "shmdt": 22,
    "shmget": 23,
    "shmctl": 24,
}
"""ipc(2)'s first argument (include/uapi/linux/ipc.h)."""


class UnsupportedFilter(InvalidArgument):
    """An action, operator or architecture that this compiler does not know, or a filter too long."""


def compile_filter(seccomp: Seccomp, machine: str) -> bytes:
    """``struct sock_filter[]`` in the byte order of x86 and ARM. Raises UnsupportedFilter."""
    wanted = dict.fromkeys([machine, *(_architecture(name) for name in seccomp.architectures)])
    sections = {name: _Section(seccomp, name) for name in wanted if name}
    program = _Assembler()
    following = program.answer(_KILL_THREAD)
    x32 = sections.pop("x32", None)
    for name, section in reversed(sections.items()):
        start = program.tree(section.ranges())
        if name == "x86_64":
            start = _split_x32(program, section, start, x32)
        start = program.load(_NR_OFFSET, start)
        following = program.test(_JEQ, _AUDIT[name], start, following)
    program.load(_ARCH_OFFSET, following)
    code = program.code()
    if len(code) > _MAX_INSTRUCTIONS:
        raise UnsupportedFilter(f"the seccomp filter has {len(code)} instructions, the kernel takes 4096")
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def _architecture(name: str) -> str:
    """ "" for one this machine can never run: its section would be dead code."""
    if not name.startswith("SCMP_ARCH_"):
        raise UnsupportedFilter(f"unknown seccomp architecture {name!r}")
    return _NAMES.get(name, "")


def _split_x32(program: _Assembler, wide: _Section, start: int, x32: _Section | None) -> int:
    """One AUDIT_ARCH for both; x32 numbers have bit 30. -1 is a call that a tracer took back."""
    if x32 is not None:
        other = program.tree(x32.ranges())
    else:
        kill, default = program.answer(_KILL_THREAD), program.answer(wide.default)
        other = program.test(_JEQ, 0xFFFFFFFF, default, kill)
    return program.test(_JGE, X32_BIT, other, start)


class _Assembler:
    """Collects instructions from the last to the first, so that every jump goes to something already placed.

    A place is an index counted from the end of the program. Conditional jumps reach 255 instructions; what
    is farther gets an unconditional jump beside it.
    """

    def __init__(self) -> None:
        self._reversed: Code = []
        self._answers: dict[int, int] = {}

    def code(self) -> Code:
        return self._reversed[::-1]

    def _place(self, *instruction: int) -> int:
        code, jt, jf, k = instruction
        self._reversed.append((code, jt, jf, k))
        return len(self._reversed) - 1

    def _distance(self, target: int) -> int:
        """From the instruction that would be placed next."""
        return len(self._reversed) - target - 1

    def answer(self, value: int) -> int:
        """A return instruction within reach, shared where possible."""
        place = self._answers.get(value)
        if place is None or self._distance(place) > 200:
            place = self._answers[value] = self._place(_RETURN, 0, 0, value)
        return place

    def load(self, offset: int, target: int) -> int:
        if self._distance(target):
            self._place(_JUMP, 0, 0, self._distance(target))
        return self._place(_LOAD, 0, 0, offset)

    def test(self, operation: int, value: int, when_true: int, when_false: int) -> int:
        if self._distance(when_true) > 250:
            when_true = self._place(_JUMP, 0, 0, self._distance(when_true))
        if self._distance(when_false) > 250:
            when_false = self._place(_JUMP, 0, 0, self._distance(when_false))
        return self._place(operation, self._distance(when_true), self._distance(when_false), value)

    def tree(self, ranges: list[tuple[int, Code]]) -> int:
        if len(ranges) > 1:
            middle = len(ranges) // 2
            upper, lower = self.tree(ranges[middle:]), self.tree(ranges[:middle])
            return self.test(_JGE, ranges[middle][0], upper, lower)
        code = ranges[0][1]
        if len(code) == 1:
            return self.answer(code[0][3])
        place = -1
        for instruction in reversed(code):
            place = self._place(*instruction)
        return place


class _Section:
    """The tree of one architecture."""

    def __init__(self, seccomp: Seccomp, architecture: str) -> None:
        self.architecture = architecture
        self.seccomp = seccomp
        self.default = action_value(seccomp.default_action, seccomp.default_errno_ret)
        self.numbers = numbers(architecture)
        self.fixed: dict[int, int] = {}
        self.checked: dict[int, list[tuple[tuple[SyscallArg, ...], int]]] = {}
        self.newest = -1
        for rule in seccomp.syscalls:
            self._add(rule)

    def _add(self, rule: SyscallRule) -> None:
        value = action_value(rule.action, rule.errno_ret)
        alternatives = _alternatives(rule.args)
        for name in rule.names:
            number = self.numbers.get(name)
            if number is not None:
                self.newest = max(self.newest, number)
            if value == self.default:
                continue
            if number is not None:
                self._decide(number, alternatives, value)
            if self.architecture == "x86" and not rule.args:
                self._add_multiplexed(name, value)

    def _decide(self, number: int, alternatives: list[tuple[SyscallArg, ...]], value: int) -> None:
        if not alternatives:
            self.fixed.setdefault(number, value)
            return
        self.checked.setdefault(number, []).extend((args, value) for args in alternatives)

    def _add_multiplexed(self, name: str, value: int) -> None:
        """32-bit x86 reaches these through socketcall and ipc as well."""
        for table, door in ((_SOCKETCALLS, "socketcall"), (_IPC_CALLS, "ipc")):
            if name in table:
                argument = SyscallArg(index=0, value=table[name], op="SCMP_CMP_EQ")
                self._decide(self.numbers[door], [(argument,)], value)

    def ranges(self) -> list[tuple[int, Code]]:
        """(first number, what to do) in ascending order; each ends where the next begins."""
        default: Code = [(_RETURN, 0, 0, self.default)]
        points: dict[int, Code] = {0: default}
        decided = sorted(self.fixed.keys() | self.checked.keys())
        for number in decided:
            points[number] = self._leaf(number)
            points.setdefault(number + 1, default)
        if self.seccomp.default_action not in _PERMISSIVE and self.newest >= 0:
            points[self.newest + 1] = [(_RETURN, 0, 0, _DATA_ACTIONS["SCMP_ACT_ERRNO"] | _ENOSYS)]
        bit = X32_BIT if self.architecture == "x32" else 0
        result: list[tuple[int, Code]] = []
        for number in sorted(points):
            if not result or result[-1][1] != points[number]:
                result.append((number | bit if number else 0, points[number]))
        return result

    def _leaf(self, number: int) -> Code:
        if number in self.fixed:
            return [(_RETURN, 0, 0, self.fixed[number])]
        code: Code = [(_RETURN, 0, 0, self.default)]
        for args, value in reversed(self.checked[number]):
            code = [*self._rule(args, value), *code]
        return code

    def _rule(self, args: tuple[SyscallArg, ...], value: int) -> Code:
        """Answers when all comparisons hold, falls out at the end when one does not."""
        code: Code = [(_RETURN, 0, 0, value)]
        for argument in reversed(args):
            code = [*_comparison(argument, len(code), self.architecture in _WIDE), *code]
        return code


def action_value(action: str, errno_ret: int | None) -> int:
    """SECCOMP_RET_* with its data. Raises UnsupportedFilter."""
    if action in _PLAIN_ACTIONS:
        return _PLAIN_ACTIONS[action]
    if action in _DATA_ACTIONS:
        data = _EPERM if errno_ret is None else errno_ret
        return _DATA_ACTIONS[action] | (data & 0xFFFF)
    raise UnsupportedFilter(f"unknown seccomp action {action!r}")


def _alternatives(args: list[SyscallArg]) -> list[tuple[SyscallArg, ...]]:
    if not args:
        return []
    indexes = [argument.index for argument in args]
    if max(indexes) > 5:
        raise UnsupportedFilter(f"a system call has 6 arguments, no index {max(indexes)}")
    if len(set(indexes)) < len(indexes):
        return [(argument,) for argument in args]
    return [tuple(args)]


def _comparison(argument: SyscallArg, rest: int, wide: bool) -> Code:
    """Falls through when it holds, jumps over itself and ``rest`` instructions when it does not."""
    low_offset = _ARGS_OFFSET + 8 * argument.index
    high, low = divmod(argument.value & 0xFFFFFFFFFFFFFFFF, 1 << 32)
    if argument.op == "SCMP_CMP_MASKED_EQ":
        return _masked(argument, low_offset, rest, wide)
    if argument.op not in _OPERATORS:
        raise UnsupportedFilter(f"unknown seccomp operator {argument.op!r}")
    test, negated = _OPERATORS[argument.op]
    jumps = (rest, 0) if negated else (0, rest)
    code: Code = [(_LOAD, 0, 0, low_offset), (test, *jumps, low)]
    if not wide:
        return code
    over = len(code) + rest
    # the high halves decide unless they are equal; "holds" skips the low half, "fails" skips everything
    holds, fails = len(code), over
    if test == _JEQ:
        unequal = holds if negated else fails
        head: Code = [(_JEQ, 0, unequal, high)]
    else:
        greater, less = (fails, holds) if negated else (holds, fails)
        head = [(_JGT, greater + 1, 0, high), (_JEQ, 0, less, high)]
    return [(_LOAD, 0, 0, low_offset + 4), *head, *code]


_OPERATORS = {
    "SCMP_CMP_EQ": (_JEQ, False),
    "SCMP_CMP_NE": (_JEQ, True),
    "SCMP_CMP_GT": (_JGT, False),
    "SCMP_CMP_LE": (_JGT, True),
    "SCMP_CMP_GE": (_JGE, False),
    "SCMP_CMP_LT": (_JGE, True),
}
"""Operator: (test, whether it is the test's opposite)."""


def _masked(argument: SyscallArg, low_offset: int, rest: int, wide: bool) -> Code:
    """``arg & value == value_two``, as runc reads the two fields."""
    mask_high, mask_low = divmod(argument.value & 0xFFFFFFFFFFFFFFFF, 1 << 32)
    high, low = divmod(argument.value_two & 0xFFFFFFFFFFFFFFFF, 1 << 32)
    code: Code = [(_LOAD, 0, 0, low_offset), (_AND, 0, 0, mask_low), (_JEQ, 0, rest, low)]
    if wide:
        fails = len(code) + rest
        code = [
            (_LOAD, 0, 0, low_offset + 4),
            (_AND, 0, 0, mask_high),
            (_JEQ, 0, fails, high),
            *code,
        ]
    return code
