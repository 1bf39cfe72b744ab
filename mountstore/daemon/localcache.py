"""The cache of a mount on the local disk: where it lies, how large it is, and that it is of one daemon.

Below the cache home, or the folder given, each store has a folder of its own, by the same name as its
state directory:

    lock      flock(2), held while the daemon lives; says how much the cache may hold
    blocks/   a `FilesystemStore`, see `stores.pool`

Whatever is in it may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from mountstore.backends.filesystem import FilesystemStore
from mountstore.daemon.request import MountRequest
from mountstore.daemon.statedir import StateDir, private_dir, store_folder
from mountstore.errors import MountError, StoreError
from mountstore.store import ObjectStore
from mountstore.stores.caching import CachingStore

log = logging.getLogger(__name__)

MOST_BYTES = 10 << 30
LEAST_BYTES = 64 << 20
_SHARE = 10  # of what is free on its disk, the cache takes one part in so many
_WRITERS = 2


@contextlib.contextmanager
def cached(
    store: ObjectStore,
    request: MountRequest,
    state: StateDir,
    canonical: str,
    shown: str,
    apart: list[Path],
) -> Iterator[ObjectStore]:
    """The store behind its cache, if it is to have one; it is closed by the caller. `state` remembers where.

    `apart` are folders that the cache must be neither in nor around. Raises MountError if a folder was named
    that cannot be used; without one, the mount goes on without a cache, and the log says why.
    """
    if not request.cache or (request.cache_dir is None and not _pays(store)):
        yield store
        return
    with contextlib.ExitStack() as held:
        try:
            folder = cache_folder(request.cache_dir, canonical, shown)
            _check_apart(folder, apart)
            wrapped = held.enter_context(_opened(store, folder, request.cache_size))
        except (MountError, StoreError, OSError) as error:
            if request.cache_dir is not None:
                raise MountError(f"the cache: {error}") from error
            log.warning("no cache on the disk: %s", error)
            wrapped = None
        if wrapped is not None:
            try:
                state.note_cache(Path(os.path.abspath(folder)))
            except OSError as error:
                log.warning("fsck has to be told of the cache (--cache): %s", error)
        yield store if wrapped is None else wrapped


def cache_folder(cache_dir: Path | None, canonical: str, shown: str) -> Path:
    """Where the cache of a store lies, below the folder that was named or the user's cache home."""
    return (cache_dir or _cache_home()) / store_folder(canonical, shown)


def _tell_bound(lock: int, capacity: int) -> None:
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, json.dumps({"capacity_bytes": capacity}).encode(), 0)
    except OSError as error:
        log.info("the bound of the cache is not written down, and fsck will not know it: %s", error)


@contextlib.contextmanager
def examined(folder: Path) -> Iterator[tuple[Path, int | None]]:
    """Hold a cache that is there until the block ends: (the folder of its blocks, its bound if it is known).

    Raises MountError if a mount uses it, or it is unsafe.
    """
    with _locked(folder) as lock:
        if lock is None:
            raise MountError(f"{folder} is in use by a mount; umount it first")
        yield folder / "blocks", _told_bound(lock)


def _told_bound(lock: int) -> int | None:
    try:
        return int(json.loads(os.pread(lock, 4096, 0))["capacity_bytes"])
    except (ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[int | None]:
    """Its lock, held until the block ends; None where another daemon has it."""
    private_dir(folder)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield lock
    finally:
        os.close(lock)


def _pays(store: ObjectStore) -> bool:
    """A store that is near is as fast; of one without conditions the etags need not tell versions apart."""
    able = store.capabilities
    return not able.local and able.conditional_get


@contextlib.contextmanager
def _opened(store: ObjectStore, folder: Path, size: int | None) -> Iterator[CachingStore | None]:
    private_dir(folder.parent)
    with _locked(folder) as lock:
        if lock is None:
            log.warning("no cache on the disk: %s is in use by another mount of this store", folder)
            yield None
            return
        private_dir(folder / "blocks")
        capacity = size if size is not None else sane_size(folder)
        if capacity < LEAST_BYTES and size is None:
            log.warning("no cache on the disk: %s has too little room; --cache-size sets a bound", folder)
            yield None
            return
        cache = FilesystemStore(folder / "blocks", durable=False)
        wrapped = CachingStore(store, cache, capacity_bytes=capacity, writers=_WRITERS)
        # Only now: what an earlier bound allowed has made room, and nothing new has come yet.
        _tell_bound(lock, capacity)
        log.info("the cache is %s, of up to %d MiB", folder, capacity >> 20)
        yield wrapped


def sane_size(folder: Path) -> int:
    """A tenth of what is free on the disk, the cache itself not counted, and at most 10 GiB."""
    disk = os.statvfs(folder)
    held = 0
    with os.scandir(folder / "blocks") as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                held += entry.stat(follow_symlinks=False).st_size
    return min((disk.f_bavail * disk.f_frsize + held) // _SHARE, MOST_BYTES)


def _cache_home() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("mountstore", appauthor=False)


def _check_apart(folder: Path, apart: list[Path]) -> None:
    real = Path(os.path.realpath(folder))
    for other in apart:
        if real.is_relative_to(other) or other.is_relative_to(real):
            raise MountError(f"{real} and {other} lie in each other; name another folder with --cache")
