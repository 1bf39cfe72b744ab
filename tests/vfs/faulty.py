"""A store over a store, for faults that cannot be made to happen otherwise.

It counts requests, fails them, holds them at a gate, carries them out and loses the answer, carries them
out a while after their answer was given up, tells wrong etags, answers from an earlier moment, and lacks
capabilities. `kill` is what SIGKILL does to a process's requests: none that has not been answered is sent
any more; what is on its way arrives.
"""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO, Literal, TypeVar

from mountstore.errors import MountstoreError, NotFound, PreconditionFailed, Unavailable, Unsupported
from mountstore.store import Data, ObjectInfo, ObjectStore, Page, Upload

Kind = Literal["fail", "lose", "gate", "after", "late", "etag", "stale"]
_GATE_S = 30.0
T = TypeVar("T")


@dataclass(slots=True)
class Fault:
    """What happens to the next `times` requests of these verbs whose key matches."""

    kind: Kind
    verbs: frozenset[str]
    match: Callable[[str], bool]
    times: int
    error: Exception
    act: Callable[[], object] = lambda: None
    delay_s: float = 0.0
    fired: int = 0
    opened: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Event = field(default_factory=threading.Event)

    def open(self) -> None:
        """Let what waits at the gate go on; whatever comes later does not wait."""
        self.times = 0
        self.opened.set()


class Past:
    """What a store held before its latest changes, and what is still on its way to it; of all who use it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.before: dict[str, ObjectInfo | None] = {}  # each object before it was last changed
        self.listing: list[ObjectInfo] = []  # all of them before the last change
        self._late: list[tuple[float, Callable[[], object]]] = []
        self.landed = 0  # late ones that changed something

    def send(self, delay_s: float, request: Callable[[], object]) -> None:
        self._late.append((time.monotonic() + delay_s, request))

    def land(self, *, now: bool = False) -> None:
        """Carry out what should have arrived by now, or whatever is on its way."""
        with self.lock:
            due = [late for late in self._late if now or late[0] <= time.monotonic()]
            for late in sorted(due, key=lambda late: late[0]):
                self._late.remove(late)
                try:
                    late[1]()
                except MountstoreError:
                    continue  # its condition does not hold any more: nobody waits for this answer
                self.landed += 1


class Parts(Upload):
    """An upload in small parts."""

    part_bytes = 1 << 16

    def __init__(self, store: FaultyStore, key: str, metadata: Mapping[str, str] | None) -> None:
        self._store = store
        self._key = key
        self._metadata = metadata
        self.part_bytes = store.part_bytes
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

    def __init__(
        self,
        inner: ObjectStore,
        *,
        lacking: Iterable[str] = (),
        past: Past | None = None,
        part_bytes: int = 1 << 16,
    ) -> None:
        self.inner = inner
        self.past = past
        self.part_bytes = part_bytes
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
        self.assembles = past is not None  # whether put_changes does not read the whole

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
        delay_s: float = 0.0,
    ) -> Fault:
        """Arm a fault; `verbs` are separated by blanks, `key` None means any."""
        fault = Fault(
            kind,
            frozenset(verbs.split()),
            lambda k: key is None or k == key,
            times,
            error or Unavailable("no answer (made to happen)"),
            act,
            delay_s,
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
        if self.past is not None:
            self.past.land()
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

    def _carry_out(self, fault: Fault | None, keys: Sequence[str], request: Callable[[], T]) -> T:
        """Do what was asked for, now or a while after nobody waits for it any more."""
        past = self.past
        if past is None:
            return request()

        def change() -> T:
            with past.lock:
                listing = [info for page in self.inner.pages() for info in page.objects]
                before = {key: self._now(key) for key in keys}
                result = request()
                past.listing = listing
                past.before |= before
                return result

        if fault is not None and fault.kind == "late":
            past.send(fault.delay_s, change)
            raise fault.error
        return change()

    def _now(self, key: str) -> ObjectInfo | None:
        try:
            return self.inner.head(key)
        except NotFound:
            return None

    def _shown(self, info: ObjectInfo, fault: Fault | None = None) -> ObjectInfo:
        if fault is not None and fault.kind == "etag":
            info = replace(info, etag=f"not-{info.etag}")
        return info if self.capabilities.metadata else replace(info, metadata={})

    def _refuse(self, capability: str, wanted: object) -> None:
        if wanted and not getattr(self.capabilities, capability):
            raise Unsupported(f"no {capability} here")

    def head(self, key: str) -> ObjectInfo:
        fault = self._enter("head", key)
        if fault is not None and fault.kind == "stale" and self.past is not None and key in self.past.before:
            info = self.past.before[key]
            if info is None:
                raise NotFound(key=key)
        else:
            info = self.inner.head(key)
        self._leave(fault)
        return self._shown(info, fault)

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
        return self._put("put", key, data, metadata, if_match, if_absent)

    def _put(
        self,
        verb: str,
        key: str,
        data: Data | BinaryIO,
        metadata: Mapping[str, str] | None,
        if_match: str | None,
        if_absent: bool,
    ) -> ObjectInfo:
        self._refuse("conditional_put", if_match or if_absent)
        self._refuse("metadata", metadata)
        fault = self._enter(verb, key)
        if fault is not None and fault.kind == "late" and not isinstance(data, Data):
            data = data.read()
        info = self._carry_out(
            fault,
            [key],
            lambda: self.inner.put(key, data, metadata=metadata, if_match=if_match, if_absent=if_absent),
        )
        self._leave(fault)
        return self._shown(info, fault)

    def put_changes(
        self,
        key: str,
        data: BinaryIO,
        changed: Sequence[tuple[int, int]],
        *,
        source: str,
        source_etag: str,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        """What has not changed is taken from the source."""
        if not self.assembles:
            return super().put_changes(
                key, data, changed, source=source, source_etag=source_etag,
                metadata=metadata, if_match=if_match, if_absent=if_absent,
            )  # fmt: skip
        if self._now(source) is None:
            raise PreconditionFailed(f"{source!r} is gone", key=source)
        try:
            old = bytes(self.inner.get(source, if_match=source_etag))
        except (NotFound, PreconditionFailed):
            raise PreconditionFailed(f"{source!r} has changed", key=source) from None
        begin = data.tell()
        size = data.seek(0, io.SEEK_END) - begin
        whole = bytearray(old[:size].ljust(size, b"\xff"))
        for start, stop in changed:
            data.seek(begin + start)
            whole[start:stop] = data.read(stop - start)
        return self._put("put_changes", key, whole, metadata, if_match, if_absent)

    def start_upload(self, key: str, *, metadata: Mapping[str, str] | None = None) -> Upload:
        self._refuse("metadata", metadata)
        self._leave(self._enter("start_upload", key))
        return Parts(self, key, metadata)

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        self._refuse("conditional_delete", if_match)
        fault = self._enter("delete", key)
        self._carry_out(
            fault, [key], lambda: self.inner.delete(key, missing_ok=missing_ok, if_match=if_match)
        )
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
        info = self._carry_out(
            fault, [target], lambda: self.inner.copy(source, target, metadata=metadata, if_match=if_match)
        )
        self._leave(fault)
        return self._shown(info, fault)

    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        fault = self._enter("list", prefix)
        old = self._old
        if fault is not None and fault.kind == "stale" and self.past is not None:
            old = self.past.listing
        if old is None:
            page = self.inner.list(prefix, delimiter=delimiter, after=after, limit=limit)
        else:
            self.old_listings += 1
            page = _page(old, prefix, delimiter, after)
        self._leave(fault)
        if fault is not None and fault.kind == "etag":
            page = replace(page, objects=[replace(i, etag=f"not-{i.etag}") for i in page.objects])
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
