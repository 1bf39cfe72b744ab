"""A store behind a REST server: `mountstore serve`, or that of borgstore.

Behind `mountstore serve` it is the store that is served, with its etags, conditions and metadata, over the
extension that `mountstore.backends._rest_protocol` tells. Behind the server of borgstore it has what version
1 of the protocol has: see `mountstore.backends._rest_names`. Which it is, is asked with the first call.

`open_http` reaches a server by its URL; `open_pipe` starts one, on another machine by ssh, and speaks with it
over stdin and stdout.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, Self
from urllib.parse import quote, urlencode, urlsplit

import urllib3

from mountstore.backends import _rest_protocol as protocol
from mountstore.backends._rest_names import RestNames
from mountstore.backends._rest_objects import RestObjects
from mountstore.backends._rest_pipe import PipePool
from mountstore.backends._rest_wire import Answer, Wire
from mountstore.errors import BadUrl, InvalidRange, RangeNotSatisfiable, StoreError
from mountstore.store import Capabilities, Data, ObjectInfo, ObjectStore, Page

CONNECTIONS = 16
PROCESSES = 4


class RestStore(ObjectStore):
    """The store at the other end of `wire`, which it closes.

    Beside the contract, what its far side can do by itself: make and remove the storage, hash objects, put
    pieces of them together, tell its quota. `prune` belongs to version 1 alone.
    """

    def __init__(self, wire: Wire, *, prune: bool = False) -> None:
        self._wire = wire
        self._prune = prune
        self._settling = threading.Lock()
        self._told: RestObjects | RestNames | None = None

    @classmethod
    def open_http(
        cls,
        url: str,
        *,
        username: str | None = None,
        password: str | None = None,
        ca_certs: str | None = None,
        timeout_s: float = 60.0,
        tries: int = 4,
        prune: bool = False,
    ) -> Self:
        """The store at `url`, http:// or https://, without a user in it. Nothing is sent yet."""
        return cls(http_wire(url, username, password, ca_certs, timeout_s, tries), prune=prune)

    @classmethod
    def open_pipe(
        cls, words: list[str], what: str, *, timeout_s: float = 60.0, tries: int = 4, prune: bool = False
    ) -> Self:
        """The store of the server that the command `words` starts; up to four are, as they are needed."""
        pool = PipePool(words, what, maxsize=PROCESSES, block=True)
        return cls(Wire(pool, what, "/", {}, timeout_s=timeout_s, tries=tries), prune=prune)

    def __repr__(self) -> str:
        return f"RestStore({self._wire.what!r})"

    def close(self) -> None:
        self._wire.close()

    @property
    def _store(self) -> RestObjects | RestNames:
        """The store in the words that the server knows."""
        if self._told is None:
            with self._settling:
                if self._told is None:
                    self._told = self._settle()
        return self._told

    def _settle(self) -> RestObjects | RestNames:
        answer, _ = self._wire.send("OPTIONS")
        if answer.headers.get(protocol.EXTENSION_HEADER.lower()) != protocol.EXTENSION:
            if answer.status in (401, 403, 406, 410) or answer.status in range(300, 400):
                raise self._wire.fault(answer, None)
            return RestNames(self._wire, prune=self._prune)
        if answer.status != 200:
            raise self._wire.fault(answer, None)
        try:
            return RestObjects(self._wire, protocol.read_capabilities(answer.json()))
        except ValueError as error:
            raise StoreError(f"{self._wire.what}: {error}") from None

    # -- the contract -----------------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        return self._store.capabilities

    def head(self, key: str) -> ObjectInfo:
        return self._store.head(key)

    def head_many(self, keys: Iterable[str]) -> dict[str, ObjectInfo]:
        return self._store.head_many(keys)

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        return self._store.get(key, start, stop, if_match=if_match)

    def put(
        self,
        key: str,
        data: Data | BinaryIO,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        return self._store.put(key, data, metadata=metadata, if_match=if_match, if_absent=if_absent)

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        self._store.delete(key, missing_ok=missing_ok, if_match=if_match)

    def delete_many(self, keys: Iterable[str]) -> None:
        self._store.delete_many(keys)

    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        return self._store.list(prefix, delimiter=delimiter, after=after, limit=limit)

    def pages(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000
    ) -> Iterator[Page]:
        return self._store.pages(prefix, delimiter=delimiter, after=after, limit=limit)

    def copy(
        self,
        source: str,
        target: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        return self._store.copy(source, target, metadata=metadata, if_match=if_match)

    def rename(self, source: str, target: str, *, if_match: str | None = None) -> ObjectInfo:
        return self._store.rename(source, target, if_match=if_match)

    def update_metadata(
        self, key: str, metadata: Mapping[str, str], *, if_match: str | None = None
    ) -> ObjectInfo:
        return self._store.update_metadata(key, metadata, if_match=if_match)

    def usage(self, prefix: str = "") -> tuple[int, int]:
        return self._store.usage(prefix)

    # -- what the far side does by itself ---------------------------------------------------------

    def create_storage(self) -> None:
        """Make the storage. Raises BackendAlreadyExists."""
        self._ask("POST", query="cmd=create")

    def destroy_storage(self) -> None:
        """Remove the storage with all that is in it. Raises BackendDoesNotExist."""
        self._ask("DELETE", query="cmd=destroy")
        self._told = None

    def hash_object(self, key: str, algorithm: str = "sha256") -> str:
        """The hex digest of an object's content, computed there. Raises NotFound."""
        query = urlencode({"cmd": "hash", "algorithm": algorithm})
        return self._ask("POST", quote(key, safe="/!$&'()*+,;=:@~"), query, key=key).body.decode("ascii")

    def defrag_objects(
        self,
        sources: Iterable[tuple[str, int, int]],
        *,
        target: str | None = None,
        algorithm: str | None = None,
        namespace: str | None = None,
        levels: int = 0,
    ) -> str:
        """Make an object of pieces (key, offset, size) of others, there; returns its key.

        Without a `target` it is named by the hash of its content, in `namespace`, with so many levels.
        Raises RangeNotSatisfiable, NotFound.
        """
        told = {"target": target, "algorithm": algorithm, "namespace": namespace, "levels": levels or None}
        query = urlencode({"cmd": "defrag", **{name: value for name, value in told.items() if value}})
        return self._pieces(query, sources).body.decode("ascii")

    def gather_objects(self, sources: Iterable[tuple[str, int, int]]) -> bytes:
        """Pieces (key, offset, size) of objects, one behind the other. Raises as `defrag_objects` does."""
        return self._pieces("cmd=gather", sources).body

    def quota(self) -> dict[str, int]:
        """`limit` and `usage` in bytes; -1 where there is none."""
        told = json.loads(self._ask("POST", query="cmd=quota").body)
        return {"limit": int(told["limit"]), "usage": int(told["usage"])}

    def _pieces(self, query: str, sources: Iterable[tuple[str, int, int]]) -> Answer:
        try:
            return self._ask("POST", query=query, document=[list(source) for source in sources])
        except InvalidRange as error:
            raise RangeNotSatisfiable(str(error)) from None

    def _ask(
        self, method: str, path: str = "", query: str = "", *, key: str | None = None, document: Any = None
    ) -> Answer:
        again = "cmd=create" not in query and "cmd=destroy" not in query
        answer, _ = self._wire.send(method, path, query, document=document, key=key, again=again)
        if answer.status != 200:
            raise self._wire.fault(answer, key)
        return answer


def http_wire(
    url: str,
    username: str | None,
    password: str | None,
    ca_certs: str | None,
    timeout_s: float,
    tries: int,
) -> Wire:
    """The wire to an HTTP server; certificates are those that the system trusts, or the file `ca_certs`."""
    try:
        found = urlsplit(url)
        port = found.port
    except ValueError:
        raise BadUrl("this is no URL of a server: http://HOST[:PORT]/PATH") from None
    if found.scheme not in ("http", "https") or not found.hostname:
        raise BadUrl("a server is named http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH")
    if found.username is not None or found.password is not None:
        raise BadUrl("credentials are given as username and password, not within the URL")
    headers = {}
    if username is not None or password is not None:
        pair = f"{username or ''}:{password or ''}".encode()
        headers["Authorization"] = "Basic " + base64.b64encode(pair).decode()
    options: dict[str, Any] = {"maxsize": CONNECTIONS, "block": True}
    pool: urllib3.HTTPConnectionPool
    if found.scheme == "https":
        pool = urllib3.HTTPSConnectionPool(found.hostname, port, ca_certs=ca_certs, **options)
    else:
        pool = urllib3.HTTPConnectionPool(found.hostname, port, **options)
    what = f"{found.scheme}://{found.netloc}{found.path.rstrip('/')}"
    return Wire(pool, what, found.path.rstrip("/") + "/", headers, timeout_s=timeout_s, tries=tries)


def speaks_rest(url: str, ca_certs: str | None, timeout_s: float = 30.0) -> bool:
    """Whether a server of this protocol is there: it refuses (406) who does not ask for its version.

    That is checked before a password is, so none is sent. Raises Unavailable if nobody answers.
    """
    wire = http_wire(url, None, None, ca_certs, timeout_s, 2)
    try:
        answer, _ = wire.send("HEAD", headers={"Accept": ""})
    finally:
        wire.close()
    return answer.status == 406
