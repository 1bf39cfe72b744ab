"""What carries HTTP: what it does about peers that stand still, and kernels that are short of memory."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from mountstore.server.transport import Buffers, PipeTransport, SocketTransport

MUCH = 8 << 20


@contextlib.contextmanager
def connected(family: socket.AddressFamily) -> Iterator[tuple[SocketTransport, socket.socket]]:
    """A transport and the socket of its peer."""
    if family == socket.AF_UNIX:
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            theirs = socket.create_connection(listening.getsockname(), timeout=60)
            ours, _ = listening.accept()
    transport = SocketTransport(ours)
    with theirs:
        yield transport, theirs
        transport.close()


FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])


@FAMILIES
def test_much_is_received_and_sent_whole(family: socket.AddressFamily) -> None:
    data = os.urandom(MUCH)
    with connected(family) as (transport, peer):
        sending = threading.Thread(target=peer.sendall, args=(data,))
        sending.start()
        view = memoryview(bytearray(MUCH))
        filled = 0
        while filled < MUCH:
            filled += transport.receive_into(view[filled:], time.monotonic() + 60)
        sending.join()
        assert view == data

        back = bytearray()

        def take() -> None:
            while len(back) < MUCH + 4:
                back.extend(peer.recv(1 << 20))

        taking = threading.Thread(target=take)
        taking.start()
        transport.send_all([b"head", data], lambda _: time.monotonic() + 60)
        taking.join()
        assert back == b"head" + data


@FAMILIES
def test_what_has_come_is_told_though_more_was_wanted(family: socket.AddressFamily) -> None:
    with connected(family) as (transport, peer):
        peer.sendall(b"begun")
        view = memoryview(bytearray(MUCH))
        assert transport.receive_into(view, time.monotonic() + 60) == 5
        peer.close()
        assert transport.receive_into(view, time.monotonic() + 60) == 0


@FAMILIES
def test_who_says_nothing_is_waited_for_until_the_deadline(family: socket.AddressFamily) -> None:
    with connected(family) as (transport, _), pytest.raises(TimeoutError):
        transport.receive_into(memoryview(bytearray(MUCH)), time.monotonic() + 0.2)


@FAMILIES
def test_who_takes_nothing_is_waited_for_until_the_deadline(family: socket.AddressFamily) -> None:
    with connected(family) as (transport, _), pytest.raises(TimeoutError):
        transport.send_all([bytes(8 * MUCH)], lambda _: time.monotonic() + 0.2)


@FAMILIES
def test_another_thread_may_break_it_off(family: socket.AddressFamily) -> None:
    with connected(family) as (transport, _):
        began = threading.Event()
        received: list[int] = []

        def receive() -> None:
            began.set()
            received.append(transport.receive_into(memoryview(bytearray(MUCH)), time.monotonic() + 60))

        receiving = threading.Thread(target=receive)
        receiving.start()
        began.wait()
        transport.abort()
        receiving.join(30)
        assert received == [0]


class Short(SocketTransport):
    """The kernel says that there is room to send, and then has none, as when it is short of memory."""

    asked = 0

    def _send(self, views: Buffers, *, may_wait: bool) -> int:
        self.asked += 1
        raise BlockingIOError


def test_a_kernel_without_memory_is_not_asked_for_ever() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        transport = Short(ours)
        with pytest.raises(TimeoutError):
            transport.send_all([b"x"], lambda _: time.monotonic() + 0.2)
        assert transport.asked > 1
        transport.close()


def test_a_pipe_that_is_not_read() -> None:
    reading, writing = os.pipe()
    try:
        transport = PipeTransport(reading, writing)
        with pytest.raises(TimeoutError):
            transport.send_all([bytes(MUCH)], lambda _: time.monotonic() + 0.2)
        transport.close()
    finally:
        os.close(reading)
        os.close(writing)
