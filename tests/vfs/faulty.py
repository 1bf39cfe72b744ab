"""A store over a store, for faults that cannot be made to happen otherwise.

It counts requests, fails them, holds them at a gate, carries them out and loses the answer, answers
listings from an earlier moment, and lacks capabilities. `kill` is what SIGKILL does to a process's
requests: none that has not been answered is sent any more.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import BinaryIO, Literal

from mountstore.errors import Unavailable, Unsupported
from mountstore.store import Data, ObjectInfo, ObjectStore, Page, Upload

Kind = Literal["fail", "lose", "gate", "after"]
_GATE_S = 30.0


@dataclass(slots=True)
class Fault:
    """What happens to the next `times` requests of these verbs whose key matches."""

    kind: Kind
    verbs: frozenset[str]
    match: Callable[[str], bool]
    times: int
    error: Exception
    act: Callable[[], object] = lambda: None
    fired: int = 0
    opened: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Event = field(default_factory=threading.Event)

    def open(self) -> None:
        """Let what waits at the gate go on; whatever comes later does not wait."""
        self.times = 0
        self.opened.set()


class Parts(Upload):
    """An upload in small parts."""

    part_bytes = 1 << 16

    def __init__(self, store: FaultyStore, key: str, metadata: Mapping[str, str] | None) -> None:
        self._store = store
        self._key = key
        self._metadata = metadata
        self._parts: dict[int, bytes] = {}
        store.open_uploads.add(self)

    def put_part(self, number: int, data: Data) -> None:
        fault = self._store._enter("put_part", self._key)
        self._parts[number] = bytes(data)
        self._store._leave(fault)

    def finish(self, *, if_match: str | None = None, if_absent: bool = False) -> ObjectInfo:
        self._store.open_uploads.discard(self)
        whole = b"".join(self._parts[number] for number in sorted(self._parts))
        return self._store.put(
            self._key, whole, metadata=self._metadata, if_match=if_match, if_absent=if_absent
        )

    def abort(self) -> None:
        self._store.open_uploads.discard(self)


class FaultyStore(ObjectStore):
    """See the module."""

    def __init__(self, inner: ObjectStore, *, lacking: Iterable[str] = ()) -> None:
        self.inner = inner
        self.capabilities = replace(inner.capabilities, uploads=True, **dict.fromkeys(lacking, False))
        self.calls: list[tuple[str, str]] = []
        self.requests: Counter[str] = Counter()
        self.open_uploads: set[Upload] = set()
        self.faults: list[Fault] = []
        self.down = False
        self.dead = False
        self._lock = threading.Lock()
        self._old: list[ObjectInfo] | None = None
        self.old_listings = 0

    # -- faults ------------------------------------------------------------------------------------

    def add(
        self,
        kind: Kind,
        verbs: str,
        key: str | None = None,
        *,
        times: int = 1,
        error: Exception | None = None,
        act: Callable[[], object] = lambda: None,
    ) -> Fault:
        """Arm a fault; `verbs` are separated by blanks, `key` None means any."""
        fault = Fault(
            kind,
            frozenset(verbs.split()),
            lambda k: key is None or k == key,
            times,
            error or Unavailable("no answer (made to happen)"),
            act,
        )
        self.faults.append(fault)
        return fault

    def kill(self) -> None:
        self.dead = True
        self.open_all()

    def open_all(self) -> None:
        for fault in self.faults:
            if fault.kind == "gate":
                fault.open()

    def freeze_listings(self) -> None:
        """From now on listings tell what is there at this moment."""
        self._old = [info for page in self.inner.pages() for info in page.objects]

    def thaw_listings(self) -> None:
        self._old = None

    def reset(self) -> None:
        with self._lock:
            self.calls.clear()
            self.requests.clear()

    def changes(self) -> list[tuple[str, str]]:
        """The requests that may have changed something."""
        with self._lock:
            return [call for call in self.calls if call[0] not in ("head", "get", "list")]

    def _enter(self, verb: str, key: str) -> Fault | None:
        if self.dead:
            raise Unavailable("this process is dead")
        with self._lock:
            self.calls.append((verb, key))
            self.requests[verb] += 1
            fault = next((f for f in self.faults if f.times > 0 and verb in f.verbs and f.match(key)), None)
            if fault is not None:
                fault.times -= 1
                fault.fired += 1
        if self.down:
            raise Unavailable("the store is down (made to happen)")
        if fault is not None:
            fault.arrived.set()
            if fault.kind == "gate":
                assert fault.opened.wait(_GATE_S), "nobody opened the gate"
                if self.dead:
                    raise Unavailable("this process is dead")
            elif fault.kind == "fail":
                raise fault.error
        return fault

    def _leave(self, fault: Fault | None) -> None:
        if fault is not None and fault.kind == "after":
            fault.act()
        if fault is not None and fault.kind == "lose":
            fault.act()
            raise fault.error
        if self.dead:
            raise Unavailable("this process is dead")

    # -- verbs -------------------------------------------------------------------------------------

    def _shown(self, info: ObjectInfo) -> ObjectInfo:
        return info if self.capabilities.metadata else replace(info, metadata={})

    def _refuse(self, capability: str, wanted: object) -> None:
        if wanted and not getattr(self.capabilities, capability):
            raise Unsupported(f"no {capability} here")

    def head(self, key: str) -> ObjectInfo:
        fault = self._enter("head", key)
        info = self.inner.head(key)
        self._leave(fault)
        return self._shown(info)

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        self._refuse("conditional_get", if_match)
        fault = self._enter("get", key)
        data = self.inner.get(key, start, stop, if_match=if_match)
        self._leave(fault)
        return data

    def put(
        self,
        key: str,
        data: Data | BinaryIO,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        self._refuse("conditional_put", if_match or if_absent)
        self._refuse("metadata", metadata)
        fault = self._enter("put", key)
        info = self.inner.put(key, data, metadata=metadata, if_match=if_match, if_absent=if_absent)
        self._leave(fault)
        return self._shown(info)

    def start_upload(self, key: str, *, metadata: Mapping[str, str] | None = None) -> Upload:
        self._refuse("metadata", metadata)
        self._leave(self._enter("start_upload", key))
        return Parts(self, key, metadata)

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        self._refuse("conditional_delete", if_match)
        fault = self._enter("delete", key)
        self.inner.delete(key, missing_ok=missing_ok, if_match=if_match)
        self._leave(fault)

    def copy(
        self,
        source: str,
        target: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        self._refuse("metadata", metadata)
        fault = self._enter("copy", target)
        info = self.inner.copy(source, target, metadata=metadata, if_match=if_match)
        self._leave(fault)
        return self._shown(info)

    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        fault = self._enter("list", prefix)
        old = self._old
        if old is None:
            page = self.inner.list(prefix, delimiter=delimiter, after=after, limit=limit)
        else:
            self.old_listings += 1
            page = _page(old, prefix, delimiter, after)
        self._leave(fault)
        return page


def _page(infos: list[ObjectInfo], prefix: str, delimiter: str, after: str) -> Page:
    objects: list[ObjectInfo] = []
    groups: set[str] = set()
    for info in infos:
        if not info.key.startswith(prefix):
            continue
        at = info.key.find(delimiter, len(prefix)) if delimiter else -1
        if at < 0 and info.key > after:
            objects.append(info)
        elif at >= 0 and info.key[: at + len(delimiter)] > after:
            groups.add(info.key[: at + len(delimiter)])
    return Page(objects, sorted(groups))
