"""Large ranges over plain HTTP, received by the kernel straight into memory that is used again.

Python asks for a whole range in one call, and lets other threads run until it is there. Through obstore,
256 MiB in ranges of 8 cost 0.17 s of CPU, half of it for new pages, and as much again for waking threads;
so a mount's cold read took 0.50 to 0.60 s, and takes 0.36 to 0.46 this way (versitygw, 2 cores).

Over TLS, which hands out 16 KiB at a time, and through proxies it is obstore's work.
"""

from __future__ import annotations

import re
import socket
import struct
import time
import weakref
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mountstore.backends._lent_memory import MEMORY
from mountstore.backends.s3 import sign
from mountstore.backends.s3.account import Site

if TYPE_CHECKING:
    from mountstore.backends.s3.wire import Wire

LEAST_BYTES = 1 << 20
_LENT_BYTES = 4 << 20
_MOST_HEAD_BYTES = 64 << 10
_MOST_IDLE = 32
_LONGEST_S = 900.0  # for one answer, as everywhere
_FIELD = re.compile(rb"\r\n([!-9;-~]+):[ \t]*([^\r\n]*?)[ \t]*(?=\r\n)")
_RANGE = re.compile(rb"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of an object, as a server sent it."""

    data: memoryview
    start: int
    size_bytes: int  # of the whole object
    etag: str | None


class Odd(Exception):
    """Anything but the range itself came. `refused`: the server has said no, and says so again."""

    def __init__(self, refused: bool = False) -> None:
        super().__init__()
        self.refused = refused


class Ranges:
    """GET of large ranges of one bucket's objects. For any thread."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._idle: deque[_Connection] = deque()
        weakref.finalize(self, _close, self._idle)

    def get(self, whole: str, start: int, stop: int, if_match: str | None) -> Piece:
        """Bytes [start, stop), fewer if the object ends before, of the object of this whole key.

        Tries once, but for connections that turn out to have been closed while nobody used them.
        Raises Odd: somebody else may ask the same, and find out what is wrong.
        """
        wire = self._wire
        site = wire.site
        request = self._request(site, whole, start, stop, if_match)
        while True:
            connection = self._connection(site)
            was_idle = connection.was_used
            wire.count("GET")
            try:
                piece = connection.ask(request, start, stop)
            except (OSError, Odd) as error:
                connection.close()
                if isinstance(error, Odd):
                    raise
                if was_idle and not connection.answers:
                    continue
                raise Odd from error
            except BaseException:
                connection.close()
                raise
            if connection.may_stay and len(self._idle) < _MOST_IDLE:
                self._idle.append(connection)
            else:
                connection.close()
            return piece

    def close(self) -> None:
        """Close what is not in use."""
        _close(self._idle)

    def _request(self, site: Site, whole: str, start: int, stop: int, if_match: str | None) -> bytes:
        path = f"{site.path}/{sign.quote_key(whole)}"
        headers = {"range": f"bytes={start}-{stop - 1}"}
        if if_match is not None:
            if not (if_match.isascii() and if_match.isprintable()):
                raise Odd  # it would end the header
            headers["if-match"] = if_match
        credentials = self._wire.account.credentials()
        if credentials is None:
            headers["host"] = site.netloc
        else:
            headers = sign.signed_headers("GET", site, path, "", headers, sign.EMPTY_SHA256, credentials)
        lines = (f"{name}: {value}\r\n" for name, value in headers.items())
        return f"GET {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode("latin-1")

    def _connection(self, site: Site) -> _Connection:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if connection.site is site:
                return connection
            connection.close()
        patience = self._wire.patience
        try:
            return _Connection(site, patience.connect_timeout_s, patience.read_timeout_s)
        except OSError as error:
            raise Odd from error


def _close(idle: deque[_Connection]) -> None:
    while idle:
        idle.pop().close()


class _Connection:
    """A connection to a server, for one request at a time."""

    def __init__(self, site: Site, connect_timeout_s: float, read_timeout_s: float) -> None:
        self.site = site
        self.was_used = False
        self.answers = False  # something of the answer to the last request came
        self.may_stay = True
        self._socket = socket.create_connection((site.host.strip("[]"), site.port), connect_timeout_s)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Python's own time-outs make a socket one that never waits for the whole.
            self._socket.settimeout(None)
            timeout = struct.pack("@ll", int(read_timeout_s), int(read_timeout_s % 1 * 1e6))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def ask(self, request: bytes, start: int, stop: int) -> Piece:
        """The answer to a request for [start, stop). Raises OSError; Odd, then it cannot be used again."""
        self.was_used, self.answers = True, False
        deadline = time.monotonic() + _LONGEST_S
        self._socket.sendall(request)
        head, begun = self._head()
        fields = {name.lower(): value for name, value in _FIELD.findall(head)}
        status = head[9:12]
        told = _RANGE.fullmatch(fields.get(b"content-range", b""))
        if not head.startswith(b"HTTP/1.1 206") or told is None or b"transfer-encoding" in fields:
            raise Odd(status.startswith((b"3", b"4")) and status not in (b"408", b"429"))
        size = int(told[3])
        count = min(stop, size) - start
        if (
            count < 1
            or (int(told[1]), int(told[2])) != (start, start + count - 1)
            or fields.get(b"content-length") != b"%d" % count
            or len(begun) > count
        ):
            raise Odd
        # What is lent comes in whole MiB, and an object may be much smaller than what was asked for.
        is_lent = count >= _LENT_BYTES or count == LEAST_BYTES
        place = MEMORY.lend(count) if is_lent else memoryview(bytearray(count))
        at = len(begun)
        place[:at] = begun
        while at < count:
            received = self._socket.recv_into(place[at:], count - at, socket.MSG_WAITALL)
            if not received or time.monotonic() > deadline:
                raise Odd
            at += received
        self.may_stay = fields.get(b"connection", b"").lower() != b"close"
        etag = fields.get(b"etag")
        return Piece(place, start, size, etag.decode("latin-1") if etag is not None else None)

    def _head(self) -> tuple[bytes, bytes]:
        """(the head of an answer up to its last line's end, what came of the body with it)"""
        head = b""
        while len(head) < _MOST_HEAD_BYTES:
            received = self._socket.recv(8192)
            if not received:
                raise ConnectionResetError
            self.answers = True
            head += received
            if (end := head.find(b"\r\n\r\n")) >= 0:
                return head[: end + 2], head[end + 4 :]
        raise Odd
