"""The compiled filter means what the rules say: checked against a direct reading of them, and libseccomp."""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seccomp_machine import ARCH, run

from sampan.model.oci import Seccomp, SyscallArg, SyscallRule
from sampan.security.capabilities import DEFAULT
from sampan.security.seccomp import filter_for
from sampan.security.seccomp.compiler import UnsupportedFilter, action_value, compile_filter
from sampan.security.seccomp.default import default_profile
from sampan.security.seccomp.profile import InvalidProfile, Target, parse, resolve
from sampan.security.seccomp.syscalls import X32_BIT, numbers

ALLOW, KILL, ENOSYS, EPERM = 0x7FFF0000, 0, 0x50026, 0x50001
OPERATORS = {
    "SCMP_CMP_EQ": lambda a, v: a == v,
    "SCMP_CMP_NE": lambda a, v: a != v,
    "SCMP_CMP_GT": lambda a, v: a > v,
    "SCMP_CMP_GE": lambda a, v: a >= v,
    "SCMP_CMP_LT": lambda a, v: a < v,
    "SCMP_CMP_LE": lambda a, v: a <= v,
}

NAMES = ("read", "write", "openat", "clone", "socket", "personality", "bpf", "io_uring_setup", "statx")
words = st.one_of(
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, 1, 38, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**63, 2**64 - 1]),
)
arguments = st.builds(
    SyscallArg,
    index=st.integers(0, 5),
    value=words,
    value_two=words,
    op=st.sampled_from([*OPERATORS, "SCMP_CMP_MASKED_EQ"]),
)
rules = st.builds(
    SyscallRule,
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3),
    action=st.sampled_from(["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_LOG", "SCMP_ACT_KILL_PROCESS"]),
    errno_ret=st.one_of(st.none(), st.integers(0, 4095)),
    args=st.lists(arguments, max_size=3),
)
profiles = st.builds(
    Seccomp,
    default_action=st.sampled_from(["SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", "SCMP_ACT_KILL"]),
    default_errno_ret=st.one_of(st.none(), st.just(13)),
    architectures=st.just(["SCMP_ARCH_X86_64"]),
    syscalls=st.lists(rules, max_size=8),
)


def holds(argument: SyscallArg, values: tuple[int, ...]) -> bool:
    value = values[argument.index]
    if argument.op == "SCMP_CMP_MASKED_EQ":
        return value & argument.value == argument.value_two
    return bool(OPERATORS[argument.op](value, argument.value))


def expected(profile: Seccomp, number: int, values: tuple[int, ...]) -> int:
    """The documented meaning, read straight from the rules."""
    table = numbers("x86_64")
    default = action_value(profile.default_action, profile.default_errno_ret)
    named = [table[name] for rule in profile.syscalls for name in rule.names]
    restrictive = profile.default_action in ("SCMP_ACT_ERRNO", "SCMP_ACT_KILL")
    if named and number > max(named) and restrictive:
        return ENOSYS
    checked = []
    for rule in profile.syscalls:
        value = action_value(rule.action, rule.errno_ret)
        if value == default or number not in (table[name] for name in rule.names):
            continue
        if not rule.args:
            return value
        indexes = [argument.index for argument in rule.args]
        several = len(set(indexes)) < len(indexes)
        checked.append((any if several else all, rule.args, value))
    for how, args, value in checked:
        if how(holds(argument, values) for argument in args):
            return value
    return default


@settings(max_examples=150, deadline=None)
@given(profiles, st.tuples(*[words] * 6), st.integers(0, 480))
def test_filter_means_what_the_rules_say(profile: Seccomp, values: tuple[int, ...], other: int) -> None:
    program = compile_filter(profile, "x86_64")
    for number in (*(numbers("x86_64")[name] for name in NAMES), other):
        assert run(program, ARCH["x86_64"], number, values) == expected(profile, number, values)


@pytest.fixture(scope="module")
def default_filter() -> bytes:
    return filter_for("", capabilities=frozenset(DEFAULT), machine="x86_64", kernel=(6, 1))


def call(program: bytes, name: str, *args: int, arch: str = "x86_64") -> int:
    return run(program, ARCH[arch], numbers(arch)[name], args)


def test_default_profile_on_ordinary_calls(default_filter: bytes) -> None:
    for name in ("read", "openat", "execve", "fork", "futex", "chroot", "ptrace", "arch_prctl"):
        assert call(default_filter, name) == ALLOW, name
    for name in ("mount", "setns", "bpf", "reboot", "init_module", "open_by_handle_at", "keyctl", "add_key"):
        assert call(default_filter, name) == EPERM, name


def test_default_profile_keeps_namespaces_and_the_host_away(default_filter: bytes) -> None:
    assert call(default_filter, "clone", 0x11) == ALLOW
    assert call(default_filter, "clone", 0x10000000 | 0x11) == EPERM  # CLONE_NEWUSER
    assert call(default_filter, "clone3") == ENOSYS
    assert call(default_filter, "socket", 2) == ALLOW
    assert call(default_filter, "socket", 38) == EPERM  # AF_ALG
    assert call(default_filter, "socket", 40) == EPERM  # AF_VSOCK
    assert call(default_filter, "socket", 2**32 + 38) == EPERM  # an int to the kernel: AF_ALG again
    assert call(default_filter, "personality", 0xFFFFFFFF) == ALLOW
    assert call(default_filter, "personality", 0x0040000) == EPERM  # ADDR_NO_RANDOMIZE


def test_calls_newer_than_the_profile_do_not_exist(default_filter: bytes) -> None:
    assert run(default_filter, ARCH["x86_64"], 9999) == ENOSYS


def test_every_architecture_of_the_machine_is_filtered(default_filter: bytes) -> None:
    assert call(default_filter, "read", arch="x86") == ALLOW
    assert call(default_filter, "socketcall", 1, arch="x86") == ALLOW
    assert call(default_filter, "mount", arch="x86") == EPERM
    assert run(default_filter, ARCH["x86_64"], X32_BIT | numbers("x32")["execve"]) == ALLOW
    assert run(default_filter, ARCH["x86_64"], X32_BIT | numbers("x32")["mount"]) == EPERM
    assert run(default_filter, ARCH["aarch64"], numbers("aarch64")["read"]) == KILL


def test_x32_is_killed_unless_listed_but_a_withdrawn_call_is_not() -> None:
    profile = Seccomp(default_action="SCMP_ACT_ALLOW", architectures=["SCMP_ARCH_X86_64"])
    program = compile_filter(profile, "x86_64")
    assert run(program, ARCH["x86_64"], X32_BIT) == KILL
    assert run(program, ARCH["x86_64"], -1) == ALLOW


def test_capabilities_open_their_calls() -> None:
    caps = frozenset((*DEFAULT, "CAP_SYS_ADMIN", "CAP_BPF"))
    program = filter_for("", capabilities=caps, machine="x86_64", kernel=(6, 1))
    assert call(program, "mount") == ALLOW
    assert call(program, "clone", 0x10000000) == ALLOW
    assert call(program, "clone3") == ALLOW
    assert call(program, "reboot") == EPERM


def test_ptrace_needs_a_kernel_where_it_is_filtered_too() -> None:
    program = filter_for("", capabilities=frozenset(DEFAULT), machine="x86_64", kernel=(4, 7))
    assert call(program, "ptrace") == EPERM


def test_32_bit_sockets_are_reached_through_socketcall() -> None:
    rule = SyscallRule(names=["bind"], action="SCMP_ACT_ERRNO", errno_ret=5)
    profile = Seccomp(default_action="SCMP_ACT_ALLOW", architectures=["SCMP_ARCH_X86"], syscalls=[rule])
    program = compile_filter(profile, "x86_64")
    assert call(program, "socketcall", 2, arch="x86") == 0x50005
    assert call(program, "socketcall", 3, arch="x86") == ALLOW


def test_custom_profile_in_dockers_json() -> None:
    text = json.dumps(
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
            "syscalls": [
                {"name": "chmod", "action": "SCMP_ACT_ERRNO", "args": None},
                {
                    "names": ["mkdir"],
                    "action": "SCMP_ACT_ERRNO",
                    "errnoRet": 30,
                    "includes": {"minKernel": "5.0"},
                    "excludes": {"caps": ["CAP_SYS_ADMIN"]},
                },
            ],
        }
    )
    program = filter_for(text, capabilities=frozenset(DEFAULT), machine="x86_64", kernel=(6, 1))
    assert call(program, "chmod") == EPERM
    assert call(program, "mkdir") == 0x50000 | 30
    old = filter_for(text, capabilities=frozenset(DEFAULT), machine="x86_64", kernel=(4, 19))
    assert call(old, "mkdir") == ALLOW


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"defaultAction": 3}',
        (
            '{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],'
            ' "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]}'
        ),
        (
            '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls":'
            ' [{"name": "a", "names": ["b"], "action": "SCMP_ACT_ERRNO"}]}'
        ),
    ],
)
def test_profiles_that_are_refused(text: str) -> None:
    with pytest.raises(InvalidProfile):
        filter_for(text, capabilities=frozenset(), machine="x86_64", kernel=(6, 1))


def test_unknown_actions_and_operators_are_refused() -> None:
    with pytest.raises(UnsupportedFilter):
        compile_filter(Seccomp(default_action="SCMP_ACT_DANCE"), "x86_64")
    argument = SyscallArg(index=0, value=1, op="SCMP_CMP_ABOUT")
    rule = SyscallRule(names=["read"], action="SCMP_ACT_ERRNO", args=[argument])
    with pytest.raises(UnsupportedFilter):
        compile_filter(Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=[rule]), "x86_64")


def test_default_filter_is_small(default_filter: bytes) -> None:
    """The kernel checks and translates it at every start; libseccomp's has 1,001 instructions."""
    assert len(default_filter) // 8 < 500


def test_empty_profile_filters_nothing() -> None:
    assert filter_for("{}", capabilities=frozenset(), machine="x86_64", kernel=(6, 1)) == b""
    assert parse("{}").syscalls is None


# --- libseccomp as oracle ---------------------------------------------------------------------------------


class _Comparison(ctypes.Structure):
    _fields_ = [
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    ]


_OPS = ("", "NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")
_TOKENS = {"x86_64": 0xC000003E, "x86": 0x40000003, "x32": 0x4000003E}


@pytest.fixture(scope="module")
def libseccomp() -> ctypes.CDLL:
    found = ctypes.util.find_library("seccomp")
    if found is None:
        pytest.skip("libseccomp is not installed")
    library = ctypes.CDLL(found)
    library.seccomp_init.restype = ctypes.c_void_p
    return library


def _their_program(library: ctypes.CDLL, seccomp: Seccomp, path: str) -> bytes:
    default = action_value(seccomp.default_action, 1)
    context = ctypes.c_void_p(library.seccomp_init(default))
    for name in ("x86", "x32"):
        assert library.seccomp_arch_add(context, _TOKENS[name]) == 0
    for rule in seccomp.syscalls:
        value = action_value(rule.action, rule.errno_ret)
        comparisons = (_Comparison * 6)(
            *[(a.index, _OPS.index(a.op.removeprefix("SCMP_CMP_")), a.value, a.value_two) for a in rule.args]
        )
        for name in rule.names:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number != -1 and value != default:
                library.seccomp_rule_add_array(context, value, number, len(rule.args), comparisons)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    assert library.seccomp_export_bpf(context, descriptor) == 0
    library.seccomp_release(context)
    os.close(descriptor)
    with open(path, "rb") as file:
        return file.read()


@pytest.mark.parametrize("extra", [(), ("CAP_SYS_ADMIN",), ("CAP_SYS_PTRACE", "CAP_SYSLOG", "CAP_SYS_NICE")])
def test_default_profile_equals_libseccomps_program(
    extra: tuple[str, ...], tmp_path: os.PathLike[str], libseccomp: ctypes.CDLL
) -> None:
    caps = frozenset((*DEFAULT, *extra))
    seccomp = resolve(default_profile(), Target(machine="x86_64", kernel=(6, 1), capabilities=caps))
    assert seccomp is not None
    theirs = _their_program(libseccomp, seccomp, os.path.join(tmp_path, "filter"))
    ours = filter_for("", capabilities=caps, machine="x86_64", kernel=(6, 1))
    named = {name for rule in seccomp.syscalls for name in rule.names}
    samples = (0, 8, 0x11, 38, 39, 40, 41, 0x10000000, 0xFFFFFFFF, 2**32, 2**32 + 38)
    compared = 0
    for name, token in _TOKENS.items():
        bit = X32_BIT if name == "x32" else 0
        arch = ARCH.get(name, ARCH["x86_64"])
        for call_name, number in numbers(name).items():
            their_number = libseccomp.seccomp_syscall_resolve_name_arch(token, call_name.encode())
            if call_name not in named or (their_number & ~bit) != number:
                continue  # newer than the installed libseccomp
            for sample in samples:
                answers = [run(program, arch, number | bit, (sample,)) for program in (ours, theirs)]
                assert answers[0] == answers[1], (name, call_name, sample)
                compared += 1
    assert compared > 9000
