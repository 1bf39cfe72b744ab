"""Into the background, with the parent waiting to hear that the work has begun well.

The fork comes before anything that starts threads is imported. The child reports over a pipe: one line
that it is ready, or one that says why not. What libraries write to stderr meanwhile is kept, and shown
only if the child dies without a word.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from mountstore.errors import MountError, MountstoreError, UsageError


class Readiness:
    """Where work in the background says, once, that it has begun. In the foreground nobody waits."""

    def __init__(self, fd: int | None = None) -> None:
        self._fd = fd

    def ready(self, notes: Sequence[str] = ()) -> None:
        """The parent may go, after it has told these lines."""
        self._send({"ready": True, "notes": [*notes]})

    def failed(self, message: str, *, usage: bool = False) -> None:
        """The parent shows the message and fails. Nothing happens once ready was said."""
        self._send({"error": message, "usage": usage})

    def _send(self, message: dict[str, object]) -> None:
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        # A parent that was killed meanwhile is no reason to end a mount that works.
        with contextlib.suppress(BrokenPipeError), open(fd, "w") as pipe:
            pipe.write(json.dumps(message) + "\n")


def detach(work: Callable[[Readiness], int], tell: Callable[[str], object] = print) -> int:
    """Run `work` in a new session in the background; return its pid once it has said `ready`.

    `tell` is called with each line that it said with that. Raises MountError or UsageError with the message
    of a child that failed before. An interrupt ends the child too. The child's stdin and stdout are /dev/null
    and it has no other files of its parent's; `work` decides what becomes of its stderr.
    """
    reading, writing = os.pipe()
    said = os.memfd_create("stderr")
    sys.stdout.flush()
    sys.stderr.flush()
    # An interrupt between the fork and the `try` would leave the child behind.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _child(work, writing, said)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(writing)
        with open(reading) as pipe:
            line = pipe.readline()
        if not line:
            _, status = os.waitpid(pid, 0)
            raise MountError(_ended(status, said))
        message = json.loads(line)
        if "error" in message:
            os.waitpid(pid, 0)
            raise (UsageError if message["usage"] else MountError)(str(message["error"]))
        for note in message["notes"]:
            tell(note)
        return pid
    except KeyboardInterrupt:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(said)


def _child(work: Callable[[Readiness], int], report: int, said: int) -> NoReturn:
    code, readiness = 1, Readiness(report)
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for fd, target in ((null, 0), (null, 1), (said, 2)):
            os.dup2(fd, target)
        # A pipe or a lock of the caller's, kept open, would make others wait for the daemon's end.
        os.closerange(3, report)
        os.closerange(report + 1, os.sysconf("SC_OPEN_MAX"))
        code = work(readiness)
    except MountstoreError as error:
        readiness.failed(str(error), usage=isinstance(error, UsageError))
    except BaseException as error:
        traceback.print_exc()
        readiness.failed(f"unexpected {type(error).__name__}: {' '.join(str(error).split())}")
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        # Not sys.exit: the caller's frames, buffers and exit handlers are the parent's.
        os._exit(code)


def _ended(status: int, said: int) -> str:
    os.lseek(said, 0, os.SEEK_SET)
    lines = os.read(said, 1 << 20).decode(errors="replace").strip().splitlines()
    if os.WIFSIGNALED(status):
        how = f"was ended by {signal.Signals(os.WTERMSIG(status)).name}"
    else:
        how = f"ended with code {os.waitstatus_to_exitcode(status)}"
    return f"the daemon {how} before the mount worked" + (f": {lines[-1]}" if lines else "")
