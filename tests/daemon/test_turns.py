"""Requests are read in turns: at once while a turn lasts, then after everybody else."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from mountstore.daemon.turns import ReadLock, Turns


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


async def test_others_run_when_a_turn_is_over(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.write(writer, b"x")
    passes = 0

    async def other() -> None:
        nonlocal passes
        while True:
            passes += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        endless = Turns(turn_s=3600.0)
        await endless.wait_readable(reader)
        before = passes
        for _ in range(100):
            await endless.wait_readable(reader)
        assert passes == before
        none = Turns(turn_s=0.0)
        for _ in range(100):
            await none.wait_readable(reader)
        assert passes >= before + 99
        nursery.cancel_scope.cancel()


async def test_waits_for_what_is_not_there_yet(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.write(writer, b"x")
    turns = Turns(turn_s=3600.0)
    await turns.wait_readable(reader)
    os.read(reader, 1)
    with trio.move_on_after(0.05) as waiting:
        await turns.wait_readable(reader)
    assert waiting.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.wait_readable, reader)
        await trio.testing.wait_all_tasks_blocked()
        os.write(writer, b"y")


async def test_the_other_end_is_gone() -> None:
    reader, writer = os.pipe()
    os.close(writer)
    turns = Turns(turn_s=3600.0)
    with trio.fail_after(10):
        await turns.wait_readable(reader)
        await turns.wait_readable(reader)
    os.close(reader)


async def test_a_lock_is_held_by_one_and_all_have_it_in_the_end() -> None:
    lock, inside, entered = ReadLock(), 0, []

    async def use(number: int) -> None:
        nonlocal inside
        for _ in range(3):
            async with lock:
                inside += 1
                assert inside == 1
                await trio.lowlevel.checkpoint()
                inside -= 1
            entered.append(number)
            await trio.lowlevel.checkpoint()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(use, number)
    assert sorted(entered) == sorted([*range(5)] * 3)


async def test_who_works_on_takes_the_lock_again_and_who_waits_elsewhere_leaves_it() -> None:
    lock, order = ReadLock(), []

    async def second() -> None:
        async with lock:
            order.append("second")

    async with trio.open_nursery() as nursery:
        async with lock:
            nursery.start_soon(second)
            await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            async with lock:
                order.append("first")
        await trio.testing.wait_all_tasks_blocked()
    assert order == ["first"] * 3 + ["second"]


async def test_a_waiter_that_is_cancelled_is_forgotten() -> None:
    lock = ReadLock()
    async with trio.open_nursery() as nursery, lock:
        nursery.start_soon(lock.__aenter__)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    with trio.fail_after(10):
        async with lock:
            pass
