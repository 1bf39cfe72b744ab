"""A mount made by the real command line, always cleaned up.

A daemon that stops answering would leave every process that touches its mount asleep in the kernel, the
test process too. So each mount has a limit: when it is over, the daemon is killed by its pid, the sleepers
wake with an error, and the test fails with the daemon's log.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.mount.waiting import wait_until

PROJECT = Path(__file__).resolve().parents[2]
COMMAND_DEADLINE_S = 120.0
MOUNT_LIMIT_S = 600.0
CACHE = os.environ.get("MOUNTSTORE_TEST_TIER", "")
"""The cache of the mounts of all tests: a size, "off", or what a mount has by default."""
_live: set[Mount] = set()


def environment(extra: Mapping[str, str], home: Path) -> dict[str, str]:
    """An environment in which nothing of this user's reaches the command: no profiles, no variables."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "MOUNTSTORE_", "XDG_", "GIT_"))
    }
    path = os.pathsep.join(filter(None, [str(PROJECT), kept.get("PYTHONPATH", "")]))
    private = {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "MOUNTSTORE_RUNTIME_DIR": str(home / "run"),
        "PYTHONPATH": path,
        "AWS_EC2_METADATA_DISABLED": "true",
        "TERM": "dumb",
    }
    return kept | private | dict(extra)


def command(
    *arguments: str | Path,
    env: Mapping[str, str],
    timeout_s: float = COMMAND_DEADLINE_S,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run `mountstore ARGUMENTS` to its end. With `check`, AssertionError unless it exits with 0.

    Its output goes through files: a daemon that kept the pipes open would keep us waiting for their end.
    """
    words = [sys.executable, "-m", "mountstore", *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        ended = subprocess.run(
            words,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            timeout=timeout_s,
            check=False,
        )
        out.seek(0)
        err.seek(0)
        done = subprocess.CompletedProcess(words, ended.returncode, out.read(), err.read())
    if check:
        line = " ".join(words[2:])
        assert done.returncode == 0, f"{line}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def mounted_at(path: Path) -> str | None:
    """What the kernel says is mounted there (its mount options and file system type), or None.

    Read from the table of mounts: a stat of the path would ask the daemon.
    """
    found = None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        where = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        if where == str(path):
            found = f"{fields[5]} {after}"
    return found


def detach(path: Path) -> None:
    """Take a mount away whatever state it is in; nothing where nothing is mounted."""
    while mounted_at(path) is not None:
        done = subprocess.run(["fusermount3", "-uz", str(path)], capture_output=True, timeout=30, check=False)
        if done.returncode:
            subprocess.run(["umount", "-l", str(path)], capture_output=True, timeout=30, check=True)


def need_fuse() -> None:
    """Fail, never skip, on a machine that cannot mount."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise AssertionError("the tests of the mount need /dev/fuse, and it is not there for us")
    if shutil.which("fusermount3") is None:
        raise AssertionError("the tests of the mount need fusermount3: install the package fuse3")


class Mount:
    """One mount of `store`: `root` is where; made by `start`, or by entering the context.

    `base` is a local folder that holds the mount point, the state directory and the home of the command.
    """

    def __init__(
        self,
        store: str,
        base: Path,
        *,
        env: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        name: str = "mnt",
        state: Path | None = None,
        limit_s: float = MOUNT_LIMIT_S,
    ) -> None:
        self.store = store
        self.base = base
        self.options = list(options)
        self.root = base / name
        self.state = state or base / f"{name}-state"
        self.limit_s = limit_s
        self.timed_out = False
        self.pid = 0
        self.states = 0
        self.starts = 0
        self.flags: tuple[str, ...] = ()
        home = base / "home"
        home.mkdir(parents=True, exist_ok=True)
        self.env = environment(env or {}, home)
        self._timer: threading.Timer | None = None

    # -- life -------------------------------------------------------------------------------------

    def start(self, *more: str) -> Self:
        """Mount, and return once it works; AssertionError with what the command said if it does not."""
        need_fuse()
        if mounted_at(self.root) is None:
            self.root.mkdir(parents=True, exist_ok=True)
        _live.add(self)
        options = [*self._cache_options(), *self.options, *more]
        command("mount", "--state-dir", self.state, *options, self.store, self.root, env=self.env)
        assert mounted_at(self.root), f"mount said that it works, and nothing is mounted\n{self.log()}"
        self.pid = self._find_daemon()
        self.starts += 1
        self.flags = more
        self._start_timer(self.limit_s)
        return self

    def _cache_options(self) -> list[str | Path]:
        if not CACHE or any(option.startswith(("--cache", "--no-cache")) for option in self.options):
            return []
        return ["--no-cache"] if CACHE == "off" else ["--cache", self.base / "caches", "--cache-size", CACHE]

    @contextlib.contextmanager
    def limit(self, limit_s: float) -> Iterator[None]:
        """Within, the daemon is killed after this many seconds; afterwards its own limit runs anew."""
        self._start_timer(limit_s)
        try:
            yield
        finally:
            self._start_timer(self.limit_s)

    def _start_timer(self, limit_s: float) -> None:
        self._stop_timer()
        if not self.pid:
            return
        self._timer = threading.Timer(limit_s, self._give_up)
        self._timer.daemon = True
        self._timer.start()

    def _give_up(self) -> None:
        self.timed_out = True
        self.kill()

    def umount(self) -> subprocess.CompletedProcess[str]:
        """`mountstore umount`: returns when the store has everything and the daemon is gone."""
        done = command("umount", self.root, env=self.env, timeout_s=self.limit_s)
        assert mounted_at(self.root) is None, "umount returned, and it is still mounted"
        self.wait_for_exit()
        return done

    def kill(self) -> None:
        """SIGKILL of the daemon: what it held in memory is gone. The dead mount is taken away."""
        self.kill_only()
        detach(self.root)

    def kill_only(self) -> None:
        """SIGKILL of the daemon; the mount point stays as it leaves it."""
        self._stop_timer()
        if self.pid and self._is_ours():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.wait_for_exit()
        self.pid = 0

    def wait_for_exit(self) -> None:
        """Return when the daemon's process has gone."""
        pid = self.pid
        wait_until(f"daemon {pid} is gone", lambda: not pid or not self._is_ours(), timeout_s=60)
        self._stop_timer()

    def remount(self, *more: str, fresh_state: bool) -> Self:
        """Mount again, on the state that is there or on an empty one, that is, from the store alone."""
        if fresh_state:
            self.states += 1
            self.state = self.state.with_name(f"{self.root.name}-state-{self.states}")
            assert not self.state.exists()
            self.drop_cache()  # it would hide what the store lacks
        return self.start(*more)

    def caches(self) -> list[Path]:
        """Where this and other mounts keep blocks on the disk; empty if none of them has a cache."""
        folders = [self.base / "caches", self.base / "home" / "cache" / "mountstore"]
        return [blocks for folder in folders for blocks in folder.glob("*/blocks")]

    def drop_cache(self) -> None:
        """Delete what is kept on the disk of this and other mounts; for when it is not mounted."""
        for caches in [self.base / "caches", self.base / "home" / "cache"]:
            shutil.rmtree(caches, ignore_errors=True)

    def clean_up(self) -> None:
        """Leave nothing behind: daemon ended by pid, mount taken away."""
        self.kill_only()
        detach(self.root)
        _live.discard(self)

    def __enter__(self) -> Self:
        return self.start() if not self.pid else self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            if self.timed_out:
                error.add_note(f"the daemon was killed: its {self.limit_s:.0f} s were over")
            error.add_note(self.log())
        self.clean_up()

    # -- looking ----------------------------------------------------------------------------------

    def sync(self) -> None:
        """`mountstore sync`: returns when the store has everything."""
        command("sync", self.root, env=self.env, timeout_s=self.limit_s)

    def fsck(self, *more: str) -> None:
        """`mountstore fsck` of the state directory; AssertionError with what it says if anything is wrong."""
        command("fsck", *more, self.state, env=self.env, timeout_s=self.limit_s)

    def status(self) -> dict[str, Any]:
        """`mountstore status --json`, parsed."""
        said = command("status", "--json", self.root, env=self.env)
        answer = json.loads(said.stdout)
        assert isinstance(answer, dict), said.stdout
        return answer

    def alive(self) -> bool:
        """Whether the daemon runs and its mount is in the table."""
        return bool(self.pid) and self._is_ours() and mounted_at(self.root) is not None

    def peak_rss_bytes(self) -> int:
        """The most memory that the daemon has had so far (VmHWM)."""
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        assert found, "the daemon has no VmHWM"
        return int(found[1]) * 1024

    def log(self) -> str:
        """The end of whatever log files the daemon keeps in its state directory or under its home."""
        parts = []
        for folder in [self.state, self.base / "home"]:
            for file in sorted(folder.rglob("*.log")) if folder.is_dir() else []:
                with contextlib.suppress(OSError):
                    parts.append(f"--- {file}\n{file.read_text(errors='replace')[-4000:]}")
        return "\n".join(parts) or f"--- no log of {self.root} was found"

    def _find_daemon(self) -> int:
        """The pid of the process whose command line is that of our `mount`."""
        found = [int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit() and self._serves(one)]
        assert len(found) == 1, f"one daemon of {self.root} should run, and there are {len(found)}"
        return found[0]

    def _is_ours(self) -> bool:
        return self._serves(Path(f"/proc/{self.pid}"))

    def _serves(self, process: Path) -> bool:
        """Whether this process is our daemon: a pid may be used again, and a zombie runs no more."""
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            return False
        return b"mountstore" in words and b"mount" in words and os.fsencode(self.root) in words

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


Mounts = Callable[..., Mount]
"""What the fixture `mounts` is."""
MOUNTS = pytest.StashKey[list[Mount]]()
"""Where a test item keeps its mounts, for the report of a failure."""


@contextlib.contextmanager
def temporary_base() -> Iterator[Path]:
    """A folder for mounts, on a real disk. When it goes, no mount is left in it, and no daemon of ours."""
    base = Path(tempfile.mkdtemp(prefix="mountstore-mounts-")).resolve()
    try:
        yield base
    finally:
        for mount in list(_live):
            if mount.base.is_relative_to(base):
                mount.clean_up()
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            where = Path(line.split()[4])
            if where.is_relative_to(base):
                detach(where)
        _remove(base)


def _remove(base: Path) -> None:
    # A lazily taken away mount may take a moment; what is under a mount must never be deleted.
    deadline = time.monotonic() + 10
    while any(str(base) in line for line in Path("/proc/self/mountinfo").read_text().splitlines()):
        if time.monotonic() > deadline:
            raise AssertionError(f"still mounted under {base}")
        time.sleep(0.05)
    shutil.rmtree(base)
