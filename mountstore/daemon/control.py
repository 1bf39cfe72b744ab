"""Asking a daemon over its socket; the blocking end. `service` is the other.

One connection carries one request, a line of JSON such as {"version": 1, "command": "sync"}, and then
lines of JSON in answer:

    {"status": {...}}   how things stand; several, at least two a second, while the daemon is at it
    {"done": {...}}     the last line: it was done, and how things stand now
    {"error": "...", "busy": bool}   the last line: it was not

`status` is done at once. `sync` is done when the store has everything. `umount` is done when the store
has everything and the mount is gone; the connection then stays open until the daemon has ended. With
"force" it does not wait for the store. Closing the connection withdraws a `sync`, and an `umount` that
has not yet unmounted. `warm`, `pin`, `unpin`, `pins` and `clear-cache` are about the cache on the local disk:
"paths" are relative to the mount point, and what is told is how far they are. Only the daemon's own user, and
root, are answered.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from mountstore.daemon.mounttab import Busy, mount_at
from mountstore.daemon.runtime import RuntimeRecord, connect, records
from mountstore.errors import MountError

PROTOCOL = 1
StatusDict = dict[str, Any]
_SILENCE_S = 30.0
_END_S = 30.0


class Connection:
    """One request to a running daemon and its answers."""

    def __init__(self, record: RuntimeRecord, sock: socket.socket) -> None:
        self.record = record
        self._sock = sock
        self._lines = sock.makefile("rb")

    def ask(
        self, command: str, *, force: bool = False, ino: int | None = None, paths: Sequence[str] = ()
    ) -> Iterator[tuple[bool, StatusDict]]:
        """Send the request; then (done, status) for each answer, the last with done True.

        Raises Busy or MountError with what the daemon says, and MountError if it falls silent.
        """
        request: StatusDict = {"version": PROTOCOL, "command": command, "force": force}
        if ino is not None:
            request["ino"] = ino
        if paths:
            request["paths"] = [*paths]
        try:
            self._sock.settimeout(_SILENCE_S)
            self._sock.sendall(json.dumps(request).encode() + b"\n")
            for line in self._lines:
                answer = json.loads(line)
                if "error" in answer:
                    raise (Busy if answer.get("busy") else MountError)(str(answer["error"]))
                yield "done" in answer, answer.get("done") or answer["status"]
                if "done" in answer:
                    return
        except TimeoutError:
            raise MountError(f"the daemon (pid {self.record.pid}) does not answer") from None
        except (OSError, ValueError, KeyError) as error:
            raise MountError(f"the daemon (pid {self.record.pid}) broke off: {error}") from None
        raise MountError(
            f"the daemon (pid {self.record.pid}) ended before it was done; see {self.record.log_file}"
        )

    def wait_for_end(self) -> None:
        """After `umount` was done: return when the daemon has ended. Raises MountError if it does not."""
        deadline = time.monotonic() + _END_S
        try:
            while (left := deadline - time.monotonic()) > 0:
                self._sock.settimeout(left)
                if not self._lines.readline():
                    return
        except ConnectionError:
            return
        except TimeoutError:
            pass
        raise MountError(f"everything is done, but the daemon (pid {self.record.pid}) has not ended")

    def close(self) -> None:
        self._lines.close()
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def reach(mountpoint: str) -> Connection | None:
    """A connection to the latest daemon of this absolute mount point that still answers, or None."""
    for record in records(mountpoint):
        sock = connect(record.socket_path)
        if sock is not None:
            return Connection(record, sock)
    return None


def running() -> list[tuple[RuntimeRecord, Connection | None]]:
    """Every recorded daemon, with a connection if it answers.

    A dead one is listed while its mount is still there; otherwise its record is removed.
    """
    found: list[tuple[RuntimeRecord, Connection | None]] = []
    for record in records():
        sock = connect(record.socket_path)
        if sock is not None:
            found.append((record, Connection(record, sock)))
        elif mount_at(record.mountpoint):
            found.append((record, None))
        else:
            record.remove()
    return found
