"""Wrappers that watch, and those that allow less: logging, notifying, read-only, write-only, validating."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, TypeVar

from mountstore.errors import InvalidKey, Unsupported
from mountstore.store import Capabilities, Data, ObjectInfo, ObjectStore
from mountstore.stores.wrapper import WRITES, AroundStore, WrapperStore

T = TypeVar("T")

_log = logging.getLogger("mountstore.stores")


class ReadOnlyStore(AroundStore):
    """`inner`, with every verb that would change it refused as Unsupported."""

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        return replace(
            self.inner.capabilities, writable=False, conditional_put=False, conditional_delete=False
        )

    def _around(self, verb: str, keys: Sequence[str], call: Callable[[], T]) -> T:
        if verb in WRITES:
            raise Unsupported("this store is read-only", key=keys[0] if keys else None)
        return call()


class WriteOnlyStore(AroundStore):
    """`inner`, with every verb that would tell what is in it refused as Unsupported.

    Putting, deleting, copying and renaming work; what they answer (an ObjectInfo, NotFound, and
    PreconditionFailed) does tell of the one key that they name.
    """

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        return replace(self.inner.capabilities, readable=False, listing=False, conditional_get=False)

    def _around(self, verb: str, keys: Sequence[str], call: Callable[[], T]) -> T:
        if verb not in WRITES:
            raise Unsupported("this store is write-only", key=keys[0] if keys else None)
        return call()


class LoggingStore(AroundStore):
    """Writes a line for every call that ends, good or bad, to `logger` at `level`.

    A line has the verb, the keys, how long it took in milliseconds and the kind of error, never content.
    """

    def __init__(
        self, inner: ObjectStore, *, logger: logging.Logger | None = None, level: int = logging.INFO
    ) -> None:
        super().__init__(inner)
        self._logger = logger or _log
        self._level = level

    def _around(self, verb: str, keys: Sequence[str], call: Callable[[], T]) -> T:
        if not self._logger.isEnabledFor(self._level):
            return call()
        started = time.perf_counter()
        outcome = "done"
        try:
            return call()
        except BaseException as error:
            outcome = type(error).__name__
            raise
        finally:
            elapsed_ms = (time.perf_counter() - started) * 1000
            self._logger.log(self._level, "%s %s: %s, %.3f ms", verb, _shown(keys), outcome, elapsed_ms)


class ExceptionLoggingStore(AroundStore):
    """Writes every error, with its traceback, to `logger`, and lets it through."""

    def __init__(
        self, inner: ObjectStore, *, logger: logging.Logger | None = None, level: int = logging.ERROR
    ) -> None:
        super().__init__(inner)
        self._logger = logger or _log
        self._level = level

    def _around(self, verb: str, keys: Sequence[str], call: Callable[[], T]) -> T:
        try:
            return call()
        except Exception as error:
            self._logger.log(self._level, "%s %s failed: %r", verb, _shown(keys), error, exc_info=True)
            raise


class ValidatingStore(AroundStore):
    """Refuses to make objects of keys that `valid` does not accept, with InvalidKey.

    `valid` is a pattern that has to match the whole key, or a function of the key. Objects that are there
    already under other keys can be read, listed and deleted, so that they can be found and put right.
    """

    def __init__(self, inner: ObjectStore, valid: str | re.Pattern[str] | Callable[[str], bool]) -> None:
        super().__init__(inner)
        if callable(valid):
            self._accepts, self._rule = valid, getattr(valid, "__name__", "the rule")
        else:
            pattern = re.compile(valid)
            self._accepts, self._rule = lambda key: pattern.fullmatch(key) is not None, pattern.pattern

    def _around(self, verb: str, keys: Sequence[str], call: Callable[[], T]) -> T:
        if verb in ("put", "copy", "rename") and not self._accepts(keys[-1]):
            raise InvalidKey(f"{keys[-1]!r} is not a key here: it has to fit {self._rule}", key=keys[-1])
        return call()


def url_safe(key: str) -> bool:
    """Whether a key can stand in the path of a URL as it is: RFC 3986's unreserved characters and slashes,
    no segment of it empty, `.` or `..`. For ValidatingStore."""
    return bool(re.fullmatch(r"[A-Za-z0-9._~/-]+", key)) and {"", ".", ".."}.isdisjoint(key.split("/"))


@dataclass(frozen=True, slots=True)
class Event:
    """A change that was made. `verb` is put (copies and new metadata too) or delete."""

    verb: str
    key: str
    info: ObjectInfo | None = None


Listener = Callable[[Event], None]


class NotifyingStore(WrapperStore):
    """Tells listeners of every change that this object made, after it was made, in the thread that made it.

    A call that fails tells nothing. A listener that raises is logged, and neither fails the call nor keeps
    the others from being told. A rename is told as a put and a delete. A delete with `missing_ok`, and
    `delete_many`, are told for every key asked for, whether or not there was an object.
    """

    def __init__(self, inner: ObjectStore, *listeners: Listener) -> None:
        super().__init__(inner)
        self._lock = threading.Lock()
        self._listeners: tuple[Listener, ...] = listeners

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Add a listener; what is returned takes it away again."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

        def unsubscribe() -> None:
            with self._lock:
                self._listeners = tuple(other for other in self._listeners if other is not listener)

        return unsubscribe

    def put(
        self,
        key: str,
        data: Data | BinaryIO,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        info = self.inner.put(key, data, metadata=metadata, if_match=if_match, if_absent=if_absent)
        self._tell(Event("put", key, info))
        return info

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        self.inner.delete(key, missing_ok=missing_ok, if_match=if_match)
        self._tell(Event("delete", key))

    def copy(
        self,
        source: str,
        target: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        info = self.inner.copy(source, target, metadata=metadata, if_match=if_match)
        self._tell(Event("put", target, info))
        return info

    def rename(self, source: str, target: str, *, if_match: str | None = None) -> ObjectInfo:
        info = self.inner.rename(source, target, if_match=if_match)
        if source != target:
            self._tell(Event("put", target, info))
            self._tell(Event("delete", source))
        return info

    def update_metadata(
        self, key: str, metadata: Mapping[str, str], *, if_match: str | None = None
    ) -> ObjectInfo:
        info = self.inner.update_metadata(key, metadata, if_match=if_match)
        self._tell(Event("put", key, info))
        return info

    def delete_many(self, keys: Iterable[str]) -> None:
        wanted = [*keys]
        self.inner.delete_many(wanted)
        for key in wanted:
            self._tell(Event("delete", key))

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:
                _log.exception("a listener failed on %s %r", event.verb, event.key)


def _shown(keys: Sequence[str]) -> str:
    shown = ", ".join(map(repr, keys[:3]))
    return shown if len(keys) <= 3 else f"{shown} and {len(keys) - 3} more"
