"""The state directory of a mount: private to its owner, locked by one daemon, of one store.

It holds the index, the staged data and the log. What is in it and not yet in the store exists nowhere
else, so a directory that belongs to somebody else, is reached through a symlink, was written by a newer
version, or belongs to another store is refused rather than repaired.

    lock          flock(2), held while the daemon lives; names its pid and mount point
    state.json    the version of the layout, and which store this is the state of
    cache.json    where the last mount that had a cache on the disk kept it (see `localcache`)
    daemon.log    what the daemon has to say (see `serve`)
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mountstore.daemon.mounttab import FSTYPE, mount_at
from mountstore.errors import MountError

VERSION = 1
LOCK = "lock"
STATE = "state.json"
CACHE = "cache.json"
_OURS = frozenset({LOCK, STATE, CACHE, "daemon.log"})


class Damaged(MountError):
    """A state directory that does not say whose it is."""


def private_dir(path: Path) -> None:
    """Make `path` a directory of this user alone, with what parents it needs.

    Raises MountError if it is a symlink, no directory, or somebody else's.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink():
            raise MountError(f"{path} is a symlink; name the directory itself") from None
        raise MountError(f"cannot use {path}: {error.strerror}") from None
    try:
        found = os.fstat(fd)
        if found.st_uid != os.geteuid():
            raise MountError(f"{path} belongs to user {found.st_uid}, not to you ({os.geteuid()})")
        if stat.S_IMODE(found.st_mode) & 0o077:
            os.fchmod(fd, 0o700)
    finally:
        os.close(fd)


def default_state_dir(canonical_url: str, shown_url: str) -> Path:
    """Where the state of a store is kept unless told: a readable name and a hash of what it is.

    `$XDG_STATE_HOME/mountstore/NAME-HASH`, by default below `~/.local/state`.
    """
    return _state_home() / store_folder(canonical_url, shown_url)


def store_folder(canonical_url: str, shown_url: str) -> str:
    """The name of a folder for one store: readable, with a hash of what it is."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", shown_url).strip("-.")[:40] or "store"
    digest = hashlib.sha256(canonical_url.encode(errors="surrogatepass")).hexdigest()[:16]
    return f"{name}-{digest}"


def fresh_state_dir(shown_url: str) -> Path:
    """The path of a new state directory, for a store that ends with its daemon.

    Those that daemons left there by dying are removed: what they were the state of is gone.
    """
    name = re.sub(r"[^A-Za-z0-9.]+", "-", shown_url).strip("-.")[:40] or "store"
    home = _state_home()
    for old in home.glob(f"{name}-fresh-*"):
        with contextlib.suppress(MountError), StateDir.lock(old, "", store="", shown="", reuse=True) as state:
            state.remove()
    return home / f"{name}-fresh-{os.getpid()}-{time.time_ns():x}"


def _state_home() -> Path:
    import platformdirs

    return platformdirs.user_state_path("mountstore", appauthor=False)


@dataclass(frozen=True, slots=True)
class StateDir:
    """A state directory that this process holds the lock of."""

    path: Path
    lock_fd: int

    @staticmethod
    @contextlib.contextmanager
    def lock(
        path: Path, mountpoint: str, *, store: str, shown: str, reuse: bool = False, wait_s: float = 0.0
    ) -> Iterator[StateDir]:
        """Make the directory if need be, check it, and hold it until the block ends.

        `store` is the canonical URL of the store that it is the state of and `shown` how to name it to
        people. `reuse`: whatever it was the state of, it is to be emptied. While the daemon that holds
        it has nothing mounted any more, and so is about to end, this waits up to `wait_s` seconds.

        Raises MountError if it is held by another daemon, unsafe, newer, of another store, or no state
        directory at all; and if the disk is full.
        """
        if path.parent == _state_home():
            private_dir(path.parent)
        private_dir(path)
        try:
            if not (path / LOCK).exists() and not _OURS.issuperset(os.listdir(path)):
                raise MountError(f"{path} is not empty and not a state directory; name another")
            fd = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise MountError(f"state directory {path}: {error.strerror}") from None
        try:
            _acquire(fd, path, wait_s)
            state = StateDir(path, fd)
            try:
                state._identify(store, shown, reuse)
                os.ftruncate(fd, 0)
                os.pwrite(fd, json.dumps({"pid": os.getpid(), "mountpoint": mountpoint}).encode(), 0)
            except OSError as error:
                raise MountError(f"state directory {path}: {error.strerror}") from None
            yield state
        finally:
            os.close(fd)

    @staticmethod
    @contextlib.contextmanager
    def examine(path: Path) -> Iterator[StateDir]:
        """Hold a directory that is there, whatever is wrong in it, until the block ends; nothing is made.

        Raises MountError if it is held by a daemon, unsafe, or no state directory.
        """
        if path.is_symlink() or not path.is_dir():
            raise MountError(f"{path} is no directory; name a state directory or a store")
        private_dir(path)
        if not any((path / name).exists() for name in (LOCK, STATE, "index.sqlite")):
            raise MountError(f"{path} is no state directory; name one, or a store")
        try:
            fd = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise MountError(f"state directory {path}: {error.strerror}") from None
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid, mountpoint = _holder(fd)
                where = f" by pid {pid}, mounted at {mountpoint}; umount it first" if mountpoint else ""
                raise MountError(f"state directory {path} is in use{where}") from None
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps({"pid": os.getpid(), "mountpoint": ""}).encode(), 0)
            yield StateDir(path, fd)
        finally:
            os.close(fd)

    def store(self) -> tuple[str, str] | None:
        """(SHA-256 of the canonical URL, how to name it) of the store that this is the state of, if it says.

        Raises MountError if it was written by a newer version, or cannot be read.
        """
        known = _read_state(self.path)
        return known and (known[1], known[2])

    def claim(self, store: str, shown: str) -> None:
        """Make this the state of a store, whatever it said; a file that cannot be read is kept beside."""
        file = self.path / STATE
        if file.exists():
            file.rename(file.with_name(f"{STATE}.broken-{time.time_ns()}"))
        self._identify(store, shown, reuse=False)

    def note_cache(self, folder: Path) -> None:
        """Remember where the mount keeps its cache. Raises OSError."""
        file = self.path / CACHE
        with contextlib.suppress(Damaged):
            if self.cache() == folder:
                return
        temporary = self.path / f"{CACHE}.new"
        with open(temporary, "w", opener=lambda p, flags: os.open(p, flags, 0o600)) as out:
            out.write(json.dumps({"folder": os.fspath(folder)}))
        temporary.replace(file)

    def cache(self) -> Path | None:
        """Where the cache of the last mount that had one is, if there was one. Raises Damaged, OSError."""
        file = self.path / CACHE
        try:
            return Path(str(json.loads(file.read_text())["folder"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise Damaged(f"{file} is damaged; the next mount writes it anew") from None

    def remove(self) -> None:
        """Delete it with all that it holds."""
        shutil.rmtree(self.path, ignore_errors=True)

    def empty(self) -> None:
        """Delete all that it holds but the lock and the log."""
        for entry in self.path.iterdir():
            if entry.name in _OURS:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def _identify(self, store: str, shown: str, reuse: bool) -> None:
        file = self.path / STATE
        digest = hashlib.sha256(store.encode(errors="surrogatepass")).hexdigest()
        _, of, name = _read_state(self.path) or (VERSION, "", "")
        if reuse:
            return
        if of and of != digest:
            raise MountError(f"{self.path} is the state of another store ({name}); name another directory")
        if not of:
            text = json.dumps({"version": VERSION, "store_sha256": digest, "store": shown})
            temporary = self.path / f"{STATE}.new"
            with open(temporary, "w", opener=lambda p, flags: os.open(p, flags, 0o600)) as out:
                out.write(text)
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(file)


def _read_state(path: Path) -> tuple[int, str, str] | None:
    """(version, SHA-256 of the store's canonical URL, its name); None if nothing is told yet."""
    file = path / STATE
    try:
        known = json.loads(file.read_text())
        version, of, name = int(known["version"]), str(known["store_sha256"]), str(known["store"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise Damaged(
            f"{file} is damaged; mountstore fsck --repair STORE --state-dir {path} mends it"
        ) from None
    if version > VERSION:
        raise MountError(f"{path} was written by a newer mountstore (layout {version})")
    return version, of, name


def _acquire(fd: int, path: Path, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pid, mountpoint = _holder(fd)
            mounted = mount_at(mountpoint) if mountpoint else None
            ending = pid is not None and not (mounted and mounted.fstype == FSTYPE)
            if time.monotonic() < deadline and (ending or pid is None):
                time.sleep(0.05)
                continue
        if pid is None:
            raise MountError(f"state directory {path} is in use by another process")
        if not mountpoint:
            raise MountError(f"state directory {path} is being checked by pid {pid} (mountstore fsck)")
        if ending:
            raise MountError(
                f"state directory {path} is in use: pid {pid} is still finishing what was written at"
                f" {mountpoint} (mountstore status)"
            )
        raise MountError(
            f"state directory {path} is in use by pid {pid}, mounted at {mountpoint};"
            " --state-dir gives a second mount its own"
        )


def _holder(fd: int) -> tuple[int | None, str]:
    try:
        told = json.loads(os.pread(fd, 65536, 0))
        return int(told["pid"]), str(told["mountpoint"])
    except (ValueError, KeyError, TypeError, OSError):
        return None, ""
