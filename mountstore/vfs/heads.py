"""Objects asked for one by one, many at once: attributes, doubts about what was told, and small contents.

For the thread of the event loop alone.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Mapping

import trio

from mountstore.aio import AsyncStore
from mountstore.errors import StoreError
from mountstore.store import Data, ObjectInfo

log = logging.getLogger(__name__)

_ASKS = 4  # how often an object is asked for until two answers agree
_HEADS = 16  # threads that ask at once
_SMALL = 8 << 10  # an object of up to so many bytes is got where its attributes are wanted: it costs the same
_SMALL_IN_ALL = 2 << 20  # of one page: who only lists over a slow line is not to wait for more


class Heads:
    """Asks a store for objects."""

    def __init__(self, store: AsyncStore) -> None:
        self._store = store

    async def of(
        self,
        keys: Iterable[str],
        told: Mapping[str, set[str | None]] | None = None,
        small: Container[str] = (),
        contents: dict[str, tuple[str | None, Data]] | None = None,
    ) -> dict[str, ObjectInfo | None]:
        """Each object's attributes, or None where there is no such object.

        `told` are the etags that some of them were said to have (None: no object): of those, what is neither
        is asked for until it was told twice. Of what is `small`, `contents` gets (etag, content), if it comes
        with the attributes.
        """
        answers: dict[str, ObjectInfo | None] = {}
        waiting = list(keys)
        heard = {key: set(etags) for key, etags in (told or {}).items()}

        async def ask(share: list[str], asks: int = 1) -> None:
            found: dict[str, ObjectInfo] = {}
            is_first = asks == 1
            try:
                if got := [key for key in share if is_first and key in small]:
                    for key, (info, data) in (await self._store.head_or_get_many(got)).items():
                        found[key] = info
                        if data is not None and contents is not None:
                            contents[key] = info.etag, data
                if rest := [key for key in share if not (is_first and key in small)]:
                    found |= await self._store.head_many(rest)
            except StoreError as error:
                if len(share) > 1:
                    # One of them: the others are to be known all the same.
                    for key in share:
                        await ask([key], asks)
                else:
                    log.warning("cannot read the attributes of %r: %s", share[0], error)
                return
            doubtful = []
            for key in share:
                answer = found.get(key)
                etag = answer.etag if answer is not None else None
                if key in heard and etag not in heard[key]:
                    heard[key].add(etag)
                    doubtful.append(key)
                else:
                    answers[key] = answer
            if doubtful and asks < _ASKS:
                await ask(doubtful, asks + 1)
            elif doubtful:
                log.warning("the store's answers about %r contradict each other", doubtful[0])

        if len(waiting) == 1:
            await ask(waiting)
            return answers
        # A worker thread takes a whole share: a hop to it costs as much as half a request.
        async with trio.open_nursery() as nursery:
            for first in range(min(_HEADS, len(waiting))):
                nursery.start_soon(ask, waiting[first::_HEADS])
        return answers


def small(objects: Iterable[ObjectInfo]) -> set[str]:
    """Those that are small, as far as all of them together are not much."""
    found, left = set(), _SMALL_IN_ALL
    for info in objects:
        if 0 < info.size <= min(_SMALL, left):
            found.add(info.key)
            left -= info.size
    return found
