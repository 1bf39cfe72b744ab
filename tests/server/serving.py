"""A real `mountstore serve` for a test, and a client that says on its socket exactly what it is told."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

MEDIA_TYPE = "application/vnd.x.borgstore.rest.v1"
T = TypeVar("T")

DEADLINE_S = 60.0
PROJECT = Path(__file__).resolve().parents[2]

# The child asks to be killed with its parent before it becomes the server.
BOOT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PROJECT), "MOUNTSTORE_DEBUG": "0", **more}


def command(*arguments: str) -> list[str]:
    """`mountstore ARGUMENTS`, which ends with this process."""
    program = [sys.executable, "-P", "-m", "mountstore", *arguments]
    return [sys.executable, "-S", "-E", "-c", BOOT, str(os.getpid()), *program]


@dataclass
class Answer:
    """What came back: the status, headers in lower case, the body, and whether the server closed then."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        return self.headers.get("connection") == "close"


class Client:
    """A connection on which a test writes bytes and reads answers."""

    def __init__(self, sock: socket.socket, authorization: str = "") -> None:
        sock.settimeout(DEADLINE_S)
        self.sock = sock
        self.authorization = authorization
        self._received = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def head(self, method: str, target: str, *lines: str, accept: str = MEDIA_TYPE) -> bytes:
        """The head of a request, with its empty line."""
        headers = ["Host: test", f"Accept: {accept}"] if accept else ["Host: test"]
        if self.authorization:
            headers.append(f"Authorization: {self.authorization}")
        return "\r\n".join([f"{method} {target} HTTP/1.1", *headers, *lines, "", ""]).encode("latin-1")

    def ask(
        self, method: str, target: str, *lines: str, body: bytes | None = None, accept: str = MEDIA_TYPE
    ) -> Answer:
        """One request and its answer."""
        if body is not None:
            lines = (*lines, f"Content-Length: {len(body)}")
        elif method == "POST":
            lines = (*lines, "Content-Length: 0")
        self.send(self.head(method, target, *lines, accept=accept) + (body or b""))
        return self.answer(method)

    def answer(self, method: str = "GET") -> Answer:
        """The next answer on the connection."""
        while b"\r\n\r\n" not in self._received:
            self._receive()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        assert re.fullmatch(r"HTTP/1\.1 [1-5][0-9][0-9] [ -~]+", first), first
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
        status = int(first.split()[1])
        if status == 100:
            return Answer(status, headers, b"")
        length = int(headers["content-length"])
        if method == "HEAD":
            return Answer(status, headers, b"")
        while len(self._received) < length:
            self._receive()
        body, self._received = self._received[:length], self._received[length:]
        return Answer(status, headers, body)

    def is_closed(self) -> bool:
        """Whether the server sends nothing more, and closes; waits until it does something."""
        if self._received:
            return False
        try:
            return not self.sock.recv(1)
        except ConnectionResetError:
            return True

    def _receive(self) -> None:
        data = self.sock.recv(1 << 20)
        if not data:
            raise ConnectionError(f"the server closed; so far {self._received!r}")
        self._received += data


@dataclass
class Served:
    """A running server: where it listens, and the process behind it."""

    process: subprocess.Popen[bytes]
    log: Path
    address: str
    tls: ssl.SSLContext | None = None
    authorization: str = ""
    folder: Path | None = None
    clients: list[Client] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def pid(self) -> int:
        return self.process.pid

    def connect(self) -> Client:
        """A new connection; closed with the server."""
        if self.address.startswith("unix:"):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(DEADLINE_S)
            sock.connect(self.address.removeprefix("unix:"))
        else:
            sock = socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S)
            if self.tls is not None:
                sock = self.tls.wrap_socket(sock, server_hostname="127.0.0.1")
        client = Client(sock, self.authorization)
        self.clients.append(client)
        return client

    def ask(
        self, method: str, target: str, *lines: str, body: bytes | None = None, accept: str = MEDIA_TYPE
    ) -> Answer:
        """One request on a connection of its own."""
        with self.connect() as client:
            return client.ask(method, target, *lines, body=body, accept=accept)

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def end(self) -> int:
        """End it in good order; its exit status."""
        if self.process.poll() is None:
            self.terminate()
        return self.process.wait(DEADLINE_S)

    def memory_bytes(self) -> int:
        """The most that it has held in memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found
        return int(found[1]) << 10

    def said(self) -> str:
        return self.log.read_text(errors="replace")


@contextlib.contextmanager
def serving(
    store: str,
    tmp_path: Path,
    *options: str,
    tls: ssl.SSLContext | None = None,
    authorization: str = "",
    env: Mapping[str, str] | None = None,
    create: bool = True,
    listening: Sequence[str] = ("--port", "0"),
) -> Iterator[Served]:
    """`mountstore serve STORE OPTIONS` on a free port of 127.0.0.1, the store created; ended afterwards."""
    log = tmp_path / f"serve-{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command("serve", store, *listening, *options),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**environment(), **(env or {})},
            start_new_session=True,
        )
    served = Served(process, log, "", tls, authorization)
    try:
        found = wait_for(lambda: _address(process, log))
        served.address = found
        if create:
            assert served.ask("POST", "/?cmd=create").status == 200
        yield served
    finally:
        for client in served.clients:
            client.sock.close()
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        process.wait(DEADLINE_S)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    said = log.read_text(errors="replace")
    if found := re.search(r"^mountstore: serving .* at (\S+)$", said, re.MULTILINE):
        return found[1]
    assert process.poll() is None, said
    return ""


def wait_for(probe: Callable[[], T]) -> T:
    """What `probe` tells as soon as that is true."""
    deadline = time.monotonic() + DEADLINE_S
    while not (told := probe()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return told


def refused(*arguments: str, env: Mapping[str, str] | None = None) -> str:
    """The one line by which `mountstore serve ARGUMENTS` says that it will not."""
    done = subprocess.run(
        command("serve", *arguments),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE_S,
        env={**environment(), **(env or {})},
        check=False,
    )
    said = done.stderr.decode()
    assert done.returncode == 2, said
    assert said.startswith("mountstore: "), said
    return said
