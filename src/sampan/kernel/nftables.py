"""nf_tables: a rule set loaded as text once, and elements of its maps added and removed directly.

Sources: libnftables(3), nft(8), linux/netfilter/nf_tables.h, nfnetlink.h. Text goes through libnftables
in this process (0.1-0.3 ms), or through the program nft where the library is missing. Elements go over
nfnetlink in one transaction (0.02 ms): either all of them are in force or none.

Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
from collections.abc import Collection, Iterator, Sequence
from struct import Struct
from typing import NamedTuple

from .netlink import (
    MSG_DONTWAIT,
    NETLINK_ADD_MEMBERSHIP,
    NLM_F_CREATE,
    NLM_F_EXCL,
    SOL_NETLINK,
    MessageReader,
    NetlinkSocket,
    Request,
    attribute,
    attribute_text,
    nested,
    parse_attributes,
)


class Element(NamedTuple):
    """Of a set or map. Every part of a concatenation is padded to 4 bytes."""

    name: str
    """Of the set or map."""
    key: bytes
    data: bytes = b""
    """Empty in a set."""
    key_end: bytes = b""
    """The last key of a range, in sets with ``flags interval`` whose keys are concatenations (Linux 5.6)."""
    timeout_ms: int = 0
    """After which the kernel removes it, in sets with ``flags timeout``; 0: never."""
    ends: bool = False
    """Behind the last key of a range, in sets with ``flags interval`` whose keys have one part: there a range
    is two elements."""


NETLINK_NETFILTER = 12
NFPROTO_INET = 1
NFNL_SUBSYS_NFTABLES = 10
NFNL_MSG_BATCH_BEGIN = 0x10
NFNL_MSG_BATCH_END = 0x11
_SUBSYSTEM = NFNL_SUBSYS_NFTABLES << 8
NFT_MSG_GETTABLE = _SUBSYSTEM | 1
NFT_MSG_GETCHAIN = _SUBSYSTEM | 4
NFT_MSG_NEWSETELEM = _SUBSYSTEM | 12
NFT_MSG_DELSETELEM = _SUBSYSTEM | 14
NFT_MSG_NEWGEN = _SUBSYSTEM | 15
NFNLGRP_NFTABLES = 7

NFTA_TABLE_NAME = 1
NFTA_CHAIN_TABLE = 1
NFTA_CHAIN_NAME = 3
NFTA_CHAIN_HOOK = 4
NFTA_CHAIN_POLICY = 5
NFTA_HOOK_HOOKNUM = 1
NFTA_SET_ELEM_LIST_TABLE = 1
NFTA_SET_ELEM_LIST_SET = 2
NFTA_SET_ELEM_LIST_ELEMENTS = 3
NFTA_LIST_ELEM = 1
NFTA_SET_ELEM_KEY = 1
NFTA_SET_ELEM_DATA = 2
NFTA_SET_ELEM_TIMEOUT = 4
NFTA_SET_ELEM_FLAGS = 3
NFTA_SET_ELEM_KEY_END = 10
NFTA_GEN_PROC_PID = 2
NFTA_DATA_VALUE = 1
NFT_SET_ELEM_INTERVAL_END = 1

NF_INET_FORWARD = 2
NF_DROP = 0

_NFGENMSG = Struct("=BB2s")
_U32_BE = Struct(">I")
_U64_BE = Struct(">Q")
_BATCH = _NFGENMSG.pack(0, 0, NFNL_SUBSYS_NFTABLES.to_bytes(2, "big"))
_INET = _NFGENMSG.pack(NFPROTO_INET, 0, b"\0\0")
_ANY_FAMILY = _NFGENMSG.pack(0, 0, b"\0\0")
Change = tuple[int, int, bytes]
"""Message type, flags beside NLM_F_REQUEST, body."""
_ELEMENTS_PER_MESSAGE = 500  # an attribute is at most 64 KiB


class NftSocket:
    """A persistent connection to nf_tables in the network namespace of the thread that makes it.

    Raises OSError from the constructor when the kernel has no netfilter.
    """

    def __init__(self) -> None:
        self._netlink = NetlinkSocket(NETLINK_NETFILTER)

    def close(self) -> None:
        self._netlink.close()

    def add_elements(self, table: str, elements: list[Element], *, exclusive: bool = True) -> None:
        """Add to sets and maps of ``inet table``. Raises OSError: EEXIST (when ``exclusive``), ENOENT."""
        flags = NLM_F_CREATE | (NLM_F_EXCL if exclusive else 0)
        self._change(f"add to nft table {table}", _changes(NFT_MSG_NEWSETELEM, flags, table, elements))

    def delete_elements(self, table: str, elements: list[Element]) -> None:
        """Raises OSError with ENOENT, and nothing is deleted, when one of them (or the table) is gone."""
        self._change(f"remove from nft table {table}", _deletions(table, elements))

    def renew_elements(self, table: str, elements: list[Element]) -> None:
        """Let elements last as long as they say from now on, be they there or not. Raises OSError (ENOENT:
        no such set). Linux before 6.12 keeps the time of one that is there: it is made again."""
        add = _changes(NFT_MSG_NEWSETELEM, NLM_F_CREATE, table, elements)
        self._change(f"renew in nft table {table}", [*add, *_deletions(table, elements), *add])

    def discard_elements(self, table: str, elements: list[Element]) -> None:
        """Delete those that are there. Raises OSError (ENOENT: no such set)."""
        add = _changes(NFT_MSG_NEWSETELEM, NLM_F_CREATE, table, elements)
        self._change(f"remove from nft table {table}", [*add, *_deletions(table, elements)])

    def flush_sets(self, table: str, names: Sequence[str]) -> None:
        """Raises OSError (ENOENT: no such set)."""
        changes = [(NFT_MSG_DELSETELEM, 0, _list_of(table, name)) for name in names]
        self._change(f"flush sets of nft table {table}", changes)

    def has_table(self, table: str) -> bool:
        """Whether ``inet table`` exists. Raises OSError."""
        answers = self._netlink.dump("list nft tables", NFT_MSG_GETTABLE, _INET)
        return any(
            body[0] == NFPROTO_INET and _text(parse_attributes(body[4:]).get(NFTA_TABLE_NAME)) == table
            for body in answers
        )

    def dropping_forward_chains(self) -> list[str]:
        """``table chain`` of every IP base chain on the forward hook whose policy is drop. Raises OSError."""
        found: list[str] = []
        for body in self._netlink.dump("list nft chains", NFT_MSG_GETCHAIN, _ANY_FAMILY):
            if body[0] not in (NFPROTO_INET, socket.AF_INET, socket.AF_INET6):
                continue
            chain = parse_attributes(body[4:])
            hook = parse_attributes(chain.get(NFTA_CHAIN_HOOK, b"")).get(NFTA_HOOK_HOOKNUM)
            policy = chain.get(NFTA_CHAIN_POLICY)
            if not hook or not policy or _U32_BE.unpack(hook)[0] != NF_INET_FORWARD:
                continue
            if _U32_BE.unpack(policy)[0] == NF_DROP:
                found.append(f"{_text(chain.get(NFTA_CHAIN_TABLE))} {_text(chain.get(NFTA_CHAIN_NAME))}")
        return found

    def _change(self, what: str, changes: list[Change]) -> None:
        """One transaction."""
        if not changes:
            return
        requests: list[Request] = [(f"{what}: begin", NFNL_MSG_BATCH_BEGIN, 0, _BATCH)]
        requests += [(what, kind, flags, body) for kind, flags, body in changes]
        requests.append((f"{what}: end", NFNL_MSG_BATCH_END, 0, _BATCH))
        self._netlink.execute(requests, acknowledged=-2)


def _changes(kind: int, flags: int, table: str, elements: list[Element]) -> list[Change]:
    by_name: dict[str, list[bytes]] = {}
    for element in elements:
        by_name.setdefault(element.name, []).append(_encode(element))
    changes: list[Change] = []
    for name, encoded in by_name.items():
        for start in range(0, len(encoded), _ELEMENTS_PER_MESSAGE):
            chunk = encoded[start : start + _ELEMENTS_PER_MESSAGE]
            body = _list_of(table, name) + nested(NFTA_SET_ELEM_LIST_ELEMENTS, *chunk)
            changes.append((kind, flags, body))
    return changes


def _deletions(table: str, elements: list[Element]) -> list[Change]:
    bare = [element._replace(data=b"", timeout_ms=0) for element in elements]
    return _changes(NFT_MSG_DELSETELEM, 0, table, bare)


def _list_of(table: str, name: str) -> bytes:
    named = attribute_text(NFTA_SET_ELEM_LIST_SET, name)
    return _INET + attribute_text(NFTA_SET_ELEM_LIST_TABLE, table) + named


def _encode(element: Element) -> bytes:
    parts = [nested(NFTA_SET_ELEM_KEY, attribute(NFTA_DATA_VALUE, element.key))]
    if element.key_end:
        parts.append(nested(NFTA_SET_ELEM_KEY_END, attribute(NFTA_DATA_VALUE, element.key_end)))
    if element.data:
        parts.append(nested(NFTA_SET_ELEM_DATA, attribute(NFTA_DATA_VALUE, element.data)))
    if element.timeout_ms:
        parts.append(attribute(NFTA_SET_ELEM_TIMEOUT, _U64_BE.pack(element.timeout_ms)))
    if element.ends:
        parts.append(attribute(NFTA_SET_ELEM_FLAGS, _U32_BE.pack(NFT_SET_ELEM_INTERVAL_END)))
    return nested(NFTA_LIST_ELEM, *parts)


class NftChanges:
    """What changes in the tables of this network namespace, as it happens (NFNLGRP_NFTABLES)."""

    def __init__(self, unwatched: Collection[str] = ()) -> None:
        """Elements of the sets called ``unwatched`` come and go unnoticed. Raises OSError."""
        self._unwatched = frozenset(unwatched)
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
        self._touched: set[str] = set()
        self._own = b""
        """This process as the kernel's messages name it: by its number in the first pid namespace."""
        try:
            self._socket.bind((0, 0))
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)
            self._learn_own()
        except OSError:
            self._socket.close()
            raise

    def _learn_own(self) -> None:
        """By a change of our own, whose messages are there when it returns."""
        probe = f"sampan-probe-{os.urandom(4).hex()}"
        run_ruleset(f"add table inet {probe}\ndelete table inet {probe}\n")
        for tables, process in self._transactions():
            if probe in tables:
                self._own = process

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def foreign(self) -> set[str] | None:
        """Names of the tables (of whatever family) that other processes have changed since the last call;
        None when so much has happened that nobody knows."""
        found: set[str] = set()
        try:
            for tables, process in self._transactions():
                if process != self._own:
                    found |= tables
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._touched = set()
            return None
        return found

    def _transactions(self) -> Iterator[tuple[set[str], bytes]]:
        """The tables that each has changed, and the process that did it."""
        for kind, _, message in MessageReader(self._socket, MSG_DONTWAIT):
            attributes = parse_attributes(message[20:])
            if kind == NFT_MSG_NEWGEN:
                touched, self._touched = self._touched, set()
                yield touched, attributes.get(NFTA_GEN_PROC_PID, b"")
            elif not (
                kind in (NFT_MSG_NEWSETELEM, NFT_MSG_DELSETELEM)
                and _text(attributes.get(NFTA_SET_ELEM_LIST_SET)) in self._unwatched
            ):
                # the table's name is the first attribute of every kind of message
                self._touched.add(_text(attributes.get(NFTA_TABLE_NAME)))


def _text(value: bytes | None) -> str:
    return (value or b"").rstrip(b"\0").decode(errors="replace")


def run_ruleset(text: str) -> None:
    """Load rules written in nft(8)'s language as one transaction. Raises OSError with nft's own words;
    ENOSYS when neither libnftables nor nft is installed."""
    try:
        library = ctypes.CDLL("libnftables.so.1", use_errno=True)
    except OSError:
        _run_program(text)
        return
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    for function in ("nft_ctx_free", "nft_ctx_buffer_error", "nft_ctx_get_error_buffer"):
        getattr(library, function).argtypes = [ctypes.c_void_p]
    library.nft_ctx_buffer_output.argtypes = [ctypes.c_void_p]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    context = library.nft_ctx_new(0)
    if not context:
        raise OSError(errno.ENOMEM, "nft_ctx_new failed")
    try:
        library.nft_ctx_buffer_error(context)
        library.nft_ctx_buffer_output(context)
        if library.nft_run_cmd_from_buffer(context, text.encode()) != 0:
            reason = (library.nft_ctx_get_error_buffer(context) or b"").decode(errors="replace").strip()
            raise OSError(errno.EINVAL, f"load nft rules: {reason}")
    finally:
        library.nft_ctx_free(context)


def _run_program(text: str) -> None:
    try:
        done = subprocess.run(
            ["nft", "-f", "-"], input=text, capture_output=True, text=True, timeout=30, check=False
        )
    except FileNotFoundError as error:
        raise OSError(errno.ENOSYS, "neither libnftables.so.1 nor nft is installed") from error
    if done.returncode != 0:
        raise OSError(errno.EINVAL, f"load nft rules: {done.stderr.strip()}")
