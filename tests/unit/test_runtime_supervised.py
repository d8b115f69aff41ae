"""What the daemon makes of a monitor's messages, whatever is on its way in the other direction."""

from __future__ import annotations

import asyncio
import marshal
import socket
from collections.abc import Callable

import pytest
import uvloop

from sampan.runtime.supervised import SupervisedProcess

LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])


@LOOPS
@pytest.mark.parametrize("unread", [0, 1, 3])
def test_the_exit_status_is_read_although_our_messages_are_not(
    unread: int, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """A monitor that closes with something unread makes the kernel tell of a reset before its last words."""

    async def scenario() -> None:
        ours, monitor = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process = SupervisedProcess("id", ours)
        monitor.send(marshal.dumps(("started", 1, 2)))
        await process.started
        for _ in range(unread):
            await process.resize(24, 80)
        monitor.send(marshal.dumps(("exited", 3, 4, False)))
        monitor.close()
        status = await asyncio.wait_for(process.wait(), 10)
        assert (status.exit_code, status.finished_ns) == (3, 4)
        await asyncio.wait_for(process.released(), 10)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario())


@LOOPS
def test_a_monitor_that_is_killed_takes_its_process_along(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def scenario() -> None:
        ours, monitor = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process = SupervisedProcess("id", ours)
        monitor.send(marshal.dumps(("started", 1, 2)))
        await process.started
        monitor.close()
        assert (await asyncio.wait_for(process.wait(), 10)).exit_code == 137
        await asyncio.wait_for(process.released(), 10)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario())
