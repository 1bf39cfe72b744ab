"""The daemon's end of the control socket: see `control` for what is said over it."""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol

import trio

from mountstore.daemon.control import PROTOCOL, StatusDict
from mountstore.daemon.mounttab import Busy
from mountstore.errors import MountstoreError
from mountstore.vfs.warming import Progress

log = logging.getLogger(__name__)

REQUEST_LIMIT = 64 * 1024
CACHE_COMMANDS = ("warm", "pin", "unpin", "pins", "clear-cache")
_REQUEST_S = 10.0
_EVERY_S = 0.25
_SEND_S = 5.0


class Served(Protocol):
    """What a daemon lets others ask of it."""

    def status(self, limit: int) -> StatusDict:
        """How things stand, with at most `limit` of what is pending."""

    async def file(self, ino: int) -> StatusDict:
        """How one file stands with the store. Raises MountstoreError, OSError."""

    async def sync(self) -> None:
        """Return when the store has everything."""

    async def umount(self, *, force: bool) -> None:
        """Return when the mount is gone and, unless `force`, the store has everything."""

    async def tier(self, command: str, paths: list[str], progress: Progress) -> StatusDict:
        """Do one of `CACHE_COMMANDS`; returns what there is to tell."""


class Service:
    """Answers over a listening unix socket until cancelled."""

    def __init__(self, served: Served, sock: socket.socket) -> None:
        self._served = served
        sock.setblocking(False)
        self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        self._under_way = 0
        self._idle = trio.Event()
        self._held: list[int] = []

    async def run(self) -> None:
        """Serve; every connection on its own, whatever becomes of the others."""
        await trio.serve_listeners(self._answer, [self._listener])

    async def settle(self, timeout_s: float) -> None:
        """Return when no answer is under way any more, or after the timeout."""
        with trio.move_on_after(timeout_s):
            while self._under_way:
                self._idle = trio.Event()
                await self._idle.wait()

    async def _answer(self, stream: trio.SocketStream) -> None:
        self._under_way += 1
        try:
            # A client that goes away is its own business; the daemon goes on.
            await self._talk(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("a control connection was broken off")
        except Exception:
            log.exception("a control request failed")
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await stream.aclose()

    async def _talk(self, stream: trio.SocketStream) -> None:
        if not self._is_ours(stream):
            await _send(stream, {"error": "this daemon answers its own user only"})
            return
        request = None
        with trio.move_on_after(_REQUEST_S):
            try:
                request = await _receive(stream)
            except ValueError as error:
                await _send(stream, {"error": f"a request that cannot be read: {error}"})
        if request is not None:
            await self._dispatch(stream, request)

    async def _dispatch(self, stream: trio.SocketStream, request: dict[str, Any]) -> None:
        command, force = request.get("command"), request.get("force") is True
        if request.get("version") != PROTOCOL:
            await _send(
                stream, {"error": "the daemon is of another version; use the mountstore that started it"}
            )
            return
        if command == "status":
            await _send(stream, {"done": self._served.status(1000)})
            return
        if command == "file":
            try:
                await _send(stream, {"done": await self._served.file(int(request["ino"]))})
            except (MountstoreError, OSError, KeyError, ValueError) as error:
                await _send(stream, {"error": str(error)})
            return
        progress = Progress()
        tell: Callable[[], StatusDict] = partial(self._served.status, 20)

        async def work() -> StatusDict:
            if command in CACHE_COMMANDS:
                return await self._served.tier(command, paths, progress)
            await (self._served.sync() if command == "sync" else self._served.umount(force=force))
            return self._served.status(1000)

        paths = request.get("paths", [])
        if command in CACHE_COMMANDS:
            tell = partial(asdict, progress)
            if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
                await _send(stream, {"error": "paths are a list of strings"})
                return
        elif command not in ("sync", "umount"):
            await _send(stream, {"error": f"unknown command {command!r}"})
            return
        last: dict[str, Any] = {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_closed, stream, nursery.cancel_scope)
            nursery.start_soon(self._tell, stream, nursery.cancel_scope, tell)
            try:
                last = {"done": await work()}
            except Busy as error:
                last = {"error": str(error), "busy": True}
            except MountstoreError as error:
                last = {"error": str(error)}
            nursery.cancel_scope.cancel()
        if last:
            if command == "umount" and "done" in last:
                # Left open for the kernel to close, which tells the client that this process is gone.
                self._held.append(os.dup(stream.socket.fileno()))
            await _send(stream, last)

    async def _tell(
        self, stream: trio.SocketStream, scope: trio.CancelScope, tell: Callable[[], StatusDict]
    ) -> None:
        try:
            while True:
                await _send(stream, {"status": tell()})
                await trio.sleep(_EVERY_S)
        except trio.BrokenResourceError:
            scope.cancel()

    @staticmethod
    def _is_ours(stream: trio.SocketStream) -> bool:
        told = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, _ = struct.unpack("3i", told)
        return uid in (0, os.geteuid())


async def _receive(stream: trio.SocketStream) -> dict[str, Any] | None:
    data = b""
    while b"\n" not in data:
        if len(data) > REQUEST_LIMIT:
            raise ValueError("it is too long")
        more = await stream.receive_some(4096)
        if not more:
            return None
        data += more
    request = json.loads(data.split(b"\n", 1)[0])
    if not isinstance(request, dict):
        raise ValueError("it is no JSON object")
    return request


async def _until_closed(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    try:
        while await stream.receive_some(4096):
            pass
    except trio.BrokenResourceError:
        pass
    scope.cancel()


async def _send(stream: trio.SocketStream, message: dict[str, Any]) -> None:
    # Cancelled half way, it would leave half a line, and the next one would be read as its end.
    with trio.CancelScope(shield=True, deadline=trio.current_time() + _SEND_S):
        await stream.send_all(json.dumps(message).encode() + b"\n")
