"""Requests and answers of one connection, in turn: what HTTP asks of a server, whatever the verbs mean."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

from mountstore.server.body import Body, body_of
from mountstore.server.connection import Connection, Gone
from mountstore.server.head import Head, Refused, parse_head
from mountstore.server.metrics import Metrics
from mountstore.store import Data

log = logging.getLogger(__name__)

TEXT = "text/plain; charset=utf-8"

# A thread waits this long for the next request before it hands the connection back: a busy machine lets a
# client pause so long, and whoever needs room for one more connection waits longer.
_STAY_S = 0.25
_STAND_IN_HOST = b"localhost"
_COUNTED = frozenset(("GET", "HEAD", "POST", "DELETE"))


class Pieces(Protocol):
    """The parts of a body, to be closed at the end."""

    def __iter__(self) -> Iterator[Data]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: a status and a body, in one piece, or as `pieces` of `length` bytes in all.

    `length` alone is for HEAD: what its Content-Length says. `closes` ends the connection.
    """

    status: int
    body: Data = b""
    content_type: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    pieces: Pieces | None = None
    length: int | None = None
    closes: bool = False


Application = Callable[[Head, Body], Response]
"""Answers a request, reading its body as far as it wants to. May wait; raises Refused and Gone."""


@dataclass(slots=True, eq=False)
class Conversation:
    """A connection and the application that it talks to. `is_ending` is set when the server ends."""

    connection: Connection
    application: Application
    metrics: Metrics
    is_pipe: bool = False  # whoever speaks over a pair of pipes names no host
    is_ending: bool = False
    is_busy: bool = False

    def turn(self) -> bool:
        """Answer what has been asked; whether the connection goes on (False: it is to be closed)."""
        self.is_busy = True
        try:
            while self._exchange():
                if self.is_ending or not self.connection.is_readable(_STAY_S):
                    return not self.is_ending
        except Gone as gone:
            log.debug("a connection ended: %s", gone)
        finally:
            self.is_busy = False
        return False

    def _exchange(self) -> bool:
        connection = self.connection
        connection.bytes_in = connection.bytes_out = 0
        head, body = None, None
        try:
            text = connection.read_head()
            if text is None:
                return False
            began = time.monotonic()
            self.metrics.began()
            try:
                head = parse_head(text, connection.limits, host=_STAND_IN_HOST if self.is_pipe else None)
                body = body_of(connection, head)
                if head.fault is not None:
                    raise head.fault
                response = self._answer(head, body)
            except Refused as refused:
                response = _refusal(refused)
        except Refused as refused:  # before there was a head
            began = time.monotonic()
            self.metrics.began()
            response = _refusal(refused)
        goes_on = (
            head is not None
            and body is not None
            and head.keeps_alive
            and not response.closes
            and not self.is_ending
            and body.can_skip(None if self.is_pipe else connection.limits.skipped_bytes)
        )
        method = head.method if head is not None else "none"
        try:
            self._send(response, closes=not goes_on, is_head=method == "HEAD")
            if goes_on and body is not None:
                body.skip()
        finally:
            if response.pieces is not None:
                response.pieces.close()
            self.metrics.ended(
                method if method in _COUNTED else "other",
                response.status,
                time.monotonic() - began,
                connection.bytes_in,
                connection.bytes_out,
            )
        if not goes_on and not self.is_pipe:
            connection.linger()
        return goes_on

    def _answer(self, head: Head, body: Body) -> Response:
        try:
            return self.application(head, body)
        except (Refused, Gone):
            raise
        except Exception:
            # One bad request must not end the server, and what went wrong is nobody's but the log's.
            log.exception("a request failed: %s %r", head.method, head.name)
            return Response(500, HTTPStatus(500).phrase.encode(), TEXT)

    def _send(self, response: Response, *, closes: bool, is_head: bool) -> None:
        pieces = response.pieces
        body = response.body
        length = len(body) if response.length is None else response.length
        self.connection.send_head(
            response.status,
            length,
            closes=closes,
            content_type=response.content_type,
            headers=response.headers,
            body=b"" if is_head else body,
        )
        if pieces is None or is_head:
            return
        try:
            sent = len(body) + self.connection.send_body(pieces)
        except Gone:
            raise
        except Exception as error:
            # The client sees it by the length that it was promised.
            log.error("an answer was broken off: %s: %s", type(error).__name__, error)
            raise Gone("the store failed within an answer") from None
        if sent != length:
            log.error("an answer was broken off: %d bytes of %d", sent, length)
            raise Gone("an answer came out with another length")


def _refusal(refused: Refused) -> Response:
    return Response(refused.status, str(refused).encode(errors="replace"), TEXT, closes=refused.closes)
