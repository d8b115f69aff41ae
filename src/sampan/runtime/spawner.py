"""The spawner: a small single-threaded process, started before anything else, that forks every monitor.

Forking the daemon would copy the page tables of a big process (8-16 ms measured); forking this one costs
0.7 ms. It is started with ``python -I -S``, imports the standard library alone, freezes its heap so that
children share it, and then only receives programs and forks. It ends with its daemon; monitors do not.

A request is one SOCK_SEQPACKET message, the marshalled program, with descriptors: the control socket of the
new monitor first, then one stream socket for each client attached from the start.
"""

from __future__ import annotations

import gc
import marshal
import os
import signal
import socket
import sys

from sampan.kernel import process as proc
from sampan.runtime import monitor

_LARGEST_REQUEST = 1 << 20
_MOST_FDS = 32


def serve(requests: socket.socket) -> None:
    """Fork a monitor for every request until the daemon closes its end."""
    while True:
        data, fds, _, _ = socket.recv_fds(requests, _LARGEST_REQUEST, _MOST_FDS, socket.MSG_CMSG_CLOEXEC)
        if not data:
            return
        # not os.fork: its handlers for threads would only touch memory that is better left shared
        pid, pidfd = proc.clone3(0)
        if pid == 0:
            requests.close()
            monitor.main(marshal.loads(data), fds)  # noqa: S302 - from our own daemon
        for fd in (pidfd, *fds):
            os.close(fd)
        del data, fds


def main(fd: int) -> None:
    """Run on descriptor ``fd``, a SOCK_SEQPACKET socket."""
    os.setsid()
    proc.set_name("sampan-spawner")
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        # ended by its daemon's socket alone, so that a signal to a whole session loses no request
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # monitors are reaped by the kernel
    requests = socket.socket(fileno=fd)
    gc.collect()
    gc.freeze()
    gc.disable()
    requests.send(b"ready")
    serve(requests)


if __name__ == "__main__":
    main(int(sys.argv[1]))
