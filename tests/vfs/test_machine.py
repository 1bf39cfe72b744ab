"""A Vfs and a real directory are given the same calls, and may never be told apart.

`VFS_EXAMPLES` and `VFS_STEPS` in the environment make it look harder.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mountstore.backends.memory import DictStore
from mountstore.vfs import reconcile
from tests.vfs.faulty import Fault, FaultyStore
from tests.vfs.mounted import Mounted, contents, running

_LIBC = ctypes.CDLL(None, use_errno=True)
_NOW_NS = 1_500_000_000 * 10**9  # times from here on are of the clock

names = st.sampled_from(["a", "b", "c"])
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
datas = st.binary(min_size=0, max_size=12)
offsets = st.integers(0, 20)


def renameat2(source: str, target: str, flags: int) -> None:
    if _LIBC.renameat2(-100, os.fsencode(source), -100, os.fsencode(target), flags):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _alike(code: int) -> str | None:
    """Which of two wrong parts of two paths is told differs between file systems."""
    return errno.errorcode.get(errno.ENOENT if code == errno.ENOTDIR else code)


class Both(RuleBasedStateMachine):
    """The same calls to both, the same answers from both."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.portal = self.stack.enter_context(start_blocking_portal("trio"))
        self.root = Path(tempfile.mkdtemp(prefix="machine-", dir="/dev/shm"))
        self.stack.callback(shutil.rmtree, self.root)
        self.model = self.root / "model"
        self.model.mkdir()
        self.store = DictStore()
        self.count = 0
        self.gates: list[Fault] = []
        self.handles: list[tuple[int, int]] = []
        self.m: Mounted
        self.cm: Any = None

    # -- life --------------------------------------------------------------------------------------

    @initialize(ttl_s=st.sampled_from([0.0, 3600.0]), delay_s=st.sampled_from([0.0, 0.005]))
    def begin(self, ttl_s: float, delay_s: float) -> None:
        self.options: dict[str, Any] = {"ttl_s": ttl_s, "upload_delay_s": delay_s, "checkpoint_s": 0.01}
        self.start(self.root / "state0")

    def start(self, state: Path) -> None:
        faulty = FaultyStore(self.store)
        self.cm = self.portal.wrap_async_context_manager(running(faulty, state, drain=False, **self.options))
        self.m = self.cm.__enter__()

    def stop(self) -> None:
        self.open_gates()
        cm, self.cm = self.cm, None
        if cm is not None:
            cm.__exit__(None, None, None)

    def teardown(self) -> None:
        try:
            if self.cm is not None:
                self.close_handles()
                self.drain()
        finally:
            self.stop()
            for _, fd in self.handles:
                os.close(fd)
            self.stack.close()

    def both(self, ours: Callable[[], Awaitable[Any]], theirs: Callable[[], Any]) -> Any:
        expected: Any = None
        code = 0
        try:
            expected = theirs()
        except OSError as error:
            code = error.errno or 0

        async def call() -> tuple[Any, int]:
            with trio.fail_after(20):
                try:
                    return await ours(), 0
                except OSError as error:
                    return None, error.errno or 0

        got, our_code = self.portal.call(call)
        assert _alike(our_code) == _alike(code)
        return got, expected

    def at(self, path: str) -> str:
        return str(self.model / path)

    # -- names -------------------------------------------------------------------------------------

    @rule(path=paths)
    def mkdir(self, path: str) -> None:
        self.both(lambda: self.m.mkdir(path), lambda: os.mkdir(self.at(path)))

    @rule(path=paths)
    def rmdir(self, path: str) -> None:
        self.both(lambda: self.m.rmdir(path), lambda: os.rmdir(self.at(path)))

    @rule(path=paths)
    def unlink(self, path: str) -> None:
        self.both(lambda: self.m.unlink(path), lambda: os.unlink(self.at(path)))

    @rule(source=paths, to=paths, flags=st.sampled_from([0, 0, 0, 1, 2, 2]))
    def rename(self, source: str, to: str, flags: int) -> None:
        if (to + "/").startswith(source + "/") or (source + "/").startswith(to + "/"):
            return  # which of several errors comes first differs between file systems
        if flags == 1 and os.path.lexists(self.at(to)):
            return
        self.both(
            lambda: self.m.rename(source, to, flags),
            lambda: renameat2(self.at(source), self.at(to), flags),
        )

    @rule(source=paths, to=paths)
    def link(self, source: str, to: str) -> None:
        if os.path.isdir(self.at(source)):
            return
        self.both(
            lambda: self.m.link(source, to),
            lambda: os.link(self.at(source), self.at(to), follow_symlinks=False),
        )

    @rule(path=paths, pointing=st.sampled_from(["/nowhere", "x" * 100]))
    def symlink(self, path: str, pointing: str) -> None:
        self.both(lambda: self.m.symlink(pointing, path), lambda: os.symlink(pointing, self.at(path)))

    # -- files -------------------------------------------------------------------------------------

    def _is_file(self, path: str) -> bool:
        return stat.S_ISREG(self._mode(path))

    def _mode(self, path: str) -> int:
        try:
            return os.lstat(self.at(path)).st_mode
        except OSError:
            return 0

    @rule(path=paths, data=datas)
    def write_file(self, path: str, data: bytes) -> None:
        if self._mode(path) and not self._is_file(path):
            return
        self.both(lambda: self.m.write_file(path, data), lambda: Path(self.at(path)).write_bytes(data) * 0)

    @rule(path=paths, data=st.binary(min_size=1, max_size=12), offset=offsets)
    def patch(self, path: str, data: bytes, offset: int) -> None:
        if not self._is_file(path):
            return

        def theirs() -> None:
            fd = os.open(self.at(path), os.O_WRONLY)
            os.pwrite(fd, data, offset)
            os.close(fd)

        self.both(lambda: self.m.patch(path, data, offset), theirs)

    @rule(path=paths, size=offsets)
    def truncate(self, path: str, size: int) -> None:
        if self._is_file(path):
            self.both(lambda: self.m.truncate(path, size), lambda: os.truncate(self.at(path), size))

    @rule(path=paths, data=datas, temporary=paths)
    def save(self, path: str, data: bytes, temporary: str) -> None:
        self.write_file(temporary, data)
        self.rename(temporary, path, 0)

    @rule(path=paths, mode=st.sampled_from([0o600, 0o644, 0o755]))
    def chmod(self, path: str, mode: int) -> None:
        if not stat.S_ISLNK(self._mode(path)):
            self.both(lambda: self.m.chmod(path, mode), lambda: os.chmod(self.at(path), mode))

    @rule(path=paths, time_ns=st.integers(1, _NOW_NS - 1))
    def utimens(self, path: str, time_ns: int) -> None:
        if self._is_file(path):
            self.both(
                lambda: self.m.utimens(path, time_ns),
                lambda: os.utime(self.at(path), ns=(time_ns, time_ns)),
            )

    @rule(path=paths)
    def open(self, path: str) -> None:
        if self._is_file(path) and len(self.handles) < 3:
            handle, fd = self.both(
                lambda: self.m.open(path, os.O_RDWR), lambda: os.open(self.at(path), os.O_RDWR)
            )
            self.handles.append((handle, fd))

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 2), data=st.binary(min_size=1, max_size=12), offset=offsets)
    def write_open(self, which: int, data: bytes, offset: int) -> None:
        handle, fd = self.handles[which % len(self.handles)]

        async def ours() -> None:
            await self.m.pwrite(handle, data, offset)
            self.m.vfs.flush(handle)

        self.both(ours, lambda: os.pwrite(fd, data, offset) * 0)

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 2))
    def close(self, which: int) -> None:
        handle, fd = self.handles.pop(which % len(self.handles))
        self.both(lambda: self.m.close(handle), lambda: os.close(fd))

    def close_handles(self) -> None:
        while self.handles:
            self.close(0)

    # -- the store ---------------------------------------------------------------------------------

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

    @rule(path=paths)
    def fsync(self, path: str) -> None:
        if self._is_file(path):
            self.open_gates()
            self.both(lambda: self.m.fsync(path), lambda: None)
            with self._opened(path) as fd:
                assert self.store.get(path) == os.pread(fd, 1000, 0)

    @contextlib.contextmanager
    def _opened(self, path: str) -> Any:
        fd = os.open(self.at(path), os.O_RDONLY)
        try:
            yield fd
        finally:
            os.close(fd)

    @rule()
    def drain(self) -> None:
        self.open_gates()
        self.portal.call(self.m.drain)
        expected: dict[str, bytes] = {}
        for path in self.paths():
            if self._is_file(path):
                expected[path] = Path(self.at(path)).read_bytes()
            elif stat.S_ISLNK(self._mode(path)):
                expected[path] = os.fsencode(os.readlink(self.at(path)))
            else:
                expected[path + "/"] = b""
        assert contents(self.store) == expected
        status = self.m.vfs.status()
        assert status.conflicts == []
        assert status.pending_count == 0

    @rule()
    def crash(self) -> None:
        self.count += 1
        left = self.root / f"state{self.count}"

        async def crash() -> None:
            self.m.crash(left)

        self.portal.call(crash)
        self.forget_handles()
        self.stop()
        self.start(left)

    def forget_handles(self) -> None:
        while self.handles:
            os.close(self.handles.pop()[1])

    @rule(keep=st.booleans())
    def reopen(self, keep: bool) -> None:
        """Unmounted and mounted again, perhaps with nothing but the store."""
        self.close_handles()
        self.drain()
        state = self.m.state_dir
        self.stop()
        if not keep:
            self.count += 1
            state = self.root / f"state{self.count}"
        self.start(state)

    @precondition(lambda self: self.options["ttl_s"] == 0)
    @rule(path=paths, data=datas, remove=st.booleans())
    def foreign(self, path: str, data: bytes, remove: bool) -> None:
        """Somebody else changes the store."""
        if not os.path.isdir(os.path.dirname(self.at(path))):
            return
        mode = self._mode(path)
        if mode and not stat.S_ISREG(mode):
            return
        self.close_handles()
        self.drain()
        if mode:
            os.unlink(self.at(path))
        if remove:
            self.store.delete(path, missing_ok=True)
            return
        self.store.put(path, data)
        Path(self.at(path)).write_bytes(data)
        os.chmod(self.at(path), 0o644)

    # -- what is seen ------------------------------------------------------------------------------

    def paths(self) -> list[str]:
        out = []
        for folder, folders, files in os.walk(self.model):
            out += [os.path.relpath(os.path.join(folder, name), self.model) for name in folders + files]
        return sorted(out)

    @invariant()
    def looks_the_same(self) -> None:
        if self.cm is None:
            return

        async def look() -> dict[str, Any]:
            with trio.fail_after(20):
                out: dict[str, Any] = {}
                await self._look("", out)
                return out

        expected: dict[str, Any] = {}
        for path in self.paths():
            there = os.lstat(self.at(path))
            if stat.S_ISREG(there.st_mode):
                time_ns = there.st_mtime_ns if there.st_mtime_ns < _NOW_NS else "now"
                data = Path(self.at(path)).read_bytes()
                expected[path] = (there.st_mode, there.st_nlink, there.st_size, time_ns, data)
            elif stat.S_ISLNK(there.st_mode):
                expected[path] = os.readlink(self.at(path))
            else:
                expected[path] = there.st_mode
        assert self.portal.call(look) == expected
        for handle, fd in self.handles:
            assert self.portal.call(self.m.pread, handle) == os.pread(fd, 1000, 0)

    async def _look(self, path: str, out: dict[str, Any]) -> None:
        found = await self.m.names(path)
        assert len(found) == len(set(found))
        for name in found:
            below = f"{path}/{name}" if path else name
            node = await self.m.node(below)
            if node.is_dir:
                out[below] = node.mode
                await self._look(below, out)
            elif stat.S_ISLNK(node.mode):
                out[below] = await self.m.readlink(below)
            else:
                time_ns = node.mtime_ns if node.mtime_ns < _NOW_NS else "now"
                out[below] = (node.mode, node.nlink, node.size, time_ns, await self.m.read_file(below))


_PHASES = [
    p for p in Phase if p is not Phase.explain and ("VFS_RAW" not in os.environ or p is not Phase.shrink)
]

Both.TestCase.settings = settings(
    max_examples=int(os.environ.get("VFS_EXAMPLES", "60")),
    stateful_step_count=int(os.environ.get("VFS_STEPS", "40")),
    deadline=None,
    derandomize="VFS_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
    phases=_PHASES,
)


class TestBoth(Both.TestCase):  # type: ignore[misc, valid-type]
    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What fails is tried again soon: faults are frequent here."""
        monkeypatch.setattr(reconcile, "_BACKOFF_S", (0.002, 0.005, 0.01))
