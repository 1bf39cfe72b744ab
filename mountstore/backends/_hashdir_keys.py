"""Which keys a tree of hashed names holds: read from the files once, then remembered while it is true."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from mountstore.backends._filesystem_names import RESERVED
from mountstore.backends._filesystem_objects import Names, ObjectFiles
from mountstore.backends._filesystem_tree import ABSENT, Tree

KEY = "user.mountstore.key"
RENAMED = "user.mountstore.renamed"
"""The key that a file is about to get by a rename; of no meaning while its name is not that key's."""

KEY_FILE = RESERVED + "k"
"""What precedes, in the name of the file that holds a key, the name of the object's file."""

MAX_ATTRIBUTE_BYTES = 400
"""Longer keys do not go into an attribute: a file has room for some 4000 bytes of these in all."""

Seen = TypeVar("Seen")

_TOKEN_BYTES = 16
_NOBODY = bytes(_TOKEN_BYTES)
_HEX = re.compile("[0-9a-f]+")
_NOTHING = frozenset({errno.ENODATA, errno.EOPNOTSUPP, errno.ENOSYS})


class KeyedFiles(ObjectFiles):
    """Files that carry their key."""

    def __init__(self, tree: Tree) -> None:
        super().__init__(
            tree,
            key_attribute=KEY,
            key_bytes=MAX_ATTRIBUTE_BYTES,
            other_attributes_bytes=2 * MAX_ATTRIBUTE_BYTES,
        )

    def fits(self, key: str) -> bool:
        """Whether the key goes into an attribute; else it needs a file of its own."""
        return self.attributes and len(key.encode()) <= MAX_ATTRIBUTE_BYTES


@dataclass(slots=True)
class Found:
    """What a walk over the tree found."""

    keys: list[str]
    unknown: set[Names]  # files whose key is not known


def walk(tree: Tree, width: int, depth: int, names_of: Callable[[str], Names]) -> Found:
    """Read the key of every object. Raises OSError."""
    found = Found([], set())
    file_length = 64 - width * depth

    def folder(names: Names) -> None:
        try:
            fd = tree.reading(names)
        except OSError as error:
            if error.errno in ABSENT:
                return
            raise
        try:
            listed = os.listdir(fd)
            if len(names) < depth:
                for name in listed:
                    if len(name) == width and _HEX.fullmatch(name):
                        folder((*names, name))
                return
            for name in listed:
                if len(name) == file_length and _HEX.fullmatch(name):
                    place = (*names, name)
                    key = _key_of(fd, name, lambda key, place=place: names_of(key) == place)  # type: ignore[misc]
                    if key is not None:
                        found.keys.append(key)
                    elif _is_file(fd, name):
                        found.unknown.add(place)
        finally:
            os.close(fd)

    folder(())
    return found


def _is_file(fd: int, name: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _key_of(fd: int, name: str, right: Callable[[str], bool]) -> str | None:
    """The key of the file `name` in an open folder; None if it is not told, or not this file's."""
    for attribute in (KEY, RENAMED):
        try:
            raw = os.getxattr(f"/proc/self/fd/{fd}/{name}", attribute, follow_symlinks=False)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            if error.errno not in _NOTHING:
                raise
            continue
        key = _decoded(raw)
        if key is not None and right(key):
            return key
    try:
        file = os.open(KEY_FILE + name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=fd)
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise
    with open(file, "rb") as opened:
        key = _decoded(opened.read())
    return key if key is not None and right(key) and _is_file(fd, name) else None


def _decoded(raw: bytes) -> str | None:
    try:
        return raw.decode() or None
    except UnicodeDecodeError:
        return None


class KeyIndex:
    """The keys in order, remembered between calls.

    A token in a file of the private folder stands for the keys as they are now: as long as it is the one
    known here, so are they. Whoever adds or removes a key changes it before: to another token if it knows
    the keys itself, and so goes on knowing them without a walk, else to nothing. Nothing means that nobody
    knows the keys, so there is nothing to change. Whoever walks puts a token there first, while all locks
    of keys are its own: each change is then over, or its process dead, or it has yet to change the token.
    So nobody's keys are wrong for longer than a change is under way, wherever a process is killed.
    """

    def __init__(self, tree: Tree, read: Callable[[], Found]) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open("listing", flags, 0o600, dir_fd=tree.private)
        self._read = read
        self._key_locks = tree.locks
        self._lock = threading.Lock()
        self._walking = threading.Lock()
        self._token = _NOBODY  # what the token was when all below was right
        self._found = Found([], set())
        self._since: list[tuple[str, Names, bool]] | None = None  # own changes since a walk began

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def changing(self, key: str, names: Names, present: bool) -> bool:
        """A key is about to come or go; its lock is held from before this until after `changed`.

        True asks for `changed`. Raises OSError.
        """
        token = os.pread(self._file, _TOKEN_BYTES, 0)  # each put passes here: `_now`, written out
        if not token or token == _NOBODY:
            return False
        with self._lock:
            if self._since is None and self._is_true() and self._says(key, names, present):
                return False
            with self._alone():
                followed = self._is_true()
                self._token = self._put(secrets.token_bytes(_TOKEN_BYTES) if followed else _NOBODY)
            return followed

    def changed(self, key: str, names: Names, present: bool) -> None:
        """The key has come or gone."""
        with self._lock:
            if self._since is not None:
                self._since.append((key, names, present))
            else:
                self._apply(key, names, present)

    def _now(self) -> bytes:
        return os.pread(self._file, _TOKEN_BYTES, 0) or _NOBODY

    def _put(self, token: bytes) -> bytes:
        os.pwrite(self._file, token, 0)
        return token

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from changing the token."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _says(self, key: str, names: Names, present: bool) -> bool:
        keys = self._found.keys
        at = bisect_left(keys, key)
        return (at < len(keys) and keys[at] == key) == present and names not in self._found.unknown

    def _apply(self, key: str, names: Names, present: bool) -> None:
        self._found.unknown.discard(names)
        keys = self._found.keys
        at = bisect_left(keys, key)
        listed = at < len(keys) and keys[at] == key
        if present and not listed:
            keys.insert(at, key)
        elif listed and not present:
            del keys[at]

    def look(self, see: Callable[[Found], Seen]) -> Seen:
        """What `see` makes of the keys as they are now; it keeps nothing of them. Raises OSError."""
        with self._lock:
            if self._since is None and self._is_true():
                return see(self._found)
        with self._walking:
            with self._lock:
                if self._is_true():
                    return see(self._found)
            with self._key_locks.hold_all(), self._lock:
                with self._alone():
                    now = self._now()
                    self._token = now if now != _NOBODY else self._put(secrets.token_bytes(_TOKEN_BYTES))
                self._since = []
            try:
                found = self._read()
                found.keys.sort()
            except BaseException:
                with self._lock:
                    self._since, self._token = None, _NOBODY
                raise
            with self._lock:
                self._found = found
                since, self._since = self._since, None
                for change in since:
                    self._apply(*change)
                return see(found)

    def _is_true(self) -> bool:
        return self._token != _NOBODY and self._now() == self._token
