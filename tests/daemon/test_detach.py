"""Into the background: the parent hears that the work has begun, or why it has not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.mount.waiting import wait_until

START = """
import os, sys, time
from mountstore.daemon.detach import detach
from mountstore.errors import MountError, MountstoreError, UsageError
def work(readiness):
    {work}
try:
    print(detach(work))
except MountstoreError as error:
    print(type(error).__name__, error)
    sys.exit(1)
"""


def start(work: str) -> subprocess.CompletedProcess[str]:
    script = START.format(work=work.replace("\n", "\n    "))
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_parent_returns_once_the_work_is_ready_and_the_work_goes_on(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    reading, writing = os.pipe()
    script = START.format(work="readiness.ready()\n    return len(open(sys.argv[1]).read())")
    command = [sys.executable, "-c", script, str(gate)]
    done = subprocess.run(command, pass_fds=[writing], capture_output=True, text=True, timeout=60, check=True)
    pid = int(done.stdout)
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/fd/0") == os.devnull
    os.close(writing)
    with open(reading, "rb") as inherited:
        assert inherited.read() == b"", "the child has kept a file of its parent's"
    gate.write_text("")
    wait_until("the work has ended", lambda: _has_ended(pid))


def test_its_errors_are_the_parents() -> None:
    done = start('raise MountError("no such bucket")')
    assert (done.returncode, done.stdout, done.stderr) == (1, "MountError no such bucket\n", "")


def test_a_usage_error_stays_one() -> None:
    assert start('raise UsageError("no such option")').stdout == "UsageError no such option\n"


def test_a_surprise_is_told_in_one_line() -> None:
    done = start('raise RuntimeError("two\\nlines")')
    assert done.stdout == "MountError unexpected RuntimeError: two lines\n"
    assert done.stderr == ""


def test_a_child_that_dies_without_a_word_is_told_with_its_last_words() -> None:
    done = start("os.write(2, b'libfuse: nope')\nos.kill(os.getpid(), 9)")
    assert done.stdout.startswith("MountError the daemon was ended by SIGKILL")
    assert done.stdout.endswith(": libfuse: nope\n")


def test_a_child_that_exits_without_a_word_is_an_error() -> None:
    assert "ended with code 0 before the mount worked" in start("return 0").stdout


def test_interrupting_the_parent_ends_the_child(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    os.mkfifo(told)
    script = START.format(work='open(sys.argv[1], "w").write(str(os.getpid()))\n    time.sleep(600)')
    with subprocess.Popen(
        [sys.executable, "-c", script, str(told)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as parent:
        child = int(told.read_text())
        parent.send_signal(signal.SIGINT)
        parent.communicate(timeout=60)
    wait_until("the child has ended", lambda: _has_ended(child))


def _has_ended(pid: int) -> bool:
    """Gone, or only waiting for a parent that never asks (containers often have no init that does)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
