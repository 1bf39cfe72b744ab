"""Which daemons run, and for which mount points: a small file and a socket for each.

Both are in a directory of the user's own: `$MOUNTSTORE_RUNTIME_DIR`; else for root `/run/mountstore`;
else `mountstore` in `$XDG_RUNTIME_DIR` or `/run/user/UID`, or `run` in the state home. A daemon removes
its pair when it ends; those of one that was killed are recognised by nobody answering at the socket.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from mountstore.daemon.statedir import private_dir


@dataclass(frozen=True, slots=True)
class RuntimeRecord:
    """A daemon that runs, or that was killed. `url` is redacted."""

    pid: int
    started_ns: int
    mountpoint: str
    url: str
    state_dir: str
    log_file: str

    @property
    def name(self) -> str:
        return f"{_digest(self.mountpoint)}-{self.pid}"

    @property
    def socket_path(self) -> Path:
        return runtime_dir() / f"{self.name}.sock"

    def write(self) -> None:
        """Make this record findable; call when the socket answers."""
        directory = runtime_dir()
        temporary = directory / f"{self.name}.new"
        with open(temporary, "w", opener=lambda p, flags: os.open(p, flags, 0o600)) as out:
            json.dump(asdict(self), out)
        temporary.replace(directory / f"{self.name}.json")

    def replace_dead(self) -> None:
        """Take away the records of daemons of the same mount point that were killed."""
        for record in records(self.mountpoint):
            if record.pid == self.pid:
                continue
            sock = connect(record.socket_path)
            if sock is None:
                record.remove()
            else:
                sock.close()

    def remove(self) -> None:
        """Take it away, with its socket."""
        for suffix in (".json", ".sock"):
            with contextlib.suppress(FileNotFoundError):
                (runtime_dir() / f"{self.name}{suffix}").unlink()


def runtime_dir() -> Path:
    """The directory of records and sockets; made if need be, private."""
    directory = _runtime_path()
    private_dir(directory)
    return directory


def records(mountpoint: str | None = None) -> list[RuntimeRecord]:
    """Every record, or those of one absolute mount point; the latest daemon first."""
    if not _runtime_path().is_dir():
        return []
    found = []
    pattern = "*.json" if mountpoint is None else f"{_digest(mountpoint)}-*.json"
    for file in runtime_dir().glob(pattern):
        # A record may go away while they are read; one of another version's shape is not ours.
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
            record = RuntimeRecord(**json.loads(file.read_text()))
            if mountpoint is None or record.mountpoint == mountpoint:
                found.append(record)
    return sorted(found, key=lambda record: record.started_ns, reverse=True)


@contextlib.contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """An address of `path` that fits into sockaddr_un, whose limit is 107 bytes."""
    fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)


def listen(path: Path) -> socket.socket:
    """A listening unix socket at `path`, for its owner alone."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        with socket_address(path) as address:
            sock.bind(address)
            os.chmod(path, 0o600)
        sock.listen(16)
    except BaseException:
        sock.close()
        raise
    return sock


def connect(path: Path) -> socket.socket | None:
    """A connection to the daemon that listens at `path`, or None if none does any more."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(10)
        with socket_address(path) as address:
            sock.connect(address)
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    except BaseException:
        sock.close()
        raise
    return sock


def _digest(mountpoint: str) -> str:
    return hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:16]


def _runtime_path() -> Path:
    if told := os.environ.get("MOUNTSTORE_RUNTIME_DIR"):
        return Path(os.path.abspath(told))
    if os.geteuid() == 0:
        return Path("/run/mountstore")
    for base in (os.environ.get("XDG_RUNTIME_DIR"), f"/run/user/{os.geteuid()}"):
        if base and os.path.isdir(base) and os.stat(base).st_uid == os.geteuid():
            return Path(base) / "mountstore"
    import platformdirs

    return platformdirs.user_state_path("mountstore", appauthor=False) / "run"
