"""Opening a folder behind an SFTP server, and reading what is in it; see `mountstore.backends.sftp`."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from mountstore.backends import _sftp_protocol as sftp
from mountstore.backends._arguments import check_key, clip_range
from mountstore.backends._filesystem_names import ESCAPED, names_of
from mountstore.backends._folder_walk import Entry, pages
from mountstore.backends._sftp_changes import Change, LockLost, collect_abandoned, let_pass
from mountstore.backends._sftp_connection import Connection, Dropped, Pool, pause
from mountstore.backends._sftp_files import (
    Files,
    Look,
    Names,
    etag_of,
    finished,
    folder_etag,
    info_of,
    read_names,
    read_range,
    translated,
    write_all,
)
from mountstore.backends._sftp_listing import read_folder
from mountstore.backends._sftp_protocol import Attributes, Status, string
from mountstore.backends._ssh import Peer, ssh_command
from mountstore.errors import (
    InvalidKey,
    InvalidRange,
    NotFound,
    PreconditionFailed,
    StoreError,
    Unavailable,
    Unsupported,
)
from mountstore.store import Capabilities, Data, ObjectInfo, ObjectStore, Page

_T = TypeVar("_T")

_TRIES = 4
_MOST_AT_ONCE = 200


class SftpFolder(ObjectStore):
    """What `SftpStore` is, but for its changes."""

    def __init__(
        self,
        host: str,
        path: str,
        *,
        user: str | None = None,
        port: int | None = None,
        durable: bool = True,
        create: bool = True,
        connections: int = 4,
        timeout_s: float = 60.0,
    ) -> None:
        peer = Peer(host, user, port)
        words = ssh_command(peer, subsystem="sftp")
        self._what = f"sftp://{peer}"
        self._durable = durable
        self._pool = Pool(lambda: Connection(words, self._what, timeout_s), connections)
        try:
            with self._pool.use() as connection:
                self._files = Files(self._root(connection, path, create))
                told = self._settle(connection)
        except Dropped as dropped:
            self._pool.close()
            raise dropped.fault from None
        except Status as status:
            self._pool.close()
            raise StoreError(f"{self._what}/{path}: {translated(status, None)}") from None
        except BaseException:
            self._pool.close()
            raise
        self.capabilities = told

    def close(self) -> None:
        self._pool.close()

    def __repr__(self) -> str:
        return f"SftpStore({self._what!r}, {self._files.root!r})"

    def _root(self, connection: Connection, path: str, create: bool) -> str:
        for extension, why in ((sftp.POSIX_RENAME, "replace a file in one step"), (sftp.FSYNC, "")):
            if extension in connection.extensions:
                continue
            if why:
                raise Unsupported(f"{self._what} cannot {why} ({extension}); OpenSSH's server can")
            if self._durable:
                raise Unsupported(
                    f"{self._what} cannot have files on its disk for sure ({extension}); if that will do, "
                    "open it with ?durable=false"
                )
        if not path.startswith("/"):
            told = connection.send(sftp.REALPATH, string(".")).answer(sftp.NAME)
            told.number()
            path = posixpath.join(told.string().decode("utf-8", "surrogateescape"), path)
        root = posixpath.normpath("/" + path.lstrip("/"))

        def there() -> Attributes | None:
            return connection.send(sftp.STAT, string(root)).found()

        found = there()
        if found is None and create:
            parts = root.strip("/").split("/")
            let_pass([connection.mkdir("/" + "/".join(parts[: n + 1])) for n in range(len(parts))])
            found = there()
        if found is None:
            raise StoreError(
                f"{self._what}: {root} {'cannot be made' if create else 'does not exist'}; make it first"
            )
        if not found.is_folder:
            raise StoreError(f"{self._what}: {root} is not a directory; name one")
        return root

    def _settle(self, connection: Connection) -> Capabilities:
        """See whether the server keeps the times that tell versions apart; remove what others left."""
        change = Change(self._files, ("probe",))
        try:
            while not change.begun(connection, change.begin(connection)):
                change = Change(self._files, ("probe",))
            handle = connection.open(change.new, sftp.NEW_FILE).handle()
            write_all(connection, handle, [memoryview(b"x")])
            written = finished(connection, handle, durable=False)
            handle = connection.open(change.new, sftp.FOR_READING).handle()
            read_range(connection, handle, 0, 1, None)
            connection.close_handle(handle).ok()
            seen = connection.lstat(change.new).attributes()
            distinct = seen == written and not etag_of(seen).endswith("-0")
            made = connection.lstat(posixpath.dirname(change.new)).attributes()
            collect_abandoned(connection, self._files, made.mtime)
        finally:
            change.clear(connection)
        return Capabilities(
            metadata=False,
            conditional_put=distinct,
            conditional_get=distinct,
            conditional_delete=distinct,
            server_copy=sftp.COPY_DATA in connection.extensions,
            max_key_bytes=(4000 - len(self._files.root.encode("utf-8", "surrogateescape"))) * 9 // 10,
            max_metadata_bytes=None,
            concurrency=16,
        )

    # -- reading ----------------------------------------------------------------------------------

    def head(self, key: str) -> ObjectInfo:
        names = self._names(key)

        def work(connection: Connection) -> ObjectInfo:
            seen = self._files.look(names, self._files.looking(connection, names))
            return self._info(connection, key, names, seen)

        return self._done(key, work)

    def head_many(self, keys: Iterable[str]) -> dict[str, ObjectInfo]:
        wanted = [(key, self._names(key)) for key in keys]
        found: dict[str, ObjectInfo] = {}

        def work(connection: Connection) -> None:
            asked = [self._files.looking(connection, names) for _, names in part]
            for (key, names), looks in zip(part, asked, strict=True):
                with contextlib.suppress(NotFound):
                    found[key] = self._info(connection, key, names, self._files.look(names, looks))

        for begin in range(0, len(wanted), _MOST_AT_ONCE):
            part = wanted[begin : begin + _MOST_AT_ONCE]
            self._done(None, work)
        return found

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        names = self._names(key)
        if if_match is not None and not self.capabilities.conditional_get:
            raise Unsupported("versions cannot be told apart on this server", key=key)
        if start < 0 or (stop is not None and stop < start):
            raise InvalidRange(f"bytes {start} to {stop} of {key!r}", key=key)
        return self._done(key, lambda connection: self._get(connection, key, names, start, stop, if_match))

    def _get(
        self,
        connection: Connection,
        key: str,
        names: Names,
        start: int,
        stop: int | None,
        if_match: str | None,
    ) -> Data:
        looks = self._files.looking(connection, names)
        path = self._files.path(names)
        # Who knows an etag has seen a regular file. Of others it is not known, and to open a pipe would
        # keep the server waiting for ever.
        opened = connection.open(path, sftp.FOR_READING) if if_match is not None else None
        seen = self._files.look(names, looks)
        if opened is not None and (seen.attributes is None or seen.path != path):
            with contextlib.suppress(Status):
                connection.close_handle(opened.handle())
            opened = None
        if seen.attributes is None:
            info = self._info(connection, key, names, seen)
            check_etag(key, info.etag, if_match)
            clip_range(key, start, stop, 0)
            return b""
        handle = (opened or connection.open(seen.path, sftp.FOR_READING)).handle()
        try:
            looked = connection.send(sftp.FSTAT, string(handle))
            count = connection.read_bytes if stop is None else min(connection.read_bytes, stop - start)
            first = connection.read(handle, start, count) if count else None
            found = looked.attributes()
            check_etag(key, etag_of(found), if_match)
            start, stop = clip_range(key, start, stop, found.size)
            if start == stop:
                return b""
            return read_range(connection, handle, start, stop, first)
        except EOFError:
            raise Unavailable(f"{key!r} became shorter while it was read; read it again", key=key) from None
        finally:
            connection.close_handle(handle)

    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        return next(self.pages(prefix, delimiter=delimiter, after=after, limit=limit))

    def pages(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000
    ) -> Iterator[Page]:
        def read(base: str) -> list[Entry]:
            return self._done(None, lambda connection: read_folder(connection, self._files, base))

        return pages(read, prefix, delimiter, after, limit)

    # -- within -----------------------------------------------------------------------------------

    def _names(self, key: str) -> Names:
        size = len(check_key(key))
        most = self.capabilities.max_key_bytes
        if most is not None and size > most:
            raise InvalidKey(f"a key of {size} bytes; this store holds keys of up to {most}", key=key)
        return names_of(key, size)

    def _info(self, connection: Connection, key: str, names: Names, seen: Look) -> ObjectInfo:
        """The object that was seen; an empty folder too is one, whose key ends in a slash."""
        if seen.attributes is not None:
            return info_of(key, seen.attributes)
        if key.endswith("/") and names[-1] == ESCAPED and len(names) > 1 and all(seen.folders):
            path = self._files.path(names[:-1])
            folder = connection.lstat(path).found()
            if folder is not None and folder.is_folder and read_names(connection, path) == []:
                return ObjectInfo(key, 0, folder.mtime * 1_000_000_000, folder_etag(folder), {})
        raise NotFound(key=key)

    def _done(self, key: str | None, work: Callable[[Connection], _T]) -> _T:
        """Do it over a connection, and again over another one if that ends or a lock is lost."""
        fault: StoreError = Unavailable(self._what)
        for attempt in range(_TRIES):
            if attempt:
                pause(attempt - 1)
            try:
                with self._pool.use() as connection:
                    return work(connection)
            except Dropped as dropped:
                fault = dropped.fault
                if not isinstance(fault, Unavailable):
                    raise fault from None
            except LockLost:
                fault = Unavailable("others change this object all the time; try again later", key=key)
            except Status as status:
                raise translated(status, key) from None
        raise fault


def check_etag(key: str, etag: str | None, if_match: str | None) -> None:
    if if_match is not None and etag != if_match:
        raise PreconditionFailed(f"{key!r} has changed", key=key)
