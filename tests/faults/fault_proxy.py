"""An HTTP proxy in front of a real S3 server that fails on purpose, by a seed, and counts what it did.

It runs in a thread of its own, on trio; a test sets `rules` and reads `fired` and `seen` from outside.
Requests are passed on with the headers that came, Host too, which the signature covers.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import struct
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import parse_qsl, unquote, urlsplit

import trio

from tests.faults.framing import Message, Wire

KEEP_LIMIT_S = 120.0
"""For how long anything is held back at most."""


class Fault(StrEnum):
    """What can go wrong with one request."""

    ERROR_500 = "500"
    ERROR_503 = "503"
    RETRY_AFTER = "503 with Retry-After"
    TOO_MANY = "429"
    EXPIRED = "403 of an expired token"
    HANG = "no answer for a while, then the end of the connection"
    SLOW = "an answer in small pieces"
    RESET_BEFORE = "reset, the server has not seen the request"
    RESET_AFTER = "reset, the server has carried it out"
    LOSE_REPLY = "closed without an answer, the server has carried it out"
    KEEP_REPLY = "carried out, the answer held back until `release`, then lost"
    TRUNCATE = "fewer bytes than Content-Length"
    SHORT_BODY = "fewer bytes, and a Content-Length that says so"
    SHORT_RANGE = "a shorter range than was asked for, consistent in itself"
    FLIP_ANSWER = "a bit flipped in the body of an answer"
    FLIP_REQUEST = "a bit flipped in the body of a request"
    WRONG_ETAG = "another ETag than the object's"
    LATE_ERROR = "200, and an <Error> inside"
    STALE_LISTING = "an earlier answer to the same listing"


CHANGES = frozenset({"PUT", "MARKER", "COPY", "DELETE", "DELETE MANY", "BEGIN", "PART", "COMPLETE", "ABORT"})
"""Operations after which the store is another."""
_FITS: dict[Fault, frozenset[str]] = {
    Fault.RESET_AFTER: CHANGES,
    Fault.LOSE_REPLY: CHANGES,
    Fault.KEEP_REPLY: CHANGES,
    Fault.TRUNCATE: frozenset({"GET", "LIST", "COPY", "COMPLETE", "BEGIN"}),
    Fault.SHORT_BODY: frozenset({"GET"}),
    Fault.SHORT_RANGE: frozenset({"GET"}),
    Fault.FLIP_ANSWER: frozenset({"GET"}),
    Fault.FLIP_REQUEST: frozenset({"PUT", "PART"}),
    Fault.WRONG_ETAG: frozenset({"GET", "HEAD", "PUT", "PART", "COPY", "COMPLETE"}),
    Fault.LATE_ERROR: frozenset({"COPY", "COMPLETE"}),
    Fault.STALE_LISTING: frozenset({"LIST"}),
}
_ERRORS = {
    Fault.ERROR_500: ("500 Internal Server Error", "InternalError", ""),
    Fault.ERROR_503: ("503 Service Unavailable", "SlowDown", ""),
    Fault.RETRY_AFTER: ("503 Service Unavailable", "ServiceUnavailable", "Retry-After: 1\r\n"),
    Fault.TOO_MANY: ("429 Too Many Requests", "TooManyRequests", ""),
    Fault.EXPIRED: ("403 Forbidden", "ExpiredToken", ""),
    Fault.LATE_ERROR: ("200 OK", "InternalError", ""),
}


@dataclass(frozen=True, slots=True)
class Request:
    """What a request is about; `key` is the whole key in the bucket."""

    operation: str
    method: str
    key: str
    target: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A fault that befalls a share of the requests: those of `operations` (empty: all that it fits) whose
    key matches the expression `key`, the first `limit` of them that it can befall."""

    fault: Fault
    rate: float = 1.0
    operations: frozenset[str] = frozenset()
    key: str = ""
    limit: int | None = None

    def fits(self, request: Request) -> bool:
        return (
            request.operation in (self.operations or _FITS.get(self.fault) or {request.operation})
            and re.search(self.key, request.key) is not None
        )


def describe(message: Message) -> Request:
    """What S3 operation a request is."""
    method, target, _ = message.start.split(" ", 2)
    path, _, text = target.partition("?")
    key = unquote(path.lstrip("/").partition("/")[2])
    query = dict(parse_qsl(text, keep_blank_values=True))
    copies = bool(message.header("x-amz-copy-source"))
    operation = method
    if method == "GET" and not key:
        operation = "LIST"
    elif method == "PUT" and "uploadId" in query:
        operation = "PART"
    elif method == "PUT":
        operation = "COPY" if copies else "MARKER" if key.endswith("/") else "PUT"
    elif method == "POST":
        operation = "BEGIN" if "uploads" in query else "DELETE MANY" if "delete" in query else "COMPLETE"
    elif method == "DELETE" and "uploadId" in query:
        operation = "ABORT"
    return Request(operation, method, key, target)


class FaultProxy:
    """A running proxy: `rules` may be set at any time; `fired` and `seen` count faults and operations."""

    def __init__(self, endpoint: str, seed: int) -> None:
        self.rules: tuple[Rule, ...] = ()
        self.fired: Counter[Fault] = Counter()
        self.seen: Counter[str] = Counter()
        self.kept = 0
        self.endpoint = ""
        self.hang_s = 0.4
        self._server = urlsplit(endpoint)
        self._chance = random.Random(seed)
        self._listings: defaultdict[str, list[Message]] = defaultdict(list)
        self._spent: Counter[Rule] = Counter()
        self._met: Counter[Rule] = Counter()  # requests that a rule fits
        self._open = trio.Event()
        self._release = trio.Event()
        self._fillers: list[socket.socket] = []
        self._token: trio.lowlevel.TrioToken
        self._scope = trio.CancelScope()
        self._listener: trio.socket.SocketType
        self._held_back = False

    # -- control, from any other thread -------------------------------------------------------------

    def fail(self, *rules: Rule) -> None:
        """From now on these, and no other; counts of what fired begin anew."""
        self._run(self._set_rules, rules)

    def _set_rules(self, rules: tuple[Rule, ...]) -> None:
        self.rules = rules
        self.fired.clear()
        self._spent.clear()
        self._met.clear()

    def heal(self) -> None:
        """No more faults; what was counted stays."""
        self.rules = ()

    def release(self) -> None:
        """Give up what `KEEP_REPLY` holds: those answers are lost."""
        self._run(self._let_go)

    def _let_go(self) -> None:
        self._release.set()
        self._release = trio.Event()

    def cut(self) -> None:
        """Cut the network: nothing is answered, nothing refused; SYNs are dropped, packets go unread."""
        self._run(self._cut)

    def restore(self) -> None:
        """The network is back; requests that were under way go on, whoever still waits for them."""
        self._run(self._restore)

    def _cut(self) -> None:
        self._open = trio.Event()
        self._listener.listen(0)
        # The queue of connections takes one more than it should; when it is full, SYNs are dropped.
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(self._listener.getsockname())
            self._fillers.append(filler)

    def _restore(self) -> None:
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()
        self._listener.listen(128)
        self._open.set()

    def _run(self, do: Callable[..., None], *arguments: object) -> None:
        trio.from_thread.run_sync(do, *arguments, trio_token=self._token)

    # -- the server ---------------------------------------------------------------------------------

    async def serve(self, listening: socket.socket, ready: threading.Event) -> None:
        self._listener = trio.socket.from_stdlib_socket(listening)
        self._token = trio.lowlevel.current_trio_token()
        self._open.set()
        ready.set()
        with self._scope, self._listener:
            async with trio.open_nursery() as nursery:
                while True:
                    client, _ = await self._listener.accept()
                    nursery.start_soon(self._connection, trio.SocketStream(client))

    def stop(self) -> None:
        self._run(self._scope.cancel)

    async def _connection(self, stream: trio.SocketStream) -> None:
        # A killed daemon leaves its connections in the middle of anything.
        with contextlib.suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            async with stream:
                await self._open.wait()
                wire = Wire(stream)
                while (message := await wire.request()) is not None:
                    await self._open.wait()
                    if not await self._handle(stream, message):
                        return

    async def _handle(self, stream: trio.SocketStream, message: Message) -> bool:
        """Answer one request, or not; False when the connection is over."""
        request = describe(message)
        self.seen[request.operation] += 1
        rule = next((r for r in self.rules if r.fits(request) and self._draw(r)), None)
        fault = rule.fault if rule else None
        if rule is not None and fault in _ERRORS:
            self._count(rule)
            await stream.send_all(_error(fault, request).encoded())
            return True
        if rule is not None and fault is Fault.HANG:
            self._count(rule)
            await trio.sleep(self.hang_s)
            return False
        if rule is not None and fault is Fault.RESET_BEFORE:
            self._count(rule)
            _reset(stream)
            return False
        if rule is not None and fault is Fault.FLIP_REQUEST and message.body:
            self._count(rule)
            message = self._flipped(message)
        answer = await self._forward(message, request.method)
        await self._open.wait()
        if request.operation == "LIST" and answer.status == 200:
            self._remember(request, answer)
        if rule is None:
            await stream.send_all(answer.encoded())
            return True
        return await self._spoil(stream, rule, request, answer)

    async def _spoil(self, stream: trio.SocketStream, rule: Rule, request: Request, answer: Message) -> bool:
        """Give a true answer in a wrong way, if the fault can befall it; False ends the connection."""
        fault, good = rule.fault, answer.status < 300
        if fault is Fault.LOSE_REPLY:
            self._count(rule)
            return False
        if fault is Fault.RESET_AFTER:
            self._count(rule)
            _reset(stream)
            return False
        if fault is Fault.KEEP_REPLY:
            self._count(rule)
            self.kept += 1
            with trio.move_on_after(KEEP_LIMIT_S):
                await self._release.wait()
            return False
        if fault is Fault.TRUNCATE and good and len(answer.body) > 1:
            self._count(rule)
            await stream.send_all(answer.encoded()[: -self._chance.randint(1, len(answer.body))])
            return False
        if fault is Fault.SLOW:
            self._count(rule)
            data = answer.encoded()
            step = len(data) // 4 + 1
            for start in range(0, len(data), step):
                await trio.sleep(self.hang_s / 4)
                await stream.send_all(data[start : start + step])
            return True
        spoiled = self._spoiled(fault, request, answer) if good else None
        if spoiled is not None:
            self._count(rule)
        await stream.send_all((spoiled or answer).encoded())
        return True

    def _spoiled(self, fault: Fault, request: Request, answer: Message) -> Message | None:
        if fault is Fault.FLIP_ANSWER and answer.body:
            return self._flipped(answer)
        if fault in (Fault.SHORT_BODY, Fault.SHORT_RANGE) and len(answer.body) > 1:
            length = self._chance.randrange(1, len(answer.body))
            short = answer.with_body(answer.body[:length])
            if fault is Fault.SHORT_BODY:
                return short
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.header("content-range"))
            if found is None:
                return None
            return short.with_header(
                "content-range", f"bytes {found[1]}-{int(found[1]) + length - 1}/{found[2]}"
            )
        if fault is Fault.WRONG_ETAG:
            etag = f'"{self._chance.randbytes(16).hex()}"'
            if request.operation in ("COPY", "COMPLETE"):
                body = re.sub(rb"<ETag>[^<]*</ETag>", f"<ETag>{etag}</ETag>".encode(), answer.body)
                return answer.with_body(body) if body != answer.body else None
            return answer.with_header("etag", etag) if answer.header("etag") else None
        if fault is Fault.STALE_LISTING:
            older = [one for one in self._listings[request.target] if one.body != answer.body]
            return self._chance.choice(older) if older else None
        return None

    async def _forward(self, message: Message, method: str) -> Message:
        stream = await trio.open_tcp_stream(self._server.hostname or "", self._server.port or 80)
        async with stream:
            # A server that refuses a large PUT answers before it has read it all, and closes (RFC 9112, 9.6).
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(message.encoded())
            return await Wire(stream).answer(method)

    def _draw(self, rule: Rule) -> bool:
        if rule.limit is not None and self._spent[rule] >= rule.limit:
            return False
        # A short run with few requests of the kind meets the fault as well.
        self._met[rule] += 1
        overdue = rule.rate > 0 and not self._spent[rule] and self._met[rule] > 0.5 / rule.rate
        return overdue or self._chance.random() < rule.rate

    def _count(self, rule: Rule) -> None:
        self._spent[rule] += 1
        self.fired[rule.fault] += 1

    def _flipped(self, message: Message) -> Message:
        body = bytearray(message.body)
        body[self._chance.randrange(len(body))] ^= 1 << self._chance.randrange(8)
        return message.with_body(bytes(body))

    def _remember(self, request: Request, answer: Message) -> None:
        known = self._listings[request.target]
        if not known or known[-1].body != answer.body:
            known.append(answer)
            del known[:-6]


def _error(fault: Fault, request: Request) -> Message:
    start, code, extra = _ERRORS[fault]
    text = f"<Error><Code>{code}</Code><Message>made by the fault proxy</Message></Error>"
    body = ('<?xml version="1.0" encoding="UTF-8"?>\n' + text).encode()
    headers: Iterable[str] = extra.split("\r\n")[:-1]
    pairs = [(name, value) for name, _, value in (line.partition(": ") for line in headers)]
    whole = Message(f"HTTP/1.1 {start}", (*pairs, ("content-type", "application/xml"))).with_body(body)
    return Message(whole.start, whole.headers) if request.method == "HEAD" else whole


def _reset(stream: trio.SocketStream) -> None:
    """Have the close of this connection be a RST."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def loopback_socket() -> socket.socket:
    """A listening socket on a free port of 127.0.0.1."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    return listening


@contextlib.contextmanager
def fault_proxy(
    endpoint: str, seed: int = 1, make_socket: Callable[[], socket.socket] = loopback_socket
) -> Iterator[FaultProxy]:
    """A proxy of this server, on a free loopback port or where `make_socket` says."""
    proxy = FaultProxy(endpoint, seed)
    listening = make_socket()
    listening.setblocking(False)
    host, port = listening.getsockname()[:2]
    proxy.endpoint = f"http://{host}:{port}"
    ready = threading.Event()
    thread = threading.Thread(target=trio.run, args=(proxy.serve, listening, ready), name="fault proxy")
    thread.start()
    try:
        if not ready.wait(timeout=30):
            raise RuntimeError("the fault proxy does not start")
        yield proxy
    finally:
        proxy.stop()
        thread.join(timeout=30)
        for filler in proxy._fillers:
            filler.close()
