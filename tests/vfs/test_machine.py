"""A Vfs and a real directory are given the same calls, and may never be told apart.

`VFS_EXAMPLES` and `VFS_STEPS` in the environment make it look harder.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import trio
from anyio.from_thread import start_blocking_portal
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from mountstore.backends.memory import DictStore
from mountstore.store import ObjectInfo
from mountstore.vfs import answers, reconcile
from tests.vfs.drivers import VfsDriver
from tests.vfs.faulty import Fault, FaultyStore, Past
from tests.vfs.machine import Machine, machine_settings
from tests.vfs.mounted import Mounted, contents, running

CHANGES = ["put", "copy", "delete", "put_changes"]
LATEST_S = 0.1
"""How long a request may be on its way."""

ttls = st.sampled_from([0.0, 3600.0])
delays = st.sampled_from([0.0, 0.005])


class Md5Store(DictStore):
    """As on S3, an etag is that of the content, and comes back with it."""

    def _place(self, key: str, data: bytes, metadata: dict[str, str]) -> ObjectInfo:
        info = super()._place(key, data, metadata)
        info = replace(info, etag=hashlib.md5(data).hexdigest())
        self._set(key, data, info)
        return info


class Both(Machine):
    """A Vfs over a store that fails, loses answers and takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.portal = self.stack.enter_context(start_blocking_portal("trio"))
        self.store = DictStore()
        self.past = Past()
        self.count = 0
        self.gates: list[Fault] = []
        self.m: Mounted
        self.cm: Any = None

    # -- life --------------------------------------------------------------------------------------

    @initialize(
        ttl_s=ttls,
        delay_s=delays,
        local=st.booleans(),
        lacking=st.sets(st.sampled_from(["local", "conditional_delete"])),
        md5s=st.booleans(),
    )
    def begin(self, ttl_s: float, delay_s: float, local: bool, lacking: set[str], md5s: bool) -> None:
        self.options: dict[str, Any] = {"checkpoint_s": 0.01, "stream_bytes": 8}
        self.lacking = lacking
        if md5s:
            self.store = Md5Store()
        self.other_flags(ttl_s, delay_s, local)
        self.start(self.root / "state0")

    @rule(ttl_s=ttls, delay_s=delays, local=st.booleans())
    def other_flags(self, ttl_s: float, delay_s: float, local: bool) -> None:
        """From the next start on."""
        self.options |= {"ttl_s": ttl_s, "upload_delay_s": delay_s, "fsync": "local" if local else "remote"}

    def start(self, state: Path) -> None:
        faulty = FaultyStore(self.store, lacking=self.lacking, past=self.past, part_bytes=4)
        self.cm = self.portal.wrap_async_context_manager(running(faulty, state, drain=False, **self.options))
        self.m = self.cm.__enter__()
        self.ours = VfsDriver(self.portal, self.m)
        self.up = True

    def stop(self) -> None:
        self.up = False
        self.open_gates()
        cm, self.cm = self.cm, None
        if cm is not None:
            cm.__exit__(None, None, None)

    def kill(self) -> None:
        self.count += 1
        left = self.root / f"state{self.count}"

        async def crash() -> None:
            self.m.crash(left)

        self.portal.call(crash)
        self.stop()
        self.past.land(now=True)  # nothing is on its way for longer than a start takes
        self.start(left)

    def restart(self, *, keep: bool) -> None:
        state = self.m.state_dir
        self.stop()
        if not keep:
            self.count += 1
            state = self.root / f"state{self.count}"
        self.start(state)

    # -- the store ---------------------------------------------------------------------------------

    def upload(self) -> None:
        self.portal.call(self.m.drain)
        self.past.land(now=True)
        status = self.m.vfs.status()
        assert status.conflicts == []
        assert status.pending_count == 0

    def stored(self) -> dict[str, bytes]:
        return contents(self.store)

    def change_directly(self, key: str, data: bytes | None) -> None:
        if data is None:
            self.store.delete(key, missing_ok=True)
        else:
            self.store.put(key, data)

    def before_waiting(self) -> None:
        self.open_gates()

    def fsync_is_remote(self) -> bool:
        return self.m.vfs.options.fsync == "remote"

    def sees_others(self) -> bool:
        return self.up and self.m.vfs.options.ttl_s == 0

    @precondition(lambda self: not self.gates)
    @rule(verb=st.sampled_from(["put", "copy", "delete"]))
    def hold(self, verb: str) -> None:
        """The next such request takes its time."""
        self.gates.append(self.m.store.add("gate", verb))

    @rule()
    def open_gates(self) -> None:
        while self.gates:
            self.gates.pop().open()

    @rule(
        verbs=st.sampled_from([*CHANGES, " ".join(CHANGES), "start_upload", "put_part", "head"]),
        lose=st.booleans(),
    )
    def fault(self, verbs: str, lose: bool) -> None:
        self.m.store.add("lose" if lose else "fail", verbs)

    @rule(verb=st.sampled_from(CHANGES), delay_s=st.sampled_from([0.0, 0.01, 0.03, LATEST_S]))
    def late(self, verb: str, delay_s: float) -> None:
        """The next such request arrives after its answer was given up."""
        self.m.store.add("late", verb, delay_s=delay_s)

    @rule(verb=st.sampled_from(["head", "list"]), kind=st.sampled_from(["stale", "etag"]))
    def wrong_answer(self, verb: str, kind: Literal["stale", "etag"]) -> None:
        """The next such answer is an earlier one, or has other etags; but what is told twice is believed."""
        if not any(fault.times for fault in self.m.store.faults if fault.kind in ("stale", "etag")):
            self.m.store.add(kind, verb)

    @rule(seconds=st.sampled_from([0.0, 0.003, 0.02]))
    def wait(self, seconds: float) -> None:
        self.portal.call(trio.sleep, seconds)


Both.TestCase.settings = machine_settings(50, 40)


class TestBoth(Both.TestCase):  # type: ignore[misc, valid-type]
    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What fails is tried again soon: faults are frequent here."""
        monkeypatch.setattr(reconcile, "_BACKOFF_S", (0.002, 0.005, 0.01))
        monkeypatch.setattr(answers, "_ASK_AGAIN_S", 0.02)
        monkeypatch.setattr(answers, "LAST_LOOK_S", 2 * LATEST_S)
