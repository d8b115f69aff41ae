"""A bound that changes while it is in use."""

from __future__ import annotations

import asyncio

import pytest

from sampan.base.slots import Slots


class Users:
    """Tasks that want a place and keep it until they are told."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self.inside: list[int] = []
        self.leave: dict[int, asyncio.Event] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}

    async def come(self, *names: int) -> None:
        for name in names:
            self.leave[name] = asyncio.Event()
            self.tasks[name] = asyncio.ensure_future(self._use(name))
        await settle()

    async def go(self, *names: int) -> None:
        for name in names:
            self.leave[name].set()
        await settle()

    async def _use(self, name: int) -> None:
        async with self._slots:
            self.inside.append(name)
            try:
                await self.leave[name].wait()
            finally:
                self.inside.remove(name)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_first_come_first_served() -> None:
    slots = Slots(2)
    users = Users(slots)
    await users.come(1, 2, 3, 4)
    assert users.inside == [1, 2]
    assert slots.full
    await users.go(1)
    assert users.inside == [2, 3]
    await users.go(2, 3, 4)
    assert users.inside == []
    assert not slots.full


async def test_bound_grows_and_shrinks() -> None:
    slots = Slots(0)
    assert slots.limit == 1
    users = Users(slots)
    await users.come(1, 2, 3, 4)
    slots.resize(3)
    await settle()
    assert users.inside == [1, 2, 3]
    slots.resize(1)
    await users.go(1, 2)
    assert users.inside == [3]
    await users.go(3)
    assert users.inside == [4]
    await users.go(4)


async def test_who_is_cancelled_takes_no_place() -> None:
    slots = Slots(1)
    users = Users(slots)
    await users.come(1, 2, 3)
    users.tasks[2].cancel()
    await settle()
    await users.go(1)
    assert users.inside == [3]
    # cancelled in the moment in which it is admitted
    await users.come(4, 5)
    users.leave[3].set()
    await asyncio.sleep(0)
    users.tasks[4].cancel()
    await settle()
    assert users.inside == [5]
    await users.go(5)
    assert not slots.full
    for name in (2, 4):
        with pytest.raises(asyncio.CancelledError):
            await users.tasks[name]
