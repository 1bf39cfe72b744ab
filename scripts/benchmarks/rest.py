"""scripts/bench rest: our REST server and that of borgstore, GET and PUT, one at a time and 32, in one run.

Both servers run all the time, each over a folder of its own on the same file system. For each row the two
take turns, a short slice each, round after round, so that both see the same weather; a row shows the median
of its rounds, and of the processor time that a server took for a request, which depends less on what else
the machine does. The client is the same for both: sockets, requests made beforehand, and every answer
checked; then that of borgstore, then ours. Our server has every object on the disk before it answers (on
tmpfs that costs nothing); the other leaves it to the kernel.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

from scripts.benchmarks.rows import KIB, MIB

OURS, THEIRS = "mountstore", "borgstore"
_ACCEPT = "Accept: application/vnd.x.borgstore.rest.v1"
_START_S = 30.0
_OBJECTS = 64  # that GETs of small objects go round
_LARGE_OBJECTS = 4


class Broken(Exception):
    """An answer was wrong, or a server did not start."""


@dataclass(frozen=True, slots=True)
class Row:
    """What is measured: a verb, the size of an object, and how many at a time."""

    verb: str
    size: int
    at_once: int

    @property
    def name(self) -> str:
        size = f"{self.size // MIB} MiB" if self.size >= MIB else f"{self.size // KIB} KiB"
        return f"{self.verb} {size}, {'one' if self.at_once == 1 else self.at_once} at a time"

    @property
    def unit(self) -> str:
        return "MB/s" if self.size >= MIB else "/s"


@dataclass(frozen=True, slots=True)
class Server:
    """One that runs and answers."""

    port: int
    pid: int

    def cpu_s(self) -> float:
        """What the process has had of the processors, in user and in system mode."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Seen:
    """What the slices of one server in one row came to: a rate, and milliseconds of processor a request."""

    rates: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)


class Client(Protocol):
    """One connection to a server."""

    def put(self, name: str, content: bytes, digest: str) -> None: ...

    def get(self, name: str, size: int) -> None: ...

    def close(self) -> None: ...


class LeanClient:
    """Sends and receives, and little else: what is measured is the server."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = memoryview(bytearray(MIB))

    def put(self, name: str, content: bytes, digest: str) -> None:
        head = (
            f"POST /{name} HTTP/1.1\r\nHost: 127.0.0.1\r\n{_ACCEPT}\r\n"
            f"X-Content-hash-sha256: {digest}\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        if len(content) < 64 * KIB:
            self._sock.sendall(head.encode() + content)
        else:
            self._sock.sendall(head.encode(), socket.MSG_MORE)
            self._sock.sendall(content)
        if self._answer() != 0:
            raise Broken("an upload is answered by nothing")

    def get(self, name: str, size: int) -> None:
        self._sock.sendall(f"GET /{name} HTTP/1.1\r\nHost: 127.0.0.1\r\n{_ACCEPT}\r\n\r\n".encode())
        if (length := self._answer()) != size:
            raise Broken(f"{length} bytes came of {size}")

    def close(self) -> None:
        self._sock.close()

    def _answer(self) -> int:
        filled = 0
        while True:
            count = self._sock.recv_into(self._buffer[filled:])
            if not count:
                raise Broken("the server closed")
            filled += count
            head, found, rest = bytes(self._buffer[:filled]).partition(b"\r\n\r\n")
            if found:
                break
        if not head.startswith(b"HTTP/1.1 200"):
            raise Broken(head.decode("latin-1"))
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if length is None:
            raise Broken("an answer without a length")
        size, received = int(length[1]), len(rest)
        while received < size:
            count = self._sock.recv_into(self._buffer)
            if not count:
                raise Broken("the server closed")
            received += count
        return received


class BorgstoreClient:
    """The client that borgstore brings; it computes the hash of what it sends."""

    def __init__(self, port: int) -> None:
        from borgstore.backends.rest import get_rest_backend

        self._rest = get_rest_backend(f"http://127.0.0.1:{port}")
        self._rest.open()

    def put(self, name: str, content: bytes, digest: str) -> None:
        self._rest.store(name, content)

    def get(self, name: str, size: int) -> None:
        if len(self._rest.load(name)) != size:
            raise Broken("another size came back")

    def close(self) -> None:
        self._rest.close()


class MountstoreClient:
    """Our own: the extension where the server has it, else version 1 of the protocol."""

    def __init__(self, port: int) -> None:
        from mountstore.backends.rest import RestStore

        self._store = RestStore.open_http(f"http://127.0.0.1:{port}")

    def put(self, name: str, content: bytes, digest: str) -> None:
        self._store.put(name, content)

    def get(self, name: str, size: int) -> None:
        if len(self._store.get(name)) != size:
            raise Broken("another size came back")

    def close(self) -> None:
        self._store.close()


CLIENTS: dict[str, Callable[[int], Client]] = {
    "lean": LeanClient,
    "borgstore": BorgstoreClient,
    "mountstore": MountstoreClient,
}


def main(arguments: Sequence[str]) -> int:
    """0 when all answers were right, 1 when one was not."""
    parser = argparse.ArgumentParser(prog="bench rest", description=__doc__)
    add = parser.add_argument
    add("--short", action="store_true", help="small sizes, for a look whether everything works")
    add("--rounds", type=int, default=0, metavar="N", help="slices of each server a row [7, short: 1]")
    add("--slice", type=float, default=1.0, metavar="S", help="seconds of a slice, at least one request [1]")
    add("--client", choices=[*CLIENTS], action="append", help="who asks [all in turn]")
    add("--only", default="", metavar="TEXT", help="only rows that hold this, e.g. 'PUT 64'")
    add("--work", type=Path, metavar="FOLDER", help="where both stores lie [/dev/shm]")
    add("--json", type=Path, metavar="FILE", help="write everything there too")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _ended)
    sizes = (KIB, MIB) if given.short else (KIB, 64 * MIB)
    rows = [Row(verb, size, n) for size in sizes for verb in ("PUT", "GET") for n in (1, 32)]
    rows = [row for row in rows if given.only in row.name]
    rounds = given.rounds or (1 if given.short else 7)
    slice_s = 0.05 if given.short else given.slice
    work = given.work or (Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None)
    told: dict[str, dict[str, dict[str, Seen]]] = {}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="mountstore-bench-", dir=work) as folder,
            _servers(Path(folder)) as servers,
        ):
            for client in given.client or [*CLIENTS]:
                told[client] = {
                    row.name: _measure(row, CLIENTS[client], servers, rounds, slice_s) for row in rows
                }
                _show(client, rows, told[client])
    except (Broken, OSError) as error:
        print(f"bench: BROKEN: {error}", file=sys.stderr)
        return 1
    if given.json:
        kinds = {kind: _numbers(told, kind) for kind in ("rates", "cpu_ms")}
        given.json.write_text(json.dumps({"cpus": os.cpu_count(), "rounds": rounds, **kinds}, indent=1))
    return 0


def _numbers(told: dict[str, dict[str, dict[str, Seen]]], kind: str) -> dict[str, Any]:
    return {
        client: {
            row: {server: getattr(seen, kind) for server, seen in each.items()} for row, each in rows.items()
        }
        for client, rows in told.items()
    }


def _ended(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _measure(
    row: Row, client: Callable[[int], Client], servers: dict[str, Server], rounds: int, slice_s: float
) -> dict[str, Seen]:
    content = os.urandom(row.size)
    digest = hashlib.sha256(content).hexdigest()
    count = _LARGE_OBJECTS if row.size >= MIB else _OBJECTS
    names = [f"data/{row.size:x}-{number}" for number in range(count)]
    seen = {name: Seen() for name in servers}
    with contextlib.ExitStack() as stack:
        clients: dict[str, list[Client]] = {}
        for server, running in servers.items():
            clients[server] = [client(running.port) for _ in range(row.at_once)]
            for one in clients[server]:
                stack.callback(one.close)
            for name in names:
                clients[server][0].put(name, content, digest)

        def act(one: Client, turn: int) -> None:
            name = names[turn % count]
            if row.verb == "PUT":
                one.put(name, content, digest)
            else:
                one.get(name, row.size)

        for turn in range(rounds):
            order = [*servers] if turn % 2 else [*reversed(servers)]
            for server in order:
                before = servers[server].cpu_s()
                done, seconds = _slice(clients[server], act, slice_s)
                seen[server].cpu_ms.append((servers[server].cpu_s() - before) / done * 1e3)
                seen[server].rates.append(done * (row.size / 1e6 if row.size >= MIB else 1) / seconds)
                print(f"{turn + 1}/{rounds} {row.name}: {server} ...", file=sys.stderr, flush=True)
    return seen


def _slice(
    clients: Sequence[Client], act: Callable[[Client, int], None], slice_s: float
) -> tuple[int, float]:
    done = [0] * len(clients)
    failed: list[BaseException] = []
    began = time.perf_counter()

    def work(number: int) -> None:
        try:
            while not done[number] or time.perf_counter() - began < slice_s:
                act(clients[number], number + done[number])
                done[number] += 1
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise Broken(f"{type(failed[0]).__name__}: {failed[0]}")
    return sum(done), time.perf_counter() - began


def _show(client: str, rows: Sequence[Row], told: dict[str, dict[str, Seen]]) -> None:
    print(
        f"\nasked by the {client} client; medians, × over 1 is ours ahead; CPU: ms of the server a request\n"
    )
    print(f"| | {OURS} | {THEIRS} | × | CPU | {THEIRS} | × |\n|---|--:|--:|--:|--:|--:|--:|")
    for row in rows:
        ours, theirs = told[row.name][OURS], told[row.name][THEIRS]
        rates = statistics.median(ours.rates), statistics.median(theirs.rates)
        costs = statistics.median(ours.cpu_ms), statistics.median(theirs.cpu_ms)
        print(
            f"| {row.name} ({row.unit}) | {rates[0]:,.0f} | {rates[1]:,.0f} | {rates[0] / rates[1]:.2f} "
            f"| {costs[0]:,.2f} | {costs[1]:,.2f} | {costs[1] / max(costs[0], 1e-9):.2f} |"
        )
    print(flush=True)


@contextlib.contextmanager
def _servers(folder: Path) -> Iterator[dict[str, Server]]:
    program = Path(sys.executable).with_name("borgstore-server-rest")
    port = _free_port()
    with (
        _server(
            [sys.executable, "-P", "-m", "mountstore", "serve", f"file://{folder}/{OURS}", "--port", "0"],
            folder / "ours.log",
        ) as ours,
        _server(
            [str(program), "--port", str(port), "--backend", f"file://{folder}/{THEIRS}"],
            folder / "theirs.log",
        ) as theirs,
    ):
        yield {OURS: ours, THEIRS: theirs}


@contextlib.contextmanager
def _server(command: Sequence[str], log: Path) -> Iterator[Server]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + _START_S
        while not (port := _created(log)):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Broken(f"{command[0]} does not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        yield Server(port, process.pid)
    finally:
        process.terminate()
        process.wait(30)


def _created(log: Path) -> int:
    """The port of a server that answers, its store created; 0 until then."""
    found = re.search(r"(?:serving|listening) .*:(\d+)$", log.read_text(errors="replace"), re.MULTILINE)
    if found is None:
        return 0
    with (
        contextlib.suppress(ConnectionRefusedError),
        socket.create_connection(("127.0.0.1", int(found[1])), timeout=10) as sock,
    ):
        sock.sendall(
            f"POST /?cmd=create HTTP/1.1\r\nHost: x\r\n{_ACCEPT}\r\nConnection: close\r\n\r\n".encode()
        )
        if sock.recv(1000).startswith(b"HTTP/1.1 200"):
            return int(found[1])
    return 0


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
