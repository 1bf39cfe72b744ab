"""An `rclone rcd` of one's own: started with the store, ended with it, spoken to over a Unix socket.

The socket lies in a folder that only this user can enter, so nobody else can reach what rclone reaches. What
keeps rclone running is a pipe from us: when we end, however that is, the shell that waits on it ends rclone.
(The kernel's death signal would do so when the thread ends that started it, not the process.)
"""

from __future__ import annotations

import collections
import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection

from mountstore.errors import StoreError, Unavailable, UsageError

COMMAND_VARIABLE = "MOUNTSTORE_RCLONE"
_START_S = 30.0
_KEEPER = """
exec 3<&0
"$@" </dev/null 3<&- &
child=$!
trap 'kill "$child" 2>/dev/null' EXIT
cat <&3 >/dev/null
"""


class RcloneProcess:
    """A running rclone. `folder` is its private one, with the socket in it. Raises UsageError, StoreError."""

    def __init__(self) -> None:
        program = os.environ.get(COMMAND_VARIABLE) or shutil.which("rclone")
        if not program:
            raise UsageError(
                f"there is no rclone; install it (rclone.org), or name the program in ${COMMAND_VARIABLE}"
            )
        self.folder = Path(tempfile.mkdtemp(prefix="mountstore-rclone-"))
        self._said: collections.deque[str] = collections.deque(maxlen=20)
        address = self.folder / "socket"
        words = [program, "rcd", "--rc-addr", f"unix://{address}", "--rc-no-auth", "--rc-serve"]
        words += ["--ask-password=false", "--stats", "0", "--log-level", "ERROR", "--use-json-log=false"]
        try:
            self._keeper = subprocess.Popen(
                ["/bin/sh", "-c", _KEEPER, "sh", *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            self._listener = threading.Thread(target=self._listen, name="rclone-messages", daemon=True)
            self._listener.start()
            self._wait(address)
        except BaseException:
            self.close()
            raise
        self.pool = UnixPool(str(address), maxsize=16, block=True)

    def _listen(self) -> None:
        assert self._keeper.stderr is not None
        with contextlib.suppress(OSError, ValueError):
            for line in self._keeper.stderr:
                self._said.append(line.decode(errors="replace").strip())

    def _wait(self, address: Path) -> None:
        deadline = time.monotonic() + _START_S
        while True:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(address))
                return
            if any("CRITICAL" in line or "Failed" in line or "not found" in line for line in self._said):
                raise StoreError(f"rclone does not start: {self._said[-1][:300]}")
            if time.monotonic() > deadline:
                raise Unavailable("rclone does not answer")
            time.sleep(0.01)

    def close(self) -> None:
        """End it, and remove its folder."""
        keeper = getattr(self, "_keeper", None)
        if keeper is not None:
            assert keeper.stdin is not None
            with contextlib.suppress(OSError):
                keeper.stdin.close()
            try:
                keeper.wait(timeout=10)
            except subprocess.TimeoutExpired:
                keeper.kill()
                keeper.wait()
            self._listener.join(timeout=5)
            if not self._listener.is_alive():
                assert keeper.stderr is not None
                keeper.stderr.close()
        if hasattr(self, "pool"):
            self.pool.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class _UnixConnection(HTTPConnection):
    address: str

    def _new_conn(self) -> Any:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(self.address)
        except OSError:
            sock.close()
            raise
        return sock


class UnixPool(HTTPConnectionPool):
    """Connections to an HTTP server at a Unix socket."""

    def __init__(self, address: str, **options: Any) -> None:
        super().__init__("localhost", **options)
        self.ConnectionCls = type("Connection", (_UnixConnection,), {"address": address})
