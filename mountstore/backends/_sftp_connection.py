"""A connection to an SFTP server that any number of threads use at once, and a pool of these.

Requests carry numbers, so that many are under way on one connection; a server works them off in order.
A thread of each connection reads the answers. When a connection ends, all that waits on it gets `Dropped`.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import select
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mountstore.backends import _sftp_protocol as sftp
from mountstore.backends._sftp_protocol import Attributes, Reader, Status, string
from mountstore.backends._ssh import Process
from mountstore.errors import StoreError, Unavailable

_PIPE_BYTES = 1 << 20
_LONGEST_ANSWER = 1 << 20
_PLAIN_READ = 32_768
_F_SETPIPE_SZ = 1031


class Dropped(Exception):
    """The connection ended before the answer came; whether the request was carried out is not known."""

    def __init__(self, fault: StoreError) -> None:
        super().__init__(str(fault))
        self.fault = fault


class Pending:
    """A request that is under way."""

    __slots__ = ("_answer", "_connection", "_done", "_fault", "_kind")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._done = threading.Lock()
        self._done.acquire()
        self._kind = 0
        self._answer: memoryview = memoryview(b"")
        self._fault: Dropped | None = None

    def _settle(self, kind: int, answer: memoryview, fault: Dropped | None = None) -> None:
        self._kind, self._answer, self._fault = kind, answer, fault
        self._done.release()

    def answer(self, kind: int) -> Reader:
        """Wait for an answer of this kind. Raises Status for another, and Dropped."""
        self._connection.wait(self._done)
        if self._fault is not None:
            raise self._fault
        reader = Reader(self._answer)
        if self._kind == kind:
            return reader
        if self._kind != sftp.STATUS:
            raise Status(sftp.BAD_MESSAGE, "the server answered something else than was asked for")
        code = reader.number()
        text = reader.string().decode(errors="replace") if code else ""
        raise Status(code, text)

    def ok(self) -> None:
        """Wait for success. Raises Status, and Dropped."""
        try:
            self.answer(-1)
        except Status as status:
            if status.code != sftp.OK:
                raise

    def attributes(self) -> Attributes:
        return self.answer(sftp.ATTRS).attributes()

    def found(self) -> Attributes | None:
        """Attributes, or None if there is no such file."""
        try:
            return self.attributes()
        except Status as status:
            if status.code == sftp.NO_SUCH_FILE:
                return None
            raise

    def handle(self) -> bytes:
        return self.answer(sftp.HANDLE).string()


class Connection:
    """One `ssh -s HOST sftp`. Raises what `Process.fault` says if it cannot be made."""

    def __init__(self, words: list[str], what: str, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._what = what
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._pending: dict[int, Pending] = {}
        self._number = 0
        self._fault: Dropped | None = None
        self.calls = 0
        self._process = Process(words, what)
        self._in = self._process.stdin.fileno()
        os.set_blocking(self._in, False)
        for end in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                # Fewer and larger steps; over the user's limit it stays as it is.
                fcntl.fcntl(end.fileno(), _F_SETPIPE_SZ, _PIPE_BYTES)
        assert isinstance(self._process.stdout, io.RawIOBase)
        self._out = io.BufferedReader(self._process.stdout, _PIPE_BYTES)
        first = Pending(self)
        self._pending[-1] = first
        self._thread = threading.Thread(target=self._read, name="sftp-answers", daemon=True)
        self._thread.start()
        try:
            self._send([struct.pack(">IBI", 5, sftp.INIT, 3)])
            reader = first.answer(sftp.VERSION)
            self._version = reader.number()
            self.extensions = reader.pairs()
            self.read_bytes, self.write_bytes = self._limits()
        except Dropped as dropped:
            self.close()
            raise dropped.fault from None
        except Status:
            self.close()
            raise StoreError(
                f"{what} does not speak SFTP; does its shell print something at login?"
            ) from None
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        return self._fault is None

    def close(self) -> None:
        if self._fault is None:
            # A server that sees the end of its input drops what it has not begun; it answers in order.
            with contextlib.suppress(Dropped):
                self.lstat("/")._done.acquire(timeout=5)
        self._process.close()
        self._thread.join(timeout=10)
        with contextlib.suppress(OSError):
            self._out.close()

    def _limits(self) -> tuple[int, int]:
        if sftp.LIMITS not in self.extensions:
            return _PLAIN_READ, _PLAIN_READ
        told = self.send(sftp.EXTENDED, string(sftp.LIMITS)).answer(sftp.EXTENDED_REPLY)
        told.long()
        reading, writing = told.long(), told.long()
        most = 256 * 1024 - 1024
        return min(reading, most) or _PLAIN_READ, min(writing, most) or _PLAIN_READ

    # -- requests ---------------------------------------------------------------------------------

    def send(self, kind: int, *parts: bytes | memoryview) -> Pending:
        """Send a request, and do not wait for its answer. Raises Dropped."""
        pending = Pending(self)
        with self._lock:
            if self._fault is not None:
                raise self._fault
            self._number = number = (self._number + 1) & 0x7FFFFFFF
            self._pending[number] = pending
        size = 5 + sum(len(part) for part in parts)
        self._send([struct.pack(">IBI", size, kind, number), *parts])
        return pending

    def lstat(self, path: str) -> Pending:
        return self.send(sftp.LSTAT, string(path))

    def mkdir(self, path: str, mode: int = 0o777) -> Pending:
        return self.send(sftp.MKDIR, string(path), struct.pack(">II", 0x04, mode))

    def rmdir(self, path: str) -> Pending:
        return self.send(sftp.RMDIR, string(path))

    def remove(self, path: str) -> Pending:
        return self.send(sftp.REMOVE, string(path))

    def open(self, path: str, flags: int) -> Pending:
        return self.send(sftp.OPEN, string(path), struct.pack(">II", flags, 0))

    def close_handle(self, handle: bytes) -> Pending:
        return self.send(sftp.CLOSE, string(handle))

    def rename(self, old: str, new: str) -> Pending:
        return self.extended(sftp.POSIX_RENAME, string(old), string(new))

    def extended(self, name: str, *parts: bytes) -> Pending:
        return self.send(sftp.EXTENDED, string(name), *parts)

    def read(self, handle: bytes, at: int, size: int) -> Pending:
        return self.send(sftp.READ, string(handle), struct.pack(">QI", at, size))

    def write(self, handle: bytes, at: int, data: memoryview) -> Pending:
        return self.send(sftp.WRITE, string(handle), struct.pack(">QI", at, len(data)), data)

    # -- within -----------------------------------------------------------------------------------

    def wait(self, done: threading.Lock) -> None:
        """Until `done` can be had; a server that answers nothing for too long is given up."""
        if not done.acquire(timeout=self._timeout_s):
            self._give_up("does not answer")
            # The end of the process ends the reading thread, which settles what waits.
            if not done.acquire(timeout=30):
                raise Dropped(Unavailable(f"{self._what} does not answer"))

    def _give_up(self, why: str) -> None:
        with self._lock:
            if self._fault is None:
                self._fault = Dropped(Unavailable(f"{self._what} {why}"))
        self._process.kill()

    def _send(self, parts: list[bytes | memoryview]) -> None:
        with self._writing:
            try:
                while parts:
                    try:
                        count = os.writev(self._in, parts)
                    except BlockingIOError:
                        if not select.select([], [self._in], [], self._timeout_s)[1]:
                            self._give_up("takes no more data")
                            raise self._fault or Dropped(Unavailable(self._what)) from None
                        continue
                    while parts and count >= len(parts[0]):
                        count -= len(parts.pop(0))
                    if count:
                        parts[0] = memoryview(parts[0])[count:]
            except (BrokenPipeError, ValueError):
                # The reading thread finds out why, and tells all who wait.
                self._thread.join(timeout=10)
                raise self._fault or Dropped(Unavailable(f"{self._what}: the connection broke")) from None

    def _read(self) -> None:
        strange = False
        try:
            while True:
                head = self._out.read(5)
                if len(head) < 5:
                    break
                size, kind = struct.unpack(">IB", head)
                if not 1 <= size <= _LONGEST_ANSWER:
                    strange = True
                    break
                body = memoryview(self._out.read(size - 1))
                if len(body) < size - 1:
                    break
                if kind == sftp.VERSION:
                    number, rest = -1, body
                else:
                    number, rest = int.from_bytes(body[:4]), body[4:]
                with self._lock:
                    pending = self._pending.pop(number, None)
                if pending is not None:
                    pending._settle(kind, rest)
        except (OSError, ValueError):
            strange = False  # closed beneath us, or by us
        if strange:
            self._process.kill()
            fault: StoreError = StoreError(
                f"{self._what} does not speak SFTP; does its shell print something at login?"
            )
        else:
            fault = self._process.fault()
        with self._lock:
            if self._fault is None:
                self._fault = Dropped(fault)
            waiting = list(self._pending.values())
            self._pending.clear()
        for pending in waiting:
            pending._settle(0, memoryview(b""), self._fault)


class Pool:
    """Up to `most` connections, each made when the others are busy; one that ended is replaced.

    Work on a file goes over one connection, for the other ones do not know its handle.
    """

    def __init__(self, connect: Callable[[], Connection], most: int) -> None:
        self._connect = connect
        self._most = most
        self._lock = threading.Lock()
        self._connecting = threading.Lock()
        self._open: list[Connection] = []
        self._closed = False

    @contextmanager
    def use(self) -> Iterator[Connection]:
        connection = self._take()
        try:
            yield connection
        finally:
            with self._lock:
                connection.calls -= 1

    def _take(self) -> Connection:
        found = self._least()
        if found is not None:
            return found
        with self._connecting:
            # Who waited for another's connection may share that.
            found = self._least()
            if found is not None:
                return found
            made = self._connect()
        with self._lock:
            if self._closed:
                made.close()
                raise Unavailable("the store is closed")
            made.calls += 1
            self._open.append(made)
        return made

    def _least(self) -> Connection | None:
        """The least busy connection, unless another one should be made."""
        with self._lock:
            ended = [one for one in self._open if not one.alive]
            self._open = [one for one in self._open if one.alive]
            best = min(self._open, key=lambda one: one.calls, default=None)
            if best is not None and (best.calls < _CALLS_EACH or len(self._open) >= self._most):
                best.calls += 1
            else:
                best = None
        for one in ended:
            one.close()
        return best

    def close(self) -> None:
        with self._lock:
            self._closed = True
            ended, self._open = self._open, []
        for one in ended:
            one.close()


_CALLS_EACH = 4


def pause(attempt: int) -> None:
    """Before another attempt to reach a server that was there a moment ago."""
    time.sleep(min(5.0, 0.1 * 4**attempt))
