"""A store of natural files on another machine, over SFTP: `sftp://[user@]host[:port]/path`.

A file is an object and keys become names as `mountstore.backends.filesystem` tells, so that a folder is the
same store through either. It is reached by the system's own `ssh`, whose configuration, keys, agent and known
hosts it uses (see `mountstore.backends._ssh`); `MOUNTSTORE_SSH` names another command.

What differs from the local store:

- SFTP carries no extended attributes, so no metadata is kept (`capabilities.metadata` is False), and times
  are whole seconds.
- Versions that other programs write into a file within one second, and of one size, look the same.
- Conditions hold among all users of this class, on any machine. Programs on the server, the local store
  there among them, take no part in these locks.
- A put has its bytes on the server's disk when it returns (fsync). SFTP cannot sync the folder that holds the
  name, so a power loss there shortly afterwards may bring back the former object, whole.
- A file is not made a folder: `a/b` is refused while `a` is a file. (`a` beside a folder `a` can be.)
- A folder that holds nothing but links is listed as a group without objects.
"""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO, TypeVar

from mountstore.backends import _sftp_protocol as sftp
from mountstore.backends._arguments import blocks, flat
from mountstore.backends._filesystem_names import ESCAPED
from mountstore.backends._sftp_changes import (
    Change,
    LockLost,
    let_pass,
    pruning,
    refuse_blocked,
    succeeded,
)
from mountstore.backends._sftp_connection import Connection
from mountstore.backends._sftp_files import (
    Look,
    Names,
    copy_all,
    etag_of,
    failed_write,
    finished,
    info_of,
    write_all,
)
from mountstore.backends._sftp_protocol import Attributes, Status, string
from mountstore.backends._sftp_reading import SftpFolder, check_etag
from mountstore.errors import (
    NotFound,
    PreconditionFailed,
    StoreError,
    Unsupported,
)
from mountstore.store import Data, ObjectInfo, check_conditions

_T = TypeVar("_T")

_BLOCK_BYTES = 1 << 20
_TRIES = 4
_MOST_AT_ONCE = 200


class SftpStore(SftpFolder):
    """The files below the folder `path` of `host`, which is made if `create` says so.

    A relative path starts where the server puts the user, which mostly is the home folder. Up to
    `connections` are made, when there is work for them. A call whose connection ends is done again over
    another, up to four times; changes are arranged so that this does them once. `timeout_s` is the longest
    silence.
    """

    # -- writing ----------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        data: Data | BinaryIO,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        check_conditions(key, if_match, if_absent)
        self._check_conditional(key, if_match is not None or if_absent)
        names = self._names(key)
        position = None if isinstance(data, Data) else data.tell()
        whole = flat(data) if isinstance(data, Data) else b""
        size = len(whole) if isinstance(data, Data) else data.seek(0, 2) - (position or 0)

        def pieces() -> Iterator[memoryview]:
            if isinstance(data, Data):
                yield memoryview(whole)
            else:
                data.seek(position or 0)
                yield from blocks(data, _BLOCK_BYTES)

        def write(connection: Connection, change: Change) -> Attributes:
            handle = connection.open(change.new, sftp.NEW_FILE).handle()
            try:
                write_all(connection, handle, pieces())
                return finished(connection, handle, durable=self._durable)
            except Status as status:
                raise failed_write(connection, self._files, status, key, size) from None
            except BaseException:
                connection.close_handle(handle)
                raise

        return self._put(key, names, write, if_match, if_absent)

    def _put(
        self,
        key: str,
        names: Names,
        write: Callable[[Connection, Change], Attributes],
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        """Make what `write` writes aside the object. It is called again if a connection is lost."""
        before: list[tuple[Change, Attributes | None]] = []

        def check(connection: Connection, seen: Look) -> None:
            etag = None
            with contextlib.suppress(NotFound):
                etag = self._info(connection, key, names, seen).etag
            if if_absent and etag is not None:
                raise PreconditionFailed(f"{key!r} is there already", key=key)
            check_etag(key, etag, if_match)

        def work(connection: Connection) -> ObjectInfo:
            done = self._done_before(connection, names, before)
            if done is not None:
                return info_of(key, done)
            change = Change(self._files, names)
            conditional = if_absent or if_match is not None
            before.append((change, None))
            try:
                made = change.begin(connection)
                looks = self._files.looking(connection, names)
                begun = change.begun(connection, made)
                seen = self._files.look(names, looks)
                refuse_blocked(key, seen)
                if conditional:
                    check(connection, seen)
                if not begun:
                    raise LockLost
                written = write(connection, change)
                before[-1] = (change, written)
                taking = change.taking(connection)
                placing = None
                if not conditional and all(seen.folders):
                    # In the same round trip: under a lock that is not ours there is no such file.
                    placing = connection.rename(change.ready, seen.path)
                change.take(connection, taking)
                if placing is None or not succeeded(placing):
                    seen = self._files.look(names, self._files.looking(connection, names))
                    if conditional:
                        check(connection, seen)
                    change.place(connection, key, seen)
                change.releasing(connection)
                return info_of(key, written)
            except (Status, LockLost, StoreError, OSError):
                change.clear(connection)
                raise

        return self._done(key, work)

    def _done_before(
        self, connection: Connection, names: Names, before: builtins.list[tuple[Change, Attributes | None]]
    ) -> Attributes | None:
        """What an earlier attempt has put, if its answer alone was lost. It cannot go on after this."""
        for change, written in before:
            change.clear(connection)
            if written is not None:
                seen = self._files.look(names, self._files.looking(connection, names))
                if seen.attributes == written:
                    return written
        before.clear()
        return None

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        self._check_conditional(key, if_match is not None)
        names = self._names(key)
        before: list[Change] = []

        def work(connection: Connection) -> None:
            for change in before:
                change.clear(connection)
            change = Change(self._files, names)
            try:
                made = change.begin(connection)
                looks = self._files.looking(connection, names)
                begun = change.begun(connection, made)
                seen = self._files.look(names, looks)
                if seen.attributes is None:
                    self._delete_empty(connection, key, names, seen, if_match)
                    change.clear(connection)
                    return
                if not begun:
                    raise LockLost
                before.append(change)
                change.take(connection)
                if if_match is not None:
                    seen = self._files.look(names, self._files.looking(connection, names))
                    check_etag(key, etag_of(seen.attributes) if seen.attributes else None, if_match)
                removing = connection.rename(seen.path, change.gone)
                change.releasing(connection)
                rest = pruning(connection, self._files, names if seen.is_folder else names[:-1])
                try:
                    removing.ok()
                except Status as status:
                    let_pass(rest)
                    if status.code == sftp.NO_SUCH_FILE:
                        raise LockLost from None  # or it went meanwhile, which the next attempt sees
                    raise
                let_pass(rest)
            except (Status, LockLost, StoreError):
                change.clear(connection)
                raise

        try:
            self._done(key, work)
        except NotFound:
            # An attempt whose answer was lost may have removed it.
            if not missing_ok and not before:
                raise

    def _delete_empty(
        self, connection: Connection, key: str, names: Names, seen: Look, if_match: str | None
    ) -> None:
        info = self._info(connection, key, names, seen)
        check_etag(key, info.etag, if_match)
        let_pass(pruning(connection, self._files, names[:-1]))

    def copy(
        self,
        source: str,
        target: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        names, target_names = self._names(source), self._names(target)
        info = self.head(source)
        check_etag(source, info.etag, if_match)
        if source == target:
            return info
        if not self.capabilities.server_copy or names[-1] == ESCAPED:
            return super().copy(source, target, if_match=if_match)

        def write(connection: Connection, change: Change) -> Attributes:
            seen = self._files.look(names, self._files.looking(connection, names))
            if seen.attributes is None:
                raise NotFound(key=source)
            handle = connection.open(seen.path, sftp.FOR_READING).handle()
            try:
                found = connection.send(sftp.FSTAT, string(handle)).attributes()
                check_etag(source, etag_of(found), if_match)
                new = connection.open(change.new, sftp.NEW_FILE).handle()
                try:
                    copy_all(connection, handle, new, found.size)
                    return finished(connection, new, durable=self._durable)
                except Status as status:
                    raise failed_write(connection, self._files, status, target, found.size) from None
            finally:
                connection.close_handle(handle)

        return self._put(target, target_names, write)

    def rename(self, source: str, target: str, *, if_match: str | None = None) -> ObjectInfo:
        names, target_names = self._names(source), self._names(target)
        before: list[tuple[Change, Attributes | None]] = []

        def work(connection: Connection) -> ObjectInfo | None:
            done = self._done_before(connection, target_names, before)
            seen = self._files.look(names, self._files.looking(connection, names))
            if done is not None and seen.attributes is None:
                return info_of(target, done)
            info = self._info(connection, source, names, seen)
            check_etag(source, info.etag, if_match)
            if source == target:
                return info
            if seen.attributes is None or sftp.HARDLINK not in connection.extensions:
                return None
            from_, to = Change(self._files, names), Change(self._files, target_names)
            before.extend([(from_, None), (to, seen.attributes)])
            try:
                if not all(change.begun(connection, change.begin(connection)) for change in (from_, to)):
                    raise LockLost
                # In one order for everybody, so that two renames do not wait for each other.
                for change in sorted((from_, to), key=lambda one: one.lock):
                    change.take(connection)
                looks = self._files.looking(connection, names)
                there = self._files.look(target_names, self._files.looking(connection, target_names))
                seen = self._files.look(names, looks)
                if seen.attributes is None:
                    raise NotFound(key=source)
                check_etag(source, etag_of(seen.attributes), if_match)
                refuse_blocked(target, there)
                before[-1] = (to, seen.attributes)
                connection.extended(sftp.HARDLINK, string(seen.path), string(to.ready)).ok()
                to.place(connection, target, there)
                removing = connection.rename(seen.path, from_.gone)
                from_.releasing(connection)
                to.releasing(connection)
                rest = pruning(connection, self._files, names if seen.is_folder else names[:-1])
                try:
                    removing.ok()
                finally:
                    let_pass(rest)
                return info_of(target, seen.attributes)
            except Status as status:
                from_.clear(connection)
                to.clear(connection)
                if status.code == sftp.NO_SUCH_FILE:
                    raise LockLost from None
                raise
            except (LockLost, StoreError):
                from_.clear(connection)
                to.clear(connection)
                raise

        info = self._done(source, work)
        return info if info is not None else super().rename(source, target, if_match=if_match)

    # -- within -----------------------------------------------------------------------------------

    def _check_conditional(self, key: str, conditional: bool) -> None:
        if conditional and not self.capabilities.conditional_put:
            raise Unsupported("versions cannot be told apart on this server", key=key)
