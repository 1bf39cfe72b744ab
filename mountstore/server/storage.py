"""The namespace that a server serves: opened when it is first asked for, created and destroyed by request.

Requests use it side by side. Creating and destroying wait until nobody does, and others wait meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from mountstore.errors import Unavailable
from mountstore.namespaces.backend import FolderTarget, NamespaceBackend

_WAIT_S = 20.0


class Storage:
    """A backend and who uses it. Thread-safe; closed by its owner when nobody uses it any more.

    `folder` is the target's, if it is one: where another process has put another folder in its place, that
    one is opened.
    """

    def __init__(self, backend: NamespaceBackend, folder: FolderTarget | None = None) -> None:
        self._backend = backend
        self._folder = folder
        self._identity: tuple[int, int] | None = None
        self._changed = threading.Condition()
        self._users = 0
        self._is_taken = False

    @contextlib.contextmanager
    def used(self) -> Iterator[NamespaceBackend]:
        """The backend, open. Raises BackendDoesNotExist."""
        while not self._enter():
            with self._alone():
                self._reopen()
        try:
            yield self._backend
        finally:
            with self._changed:
                self._users -= 1
                if not self._users:
                    self._changed.notify_all()

    def create(self) -> None:
        """Raises BackendAlreadyExists."""
        with self._alone():
            self._close()
            self._backend.create()

    def destroy(self) -> None:
        """Raises BackendDoesNotExist."""
        with self._alone():
            self._close()
            self._backend.destroy()

    def close(self) -> None:
        """For the end, when nobody uses it."""
        with self._alone():
            self._close()

    def _enter(self) -> bool:
        is_current = self._is_current()
        with self._changed:
            self._wait_for_turn()
            if not (is_current and self._backend.opened):
                return False
            self._users += 1
            return True

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with self._changed:
            self._wait_for_turn()
            self._is_taken = True
            try:
                if not self._changed.wait_for(lambda: not self._users, _WAIT_S):
                    raise Unavailable("the store is in use; try again")
            except BaseException:
                self._is_taken = False
                self._changed.notify_all()
                raise
        try:
            yield
        finally:
            with self._changed:
                self._is_taken = False
                self._changed.notify_all()

    def _wait_for_turn(self) -> None:
        if not self._changed.wait_for(lambda: not self._is_taken, _WAIT_S):
            raise Unavailable("the store is being created or destroyed; try again")

    def _reopen(self) -> None:
        if self._backend.opened and self._is_current():
            return
        self._close()
        self._backend.open()
        self._identity = self._look()

    def _close(self) -> None:
        if self._backend.opened:
            self._backend.close()

    def _is_current(self) -> bool:
        return self._folder is None or self._look() == self._identity

    def _look(self) -> tuple[int, int] | None:
        if self._folder is None:
            return None
        try:
            found = os.stat(self._folder.path)
        except OSError:  # opening it tells why
            return None
        return found.st_dev, found.st_ino
