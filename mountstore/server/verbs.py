"""REST protocol v1: which request means which verb of a namespace, and which error which status.

Each request carries `Accept: application/vnd.x.borgstore.rest.v1`, else it is answered with 406 before it
is asked who sends it. Two paths that can be no names, having upper case, are for those who watch a server:
`GET /HEALTH`, for everybody, says `ok`; `GET /METRICS`, for those who may come in, counts requests.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import IO, Any, cast

from mountstore.errors import (
    AccessDenied,
    BackendAlreadyExists,
    BackendDoesNotExist,
    BackendMustBeOpen,
    BackendMustNotBeOpen,
    InvalidKey,
    InvalidRange,
    NotFound,
    PreconditionFailed,
    StoreError,
    StoreFull,
    Unavailable,
    Unsupported,
)
from mountstore.namespaces.backend import NamespaceBackend
from mountstore.namespaces.errors import UnknownAlgorithm
from mountstore.namespaces.items import Admits
from mountstore.namespaces.names import check_name
from mountstore.server import extension, metrics
from mountstore.server.auth import Gate
from mountstore.server.body import Body, Hasher, content_of
from mountstore.server.conversation import TEXT, Response
from mountstore.server.head import Head, Refused
from mountstore.server.limits import Limits
from mountstore.server.metrics import Metrics
from mountstore.server.ranges import content_range, parse_range
from mountstore.server.storage import Storage
from mountstore.store import Data

MEDIA_TYPE = b"application/vnd.x.borgstore.rest.v1"
HEALTH, METRICS = "HEALTH", "METRICS"

_BYTES = "application/octet-stream"
_JSON = "application/json"
_BLOCK_BYTES = 256 << 10

# The first that fits; None: the error's own words, which are of names and numbers only. Others may tell
# where the store lies, and are for the log.
_STATUS: tuple[tuple[type[Exception], int, str | None], ...] = (
    (BackendDoesNotExist, 410, "the store does not exist; create it first"),
    (BackendAlreadyExists, 409, "the store exists already"),
    (BackendMustBeOpen, 412, "the store must be open"),
    (BackendMustNotBeOpen, 412, "the store must not be open"),
    (NotFound, 404, "not found"),
    (UnknownAlgorithm, 400, None),
    (InvalidKey, 400, None),
    (InvalidRange, 416, None),
    (AccessDenied, 403, "not permitted"),
    (StoreFull, 507, "the quota is used up, or the store is full"),
    (PreconditionFailed, 412, "something else is there, or was changed meanwhile"),
    (Unavailable, 503, "the store cannot be reached now; try again"),
    (Unsupported, 501, "this store cannot do this"),
)


class Protocol:
    """Answers requests out of `storage`; the application of a Conversation. Thread-safe."""

    def __init__(self, storage: Storage, gate: Gate | None, limits: Limits, counters: Metrics) -> None:
        self._storage = storage
        self._gate = gate
        self._limits = limits
        self._counters = counters

    def __call__(self, head: Head, body: Body) -> Response:
        """The answer. Raises Refused, Gone, and what is nobody's fault but ours."""
        is_get = head.method in ("GET", "HEAD")
        if is_get and head.name == HEALTH:
            return Response(200, b"ok\n", TEXT)
        if head.headers.get(b"accept") != MEDIA_TYPE and not (is_get and head.name == METRICS):
            return Response(406, b"Accept must be " + MEDIA_TYPE, TEXT)
        if self._gate is not None and not self._gate.admits(head.headers.get(b"authorization")):
            challenge = ("WWW-Authenticate", 'Basic realm="mountstore", charset="UTF-8"')
            return Response(401, b"name or password missing or wrong", TEXT, (challenge,))
        if is_get and head.name == METRICS:
            return Response(200, self._counters.text().encode(), metrics.CONTENT_TYPE)
        if extension.is_asked(head):
            return self._answered(lambda: extension.answer(self._storage, head, body, self._limits))
        verbs = _VERBS.get(head.method)
        if verbs is None:
            return Response(405, b"the verbs are GET, HEAD, POST, DELETE", TEXT, (("Allow", _ALLOWED),))
        command = head.query.get("cmd", "")
        verb = verbs.get(command)
        if verb is None:
            raise Refused(400, f"{head.method} knows no command {command!r}")
        return self._answered(lambda: verb(self, head, body))

    def _answered(self, verb: Callable[[], Response]) -> Response:
        try:
            return verb()
        except StoreError as error:
            for kind, status, text in _STATUS:
                if isinstance(error, kind):
                    retry = (("Retry-After", "1"),) if status == 503 else ()
                    told = str(error) if text is None else text
                    return Response(status, told.encode("ascii", "backslashreplace"), TEXT, retry)
            raise

    # -- the store --------------------------------------------------------------------------------

    def _create(self, head: Head, body: Body) -> Response:
        self._storage.create()
        return Response(200)

    def _destroy(self, head: Head, body: Body) -> Response:
        self._storage.destroy()
        return Response(200)

    def _quota(self, head: Head, body: Body) -> Response:
        with self._storage.used() as backend:
            quota = backend.quota()
        return Response(200, json.dumps(quota).encode(), _JSON)

    # -- folders ----------------------------------------------------------------------------------

    def _mkdir(self, head: Head, body: Body) -> Response:
        with self._storage.used() as backend:
            backend.mkdir(head.name)
        return Response(200)

    def _rmdir(self, head: Head, body: Body) -> Response:
        with self._storage.used() as backend:
            backend.rmdir(head.name)
        return Response(200)

    def _list(self, head: Head) -> Response:
        with self._storage.used() as backend:
            file, size = _listing(backend, head.name)
        return Response(200, content_type=_JSON, pieces=_blocks(file), length=size)

    # -- items ------------------------------------------------------------------------------------

    def _head(self, head: Head, body: Body) -> Response:
        with self._storage.used() as backend:
            info = backend.info(head.name)
        if not info.exists:
            raise NotFound(key=head.name)
        told = (
            ("X-BorgStore-Is-Directory", "true" if info.directory else "false"),
            ("X-BorgStore-Atime", str(info.atime)),
            ("X-BorgStore-Mtime", str(info.mtime)),
        )
        return Response(200, headers=told, length=info.size)

    def _get(self, head: Head, body: Body) -> Response:
        if head.is_folder or not head.name:
            return self._list(head)
        wanted = parse_range(head.headers.get(b"range"))
        offset, size = (0, None) if wanted is None else wanted
        status = 200 if wanted is None else 206
        most = self._limits.memory_bytes
        with ExitStack() as use:
            backend = use.enter_context(self._storage.used())
            if offset >= 0 and (size is None or size <= most):
                data = backend.load(head.name, offset=offset, size=most + 1 if size is None else size)
                if len(data) <= most:
                    ranges = content_range(offset, len(data), None) if wanted is not None else ()
                    return Response(status, data, _BYTES, ranges)
            reading = backend.read(head.name, offset=offset, size=size)
            length = reading.stop - reading.start
            ranges = content_range(reading.start, length, reading.total) if wanted is not None else ()
            return Response(status, b"", _BYTES, ranges, _Using(reading.pieces, use.pop_all()), length)

    def _store(self, head: Head, body: Body) -> Response:
        if not head.name:
            raise Refused(400, "what is to be done? A name is missing, or a command")
        if not head.has_body:
            raise Refused(411, "say how long it is: Content-Length, or chunks")
        check_name(head.name)
        most = self._limits.memory_bytes
        announced = head.headers.get(b"x-content-hash-sha256")
        hasher = Hasher(None if announced is None else announced.decode("latin-1"))
        is_small = body.length is not None and body.length <= most and not body.is_awaited
        # What is small is taken before the store is: nobody waits for a slow client then.
        content = content_of(body, hasher, most) if is_small else None
        with self._storage.used() as backend:
            if content is None:
                store = backend.store_of_objects
                if isinstance(store, Admits):
                    store.admit(backend.key(head.name), body.length or 0)
                content = content_of(body, hasher, most)
            backend.store(head.name, content, size=body.length)
        return Response(200)

    def _delete(self, head: Head, body: Body) -> Response:
        if not head.name:
            raise Refused(400, "a name is missing")
        with self._storage.used() as backend:
            backend.delete(head.name)
        return Response(200)

    def _move(self, head: Head, body: Body) -> Response:
        current, new = head.query.get("current"), head.query.get("new")
        if not current or not new:
            raise Refused(400, "move wants current and new")
        with self._storage.used() as backend:
            backend.move(current, new)
        return Response(200)

    # -- what this side computes ------------------------------------------------------------------

    def _hash(self, head: Head, body: Body) -> Response:
        with self._storage.used() as backend:
            digest = backend.hash(head.name, head.query.get("algorithm", "sha256"))
        return Response(200, digest.encode("ascii"), TEXT)

    def _gather(self, head: Head, body: Body) -> Response:
        pieces = self._pieces(body)
        with ExitStack() as use:
            backend = use.enter_context(self._storage.used())
            length, content = backend.gather_reading(pieces)
            return Response(200, b"", _BYTES, (), _Using(content, use.pop_all()), length)

    def _defrag(self, head: Head, body: Body) -> Response:
        query = head.query
        target, algorithm = query.get("target") or None, query.get("algorithm") or None
        if target is None and algorithm is None:
            raise Refused(400, "defrag wants a target or an algorithm")
        levels = query.get("levels") or "0"
        if not levels.isdecimal() or int(levels) > _MAX_LEVELS:
            raise Refused(400, f"levels is a number up to {_MAX_LEVELS}")
        pieces = self._pieces(body)
        with self._storage.used() as backend:
            name = backend.defrag(
                pieces,
                target=target,
                algorithm=algorithm,
                namespace=query.get("namespace") or None,
                levels=int(levels),
            )
        return Response(200, name.encode("ascii"), TEXT)

    def _pieces(self, body: Body) -> list[tuple[str, int, int]]:
        try:
            pieces = json.loads(body.read(self._limits.document_bytes))
        except (ValueError, RecursionError):
            raise Refused(400, "the body is no JSON") from None
        if not isinstance(pieces, list) or not all(map(_is_piece, pieces)):
            raise Refused(400, "the body is a list of [name, offset, size]")
        if len(pieces) > self._limits.pieces:
            raise Refused(413, f"at most {self._limits.pieces} pieces at once")
        return [(name, offset, size) for name, offset, size in pieces]


_MAX_LEVELS = 16
_Verb = Callable[[Protocol, Head, Body], Response]
_VERBS: dict[str, dict[str, _Verb]] = {
    "HEAD": {"": Protocol._head},
    "GET": {"": Protocol._get},
    "POST": {
        "": Protocol._store,
        "create": Protocol._create,
        "mkdir": Protocol._mkdir,
        "move": Protocol._move,
        "hash": Protocol._hash,
        "quota": Protocol._quota,
        "gather": Protocol._gather,
        "defrag": Protocol._defrag,
    },
    "DELETE": {"": Protocol._delete, "destroy": Protocol._destroy, "rmdir": Protocol._rmdir},
}
_ALLOWED = ", ".join(sorted(_VERBS))


class _Using:
    """Pieces of an answer, and the use of the store that they need."""

    def __init__(self, pieces: Iterator[Data], use: ExitStack) -> None:
        self._pieces, self._use = pieces, use

    def __iter__(self) -> Iterator[Data]:
        return self

    def __next__(self) -> Data:
        return next(self._pieces)

    def close(self) -> None:
        self._use.close()


def _is_piece(piece: Any) -> bool:
    return (
        isinstance(piece, list)
        and len(piece) == 3
        and isinstance(piece[0], str)
        and type(piece[1]) is int
        and type(piece[2]) is int
        and piece[2] >= 0
    )


def _listing(backend: NamespaceBackend, name: str) -> tuple[IO[bytes], int]:
    """A folder as JSON, in a file, which is on the disk if it is large; and its size."""
    file = cast(IO[bytes], tempfile.SpooledTemporaryFile(max_size=1 << 20))  # noqa: SIM115  # its reader closes it
    try:
        file.write(b"[")
        separator = ""
        for item in backend.list(name):
            entry = {
                "name": item.name,
                "size": item.size,
                "directory": item.directory,
                "atime": item.atime,
                "mtime": item.mtime,
            }
            file.write(f"{separator}{json.dumps(entry)}".encode("ascii"))
            separator = ",\n"
        file.write(b"]")
        size = file.tell()
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file, size


def _blocks(file: IO[bytes]) -> Generator[Data]:
    with file:
        while block := file.read(_BLOCK_BYTES):
            yield block
