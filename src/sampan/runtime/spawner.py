"""The spawner: a small single-threaded process, started before anything else, that forks every monitor.

Forking the daemon would copy the page tables of a big process (8-16 ms measured); forking this one costs
0.7 ms. It is started with ``python -I -S``, imports the standard library alone, freezes its heap so that
children share it, and then only receives programs and forks. It ends with its daemon; monitors do not.

A request is one SOCK_SEQPACKET message with descriptors (see monitor.decode and monitor.main).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import gc
import os
import struct
import sys

from sampan.kernel import process as proc
from sampan.runtime import monitor, rehearsal


def serve(requests: _socket.socket) -> None:
    """Fork a monitor for every request until the daemon closes its end."""
    space = _socket.CMSG_SPACE(4 * monitor.MOST_REQUEST_FDS)
    buffer = bytearray(monitor.LARGEST_REQUEST)
    while True:
        size, ancillary, _, _ = requests.recvmsg_into([buffer], space, _socket.MSG_CMSG_CLOEXEC)
        if not size:
            return
        payload = ancillary[0][2]
        fds = list(struct.unpack(f"{len(payload) // 4}i", payload))
        # not os.fork: its handlers for threads would only touch memory that is better left shared
        pid, pidfd = proc.clone3(0)
        if pid == 0:
            requests.close()
            monitor.main(monitor.decode(memoryview(buffer)[:size], fds), fds)
        for fd in (pidfd, *fds):
            os.close(fd)


def main(fd: int) -> None:
    """Run on descriptor ``fd``, a SOCK_SEQPACKET socket."""
    os.setsid()
    # Every process from here to a container's execve is closed to the container's own processes, which
    # share its uid and capabilities for a moment: /proc/<pid>/{exe,fd,mem}, pidfd_getfd (CVE-2016-9962,
    # CVE-2019-5736). Children inherit it, execve takes it back (PR_SET_DUMPABLE(2const)).
    proc.set_dumpable(False)
    for number in (_signal.SIGINT, _signal.SIGHUP, _signal.SIGTERM):
        # ended by its daemon's socket alone, so that a signal to a whole session loses no request
        _signal.signal(number, _signal.SIG_IGN)
    requests = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fd)
    rehearsal.rehearse()
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)  # monitors are reaped by the kernel
    monitor.rehearse()
    # inherited by every monitor, which would pay for naming itself
    proc.set_name("sampan-monitor")
    gc.collect()
    gc.freeze()
    gc.disable()
    requests.send(b"ready")
    serve(requests)


if __name__ == "__main__":
    main(int(sys.argv[1]))
