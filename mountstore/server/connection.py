"""One client's connection: heads in, answers out, in turn; everything with a deadline.

Used by one thread at a time. A connection whose client does not follow HTTP, is too slow or goes away ends
with `Gone`, which nobody answers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus

from mountstore.server.head import Refused, has_bad_line_end
from mountstore.server.limits import Limits
from mountstore.server.transport import Transport
from mountstore.store import Data

_READ_BYTES = 64 << 10
_END = b"\r\n\r\n"
_NO_CACHE = "Cache-Control: no-store, no-cache, must-revalidate, max-age=0"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}" for status in HTTPStatus}


class Gone(Exception):
    """The client went away, or was too slow; the connection is of no more use."""


class Connection:
    """A transport with what was read from it and not yet used."""

    def __init__(self, transport: Transport, limits: Limits) -> None:
        self.transport = transport
        self.limits = limits
        self.received = bytearray()
        self.is_agreed = False
        self.bytes_in = self.bytes_out = 0
        self._scratch = memoryview(bytearray(_READ_BYTES))

    # -- in ---------------------------------------------------------------------------------------

    def read_head(self) -> bytes | None:
        """The next head with its empty line; None if the client has ended. Raises Refused, Gone."""
        deadline = time.monotonic() + self.limits.head_s
        if not self.is_agreed:
            try:
                self.transport.handshake(deadline)
            except OSError as error:
                raise Gone(f"handshake: {error}") from None
            self.is_agreed = True
        searched = 0
        while (end := self.received.find(_END, searched)) < 0:
            if has_bad_line_end(self.received):
                raise Refused(400, "lines end in CR LF, and neither stands alone", closes=True)
            self._check_size(len(self.received))
            searched = max(0, len(self.received) - 3)
            try:
                count = self.transport.receive_into(self._scratch, deadline)
            except TimeoutError:
                if not self.received:
                    raise Gone("silent") from None
                raise Refused(408, "the head of a request came too slowly", closes=True) from None
            except OSError as error:
                raise Gone(str(error)) from None
            if not count:
                if self.received:
                    raise Refused(400, "the request ended in its head", closes=True)
                return None
            self.bytes_in += count
            self.received += self._scratch[:count]
        end += len(_END)
        self._check_size(end)
        head = bytes(self.received[:end])
        del self.received[:end]
        return head

    def _check_size(self, size: int) -> None:
        if size > self.limits.head_bytes:
            raise Refused(431, f"a head has at most {self.limits.head_bytes} bytes", closes=True)

    def receive_into(self, view: memoryview, began: float, so_far: int) -> int:
        """Some bytes of a body that began at `began` and of which `so_far` have come. Raises Gone."""
        if self.received:
            count = min(len(view), len(self.received))
            view[:count] = self.received[:count]
            del self.received[:count]
            return count
        try:
            count = self.transport.receive_into(view, self._deadline(began, so_far))
        except TimeoutError:
            raise Gone("a body came too slowly") from None
        except OSError as error:
            raise Gone(str(error)) from None
        if not count:
            raise Gone("a body ended too early")
        self.bytes_in += count
        return count

    def receive_some(self, began: float, so_far: int) -> bytes:
        """The same, as bytes."""
        return bytes(self._scratch[: self.receive_into(self._scratch, began, so_far)])

    def is_readable(self, wait_s: float) -> bool:
        """Whether the client has said more, or ended."""
        return bool(self.received) or self.transport.readable(wait_s)

    def _deadline(self, began: float, so_far: int) -> float:
        limits = self.limits
        return min(
            time.monotonic() + limits.pause_s, began + limits.pause_s + so_far / limits.slowest_bytes_per_s
        )

    # -- out --------------------------------------------------------------------------------------

    def send_continue(self) -> None:
        """Tell a client that waits for it that its body is wanted. Raises Gone."""
        self._send([_CONTINUE])

    def send_head(
        self,
        status: int,
        length: int,
        *,
        closes: bool,
        content_type: str = "",
        headers: Iterable[tuple[str, str]] = (),
        body: Data = b"",
    ) -> None:
        """The head of an answer, and with it the whole body or its beginning. Raises Gone."""
        lines = [_STATUS_LINES[status], f"Date: {_date()}", _NO_CACHE, f"Content-Length: {length}"]
        if content_type:
            lines += [f"Content-Type: {content_type}", "X-Content-Type-Options: nosniff"]
        lines += [f"{name}: {value}" for name, value in headers]
        if closes:
            lines.append("Connection: close")
        lines.append("\r\n")
        self._send(["\r\n".join(lines).encode("latin-1"), body])

    def send_body(self, pieces: Iterable[Data]) -> int:
        """The rest of a body, as it comes; its size. Raises Gone, and what `pieces` raise."""
        began = time.monotonic()
        size = 0
        for piece in pieces:
            self._send([piece], began, size)
            size += len(piece)
        return size

    def _send(self, parts: list[Data], began: float | None = None, so_far: int = 0) -> None:
        start = time.monotonic() if began is None else began
        try:
            self.transport.send_all(parts, lambda sent: self._deadline(start, so_far + sent))
        except TimeoutError:
            raise Gone("an answer was taken too slowly") from None
        except OSError as error:
            raise Gone(str(error)) from None
        self.bytes_out += sum(len(part) for part in parts)

    # -- the end ----------------------------------------------------------------------------------

    def linger(self) -> None:
        """Let the client read the last answer, though it may still be sending: then it gets no reset."""
        limits = self.limits
        last = time.monotonic() + limits.pause_s
        try:
            self.transport.finish_sending()
            while self.transport.receive_into(self._scratch, min(last, time.monotonic() + limits.linger_s)):
                continue
        except OSError:  # it has gone, or goes on for ever: both are its own affair
            return


_stamp: tuple[int, str] = (0, "")


def _date() -> str:
    global _stamp
    now = int(time.time())
    if _stamp[0] != now:
        _stamp = (now, formatdate(now, usegmt=True))
    return _stamp[1]
