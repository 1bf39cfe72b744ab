"""A Vfs and a real directory are given the same calls, and may never be told apart.

`VFS_EXAMPLES` and `VFS_STEPS` in the environment make it look harder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from anyio.from_thread import start_blocking_portal
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from mountstore.backends.memory import DictStore
from mountstore.vfs import reconcile
from tests.vfs.drivers import VfsDriver
from tests.vfs.faulty import Fault, FaultyStore
from tests.vfs.machine import Machine, machine_settings
from tests.vfs.mounted import Mounted, contents, running

ttls = st.sampled_from([0.0, 3600.0])
delays = st.sampled_from([0.0, 0.005])


class Both(Machine):
    """A Vfs over a store that fails, loses answers and takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.portal = self.stack.enter_context(start_blocking_portal("trio"))
        self.store = DictStore()
        self.count = 0
        self.gates: list[Fault] = []
        self.m: Mounted
        self.cm: Any = None

    # -- life --------------------------------------------------------------------------------------

    @initialize(ttl_s=ttls, delay_s=delays, local=st.booleans())
    def begin(self, ttl_s: float, delay_s: float, local: bool) -> None:
        self.options: dict[str, Any] = {"checkpoint_s": 0.01}
        self.other_flags(ttl_s, delay_s, local)
        self.start(self.root / "state0")

    @rule(ttl_s=ttls, delay_s=delays, local=st.booleans())
    def other_flags(self, ttl_s: float, delay_s: float, local: bool) -> None:
        """From the next start on."""
        self.options |= {"ttl_s": ttl_s, "upload_delay_s": delay_s, "fsync": "local" if local else "remote"}

    def start(self, state: Path) -> None:
        faulty = FaultyStore(self.store)
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

    @rule(verb=st.sampled_from(["put", "copy", "delete", "put copy delete"]), lose=st.booleans())
    def fault(self, verb: str, lose: bool) -> None:
        self.m.store.add("lose" if lose else "fail", verb)

    @rule(seconds=st.sampled_from([0.0, 0.003, 0.02]))
    def wait(self, seconds: float) -> None:
        self.portal.call(trio.sleep, seconds)


Both.TestCase.settings = machine_settings(60, 40)


class TestBoth(Both.TestCase):  # type: ignore[misc, valid-type]
    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What fails is tried again soon: faults are frequent here."""
        monkeypatch.setattr(reconcile, "_BACKOFF_S", (0.002, 0.005, 0.01))
