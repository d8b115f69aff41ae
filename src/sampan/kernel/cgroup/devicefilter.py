"""The device controller of cgroup v2: a small eBPF program instead of control files.

bpf(2), BPF_PROG_TYPE_CGROUP_DEVICE in include/uapi/linux/bpf.h: the program gets a
``struct bpf_cgroup_dev_ctx`` (access << 16 | type, major, minor) and answers 1 for allowed, 0 for EPERM.
"""

from __future__ import annotations

import ctypes
import os
import struct

BPF_PROG_LOAD = 5
BPF_PROG_ATTACH = 8
BPF_PROG_DETACH = 9
BPF_PROG_QUERY = 16
BPF_PROG_GET_FD_BY_ID = 13
BPF_PROG_TYPE_CGROUP_DEVICE = 15
BPF_CGROUP_DEVICE = 6
BPF_F_ALLOW_MULTI = 2
_SYS_BPF = {"x86_64": 321, "aarch64": 280}

ACCESS_BITS = {"m": 1, "r": 2, "w": 4}
TYPE_NUMBERS = {"b": 1, "c": 2}

# struct bpf_insn: code, dst | src << 4, offset, immediate
_INSN = struct.Struct("<BBhi")
_LDX_W = 0x61
_MOV_IMM, _MOV_REG = 0xB7, 0xBF
_AND_IMM, _RSH_IMM = 0x57, 0x77
_JNE_IMM, _JEQ_IMM, _JNE_REG = 0x55, 0x15, 0x5D
_EXIT = 0x95

Rule = tuple[bool, str, int | None, int | None, str]
"""allow, type ("b", "c", or anything else for all), major, minor (None or negative: any), access of "rwm"."""


def program(rules: list[Rule]) -> bytes:
    """The instructions for a list of rules of which the last that matches decides; empty bytes when they
    allow everything. No rule at all is "allow everything" too."""
    default = True
    effective: list[Rule] = []
    for rule in rules:
        if rule[1] not in TYPE_NUMBERS:
            default = rule[0]
            effective = []
        else:
            effective.append(rule)
    while effective and effective[0][0] == default:
        # A leading rule that says what the default says anyway decides nothing.
        effective.pop(0)
    if default and not effective:
        return b""
    code = [
        _INSN.pack(_LDX_W, 2 | 1 << 4, 0, 0),  # r2 = access << 16 | type
        _INSN.pack(_MOV_REG, 3 | 2 << 4, 0, 0),
        _INSN.pack(_AND_IMM, 2, 0, 0xFFFF),  # r2 = type
        _INSN.pack(_RSH_IMM, 3, 0, 16),  # r3 = access
        _INSN.pack(_LDX_W, 4 | 1 << 4, 4, 0),  # r4 = major
        _INSN.pack(_LDX_W, 5 | 1 << 4, 8, 0),  # r5 = minor
    ]
    for rule in reversed(effective):
        code += _block(rule)
    code += [_INSN.pack(_MOV_IMM, 0, 0, int(default)), _INSN.pack(_EXIT, 0, 0, 0)]
    return b"".join(code)


def _block(rule: Rule) -> list[bytes]:
    """Instructions that answer when the rule matches and fall out at their end when it does not.

    An allow rule must cover all of the access asked for, a deny rule any of it.
    """
    allow, kind, major, minor, access = rule
    bits = sum(ACCESS_BITS[letter] for letter in set(access or "rwm"))
    tests: list[tuple[int, int, int]] = [(_JNE_IMM, 2, TYPE_NUMBERS[kind])]
    if major is not None and major >= 0:
        tests.append((_JNE_IMM, 4, major))
    if minor is not None and minor >= 0:
        tests.append((_JNE_IMM, 5, minor))
    head: list[bytes] = []
    if bits != 7:
        head = [
            _INSN.pack(_MOV_REG, 1 | 3 << 4, 0, 0),  # r1: the context is no longer needed
            _INSN.pack(_AND_IMM, 1, 0, bits),
        ]
    length = len(head) + len(tests) + (1 if head else 0) + 2
    code = list(head)
    if head:
        skip = length - len(code) - 1
        code.append(_INSN.pack(_JNE_REG, 1 | 3 << 4, skip, 0) if allow else _INSN.pack(_JEQ_IMM, 1, skip, 0))
    for operation, register, value in tests:
        signed = value - (1 << 32) if value >= 1 << 31 else value
        code.append(_INSN.pack(operation, register, length - len(code) - 1, signed))
    code += [_INSN.pack(_MOV_IMM, 0, 0, int(allow)), _INSN.pack(_EXIT, 0, 0, 0)]
    return code


def attach(directory: str, instructions: bytes) -> None:
    """Load the program and attach it to a v2 group, replacing what we attached before. Raises OSError."""
    group = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        before = _attached(group)
        loaded = _load(instructions)
        try:
            _bpf(BPF_PROG_ATTACH, struct.pack("<IIII", group, loaded, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI))
        finally:
            os.close(loaded)
        for identity in before:
            _detach(group, identity)
    finally:
        os.close(group)


def _load(instructions: bytes) -> int:
    code = ctypes.create_string_buffer(instructions, len(instructions))
    license_text = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = struct.pack(
        "<IIQQIIQI4x",
        BPF_PROG_TYPE_CGROUP_DEVICE,
        len(instructions) // _INSN.size,
        ctypes.addressof(code),
        ctypes.addressof(license_text),
        0,
        0,
        0,
        0,
    )
    return _bpf(BPF_PROG_LOAD, attributes)


def _attached(group: int) -> list[int]:
    """Ids of the device programs of this very group (not inherited ones)."""
    identities = (ctypes.c_uint32 * 64)()
    attributes = ctypes.create_string_buffer(
        struct.pack("<IIIIQI4x", group, BPF_CGROUP_DEVICE, 0, 0, ctypes.addressof(identities), 64)
    )
    _bpf_buffer(BPF_PROG_QUERY, attributes)
    count = struct.unpack_from("<I", attributes.raw, 24)[0]
    return list(identities[:count])


def _detach(group: int, identity: int) -> None:
    descriptor = _bpf(BPF_PROG_GET_FD_BY_ID, struct.pack("<III", identity, 0, 0))
    try:
        _bpf(BPF_PROG_DETACH, struct.pack("<IIII", group, descriptor, BPF_CGROUP_DEVICE, 0))
    finally:
        os.close(descriptor)


def _bpf(command: int, attributes: bytes) -> int:
    return _bpf_buffer(command, ctypes.create_string_buffer(attributes, len(attributes)))


def _bpf_buffer(command: int, attributes: ctypes.Array[ctypes.c_char]) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    number = _SYS_BPF[os.uname().machine]
    result: int = libc.syscall(number, command, attributes, ctypes.c_uint(len(attributes)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf({command}): {os.strerror(code)}")
    return result
