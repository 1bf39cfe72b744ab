"""Keys that a request of ours is changing right now, or may have changed: its answer was lost.

For the thread of the event loop alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import trio

_SETTLES_S = 5.0  # how long a read waits for what became of a request without an answer


class BusyKeys:
    """`key in busy`: nothing that the store says of it is to be believed for now."""

    def __init__(self) -> None:
        self._busy: dict[str, trio.Event] = {}
        self._unsettled: dict[str, float] = {}
        self._settling: dict[str, trio.Event] = {}  # of those that somebody waits for

    def __contains__(self, key: str) -> bool:
        return key in self._busy or key in self._unsettled

    @property
    def unsettled(self) -> Mapping[str, float]:
        """Keys whose last request was not answered, and when (trio's clock) to ask what became of it."""
        return self._unsettled

    def below(self, prefix: str) -> bool:
        """Whether any of these keys starts with the prefix."""
        return any(key.startswith(prefix) for keys in (self._busy, self._unsettled) for key in keys)

    def take(self, key: str) -> None:
        """A request is about to change it; `give` follows."""
        self._busy[key] = trio.Event()

    def give(self, key: str) -> None:
        """The request is over."""
        self._busy.pop(key).set()

    async def wait(self, key: str) -> None:
        """Return when no request changes it."""
        while key in self._busy:
            await self._busy[key].wait()

    def ask_at(self, key: str, when: float) -> None:
        """It is unsettled, and is to be asked about at this time."""
        self._unsettled[key] = when

    def settle(self, key: str) -> None:
        """It is known what became of its requests."""
        self._unsettled.pop(key, None)
        if key in self._settling:
            self._settling.pop(key).set()

    async def settled(self, key: str) -> None:
        """Return when no request of ours changes this key, and it is known what became of the last one, or
        that cannot be found out."""
        await self.wait(key)
        with trio.move_on_after(_SETTLES_S):
            while key in self._unsettled:
                await self._settling.setdefault(key, trio.Event()).wait()
        await self.wait(key)
