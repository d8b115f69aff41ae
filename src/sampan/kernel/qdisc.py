"""Bandwidth limits of an interface: a token bucket as its queueing discipline (tc-tbf(8), linux/pkt_sched.h).

Standard library only.
"""

from __future__ import annotations

import errno
from struct import Struct

from .netlink import (
    IFLA_IFNAME,
    NLM_F_CREATE,
    NLM_F_REPLACE,
    NetlinkSocket,
    attribute,
    attribute_text,
    link_body,
    nested,
)

_RTM_GETLINK = 18
_RTM_NEWQDISC = 36
_RTM_DELQDISC = 37
_TC_H_ROOT = 0xFFFFFFFF
_HANDLE = 0x5A << 16
"""The major number 5a: marks the ones made here."""

_TCMSG = Struct("=BxxxiIII")  # family, interface, handle, parent, info
_IFINFO = Struct("=BxHiII")
_RATESPEC = Struct("=BBHhHI")  # cell_log, linklayer, overhead, cell_align, mpu, rate
_LINKLAYER_ETHERNET = 1  # no table of transmission times is needed then (Linux 3.8)
_U32 = Struct("=I")
_U64 = Struct("=Q")
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_TBF_PARMS, _TCA_TBF_RATE64, _TCA_TBF_BURST = 1, 4, 6

_LARGEST_PACKET = 65536 + 14
"""With segmentation offload; the bucket has to hold it, or it is cut into single frames at great cost."""
_BURST_S = 0.004
_QUEUE_S = 0.05


def limit_rate(route: NetlinkSocket, name: str, bits_per_s: int) -> None:
    """What is sent through the interface is at most that fast from now on, whatever it was. Bursts are up to
    4 ms of it, and 50 ms wait before what comes is dropped, so that senders slow down soon. Raises OSError
    (ENOENT: the kernel has no tbf)."""
    index = _index(route, name)
    rate = max(bits_per_s // 8, 1)
    burst = max(int(rate * _BURST_S), 2 * _LARGEST_PACKET)
    limit = max(int(rate * _QUEUE_S), burst) + burst
    spec = _RATESPEC.pack(0, _LINKLAYER_ETHERNET, 0, 0, 0, min(rate, 0xFFFFFFFF))
    none = _RATESPEC.pack(0, 0, 0, 0, 0, 0)
    parameters = attribute(_TCA_TBF_PARMS, spec + none + _U32.pack(limit) + _U32.pack(0) + _U32.pack(0))
    options = nested(
        _TCA_OPTIONS,
        parameters,
        attribute(_TCA_TBF_BURST, _U32.pack(burst)),
        *([attribute(_TCA_TBF_RATE64, _U64.pack(rate))] if rate > 0xFFFFFFFF else []),
    )
    body = _TCMSG.pack(0, index, _HANDLE, _TC_H_ROOT, 0) + attribute_text(_TCA_KIND, "tbf") + options
    route.execute([(f"limit the rate of {name}", _RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, body)])


def unlimit_rate(route: NetlinkSocket, name: str) -> None:
    """Idempotent. Raises OSError."""
    body = _TCMSG.pack(0, _index(route, name), _HANDLE, _TC_H_ROOT, 0)
    try:
        route.execute([(f"lift the limit of {name}", _RTM_DELQDISC, 0, body)])
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EINVAL):
            raise


def _index(route: NetlinkSocket, name: str) -> int:
    """Of an interface in the socket's namespace, where the caller need not be. Raises OSError (ENODEV)."""
    body = link_body(attribute_text(IFLA_IFNAME, name))
    _, _, index, _, _ = _IFINFO.unpack_from(route.get(f"look for {name}", _RTM_GETLINK, body))
    return int(index)
