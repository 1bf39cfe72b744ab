"""Requests of the REST protocol, over HTTP or over pipes; errors in our words.

No redirect is followed: a password would go along, and a body would be sent twice.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError, SSLError

from mountstore.backends import _rest_protocol as protocol
from mountstore.backends._arguments import blocks, flat
from mountstore.backends._rest_pipe import PipeEnded
from mountstore.backends._retrying import wait_s
from mountstore.errors import (
    AccessDenied,
    BackendAlreadyExists,
    BackendDoesNotExist,
    BackendMustBeOpen,
    BackendMustNotBeOpen,
    Corrupted,
    InvalidKey,
    InvalidRange,
    NotFound,
    PreconditionFailed,
    QuotaExceeded,
    StoreError,
    Unavailable,
    Unsupported,
)
from mountstore.store import Data

_TRY_AGAIN = frozenset({408, 425, 429, 503, 504})
_LONGEST_WAIT_S = 10.0
_BLOCK_BYTES = 1 << 20
_TEXT_BYTES = 300


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, read to its end; the names of its headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError:
            raise StoreError("the server's answer is not JSON; does it speak this protocol?") from None


@dataclass(frozen=True, slots=True)
class Content:
    """The body of a request: bytes, or a file from a position on, which can be sent again."""

    size: int
    sha256: str
    blocks: Callable[[], Any]


def content_of(data: Data | BinaryIO) -> Content:
    """The content of a put. A file is read once more than it is sent, for its hash goes before it."""
    if isinstance(data, Data):
        whole = flat(data)
        return Content(len(whole), hashlib.sha256(whole).hexdigest(), lambda: memoryview(whole))
    position = data.tell()
    digest = hashlib.sha256()
    size = 0
    for block in blocks(data, _BLOCK_BYTES):
        digest.update(block)
        size += len(block)

    def again() -> Iterator[memoryview]:
        data.seek(position)
        yield from blocks(data, _BLOCK_BYTES)

    return Content(size, digest.hexdigest(), again)


class Wire:
    """Requests to one store; thread-safe. `pool` is closed with it.

    `what` names the server in messages, `base` is the path that stands before all names, with a slash at
    its end.
    """

    def __init__(
        self,
        pool: urllib3.HTTPConnectionPool,
        what: str,
        base: str,
        headers: Mapping[str, str],
        *,
        timeout_s: float,
        tries: int,
    ) -> None:
        self.what = what
        self._pool = pool
        self._base = base
        self._headers = {"Accept": protocol.ACCEPT, "Accept-Encoding": "identity", **headers}
        self._timeout = urllib3.Timeout(connect=min(timeout_s, 20.0), read=timeout_s)
        self._tries = tries

    def close(self) -> None:
        self._pool.close()

    def send(
        self,
        method: str,
        path: str = "",
        query: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        content: Content | None = None,
        document: Any = None,
        key: str | None = None,
        again: bool = True,
    ) -> tuple[Answer, bool]:
        """(the answer, whatever its status; whether an earlier one may have been lost).

        Busy servers and broken connections are tried again, broken ones only if `again` says that doing
        it twice is doing it once; a request that has not left is always tried again.
        """
        target = self._base + path + (f"?{query}" if query else "")
        given = {**self._headers, **(headers or {})}
        body: Any = None
        if document is not None:
            body = json.dumps(document).encode()
            given["Content-Type"] = "application/json"
        elif content is not None:
            given["Content-Length"] = str(content.size)
            given["Content-Type"] = "application/octet-stream"
        elif method in ("POST", "PUT"):
            body = b""
        lost = False
        tried = 0
        while True:
            tried += 1
            left = False
            try:
                answer = self._once(method, target, given, content.blocks() if content else body, key)
                if answer.status not in _TRY_AGAIN or tried >= self._tries:
                    return answer, lost
                asked = answer.headers.get("retry-after", "")
            except _Broken as broken:
                asked, left = "", broken.left
                lost = lost or left
                if tried >= self._tries or (left and not again) or not isinstance(broken.fault, Unavailable):
                    raise broken.fault from broken.__cause__
            time.sleep(wait_s(tried, asked, longest_s=_LONGEST_WAIT_S))

    def _once(
        self, method: str, target: str, headers: Mapping[str, str], body: Any, key: str | None
    ) -> Answer:
        try:
            response = self._pool.urlopen(
                method,
                target,
                body=body,
                headers=dict(headers),
                redirect=False,
                retries=False,
                timeout=self._timeout,
                assert_same_host=False,
                preload_content=False,
                decode_content=False,
            )
        except SSLError as error:
            fault: StoreError = AccessDenied(
                f"{self.what}: no trusted encrypted connection can be made", key=key
            )
            raise _Broken(fault, left=False) from error
        except (NewConnectionError, MaxRetryError) as error:
            raise _Broken(Unavailable(f"{self.what} cannot be reached", key=key), left=False) from error
        except (HTTPError, OSError) as error:
            ended = next((cause for cause in _causes(error) if isinstance(cause, PipeEnded)), None)
            fault = (
                ended.fault if ended else Unavailable(f"{self.what} broke off or does not answer", key=key)
            )
            raise _Broken(fault, left=True) from error
        told = {name.lower(): value for name, value in response.headers.items()}
        try:
            data = b"" if method == "HEAD" else response.read()
        except (HTTPError, OSError) as error:
            response.close()
            raise _Broken(
                Unavailable(f"{self.what} broke off in the middle of its answer", key=key), left=True
            ) from error
        response.release_conn()
        return Answer(response.status, told, data)

    def fault(self, answer: Answer, key: str | None) -> StoreError:
        """What an answer that is no success says, by the two tables: of the extension, and of version 1."""
        kind = answer.headers.get(protocol.ERROR_HEADER.lower())
        text = _line(answer.body)
        about = f"{self.what}: " if key is None else f"{key!r}: "
        if kind is not None:
            found = protocol.error_of(kind)
            if found is NotFound:
                return NotFound(key=key)
            return found(f"{about}{text or 'the server refuses this'}", key=key)
        status = answer.status
        if status in (301, 302, 303, 307, 308):
            return StoreError(f"{self.what} redirects elsewhere; give the URL where the store is", key=key)
        if status == 404:
            return NotFound(key=key)
        if status == 412 and "must be open" in text:
            return BackendMustBeOpen(f"{about}{text}", key=key)
        if status == 412 and "must not be open" in text:
            return BackendMustNotBeOpen(f"{about}{text}", key=key)
        said = _SAID.get(status)
        if said is None:
            return StoreError(f"{about}the server answers with {status}", key=key)
        return said[0](f"{about}{said[1]}", key=key)


_SAID: Mapping[int, tuple[type[StoreError], str]] = {
    400: (InvalidKey, "the server takes no such name"),
    401: (AccessDenied, "the server asks for a user and a password, or refuses these"),
    403: (AccessDenied, "the server does not allow this"),
    405: (Unsupported, "the server cannot do this"),
    406: (StoreError, "the server does not speak this version of the protocol"),
    408: (Unavailable, "the server waited too long for this request"),
    409: (BackendAlreadyExists, "the store exists already"),
    410: (BackendDoesNotExist, "the store does not exist; create it first"),
    412: (PreconditionFailed, "the server says that something has changed"),
    413: (Unsupported, "the server takes nothing so large"),
    414: (InvalidKey, "the server takes no name so long"),
    416: (InvalidRange, "the server does not have this range"),
    422: (Corrupted, "what reached the server was not what was sent"),
    429: (Unavailable, "the server is busy; try again later"),
    431: (InvalidKey, "the server takes no headers so long"),
    501: (Unsupported, "the server cannot do this"),
    502: (Unavailable, "what stands before the server cannot reach it"),
    503: (Unavailable, "the server is busy; try again later"),
    504: (Unavailable, "what stands before the server waited too long for it"),
    507: (QuotaExceeded, "the store is full, or its quota is used up"),
}
"""The one table from the statuses of version 1 to our errors."""


class _Broken(Exception):
    """No whole answer came; `left` if the request may have reached the server."""

    def __init__(self, fault: StoreError, *, left: bool) -> None:
        super().__init__()
        self.fault = fault
        self.left = left


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _line(body: bytes) -> str:
    """The first line of a text, fit for a message."""
    text = body[:_TEXT_BYTES].decode(errors="replace").strip()
    if text.startswith("<"):
        return ""
    return "".join(letter if letter.isprintable() else "?" for letter in text.split("\n")[0].strip())
