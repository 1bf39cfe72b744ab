"""One mount, composed and run: state directory, store, vfs, FUSE, control socket, signals, drain.

The order matters. The state directory is locked before anything is read from it. The mount appears
after the store has answered. The parent hears that the mount works after a request has gone through the
kernel and back. When the mount is gone, however that came about, what is pending is still uploaded, and
only then does the daemon end. SIGTERM, SIGINT and SIGHUP drain and unmount; a second one stops waiting:
what is not in the store then stays in the journal, for the next mount.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import sqlite3
import threading
import time
from collections.abc import AsyncIterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyfuse3
import trio

from mountstore import registry
from mountstore.daemon import runtime
from mountstore.daemon.control import StatusDict
from mountstore.daemon.detach import Readiness
from mountstore.daemon.localcache import cached
from mountstore.daemon.logs import log_to_file, log_to_stderr
from mountstore.daemon.machine import (
    raise_file_limit,
    raise_read_ahead,
    return_large_memory,
    stderr_kept,
)
from mountstore.daemon.mounttab import Busy, holders, mount_at, unmount
from mountstore.daemon.request import MountRequest, check_apart, check_fuse, check_mountable, check_mountpoint
from mountstore.daemon.service import Service
from mountstore.daemon.statedir import StateDir, default_state_dir, fresh_state_dir
from mountstore.daemon.turns import take_turns
from mountstore.errors import MountError, MountstoreError
from mountstore.fuse import FuseOperations
from mountstore.store import ObjectStore
from mountstore.stores.caching import CachingStore
from mountstore.vfs.options import VfsOptions
from mountstore.vfs.vfs import Vfs
from mountstore.vfs.warming import Progress

log = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 15.0
_FIRST_ANSWER_S = 15.0
_LOCK_WAIT_S = 10.0
_HARD_STOP_S = 10.0
_SETTLE_S = 20.0
_BUSY_S = 3.0  # how long umount waits for those who use the mount
_BUSY_STEP_S = 0.2


def serve(request: MountRequest, readiness: Readiness, *, foreground: bool) -> int:
    """Mount, serve until unmounted, drain; return 0 if the store then has everything, else 1.

    Raises MountstoreError, with nothing mounted, if the mount cannot be made.
    """
    canonical = registry.canonical(request.url)
    scheme = registry.parse(canonical).scheme
    on_disk = registry.local_path(request.url)
    shown = registry.redact(canonical if on_disk else request.url)
    ends_with_us = scheme == "memory"
    check_fuse(allow_other=request.allow_other)
    check_mountpoint(request.mountpoint)
    path = request.state_dir or (
        fresh_state_dir(shown) if ends_with_us else default_state_dir(canonical, registry.redact(canonical))
    )
    check_apart(request.mountpoint, state_dir=path, store_path=None, tree=False)
    for place, is_tree in registry.places(request.url):
        check_apart(request.mountpoint, state_dir=path, store_path=place.resolve(), tree=is_tree)
    lock = StateDir.lock(path, request.mountpoint, store=canonical, shown=shown, wait_s=_LOCK_WAIT_S)
    with lock as state:
        if ends_with_us:
            # What an earlier daemon left was to go into a store that is no more.
            state.empty()
        try:
            log_file = request.log_file or path / "daemon.log"
            if foreground and request.log_file is None:
                log_to_stderr(request.log_level)
            else:
                log_to_file(log_file, request.log_level)
            faulthandler.enable()
            raise_file_limit()
            return_large_memory()
            record = runtime.RuntimeRecord(
                os.getpid(), time.time_ns(), request.mountpoint, shown, str(path), str(log_file)
            )
            apart = [Path(request.mountpoint), path.resolve()]
            apart += [place.resolve() for place, _ in registry.places(request.url)]
            identity = canonical, registry.redact(canonical)
            return trio.run(_run, Mount(request, readiness, state, record, identity, apart))
        except MountstoreError as error:
            log.error("%s", error)
            raise
        except BaseException as error:
            log.critical("the daemon failed", exc_info=error)
            raise _told(error) from error
        finally:
            if ends_with_us:
                state.remove()


async def _run(mount: Mount) -> int:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.heed, signals)
            code = await mount.run()
            nursery.cancel_scope.cancel()
    return code


class Mount:
    """A mount from its opening to its end; what the control socket asks of it is `service.Served`."""

    def __init__(
        self,
        request: MountRequest,
        readiness: Readiness,
        state: StateDir,
        record: runtime.RuntimeRecord,
        identity: tuple[str, str],
        apart: list[Path],
    ) -> None:
        self._identity = identity
        self._apart = apart
        self._cache: CachingStore | None = None
        self._request = request
        self._readiness = readiness
        self._state = state
        self._record = record
        self._vfs: Vfs | None = None
        self._keeps_metadata = True
        self._phase = "opening"
        self._stopping = False
        self._opening = trio.CancelScope()
        self._serving = trio.CancelScope()
        self._draining = trio.CancelScope()
        self._ended = trio.Event()

    # -- the control socket -------------------------------------------------------------------------

    def status(self, limit: int) -> StatusDict:
        """How things stand: the record, the phase, and `vfs.Status`, with `limit` of what is pending."""
        status = asdict(self._mounted_vfs.status())
        status["pending"] = status["pending"][:limit]
        cache = asdict(self._cache.stats) if self._cache is not None else None
        now_ns = time.time_ns()
        return {**asdict(self._record), "phase": self._phase, "now_ns": now_ns, **status, "cache": cache}

    async def file(self, ino: int) -> StatusDict:
        """How one file stands with the store: `vfs.FileState`, and the versions that the bucket keeps."""
        vfs = self._mounted_vfs
        return {**asdict(vfs.state_of(ino)), "versions": await vfs.versions(ino)}

    async def sync(self) -> None:
        """Return when the store has everything."""
        await self._mounted_vfs.drain()

    async def tier(self, command: str, paths: list[str], progress: Progress) -> StatusDict:
        """Do what the command of this name asks of the cache on the local disk."""
        cache = self._cache
        if cache is None:
            where = self._request.mountpoint
            raise MountError(f"{where} has no cache on the local disk (see mount --cache, and its log)")
        warming = self._mounted_vfs.warming(cache)
        if command == "pin":
            await warming.pin(paths)
        if command in ("warm", "pin"):
            await warming.warm(paths, progress)
        elif command == "unpin":
            await warming.unpin(paths)
        elif command == "clear-cache":
            await trio.to_thread.run_sync(cache.clear)
        pins = [{"path": pin.prefix, "size_bytes": pin.size_bytes} for pin in cache.pins]
        return {**asdict(progress), "pins": pins}

    async def umount(self, *, force: bool) -> None:
        """Drain, unmount, and drain what was written meanwhile. With `force`, stop without draining.

        Raises Busy, and stays mounted, while files are open.
        """
        if force:
            await self._stop()
        elif self._phase != "ending":
            try:
                await self._drain_and_unmount()
            except Busy:
                users = await trio.to_thread.run_sync(holders, self._request.mountpoint)
                by = f" by {', '.join(users[:5])}" if users else ""
                raise Busy(
                    f"{self._request.mountpoint} is in use{by} and stays mounted; the store has everything"
                    " written so far"
                ) from None
            finally:
                if self._phase in ("draining", "unmounting") and mount_at(self._request.mountpoint):
                    self._phase = "mounted"
        await self._ended.wait()

    # -- signals ------------------------------------------------------------------------------------

    async def heed(self, signals: AsyncIterable[int]) -> None:
        """Obey signals until cancelled."""
        first = True
        async with trio.open_nursery() as nursery:
            async for number in signals:
                log.info("%s", signal.Signals(number).name)
                if self._phase == "opening":
                    self._opening.cancel()
                elif first:
                    nursery.start_soon(self._leave)
                else:
                    nursery.start_soon(self._stop)
                first = False

    async def _leave(self) -> None:
        try:
            try:
                await self._drain_and_unmount()
            except Busy:
                log.warning("files are open; the mount goes away when the last is closed")
                await self._unmount_lazily()
        except MountError as error:
            log.error("%s", error)

    async def _drain_and_unmount(self) -> None:
        self._phase = "draining"
        self._tell_pending()
        await self._mounted_vfs.drain()
        self._phase = "unmounting"
        deadline = trio.current_time() + _BUSY_S
        while True:
            try:
                await trio.to_thread.run_sync(unmount, self._request.mountpoint)
                return
            except Busy:
                if trio.current_time() > deadline:
                    raise
            # Something that looks into every mount for a moment: sync(1), an indexer, a shell's prompt.
            await trio.sleep(_BUSY_STEP_S)

    async def _stop(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._phase = "stopping"
        log.warning("not waiting for the store any longer; what it does not have stays in the journal")
        # An upload under way may hang for minutes. The journal is made to survive this.
        timer = threading.Timer(_HARD_STOP_S, self._end_at_once)
        timer.daemon = True
        timer.start()
        try:
            await self._unmount_lazily()
        except MountError as error:
            log.error("%s", error)
        self._serving.cancel()
        self._draining.cancel()

    async def _unmount_lazily(self) -> None:
        await trio.to_thread.run_sync(lambda: unmount(self._request.mountpoint, lazy=True))

    def _end_at_once(self) -> None:
        log.error("ended while an upload was under way; it is in the journal")
        self._record.remove()
        os._exit(1)

    # -- life ---------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Everything from opening the store to closing it."""
        store = await self._open()
        self._keeps_metadata = store.capabilities.metadata
        if not store.capabilities.writable and not self._request.read_only:
            log.info("the store cannot be written to; the mount is read-only")
            self._request = replace(self._request, read_only=True)
        os.chdir("/")
        with contextlib.ExitStack() as held:
            try:
                caching = cached(store, self._request, self._state, *self._identity, self._apart)
                store = await trio.to_thread.run_sync(held.enter_context, caching)
                self._cache = store if isinstance(store, CachingStore) else None
                with _state_errors(self._state.path):
                    self._vfs = Vfs(store, self._state.path, self._options())
                try:
                    await self._mounted(self._vfs)
                finally:
                    left = self._vfs.status().pending_count
                    self._vfs.close()
            finally:
                with trio.move_on_after(5, shield=True):
                    await trio.to_thread.run_sync(store.close, abandon_on_cancel=True)
        if left:
            log.warning("ended; not in the store but in %s: changes %d", self._state.path, left)
        else:
            log.info("ended; the store has everything")
        return 1 if left else 0

    async def _open(self) -> ObjectStore:
        shown = self._record.url
        with self._opening, trio.move_on_after(OPEN_TIMEOUT_S) as waiting:
            try:
                return await trio.to_thread.run_sync(
                    _open_and_check, self._request.url, abandon_on_cancel=True
                )
            except MountstoreError:
                raise
            except (OSError, sqlite3.Error) as error:
                raise MountError(f"cannot open {shown}: {_reason(error)}") from error
        if waiting.cancelled_caught:
            raise MountError(
                f"{shown} did not answer within {OPEN_TIMEOUT_S:.0f} s; check its address and the network"
            )
        raise MountError("interrupted before the mount was made")

    def _options(self) -> VfsOptions:
        request = self._request
        names = ("uid", "gid", "umask", "ttl_s", "checkpoint_s", "upload_delay_s", "fsync", "attrs")
        given: dict[str, Any] = {name: getattr(request, name) for name in names}
        given = {name: value for name, value in given.items() if value is not None}
        return VfsOptions(
            read_only=request.read_only,
            given_file_mode=request.file_mode,
            given_dir_mode=request.dir_mode,
            xattr=request.xattr,
            acl=request.acl,
            dev=request.dev,
            atime=request.atime,
            **given,
        )

    async def _mounted(self, vfs: Vfs) -> None:
        check_mountpoint(self._request.mountpoint)
        operations = FuseOperations(vfs)
        take_turns()
        self._init_fuse(operations)
        self._phase = "mounted"
        gone = False
        try:
            sock = runtime.listen(self._record.socket_path)
            async with trio.open_nursery() as nursery:
                await nursery.start(vfs.run)
                operations.nursery = nursery
                service = Service(self, sock)
                nursery.start_soon(service.run)
                async with trio.open_nursery() as announcing:
                    announcing.start_soon(self._announce)
                    with self._serving:
                        await pyfuse3.main()
                        gone = True
                    announcing.cancel_scope.cancel()
                if not self._stopping:
                    self._phase = "ending"
                    self._tell_pending()
                    with self._draining:
                        await vfs.drain()
                self._ended.set()
                # The kernel may take seconds to forget a million names before umount(8) returns.
                await service.settle(_SETTLE_S)
                nursery.cancel_scope.cancel()
        finally:
            # Last, because vfs tells the kernel of changes as long as it runs.
            pyfuse3.close(unmount=not gone)
            self._record.remove()

    def _init_fuse(self, operations: FuseOperations) -> None:
        with stderr_kept() as said:
            try:
                pyfuse3.init(operations, self._request.mountpoint, self._fuse_options())
                return
            except RuntimeError as error:
                reason = str(error)
        lines = said[0].strip().splitlines() if said else []
        raise MountError(f"cannot mount on {self._request.mountpoint}: {lines[-1] if lines else reason}")

    def _fuse_options(self) -> set[str]:
        request = self._request
        # pyfuse3 passes options on as ASCII: what is not stands as in a URL.
        source = quote(self._record.url, safe="".join(map(chr, range(0x20, 0x7F))))
        source = source.replace("\\", "\\\\").replace(",", "\\,")
        options = {f"fsname={source}", "subtype=mountstore", "default_permissions", "nosuid"}
        options.add("dev" if request.dev else "nodev")
        flags = {"ro": request.read_only, "allow_other": request.allow_other, "noexec": request.noexec}
        return options | {name for name, wanted in flags.items() if wanted}

    async def _announce(self) -> None:
        mountpoint = self._request.mountpoint
        try:
            with trio.fail_after(_FIRST_ANSWER_S):
                found = await trio.to_thread.run_sync(os.stat, mountpoint, abandon_on_cancel=True)
        except (trio.TooSlowError, OSError) as error:
            raise MountError(f"the mount at {mountpoint} does not answer: {_reason(error)}") from error
        if os.geteuid() == 0:
            raise_read_ahead(found.st_dev)
        self._record.replace_dead()
        self._record.write()
        log.info("mounted %s at %s", self._record.url, mountpoint)
        notes = self._notes()
        for note in notes:
            log.warning("%s", note)
        self._readiness.ready(notes)

    def _notes(self) -> list[str]:
        """What this store cannot keep of what a mount takes: a line each."""
        if self._request.read_only or self._keeps_metadata:
            return []
        return [
            f"{self._record.url} keeps no metadata: modes, owners, times, hard links, extended attributes and"
            f" which files are symlinks, FIFOs, sockets or devices, are in {self._state.path} alone; a mount"
            " with another state directory shows defaults"
        ]

    def _tell_pending(self) -> None:
        status = self._mounted_vfs.status()
        if status.pending_count:
            log.info("%s; changes to go: %d", self._phase, status.pending_count)

    @property
    def _mounted_vfs(self) -> Vfs:
        assert self._vfs is not None, "asked before the mount was made"
        return self._vfs


def _open_and_check(url: str) -> ObjectStore:
    """The store, once it has answered: a wrong bucket or password must not wait for the first `ls`."""
    store = registry.open_store(url)
    try:
        check = getattr(store, "check", None)
        if check is not None:
            check()
        check_mountable(store)
        if check is None:
            store.list(limit=1)
    except BaseException:
        store.close()
        raise
    return store


@contextlib.contextmanager
def _state_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise MountError(f"state directory {path}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def _told(error: BaseException) -> MountstoreError:
    """What to show of an error, or of a group of them: one raised on purpose, if there is any."""
    if isinstance(error, BaseExceptionGroup):
        error = error.subgroup(MountstoreError) or error
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, MountstoreError):
        return error
    return MountError(f"the daemon failed: {type(error).__name__}: {' '.join(str(error).split())}")
