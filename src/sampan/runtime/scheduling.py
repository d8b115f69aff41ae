"""Process attributes of the OCI specification that are one system call each: scheduler, I/O priority, CPU
affinity, NUMA memory policy, personality. Pure: the answers are operations for the new process.
"""

from __future__ import annotations

import os
import struct

from sampan.base.errors import InvalidArgument
from sampan.model.oci import IOPriority, Linux, MemoryPolicy, Process, Scheduler

from .sandbox import Operation

_CALLS = {
    "x86_64": {"sched_setattr": 314, "ioprio_set": 251, "set_mempolicy": 238, "personality": 135},
    "aarch64": {"sched_setattr": 274, "ioprio_set": 30, "set_mempolicy": 237, "personality": 92},
}

_POLICIES = {
    "": 0,
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
_FLAG_WORDS = (
    "RESET_ON_FORK RECLAIM DL_OVERRUN KEEP_POLICY KEEP_PARAMS UTIL_CLAMP_MIN UTIL_CLAMP_MAX"  # bits 0 to 6
)
_SCHEDULER_FLAGS = {f"SCHED_FLAG_{word}": 1 << bit for bit, word in enumerate(_FLAG_WORDS.split())}
_SHORTEST_NS, _LONGEST_NS = 1024, (1 << 63) - 1
"""Bounds of a deadline's runtime and period (sched(7), __checkparam_dl)."""

_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}

_MODE_WORDS = "DEFAULT PREFERRED BIND INTERLEAVE LOCAL PREFERRED_MANY WEIGHTED_INTERLEAVE"
_MODES = {f"MPOL_{word}": number for number, word in enumerate(_MODE_WORDS.split())}
_MODE_FLAGS = {
    "MPOL_F_STATIC_NODES": 1 << 15,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_NUMA_BALANCING": 1 << 13,
}
_MOST_NODES = 1024

_PERSONALITIES = {"LINUX": 0x0, "LINUX32": 0x8}


class InvalidScheduling(InvalidArgument):
    """A policy, class, mode or flag that does not exist, or values that exclude each other."""


def operations(process: Process, linux: Linux) -> list[Operation]:
    """In the order in which privileges allow them. Raises InvalidScheduling."""
    result: list[Operation] = []
    calls = _CALLS.get(os.uname().machine, _CALLS["x86_64"])
    if linux.personality is not None:
        domain = str(linux.personality.get("domain", ""))
        if domain not in _PERSONALITIES:
            raise InvalidScheduling(f"unknown personality {domain!r}")
        result.append(["system-call", calls["personality"], [_PERSONALITIES[domain]], "personality"])
    if linux.memory_policy is not None:
        mode, nodes = _memory_policy(linux.memory_policy)
        arguments = [mode, nodes, _MOST_NODES if nodes else 0]
        result.append(["system-call", calls["set_mempolicy"], arguments, "memory policy"])
    if process.io_priority is not None:
        # 1 is IOPRIO_WHO_PROCESS, 0 ourselves
        arguments = [1, 0, _io_priority(process.io_priority)]
        result.append(["system-call", calls["ioprio_set"], arguments, "I/O priority"])
    if process.scheduler is not None:
        arguments = [0, _attributes(process.scheduler), 0]
        result.append(["system-call", calls["sched_setattr"], arguments, "scheduler"])
    affinity = process.exec_cpu_affinity
    if affinity is not None and (affinity.final or affinity.initial):
        result.append(["affinity", sorted(_numbers(affinity.final or affinity.initial, "CPU"))])
    return result


def _io_priority(value: IOPriority) -> int:
    number = _IO_CLASSES.get(value.class_)
    if number is None:
        raise InvalidScheduling(f"unknown I/O priority class {value.class_!r}")
    if not 0 <= value.priority <= 7:
        raise InvalidScheduling(f"the I/O priority {value.priority} is not between 0 and 7")
    return number << 13 | value.priority


def _attributes(value: Scheduler) -> bytes:
    """struct sched_attr, version 0 (sched_setattr(2))."""
    policy = _POLICIES.get(value.policy)
    if policy is None:
        raise InvalidScheduling(f"unknown scheduler policy {value.policy!r}")
    flags = 0
    for name in value.flags:
        if name not in _SCHEDULER_FLAGS:
            raise InvalidScheduling(f"unknown scheduler flag {name!r}")
        flags |= _SCHEDULER_FLAGS[name]
    if value.policy == "SCHED_DEADLINE":
        _check_deadline(value)
    return struct.pack(
        "=IIQiIQQQ",
        48,
        policy,
        flags,
        value.nice,
        value.priority,
        value.runtime,
        value.deadline,
        value.period,
    )


def _check_deadline(value: Scheduler) -> None:
    """What the kernel would refuse with a bare EINVAL."""
    prefix = "sched_setattr: `SCHED_DEADLINE`"
    for name, amount in (("runtime", value.runtime), ("deadline", value.deadline)):
        if not amount:
            raise InvalidScheduling(f"{prefix} requires `{name}`")
    if not _SHORTEST_NS <= value.runtime <= _LONGEST_NS:
        raise InvalidScheduling(
            f"{prefix} runtime {value.runtime} must be between {_SHORTEST_NS} and {_LONGEST_NS} nanoseconds"
        )
    if value.runtime > value.deadline:
        raise InvalidScheduling(f"{prefix} runtime ({value.runtime}) must be <= deadline ({value.deadline})")
    if value.period and value.deadline > value.period:
        raise InvalidScheduling(f"{prefix} deadline ({value.deadline}) must be <= period ({value.period})")


def _memory_policy(value: MemoryPolicy) -> tuple[int, bytes | int]:
    """Mode with its flags, and the node mask (0 for none)."""
    mode = _MODES.get(value.mode)
    if mode is None:
        raise InvalidScheduling(f"unknown memory policy mode {value.mode!r}")
    for name in value.flags:
        if name not in _MODE_FLAGS:
            raise InvalidScheduling(f"unknown memory policy flag {name!r}")
        mode |= _MODE_FLAGS[name]
    if not value.nodes:
        return mode, 0
    bits = sum(1 << number for number in _numbers(value.nodes, "node"))
    return mode, bits.to_bytes(_MOST_NODES // 8, "little")


def _numbers(text: str, what: str) -> set[int]:
    """``0-3,7`` as a set."""
    result: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdigit() or (dash and not high.isdigit()):
            raise InvalidScheduling(f"invalid {what} list {text!r}")
        first, last = int(low), int(high or low)
        if last >= _MOST_NODES or first > last:
            raise InvalidScheduling(f"invalid {what} list {text!r}")
        result.update(range(first, last + 1))
    return result
