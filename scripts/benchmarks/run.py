"""One group of rows on one subject: its mounts, clocks, time limit and checks."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from mountstore.errors import StoreError
from scripts.benchmarks.inputs import GIT_ENV, Inputs
from scripts.benchmarks.place import LISTING, Place
from scripts.benchmarks.profile import Profiler
from scripts.benchmarks.subjects import OURS, Broken, Mount, Subject

TOOL_ENV: Mapping[str, str] = {"LC_ALL": "C", "TZ": "UTC", **GIT_ENV}
_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: seconds, or how many a second, and the processor time of the subject in it."""

    value: float
    cpu_s: float = 0.0
    requests: Mapping[str, int] = field(default_factory=dict)  # by kind, until the row's end; only of ours


@dataclass(slots=True)
class Results:
    """What a group of rows has brought for one subject so far."""

    samples: dict[str, Sample] = field(default_factory=dict)
    error: str = ""
    peak_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Clock:
    """The start of a measurement."""

    row: str
    at: float
    cpu_s: float
    requests: Mapping[str, int]


def drop_caches(*files: Path) -> None:
    """Make the kernel forget all file content, names and attributes; without root's rights, these files."""
    if os.geteuid() == 0:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
        return
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


class Run:
    """A subject at work in a folder of its own in the shared place. A context manager: nothing stays mounted.

    `start` begins a row, `record` ends it. From each `start` on the work has `timeout_s`; after that the
    mount's process is killed, which fails whatever waits for it.
    """

    def __init__(
        self,
        subject: Subject,
        place: Place,
        inputs: Inputs,
        base: Path,
        number: Callable[[], int],
        timeout_s: float,
        profiler: Profiler | None = None,
    ) -> None:
        self.subject = subject
        self.place = place
        self.inputs = inputs
        self.sizes = inputs.sizes
        self.results = Results()
        self.scratch = base / "scratch"
        self.scratch.mkdir(exist_ok=True)
        self.timeout_s = timeout_s
        self.timed_out = False
        self._base = base
        self._number = number
        self._profiler = profiler if subject.name == OURS else None
        self._mount: Mount | None = None
        self._timer: threading.Timer | None = None
        self.folder = f"{subject.name}-{number()}"

    # -- mounts -----------------------------------------------------------------------------------

    @property
    def mount(self) -> Mount:
        assert self._mount is not None, "fresh() comes first"
        return self._mount

    @property
    def root(self) -> Path:
        """This subject's own folder, in its mount."""
        return self.mount.root / self.folder

    @property
    def listing(self) -> Path:
        """The folder that all subjects list, in this mount."""
        return self.mount.root / LISTING

    def fresh(self) -> None:
        """End the mount, make one that knows nothing but the store, and drop the page cache.

        A `memory:` store would end with its mount, so there only the page cache is dropped.
        """
        self._arm()
        if self._mount is not None and self.place.name == "memory":
            self.drop_caches()
            return
        first = self._mount is None
        self.end()
        self._mount = Mount(self.subject, self.place, self._base, self._number())
        self._mount.start()
        self.drop_caches()
        if first:
            self.root.mkdir()  # afterwards: a folder that no object is in yet, mountpoint-s3 forgets with it

    def restart(self) -> None:
        """End the mount and make it again with what it has remembered, and drop the page cache."""
        self._arm()
        before = self.mount
        self.end()
        self._mount = Mount(self.subject, self.place, self._base, self._number(), cache=before.cache)
        self._mount.start()
        self.drop_caches()

    def end(self) -> None:
        """Unmount; everything is in the store then."""
        if self._mount is not None:
            self.results.peak_bytes = max(self.results.peak_bytes, self._mount.peak_bytes())
            self._mount.end()

    def drop_caches(self, *files: Path) -> None:
        """Make the kernel forget what it can; without root's rights only the content of `files`."""
        drop_caches(*files)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._disarm()
        if self._mount is not None:
            self._mount.kill()

    def _arm(self) -> None:
        self._disarm()
        self._timer = threading.Timer(self.timeout_s, self._give_up)
        self._timer.daemon = True
        self._timer.start()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self.timed_out = True
        if self._mount is not None:
            self._mount.kill()

    # -- measuring --------------------------------------------------------------------------------

    def start(self, row: str) -> Clock:
        """Begin a row now."""
        self._arm()
        if self._profiler is not None:
            self._profiler.start(row, self.mount.pid)
        requests = self.mount.requests()
        return Clock(row, time.perf_counter(), self.mount.cpu_s(), requests)

    def record(self, clock: Clock, count: int | None = None, row: str | None = None) -> None:
        """End a row: the seconds since its start, or with `count` how many of it a second.

        With `row`, under that name, so that one start can have two ends.
        """
        elapsed_s = time.perf_counter() - clock.at
        cpu_s = self.mount.cpu_s() - clock.cpu_s
        sent = Counter(self.mount.requests()) - Counter(clock.requests)
        if self._profiler is not None:
            self._profiler.stop()
        value = elapsed_s if count is None else count / elapsed_s
        self.results.samples[row or clock.row] = Sample(value, cpu_s, dict(sent))

    def tool(self, *words: str | Path, cwd: Path | None = None, out: Path | None = None) -> None:
        """Run a tool to its end, its output to a local file. Raises Broken with what it said if it fails."""
        with open(out or os.devnull, "wb") as output:
            done = subprocess.run(
                [str(word) for word in words],
                cwd=cwd,
                env=os.environ | TOOL_ENV,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.PIPE,
                timeout=self.timeout_s + 30,
                check=False,
            )
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            name = " ".join(str(word) for word in words)[:80]
            raise Broken(f"{name}: exit {done.returncode}: {' | '.join(said[-2:])}")

    # -- checks -----------------------------------------------------------------------------------

    def check(self, holds: bool, what: str) -> None:
        """Raises Broken unless it holds."""
        if not holds:
            raise Broken(what)

    def wait_for_sizes(self, sizes: Mapping[str, int]) -> None:
        """Return when the store has objects of these sizes under these names in our folder."""
        self._wait(lambda: self._sizes_differ(sizes))

    def wait_for_contents(self, contents: Mapping[str, bytes]) -> None:
        """Return when the store has these objects in our folder, compared byte for byte."""
        self._wait(lambda: self._contents_differ(contents))

    def wait_for_nothing(self) -> None:
        """Return when the store has no object in our folder but markers of it."""
        self._wait(lambda: next((f"{key} is still there" for key in self._keys() if key), ""))

    def same_files(self, here: Path, there: Path, names: Sequence[str]) -> None:
        """Raises Broken unless these files are the same in both folders."""
        for name in names:
            if (here / name).read_bytes() != (there / name).read_bytes():
                raise Broken(f"{name} was read with other bytes than were written")

    def _wait(self, differs: Callable[[], str]) -> None:
        if self.place.truth is None:
            self.tool(self.subject.command[0], "-m", "mountstore", "sync", self.mount.root)
            return
        deadline = time.monotonic() + self.timeout_s
        while difference := differs():
            if not self.timed_out:
                self.mount.check_alive()
            if time.monotonic() > deadline or self.timed_out:
                raise Broken(f"after {self.timeout_s:.0f} s the store does not have it: {difference}")
            time.sleep(_POLL_S)

    def _keys(self) -> dict[str, int]:
        assert self.place.truth is not None
        prefix = f"{self.folder}/"
        return {
            info.key.removeprefix(prefix): info.size
            for page in self.place.truth.pages(prefix)
            for info in page.objects
        }

    def _sizes_differ(self, sizes: Mapping[str, int]) -> str:
        assert self.place.truth is not None
        found: Mapping[str, int] = {}
        if len(sizes) == 1:
            for name in sizes:
                with contextlib.suppress(StoreError):
                    found = {name: self.place.truth.head(f"{self.folder}/{name}").size}
        else:
            found = self._keys()
        return next(
            (f"{name} of {size} bytes" for name, size in sizes.items() if found.get(name) != size), ""
        )

    def _contents_differ(self, contents: Mapping[str, bytes]) -> str:
        assert self.place.truth is not None
        for name, data in contents.items():
            try:
                if self.place.truth.get(f"{self.folder}/{name}") != data:
                    return f"{name} has other bytes"
            except StoreError as error:
                return f"{name}: {error}"
        return ""
