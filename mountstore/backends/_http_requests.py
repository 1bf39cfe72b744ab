"""Requests to one HTTP server and to where it redirects: RFC 9110, with its errors in our words."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import (
    HTTPError,
    IncompleteRead,
    InvalidChunkLength,
    LocationParseError,
    ProtocolError,
    SSLError,
)

from mountstore.backends._retrying import wait_s
from mountstore.errors import AccessDenied, Corrupted, NotFound, StoreError, Unavailable

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_MAX_REDIRECTS = 10
_LONGEST_WAIT_S = 30.0
_DRAIN_BYTES = 65_536

PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """Whom credentials are for (RFC 6454)."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if PORTS.get(self.scheme) == self.port else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, its body held or not."""

    status: int
    headers: Mapping[str, str]
    body: bytes | bytearray = b""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What goes to the server of the store and to nobody else."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def as_headers(self) -> dict[str, str]:
        given = dict(self.headers)
        if self.username is not None or self.password is not None:
            pair = f"{self.username or ''}:{self.password or ''}".encode()
            given["Authorization"] = "Basic " + base64.b64encode(pair).decode()
        return given


class Requests:
    """Connections, kept open and shared by threads.

    Answers that say that the server is busy, and broken connections, are tried again `tries` times in
    all, with growing pauses of which the server may ask for longer ones.
    """

    def __init__(
        self,
        origin: Origin,
        credentials: Credentials,
        *,
        timeout_s: float,
        tries: int,
        connections: int,
        ca_certs: str | None,
    ) -> None:
        self.origin = origin
        self._headers = credentials.as_headers()
        self._tries = tries
        self._pool = urllib3.PoolManager(
            num_pools=10,
            maxsize=connections,
            timeout=urllib3.Timeout(connect=timeout_s, read=timeout_s),
            retries=False,
            ca_certs=ca_certs,
        )

    def close(self) -> None:
        self._pool.clear()

    def send(
        self, method: str, path: str, headers: Mapping[str, str], key: str | None, *, skip: int = 0,
        length: int | None = None, most: int | None = None,
    ) -> Answer:  # fmt: skip
        """One request, with the bytes [skip, skip + length) of a 200's body, or the whole of any other's.

        A body of more than `most` bytes is refused. Raises Unavailable, Corrupted, AccessDenied, StoreError.
        """
        tried = 0
        while True:
            tried += 1
            try:
                answer = self._follow(method, path, headers, key, skip, length, most)
                if answer.status not in _TRY_AGAIN:
                    return answer
                failed: StoreError = Unavailable(
                    f"{self.origin} answers with {answer.status}; try again later", key=key
                )
                asked = answer.headers.get("retry-after", "")
            except (Unavailable, Corrupted) as error:
                failed, asked = error, ""
            if tried >= self._tries:
                raise failed
            # The server has asked for time, or may be overwhelmed: whoever repeats at once makes it worse.
            time.sleep(wait_s(tried, asked, longest_s=_LONGEST_WAIT_S))

    def _follow(
        self, method: str, path: str, headers: Mapping[str, str], key: str | None, skip: int,
        length: int | None, most: int | None,
    ) -> Answer:  # fmt: skip
        origin, target = self.origin, path
        for _ in range(_MAX_REDIRECTS + 1):
            # Only the server that they are for gets credentials.
            given = {**headers, **(self._headers if origin == self.origin else {})}
            answer = self._once(method, origin, target, given, key, skip, length, most)
            location = answer.headers.get("location")
            if answer.status not in _REDIRECTS or location is None:
                return answer
            following = urljoin(f"{origin}{target}", location)
            if urlsplit(following).path == urlsplit(f"{origin}{target}").path + "/":
                raise NotFound(key=key)  # a folder, which is no object of this key
            origin, target = self._checked(origin, following, key)
        raise StoreError(f"{self.origin} redirects in a circle", key=key)

    def _checked(self, origin: Origin, url: str, key: str | None) -> tuple[Origin, str]:
        try:
            found = urlsplit(url)
            following = Origin(
                found.scheme.lower(), (found.hostname or "").lower(), found.port or PORTS.get(found.scheme, 0)
            )
        except ValueError:
            raise StoreError(f"{self.origin} redirects to what is no URL", key=key) from None
        if following.scheme not in PORTS or not following.host:
            raise StoreError(f"{self.origin} redirects to what is not HTTP", key=key)
        if origin.scheme == "https" and following.scheme == "http":
            raise AccessDenied(f"{self.origin} redirects to unencrypted HTTP, which is not followed", key=key)
        return following, (found.path or "/") + (f"?{found.query}" if found.query else "")

    def _once(
        self, method: str, origin: Origin, target: str, headers: Mapping[str, str], key: str | None,
        skip: int, length: int | None, most: int | None,
    ) -> Answer:  # fmt: skip
        try:
            pool = self._pool.connection_from_host(origin.host, origin.port, origin.scheme)
            response = cast(
                urllib3.HTTPResponse,
                pool.urlopen(
                    method,
                    target,
                    headers={"Accept-Encoding": "identity", **headers},
                    redirect=False,
                    assert_same_host=False,
                    preload_content=False,
                    decode_content=False,
                    retries=False,
                ),
            )
        except SSLError as error:
            raise Unavailable(f"{origin}: no trusted encrypted connection can be made", key=key) from error
        except LocationParseError as error:
            raise StoreError(f"{origin} is no address of a server", key=key) from error
        except (HTTPError, OSError) as error:
            raise Unavailable(f"{origin} cannot be reached or does not answer", key=key) from error
        told = {name.lower(): value for name, value in response.headers.items()}
        whole = False
        try:
            if method == "HEAD":
                body: bytes | bytearray = b""
            elif response.status == 200:
                body = _range_of(response, skip, length, most, key)
            elif response.status == 206:
                # One byte too many is enough to see that it is not what was asked for.
                body = _range_of(response, 0, None if length is None else length + 1, most, key)
            else:
                body = response.read(most if most is not None else _DRAIN_BYTES)
            whole = True
            return Answer(response.status, told, body)
        except (IncompleteRead, InvalidChunkLength) as error:
            raise Corrupted(f"{origin} sent fewer bytes than it told", key=key) from error
        except ProtocolError as error:
            raise Corrupted(f"{origin} broke off in the middle of its answer", key=key) from error
        except (HTTPError, OSError) as error:
            raise Unavailable(f"{origin} stopped answering", key=key) from error
        finally:
            # A body that was not read to its end would be taken for the next answer.
            if whole and (method == "HEAD" or not response.length_remaining):
                response.release_conn()
            else:
                response.close()


def _range_of(
    response: urllib3.HTTPResponse, skip: int, length: int | None, most: int | None, key: str | None
) -> bytes | bytearray:
    """Bytes [skip, skip + length) of a whole body, read no further than that."""
    if skip == 0 and length is None and most is None:
        return response.read()
    out = bytearray()
    at = 0
    stop = None if length is None else skip + length
    for piece in response.stream(1 << 18, decode_content=False):
        view = memoryview(piece)
        begin = max(0, skip - at)
        end = len(view) if stop is None else min(len(view), stop - at)
        if begin < end:
            out += view[begin:end]
        at += len(view)
        if most is not None and len(out) > most:
            raise StoreError(f"the answer has more than {most} bytes", key=key)
        if stop is not None and at >= stop:
            break
    return out
