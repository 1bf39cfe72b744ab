"""Connections accepted, parked while they are idle, and served by threads: on trio.

An idle connection costs a task and no thread. As soon as its client says something a worker thread takes
it over, reads requests and answers them with plain blocking calls, straight between socket and store, and
gives it back when nothing more has come for a moment. So a body moves without passing through the event
loop, a request costs at most one hop, and nothing serialises one connection with another.

On SIGTERM or SIGINT nothing more is accepted, idle connections end, and what is under way is finished, for
as long as `Limits.drain_s`; a second signal breaks it off.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from types import FrameType

import trio

from mountstore.server.connection import Connection
from mountstore.server.conversation import Application, Conversation
from mountstore.server.limits import Limits
from mountstore.server.metrics import Metrics
from mountstore.server.transport import PipeTransport, SocketTransport, TlsTransport

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_TAKEN_AWAY_S = 2.0  # for threads to notice that their connection was
_ACCEPT_AGAIN_S = 0.1
_LOOKS, _LOOK_AGAIN_S = 10, 0.05  # for room, before a connection is refused


class HttpServer:
    """Serves an application on sockets; for one `serve`."""

    def __init__(
        self,
        application: Application,
        *,
        limits: Limits,
        metrics: Metrics,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._application = application
        self._limits = limits
        self._metrics = metrics
        self._tls = tls
        self._threads = trio.CapacityLimiter(limits.connections)
        # Each with what ends it while it is idle; those in front have been idle longest.
        self._open: dict[Conversation, trio.CancelScope] = {}
        self._is_ending = False
        self._emptied = trio.Event()

    async def serve(self, sockets: Sequence[socket.socket]) -> bool:
        """Until a signal, then until what was under way is done; whether all of it is. Closes the sockets."""
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            async with trio.open_nursery() as conversations:
                async with trio.open_nursery() as accepting:
                    for sock in sockets:
                        sock.setblocking(False)
                        accepting.start_soon(self._accept, sock, conversations)
                    notify("READY=1")
                    await anext(signals)
                    accepting.cancel_scope.cancel()
                for sock in sockets:
                    sock.close()
                notify("STOPPING=1")
                is_done = await self._drain(signals)
                conversations.cancel_scope.cancel()
        return is_done

    async def _accept(self, listening: socket.socket, conversations: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(listening)
            try:
                sock, _ = listening.accept()
            except (BlockingIOError, ConnectionError):
                continue
            except OSError as error:  # no descriptor is left: others end, and then there is one
                log.error("cannot accept a connection: %s", error.strerror)
                await trio.sleep(_ACCEPT_AGAIN_S)
                continue
            if not await self._has_room():
                log.warning("refused a connection: %d are open, and none is idle", len(self._open))
                sock.close()
                continue
            try:
                transport = TlsTransport(sock, self._tls) if self._tls else SocketTransport(sock)
            except OSError:  # it went away at once
                sock.close()
                continue
            conversation = Conversation(Connection(transport, self._limits), self._application, self._metrics)
            self._open[conversation] = trio.CancelScope()
            self._metrics.connected(1)
            conversations.start_soon(self._converse, conversation, transport)

    async def _has_room(self) -> bool:
        """Whether one more may come in; for this, one that is idle may have to go."""
        for _ in range(_LOOKS):  # what was served a moment ago is idle a moment later
            if len(self._open) < self._limits.connections or self._make_room():
                return True
            await trio.sleep(_LOOK_AGAIN_S)
        return False

    def _make_room(self) -> bool:
        for conversation, idle in self._open.items():
            if not conversation.is_busy:
                idle.cancel()
                del self._open[conversation]
                return True
        return False

    async def _converse(self, conversation: Conversation, transport: SocketTransport) -> None:
        try:
            while not self._is_ending and conversation in self._open:
                idle = self._open.pop(conversation)
                self._open[conversation] = idle
                idle.deadline = trio.current_time() + self._limits.idle_s
                with idle:
                    await trio.lowlevel.wait_readable(transport.sock)
                if idle.cancelled_caught:
                    return
                self._open[conversation] = trio.CancelScope()
                conversation.is_busy = True
                if not await trio.to_thread.run_sync(
                    conversation.turn, limiter=self._threads, abandon_on_cancel=True
                ):
                    return
        finally:
            self._open.pop(conversation, None)
            if not self._open:
                self._emptied.set()
                self._emptied = trio.Event()
            self._metrics.connected(-1)
            transport.close()

    async def _drain(self, signals: AsyncIterator[int]) -> bool:
        self._is_ending = True
        for conversation, idle in self._open.items():
            conversation.is_ending = True
            if not conversation.is_busy:
                idle.cancel()
        with trio.move_on_after(self._limits.drain_s):
            async with trio.open_nursery() as waiting:
                waiting.start_soon(_cancel_at_next, signals, waiting.cancel_scope)
                await self._wait_until_empty()
                waiting.cancel_scope.cancel()
        if self._open:
            log.warning("broke off %d connections", len(self._open))
            for conversation in self._open:
                conversation.connection.transport.abort()
            with trio.move_on_after(_TAKEN_AWAY_S):
                await self._wait_until_empty()
        return not self._open

    async def _wait_until_empty(self) -> None:
        while self._open:
            await self._emptied.wait()


async def _cancel_at_next(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    await anext(signals)
    scope.cancel()


def serve_pipes(
    reading: int, writing: int, application: Application, *, limits: Limits, metrics: Metrics
) -> None:
    """Serve the one client at these descriptors until it ends, or a signal comes. Main thread only."""
    transport = PipeTransport(reading, writing)
    conversation = Conversation(Connection(transport, limits), application, metrics, is_pipe=True)

    def end(number: int, frame: FrameType | None) -> None:
        conversation.is_ending = True
        if not conversation.is_busy:
            raise _Ended

    before = [(number, signal.signal(number, end)) for number in _SIGNALS]
    try:
        while not conversation.is_ending:
            transport.readable(None)
            if not conversation.turn():
                return
    except _Ended:
        return
    finally:
        for number, handler in before:
            signal.signal(number, handler)
        transport.close()


class _Ended(BaseException):
    """A signal that came while nothing was under way."""


def notify(state: str) -> None:
    """Tell systemd how far we are (sd_notify(3)), where it asked to be told."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
    except OSError as error:
        log.warning("cannot tell systemd %s: %s", state, error.strerror)
