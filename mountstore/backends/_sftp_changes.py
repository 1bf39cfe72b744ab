"""Changes of files that exclude each other, over a protocol that has no locks.

Each change has a folder of its own, `sftp-TOKEN/TOKEN` in the private folder, and what it writes is in
there. The lock of a key is a folder `sftp-lock-HASH`; a change takes it by renaming its own folder to that
name, which fails, in one step on the server, while another change's folder is there, for that one is not
empty. So from then on the change's file is `sftp-lock-HASH/TOKEN/new`, and goes from there to its place.

A holder that died leaves its lock. Who has seen the same token there for `PATIENCE_S` renames the lock away.
If its holder lives after all, its next step finds no `sftp-lock-HASH/TOKEN` and fails: it cannot change
anything under a lock that it has lost, and begins again. A lock that is held rightly is so for some round
trips.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import time

from mountstore.backends import _sftp_protocol as sftp
from mountstore.backends._sftp_connection import Connection, Pending
from mountstore.backends._sftp_files import Files, Look, Names, read_names, translated
from mountstore.backends._sftp_protocol import Status, string
from mountstore.errors import InvalidKey, Unavailable

PATIENCE_S = 10.0
_LONGEST_WAIT_S = 120.0
_TRIES = 100
_DAY_S = 86_400
OWN = "sftp-"


class LockLost(Exception):
    """Somebody else took our lock away; nothing was changed, and the change can begin again."""


class Change:
    """One change of the object at `names`; made anew for each attempt."""

    def __init__(self, files: Files, names: Names) -> None:
        self._files = files
        self._names = names
        token = secrets.token_hex(8)
        digest = hashlib.sha256(string("/".join(names))).hexdigest()[:32]
        self._own = f"{files.private}/{OWN}{token}"
        self._inside = f"{self._own}/{token}"
        self.lock = f"{files.private}/{OWN}lock-{digest}"
        self._held = f"{self.lock}/{token}"
        self._token = token

    @property
    def new(self) -> str:
        """The file that is written, before the lock is taken."""
        return f"{self._inside}/new"

    @property
    def ready(self) -> str:
        """The same file, while the lock is held."""
        return f"{self._held}/new"

    @property
    def gone(self) -> str:
        """Where a file that is removed goes first."""
        return f"{self._held}/gone"

    def begin(self, connection: Connection) -> list[Pending]:
        return [connection.mkdir(self._own, 0o700), connection.mkdir(self._inside, 0o700)]

    def begun(self, connection: Connection, asked: list[Pending]) -> bool:
        """Whether our folder is there; makes the private folder if that is what was missing."""
        try:
            for pending in asked:
                pending.ok()
        except Status as status:
            if status.code != sftp.NO_SUCH_FILE:
                raise
            with contextlib.suppress(Status):
                connection.mkdir(self._files.private, 0o700).ok()
            return False
        return True

    def clear(self, connection: Connection) -> None:
        """Remove what this change left, wherever it stopped. Steps of it that come later find nothing."""
        asked = [
            connection.remove(self.new),
            connection.rmdir(self._inside),
            connection.rmdir(self._own),
            *self.releasing(connection),
        ]
        for pending in asked:
            with contextlib.suppress(Status):
                pending.ok()

    def releasing(self, connection: Connection) -> list[Pending]:
        """Give the lock back; of no consequence for a lock that is not ours."""
        return [
            connection.remove(self.ready),
            connection.remove(self.gone),
            connection.rmdir(self._held),
            connection.rmdir(self.lock),
        ]

    def taking(self, connection: Connection) -> Pending:
        return connection.rename(self._own, self.lock)

    def take(self, connection: Connection, first: Pending | None = None) -> None:
        """Wait for the lock. Raises LockLost, Unavailable, and what the server says."""
        asked = first or self.taking(connection)
        began = time.monotonic()
        holder: str | None = None
        since = began
        wait_s = 0.002
        while True:
            try:
                asked.ok()
                return
            except Status as status:
                if status.code == sftp.NO_SUCH_FILE:
                    raise LockLost from None
                if status.code != sftp.FAILURE:
                    raise
            now = time.monotonic()
            seen = {name for name, _ in read_names(connection, self.lock) or ()}
            current = min(seen, default=None)
            if current is None or current != holder:
                holder, since = current, now
            elif now - since > PATIENCE_S:
                self._break(connection, holder)
            if now - began > _LONGEST_WAIT_S:
                raise Unavailable("other changes of this object do not end; try again later")
            time.sleep(wait_s)
            wait_s = min(wait_s * 1.5, 0.25)
            asked = self.taking(connection)

    def _break(self, connection: Connection, holder: str) -> None:
        away = f"{self._files.private}/{OWN}{secrets.token_hex(8)}"
        with contextlib.suppress(Status):
            connection.rename(self.lock, away).ok()
        _remove(connection, away, [holder])

    def place(self, connection: Connection, key: str, seen: Look, first: Pending | None = None) -> None:
        """Give the new file its name, with the lock held. Raises LockLost, InvalidKey, and what the server
        says; the folders that it made go again then."""
        made: list[str] = []
        asked = first
        try:
            for _ in range(_TRIES):
                if asked is None:
                    missing = self._files.missing_folders(self._names, seen)
                    folders = [connection.mkdir(path) for path in missing]
                    asked = connection.rename(self.ready, seen.path)
                    for path, pending in zip(missing, folders, strict=True):
                        with contextlib.suppress(Status):
                            pending.ok()
                            made.append(path)
                try:
                    asked.ok()
                    return
                except Status as status:
                    failed = status
                ready = connection.lstat(self.ready)
                before = seen
                seen = self._files.look(self._names, self._files.looking(connection, self._names))
                if ready.found() is None:
                    raise LockLost
                refuse_blocked(key, seen)
                if seen == before and all(seen.folders) and failed.code != sftp.NO_SUCH_FILE:
                    raise translated(failed, key)
                asked = None
            raise Unavailable(f"the folder of {key!r} is removed again and again", key=key)
        except BaseException:
            for path in reversed(made):
                with contextlib.suppress(Status):
                    connection.rmdir(path).ok()
            raise


def refuse_blocked(key: str, seen: Look) -> None:
    """A file cannot become a folder in one step here, so it is not made one."""
    if seen.blocked:
        raise InvalidKey(
            f"{key!r} cannot be held here: a file or link of another object is in its way", key=key
        )


def pruning(connection: Connection, files: Files, names: Names) -> list[Pending]:
    """Remove the folders at and above `names` as far as they are empty."""
    return [connection.rmdir(files.path(names[:count])) for count in range(len(names), 0, -1)]


def let_pass(asked: list[Pending]) -> None:
    """Wait for these, whatever they say: steps that may find nothing to do."""
    for pending in asked:
        with contextlib.suppress(Status):
            pending.ok()


def collect_abandoned(connection: Connection, files: Files, now_s: int) -> None:
    """Remove what changes left that ended a day ago, by the server's clock `now_s`, and not by themselves."""
    for name, attributes in read_names(connection, files.private) or ():
        path = f"{files.private}/{name}"
        if not name.startswith(OWN) or not attributes.is_folder or attributes.mtime > now_s - _DAY_S:
            continue
        tokens = [inner for inner, _ in read_names(connection, path) or ()]
        written = [connection.lstat(f"{path}/{token}/new").found() for token in tokens]
        if all(one is None or one.mtime < now_s - _DAY_S for one in written):
            _remove(connection, path, tokens)


def _remove(connection: Connection, path: str, tokens: list[str]) -> None:
    asked = []
    for token in tokens:
        inner = f"{path}/{token}"
        asked += [connection.remove(f"{inner}/new"), connection.remove(f"{inner}/gone")]
        asked.append(connection.rmdir(inner))
    let_pass([*asked, connection.rmdir(path)])


def succeeded(asked: Pending) -> bool:
    try:
        asked.ok()
    except Status:
        return False
    return True
