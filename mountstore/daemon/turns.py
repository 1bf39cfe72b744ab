"""How long requests of the kernel are answered before other tasks have their turn.

pyfuse3 reads each request under a lock of trio's and waits for it by trio, which is two tasks and two passes
of the loop a request: 27 us of processor time where the answer itself takes 2. Most often the next request is
there as soon as the last is answered. So a reader takes what is there, as long as its turn lasts, and only
then gives way; 6 us a request. pyfuse3 takes what it needs of trio from one name in its module, by which its
own support of asyncio puts other things in that place, too.
"""

from __future__ import annotations

import select
import time
from types import SimpleNamespace, TracebackType

import pyfuse3
import trio

TURN_S = 0.0005
"""So long requests are answered without giving way to other tasks."""


class ReadLock:
    """A lock that is free when it is released: who comes first has it, be it the one that has just had it.

    One of those that wait is woken, and waits again if it comes too late. So a task that goes on working
    keeps it, and the others come in as soon as it waits for something else.
    """

    def __init__(self) -> None:
        self._held = False
        self._waiting: list[trio.lowlevel.Task] = []

    async def __aenter__(self) -> None:
        while self._held:
            task = trio.lowlevel.current_task()
            self._waiting.append(task)

            def abort(_: object, task: trio.lowlevel.Task = task) -> trio.lowlevel.Abort:
                self._waiting.remove(task)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
        self._held = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held = False
        if self._waiting:
            trio.lowlevel.reschedule(self._waiting.pop())


class Turns:
    """`wait_readable` of one descriptor: at once while its turn lasts and something is there."""

    def __init__(self, turn_s: float = TURN_S) -> None:
        self._turn_s = turn_s
        self._until = 0.0
        self._polls: dict[int, select.poll] = {}

    async def wait_readable(self, fd: int) -> None:
        """Return when there is something to read, an error or the end. Cancellable when it waits."""
        poll = self._polls.get(fd)
        if poll is None:
            poll = self._polls[fd] = select.poll()
            poll.register(fd, select.POLLIN)
        if time.perf_counter() < self._until and poll.poll(0):
            return
        await trio.lowlevel.wait_readable(fd)
        self._until = time.perf_counter() + self._turn_s


def take_turns() -> None:
    """Have pyfuse3 read requests so, in this process."""
    lowlevel = SimpleNamespace(
        current_task=trio.lowlevel.current_task,
        current_trio_token=trio.lowlevel.current_trio_token,
        notify_closing=trio.lowlevel.notify_closing,
        wait_readable=Turns().wait_readable,
    )
    ours = SimpleNamespace(
        Lock=ReadLock,
        ClosedResourceError=trio.ClosedResourceError,
        open_nursery=trio.open_nursery,
        lowlevel=lowlevel,
    )
    setattr(pyfuse3, "trio", ours)  # noqa: B010  # a name that its type stubs do not tell
