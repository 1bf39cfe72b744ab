"""The rules by which a tree and a real directory are given the same calls, and have to look the same.

What the tree is, and what may happen to it between calls, is for subclasses: tests/vfs/test_machine.py has a
Vfs over a store that fails, tests/mount/test_machine.py a mount whose daemon is killed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.vfs.drivers import NOW_NS, Directory, Driver
from tests.vfs.mounted import EXCHANGE, NOREPLACE

WHOLE = 1000  # more than any file here has
names = st.sampled_from(["a", "b", "c"])
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
datas = st.binary(min_size=0, max_size=12)
some_data = st.binary(min_size=1, max_size=12)
offsets = st.integers(0, 20)
owners = st.sampled_from([0, 1000] if os.geteuid() == 0 else [os.geteuid()])
opening = st.sampled_from(
    [
        os.O_RDONLY,
        os.O_RDWR,
        os.O_RDWR,
        os.O_RDWR | os.O_APPEND,
        os.O_RDWR | os.O_TRUNC,
        os.O_RDWR | os.O_CREAT,
        os.O_RDWR | os.O_CREAT | os.O_EXCL,
        os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND,
    ]
)


def machine_settings(examples: int, steps: int, *, shrink: bool = True) -> settings:
    """How long to look: `VFS_EXAMPLES` and `VFS_STEPS` in the environment make it look harder."""
    left_out = {Phase.explain} if shrink and "VFS_RAW" not in os.environ else {Phase.explain, Phase.shrink}
    return settings(
        max_examples=int(os.environ.get("VFS_EXAMPLES", examples)),
        stateful_step_count=int(os.environ.get("VFS_STEPS", steps)),
        deadline=None,
        derandomize="VFS_EXAMPLES" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
        phases=[phase for phase in Phase if phase not in left_out],
    )


def _alike(code: int) -> str | None:
    """Which of two wrong parts of two paths is told differs between file systems."""
    return errno.errorcode.get(errno.ENOENT if code == errno.ENOTDIR else code)


class Machine(RuleBasedStateMachine):
    """The same calls to both, the same answers from both."""

    ours: Driver
    kernel = False  # whether ours is called through the kernel, which makes many checks first

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.root = Path(tempfile.mkdtemp(prefix="machine-", dir="/dev/shm"))
        self.stack.callback(shutil.rmtree, self.root)
        (self.root / "model").mkdir()
        self.model = Directory(self.root / "model")
        self.handles: list[tuple[int, int, int]] = []  # ours, the model's, the flags
        self.up = False

    def teardown(self) -> None:
        try:
            if self.up:
                self.close_handles()
                self.drain()
        finally:
            try:
                self.stop()
            finally:
                self.forget_handles()
                self.stack.close()

    def both(self, verb: str, *args: Any) -> tuple[Any, Any] | None:
        """What the two return, or None if both refuse alike."""
        ours, code = self._one(self.ours, verb, args)
        theirs, expected = self._one(self.model, verb, args)
        assert _alike(code) == _alike(expected), f"{verb}{args}: {code} instead of {expected}"
        return None if code else (ours, theirs)

    def by_handle(self, verb: str, which: int, *args: Any) -> None:
        """The same for an open file."""
        handle, fd, _ = self.handles[which % len(self.handles)]
        ours, code = self._one(self.ours, verb, (handle, *args))
        theirs, expected = self._one(self.model, verb, (fd, *args))
        assert (code, ours) == (expected, theirs), f"{verb}{args}"

    @staticmethod
    def _one(driver: Driver, verb: str, args: tuple[Any, ...]) -> tuple[Any, int]:
        try:
            return getattr(driver, verb)(*args), 0
        except OSError as error:
            return None, error.errno or -1

    # -- what subclasses do ------------------------------------------------------------------------

    def stop(self) -> None:
        """End ours, at once; nothing that is not in the store has to get there."""
        raise NotImplementedError

    def kill(self) -> None:
        """End ours as SIGKILL does, and start it again on what is left."""
        raise NotImplementedError

    def restart(self, *, keep: bool) -> None:
        """End ours and start it again, on its state or on an empty one. All is in the store."""
        raise NotImplementedError

    def upload(self) -> None:
        """Return when the store has everything."""
        raise NotImplementedError

    def stored(self) -> dict[str, bytes]:
        """All objects by key."""
        raise NotImplementedError

    def change_directly(self, key: str, data: bytes | None) -> None:
        """Somebody else puts an object, or removes it if there is one."""
        raise NotImplementedError

    def before_waiting(self) -> None:
        """What is held back has to go on."""

    def forget_handle(self, handle: int) -> None:
        """An open file whose server has gone."""

    def fsync_is_remote(self) -> bool:
        """Whether fsync promises the store."""
        return True

    def sees_others(self) -> bool:
        """Whether a change of the store by others shows at once."""
        raise NotImplementedError

    # -- names -------------------------------------------------------------------------------------

    @rule(path=paths, mode=st.sampled_from([0o755, 0o700]))
    def mkdir(self, path: str, mode: int) -> None:
        self.both("mkdir", path, mode)

    @rule(path=paths)
    def rmdir(self, path: str) -> None:
        self.both("rmdir", path)

    @rule(path=paths)
    def unlink(self, path: str) -> None:
        self.both("unlink", path)

    @rule(source=paths, to=paths, flags=st.sampled_from([0, 0, 0, NOREPLACE, EXCHANGE, EXCHANGE]))
    def rename(self, source: str, to: str, flags: int) -> None:
        if not self.kernel:
            # Which of several errors comes first is the kernel's to say.
            if (to + "/").startswith(source + "/") or (source + "/").startswith(to + "/"):
                return
            if flags == NOREPLACE and not self._mode(source):
                return
        self.both("rename", source, to, flags)

    @rule(source=paths, to=paths)
    def link(self, source: str, to: str) -> None:
        if self.kernel or not stat.S_ISDIR(self._mode(source)):
            self.both("link", source, to)

    @rule(path=paths, pointing=st.sampled_from(["/nowhere", "x" * 100]))
    def symlink(self, path: str, pointing: str) -> None:
        self.both("symlink", pointing, path)

    @rule(path=paths, mode=st.sampled_from([0o600, 0o644]))
    def mkfifo(self, path: str, mode: int) -> None:
        self.both("mkfifo", path, mode)

    # -- files -------------------------------------------------------------------------------------

    def _mode(self, path: str) -> int:
        try:
            return os.lstat(self.model.at(path)).st_mode
        except OSError:
            return 0

    def _is_file(self, path: str) -> bool:
        return stat.S_ISREG(self._mode(path))

    @contextlib.contextmanager
    def _opened(self, path: str, flags: int) -> Iterator[bool]:
        """Whether both could open it; it is the last of the handles then, and closed in the end."""
        opened = self.both("open", path, flags, 0o644)
        if opened:
            self.handles.append((*opened, flags))
        try:
            yield opened is not None
        finally:
            if opened:
                self.close(-1)

    @rule(path=paths, data=datas)
    def write_file(self, path: str, data: bytes) -> None:
        if self._mode(path) and not self._is_file(path):
            return
        with self._opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as opened:
            if opened and data:
                self.by_handle("pwrite", -1, data, 0)

    @rule(path=paths, data=some_data, offset=offsets)
    def patch(self, path: str, data: bytes, offset: int) -> None:
        if self._is_file(path):
            with self._opened(path, os.O_WRONLY):
                self.by_handle("pwrite", -1, data, offset)

    @rule(path=paths, size=offsets)
    def truncate(self, path: str, size: int) -> None:
        if self._is_file(path):
            self.both("truncate", path, size)

    @rule(path=paths, data=datas, temporary=paths)
    def save(self, path: str, data: bytes, temporary: str) -> None:
        self.write_file(temporary, data)
        self.rename(temporary, path, 0)

    @rule(path=paths, mode=st.sampled_from([0o600, 0o644, 0o755]))
    def chmod(self, path: str, mode: int) -> None:
        there = self._mode(path)
        if not stat.S_ISLNK(there):
            self.both("chmod", path, mode | 0o700 if stat.S_ISDIR(there) else mode)

    @rule(path=paths, uid=owners, gid=owners)
    def chown(self, path: str, uid: int, gid: int) -> None:
        self.both("chown", path, uid, gid)

    @rule(path=paths, time_ns=st.integers(1, NOW_NS - 1))
    def utimens(self, path: str, time_ns: int) -> None:
        self.both("utimens", path, time_ns)

    @rule(path=paths, flags=opening)
    def open(self, path: str, flags: int) -> None:
        mode = self._mode(path)
        if len(self.handles) == 3 or (mode and not stat.S_ISREG(mode)):
            return
        opened = self.both("open", path, flags, 0o644)
        if opened:
            self.handles.append((*opened, flags))

    def _writable(self, which: int) -> bool:
        return self.handles[which % len(self.handles)][2] & os.O_ACCMODE != os.O_RDONLY

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 2), data=some_data, offset=offsets)
    def write_open(self, which: int, data: bytes, offset: int) -> None:
        if not self._writable(which):
            return
        if self.handles[which % len(self.handles)][2] & os.O_APPEND:
            self.by_handle("append", which, data)
        else:
            self.by_handle("pwrite", which, data, offset)
        self.by_handle("flush", which)

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 2), size=offsets)
    def truncate_open(self, which: int, size: int) -> None:
        if self._writable(which):
            self.by_handle("ftruncate", which, size)

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 2), data=some_data, offset=offsets)
    def map_write(self, which: int, data: bytes, offset: int) -> None:
        _, fd, flags = self.handles[which % len(self.handles)]
        if self._writable(which) and not flags & os.O_APPEND and offset + len(data) <= os.fstat(fd).st_size:
            self.by_handle("map_write", which, data, offset)
            self.by_handle("flush", which)

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 2))
    def fsync_open(self, which: int) -> None:
        self.before_waiting()
        self.by_handle("fsync", which)

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 2))
    def close(self, which: int) -> None:
        which %= len(self.handles)
        self.by_handle("close", which)
        del self.handles[which]

    def close_handles(self) -> None:
        while self.handles:
            self.close(0)

    def forget_handles(self) -> None:
        """Whoever had files open is gone, and so is what served ours."""
        while self.handles:
            handle, fd, _ = self.handles.pop()
            self.model.close(fd)
            self.forget_handle(handle)

    # -- the store ---------------------------------------------------------------------------------

    @rule(path=paths)
    def fsync(self, path: str) -> None:
        if not self._is_file(path):
            return
        self.before_waiting()
        with self._opened(path, os.O_RDWR):
            self.by_handle("fsync", -1)
        if self.fsync_is_remote():
            assert self.stored()[path] == Path(self.model.at(path)).read_bytes()

    @rule(path=st.one_of(st.just(""), paths))
    def fsyncdir(self, path: str) -> None:
        if path and not stat.S_ISDIR(self._mode(path)):
            return
        self.before_waiting()
        self.both("fsyncdir", path)

    @rule()
    def drain(self) -> None:
        self.before_waiting()
        self.upload()
        expected: dict[str, bytes] = {}
        for path in self.paths():
            mode = self._mode(path)
            if stat.S_ISREG(mode):
                expected[path] = Path(self.model.at(path)).read_bytes()
            elif stat.S_ISLNK(mode):
                expected[path] = os.fsencode(os.readlink(self.model.at(path)))
            else:
                expected[path + "/" * stat.S_ISDIR(mode)] = b""
        assert self.stored() == expected

    @rule()
    def crash(self) -> None:
        self.kill()
        self.forget_handles()

    @rule(keep=st.booleans())
    def reopen(self, keep: bool) -> None:
        """Ended and started again, perhaps with nothing but the store."""
        self.close_handles()
        self.drain()
        self.restart(keep=keep)

    @precondition(lambda self: self.sees_others())
    @rule(path=paths, data=datas, remove=st.booleans())
    def foreign(self, path: str, data: bytes, remove: bool) -> None:
        """Somebody else changes the store."""
        if not os.path.isdir(os.path.dirname(self.model.at(path))):
            return
        mode = self._mode(path)
        if mode and not stat.S_ISREG(mode):
            return
        self.close_handles()
        self.drain()
        if mode:
            os.unlink(self.model.at(path))
        if remove:
            self.change_directly(path, None)
            return
        self.change_directly(path, data)
        Path(self.model.at(path)).write_bytes(data)
        os.chmod(self.model.at(path), 0o644)

    # -- what is seen ------------------------------------------------------------------------------

    def paths(self) -> list[str]:
        return sorted(self.model.tree())

    @invariant()
    def looks_the_same(self) -> None:
        if not self.up:
            return
        assert self.ours.tree() == self.model.tree()
        for which, (_, _, flags) in enumerate(self.handles):
            if flags & os.O_ACCMODE != os.O_WRONLY:
                self.by_handle("pread", which, 0, WHOLE)

    @rule()
    def statfs(self) -> None:
        assert self.ours.name_max() == self.model.name_max()
