"""An HTTP proxy in front of a real S3 server: it counts requests, holds them back, and cuts them off.

It passes every request on as it came, its Host header too, which the signature covers.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came; `key` is the path below the bucket, decoded."""

    method: str
    key: str
    query: str


Fault = Callable[[Request], str | None]
"""What to do with a request: None passes it on, "refuse" cuts the connection before the server has seen it,
"lose the reply" cuts it after the server has carried it out, "keep the reply" holds the answer until
`go_on` is set, "503" answers that."""


class Proxy:
    """A running proxy. `requests` are all that came; `go` unset holds every upload until it is set."""

    def __init__(self, endpoint: str) -> None:
        self.server = urlsplit(endpoint)
        self.requests: list[Request] = []
        self.go = threading.Event()
        self.go.set()
        self.go_on = threading.Event()
        self.waiting = 0
        self.kept = 0
        self.fault: Fault = lambda request: None
        self.faults = 0
        self._lock = threading.Lock()
        self.endpoint = ""

    def count(self, method: str, key: str | None = None) -> int:
        """How many requests of this method (and key) have come."""
        with self._lock:
            return sum(one.method == method and key in (None, one.key) for one in self.requests)

    def note(self, request: Request) -> str | None:
        """Take a request down; the fault that it is to suffer."""
        with self._lock:
            self.requests.append(request)
            self.waiting += 1
        try:
            if request.method in ("PUT", "POST"):
                self.go.wait(timeout=120)
        finally:
            with self._lock:
                self.waiting -= 1
        fault = self.fault(request)
        with self._lock:
            self.faults += fault is not None
        return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def do(self) -> None:
        path, _, query = self.path.partition("?")
        _, _, key = path.lstrip("/").partition("/")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.proxy.note(Request(self.command, unquote(key), query))
        if fault == "refuse":
            self.close_connection = True
            return
        if fault == "503":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        where = self.proxy.server
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect", "keep-alive"):
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if fault == "keep the reply":
            self.proxy.kept += 1
            self.proxy.go_on.wait(timeout=120)
        if fault == "lose the reply":
            self.close_connection = True
            return
        self.send_response_only(answer.status, answer.reason)
        has_length = False
        for name, value in answer.getheaders():
            if name.lower() in ("connection", "transfer-encoding", "keep-alive"):
                continue
            has_length = has_length or name.lower() == "content-length"
            self.send_header(name, value)
        if not has_length:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr: `requests` has it."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A killed daemon leaves its connections in the middle of anything."""


@contextlib.contextmanager
def proxied(endpoint: str) -> Iterator[Proxy]:
    """A proxy of this server on a free loopback port."""
    proxy = Proxy(endpoint)
    handler = type("Handler", (_Handler,), {"proxy": proxy})
    with _Server(("127.0.0.1", 0), handler) as server:
        proxy.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.go.set()
            proxy.go_on.set()
            server.shutdown()
            thread.join(timeout=10)
