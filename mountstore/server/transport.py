"""What HTTP is spoken over: a socket (plain or TLS), or a pair of pipes. Blocking, by a deadline.

Each call tries first, and waits by poll(2) only if it must. What there is much of is received and sent for
a moment (`_MOMENT_S`) by one system call, which waits by itself: between any two calls a thread asks for the
interpreter's lock, and where many are at it, on a busy machine, these waits cost more than the calls.
Deadlines are of time.monotonic(). A deadline that passes is a TimeoutError, a peer that went away a
ConnectionError.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from mountstore.store import Data

Buffers = list[memoryview]

_MUCH_BYTES = 128 << 10
_MOMENT_S = 0.05
_MOMENT = struct.pack("@ll", 0, int(_MOMENT_S * 1e6))  # a struct timeval


class Transport(ABC):
    """One connection's bytes, in and out; used by one thread at a time."""

    @abstractmethod
    def receive_into(self, view: memoryview, deadline: float) -> int:
        """Wait for some bytes and say how many came; 0 at the end of the stream."""

    @abstractmethod
    def send_all(self, parts: list[Data], deadline: Callable[[int], float]) -> None:
        """Send all parts; `deadline(sent)` is when more than these must have gone."""

    @abstractmethod
    def readable(self, wait_s: float | None) -> bool:
        """Whether there is something to receive (or the end) within this time; None waits for ever."""

    @abstractmethod
    def finish_sending(self) -> None:
        """Tell the peer that nothing more comes. Raises OSError if it is gone."""

    @abstractmethod
    def abort(self) -> None:
        """Wake whoever waits on this transport, from another thread; what is under way fails."""

    @abstractmethod
    def close(self) -> None:
        """Give the descriptors back; once."""

    def handshake(self, deadline: float) -> None:  # noqa: B027  # only TLS has one
        """Agree on encryption, where there is any."""


def wait_for(fd: int, events: int, deadline: float) -> None:
    """Wait until one of the poll events happens at `fd`. Raises TimeoutError."""
    poll = select.poll()
    poll.register(fd, events)
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(left * 1000):
        raise TimeoutError


class SocketTransport(Transport):
    """A connected stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._settle(sock)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock

    def _settle(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            sock.setsockopt(socket.SOL_SOCKET, option, _MOMENT)

    def receive_into(self, view: memoryview, deadline: float) -> int:
        while True:
            try:
                return self._receive(view, may_wait=time.monotonic() < deadline)
            except (BlockingIOError, ssl.SSLWantReadError):
                wait_for(self.sock.fileno(), select.POLLIN, deadline)
            except ssl.SSLWantWriteError:
                wait_for(self.sock.fileno(), select.POLLOUT, deadline)

    def send_all(self, parts: list[Data], deadline: Callable[[int], float]) -> None:
        views = [memoryview(part) for part in parts if len(part)]
        sent = 0
        limit = deadline(sent)  # until something has gone, and not from each look on: poll(2) may say that
        while views:  # there is room where the kernel then has none
            try:
                count = self._send(views, may_wait=time.monotonic() < limit)
            except (BlockingIOError, ssl.SSLWantWriteError):
                wait_for(self.sock.fileno(), select.POLLOUT, limit)
                continue
            except ssl.SSLWantReadError:
                wait_for(self.sock.fileno(), select.POLLIN, limit)
                continue
            sent += count
            drop(views, count)
            limit = deadline(sent)

    def _receive(self, view: memoryview, *, may_wait: bool) -> int:
        much = may_wait and len(view) >= _MUCH_BYTES
        return self.sock.recv_into(view, 0, socket.MSG_WAITALL if much else socket.MSG_DONTWAIT)

    def _send(self, views: Buffers, *, may_wait: bool) -> int:
        if len(views) > 1:
            return self.sock.sendmsg(views, (), socket.MSG_DONTWAIT)
        much = may_wait and len(views[0]) >= _MUCH_BYTES
        return self.sock.send(views[0], 0 if much else socket.MSG_DONTWAIT)

    def readable(self, wait_s: float | None) -> bool:
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(None if wait_s is None else wait_s * 1000))

    def finish_sending(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:  # it has ended by itself
            return

    def close(self) -> None:
        self.sock.close()


class TlsTransport(SocketTransport):
    """A connected stream socket, encrypted; the handshake comes first, in the thread that serves it."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        super().__init__(sock)
        self.sock: ssl.SSLSocket = context.wrap_socket(
            sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        self._agreed = False

    def _settle(self, sock: socket.socket) -> None:
        sock.setblocking(False)

    def handshake(self, deadline: float) -> None:
        while not self._agreed:
            try:
                self.sock.do_handshake()
                self._agreed = True
            except ssl.SSLWantReadError:
                wait_for(self.sock.fileno(), select.POLLIN, deadline)
            except ssl.SSLWantWriteError:
                wait_for(self.sock.fileno(), select.POLLOUT, deadline)

    def _receive(self, view: memoryview, *, may_wait: bool) -> int:
        return self.sock.recv_into(view)

    def _send(self, views: Buffers, *, may_wait: bool) -> int:
        # A record is cut by OpenSSL at 16 KiB; small parts together make one record instead of two.
        if len(views) > 1 and len(views[0]) + len(views[1]) <= 16 << 10:
            views[:2] = [memoryview(bytes(views[0]) + bytes(views[1]))]
        return self.sock.send(views[0])

    def readable(self, wait_s: float | None) -> bool:
        return bool(self.sock.pending()) or super().readable(wait_s)

    def finish_sending(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)


class PipeTransport(Transport):
    """Standard input and output, or any two descriptors; both are left open."""

    def __init__(self, reading: int, writing: int) -> None:
        self._in, self._out = reading, writing
        self._blocking = [(fd, os.get_blocking(fd)) for fd in (reading, writing)]
        for fd in (reading, writing):
            os.set_blocking(fd, False)

    def receive_into(self, view: memoryview, deadline: float) -> int:
        while True:
            try:
                return os.readv(self._in, [view])
            except BlockingIOError:
                wait_for(self._in, select.POLLIN, deadline)

    def send_all(self, parts: list[Data], deadline: Callable[[int], float]) -> None:
        views = [memoryview(part) for part in parts if len(part)]
        sent = 0
        limit = deadline(sent)
        while views:
            try:
                count = os.writev(self._out, views)
            except BlockingIOError:
                wait_for(self._out, select.POLLOUT, limit)
                continue
            sent += count
            drop(views, count)
            limit = deadline(sent)

    def readable(self, wait_s: float | None) -> bool:
        poll = select.poll()
        poll.register(self._in, select.POLLIN)
        return bool(poll.poll(None if wait_s is None else wait_s * 1000))

    def finish_sending(self) -> None:
        """There is no half of a pair of pipes to close: the end of the process says it."""

    def abort(self) -> None:
        """Pipes end with the process."""

    def close(self) -> None:
        for fd, blocking in self._blocking:
            os.set_blocking(fd, blocking)


def drop(views: Buffers, count: int) -> None:
    """Take `count` bytes from the front of these views."""
    while count:
        if len(views[0]) > count:
            views[0] = views[0][count:]
            return
        count -= len(views.pop(0))
