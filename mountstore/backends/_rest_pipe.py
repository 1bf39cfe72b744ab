"""HTTP over the stdin and stdout of a process, for urllib3: one request after the other."""

from __future__ import annotations

import contextlib
import io
import os
import select
from typing import TYPE_CHECKING, Any

from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection

from mountstore.backends._ssh import Process
from mountstore.errors import StoreError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


class PipeEnded(OSError):
    """The process has ended, and why."""

    def __init__(self, fault: StoreError) -> None:
        super().__init__(str(fault))
        self.fault = fault


class PipeSocket:
    """What of a socket HTTP needs, made of a process; closing it ends the process."""

    def __init__(self, words: list[str], what: str) -> None:
        self._process = Process(words, what)
        self._timeout_s: float | None = None
        self._open = 1
        self._ended = False
        os.set_blocking(self._process.stdin.fileno(), False)

    def fileno(self) -> int:
        return self._process.stdout.fileno()

    def settimeout(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s

    def sendall(self, data: ReadableBuffer) -> None:
        view = memoryview(data).cast("B")
        fd = self._process.stdin.fileno()
        while view:
            try:
                view = view[os.write(fd, view) :]
            except BlockingIOError:
                if not select.select([], [fd], [], self._timeout_s)[1]:
                    raise TimeoutError("the server takes no more data") from None

    def receive_into(self, buffer: WriteableBuffer) -> int:
        fd = self._process.stdout.fileno()
        if not select.select([fd], [], [], self._timeout_s)[0]:
            raise TimeoutError("the server does not answer")
        count = os.readv(fd, [buffer])
        if not count and not self._ended:
            raise PipeEnded(self._process.fault())
        return count

    def makefile(self, mode: str = "rb", *_: Any, **__: Any) -> io.BufferedReader:
        self._open += 1
        return io.BufferedReader(_Reading(self), 1 << 16)

    def shutdown(self, how: int) -> None:
        """Nothing to do: pipes have no halves."""

    def close(self) -> None:
        """The process ends when whoever still reads from it has closed too, as with sockets."""
        self._open -= 1
        if self._open <= 0 and not self._ended:
            self._ended = True
            self._process.close()
            with contextlib.suppress(OSError):
                self._process.stdout.close()


class _Reading(io.RawIOBase):
    def __init__(self, sock: PipeSocket) -> None:
        super().__init__()
        self._sock = sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        return self._sock.receive_into(buffer)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._sock.close()


class PipeConnection(HTTPConnection):
    """A connection that starts a process."""

    words: list[str]
    what: str
    pipe: PipeSocket | None = None

    def _new_conn(self) -> Any:
        self.pipe = PipeSocket(self.words, self.what)
        return self.pipe


class PipePool(HTTPConnectionPool):
    """Up to `maxsize` processes, each a connection."""

    def __init__(self, words: list[str], what: str, **options: Any) -> None:
        super().__init__("stdio", **options)
        kind = type("Connection", (PipeConnection,), {"words": words, "what": what})
        self.ConnectionCls = kind
