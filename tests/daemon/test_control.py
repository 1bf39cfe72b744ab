"""The control socket: one request a connection, progress, an end; for the daemon's own user only."""

from __future__ import annotations

import contextlib
import json
import socket
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from mountstore.daemon import control, runtime
from mountstore.daemon.control import Connection, StatusDict
from mountstore.daemon.mounttab import Busy
from mountstore.daemon.runtime import RuntimeRecord
from mountstore.daemon.service import REQUEST_LIMIT, Service
from mountstore.errors import MountError
from mountstore.vfs.warming import Progress


class Daemon:
    """Behind the socket: does what it is asked when `let` is set, or says that it is busy."""

    def __init__(self) -> None:
        self.let = trio.Event()
        self.busy = False
        self.asked: list[str] = []
        self.withdrawn = trio.Event()

    def status(self, limit: int) -> StatusDict:
        return {"pending_count": 0 if self.let.is_set() else 1, "pending": ["x"][:limit]}

    async def file(self, ino: int) -> StatusDict:
        return {"ino": ino}

    async def sync(self) -> None:
        self.asked.append("sync")
        try:
            await self.let.wait()
        except trio.Cancelled:
            self.withdrawn.set()
            raise

    async def tier(self, command: str, paths: list[str], progress: Progress) -> StatusDict:
        progress.files = len(paths)
        return {"command": command, "paths": paths}

    async def umount(self, *, force: bool) -> None:
        self.asked.append(f"umount {force}")
        if self.busy:
            raise Busy("files are open")
        if not force:
            await self.let.wait()


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RuntimeRecord:
    # Longer than an address of a unix socket may be.
    monkeypatch.setenv("MOUNTSTORE_RUNTIME_DIR", str(tmp_path / ("long" * 30)))
    return RuntimeRecord(1, time.time_ns(), "/mnt", "memory:", "/state", "/log")


@contextlib.asynccontextmanager
async def serving(daemon: Daemon, record: RuntimeRecord) -> AsyncIterator[Service]:
    async with trio.open_nursery() as nursery:
        service = Service(daemon, runtime.listen(record.socket_path))
        nursery.start_soon(service.run)
        record.write()
        yield service
        nursery.cancel_scope.cancel()


async def ask(command: str, *, force: bool = False) -> list[tuple[bool, StatusDict]]:
    def talk() -> list[tuple[bool, StatusDict]]:
        connection = control.reach("/mnt")
        assert connection is not None
        with connection:
            return list(connection.ask(command, force=force))

    with trio.fail_after(30):
        return await trio.to_thread.run_sync(talk)


async def raw(record: RuntimeRecord, data: bytes) -> bytes:
    def talk() -> bytes:
        sock = runtime.connect(record.socket_path)
        assert sock is not None
        with sock:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
            return sock.makefile("rb").readline()

    with trio.fail_after(30):
        return await trio.to_thread.run_sync(talk)


async def test_status_is_one_answer(record: RuntimeRecord) -> None:
    async with serving(Daemon(), record):
        assert await ask("status") == [(True, {"pending_count": 1, "pending": ["x"]})]


async def test_sync_tells_how_things_stand_until_it_is_done(record: RuntimeRecord) -> None:
    daemon = Daemon()
    async with serving(daemon, record):
        answers: list[tuple[bool, StatusDict]] = []

        async def wait() -> None:
            answers.extend(await ask("sync"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            with trio.fail_after(30):
                while not daemon.asked:
                    await trio.sleep(0.01)
            daemon.let.set()
    assert [done for done, _ in answers] == [False] * (len(answers) - 1) + [True]
    assert answers[-1][1]["pending_count"] == 0


async def test_a_client_that_goes_away_withdraws_its_request(record: RuntimeRecord) -> None:
    daemon = Daemon()
    async with serving(daemon, record):

        def give_up() -> None:
            connection = control.reach("/mnt")
            assert connection is not None
            with connection:
                assert next(connection.ask("sync"))[0] is False

        await trio.to_thread.run_sync(give_up)
        with trio.fail_after(30):
            await daemon.withdrawn.wait()
        daemon.let.set()
        assert (await ask("sync"))[-1][0] is True


async def test_busy_is_told_apart(record: RuntimeRecord) -> None:
    daemon = Daemon()
    daemon.busy = True
    async with serving(daemon, record):
        with pytest.raises(Busy, match="files are open"):
            await ask("umount")


async def test_force_is_handed_on(record: RuntimeRecord) -> None:
    daemon = Daemon()
    async with serving(daemon, record):
        assert (await ask("umount", force=True))[-1][0] is True
    assert daemon.asked == ["umount True"]


@pytest.mark.parametrize(
    ("request_line", "said"),
    [
        (b"not json\n", "cannot be read"),
        (b"[]\n", "no JSON object"),
        (b"x" * (REQUEST_LIMIT + 4096), "too long"),
        (b'{"version": 0, "command": "status"}\n', "another version"),
        (b'{"version": 1, "command": "reboot"}\n', "unknown command"),
        (b'{"version": 1, "command": {}}\n', "unknown command"),
    ],
)
async def test_nonsense_is_answered_and_changes_nothing(
    record: RuntimeRecord, request_line: bytes, said: str
) -> None:
    daemon = Daemon()
    async with serving(daemon, record):
        assert said in json.loads(await raw(record, request_line))["error"]
        assert (await ask("status"))[0][0] is True
    assert daemon.asked == []


async def test_a_connection_without_a_request_is_closed(record: RuntimeRecord) -> None:
    async with serving(Daemon(), record):
        assert await raw(record, b"") == b""
        assert (await ask("status"))[0][0] is True


async def test_the_socket_is_its_owners_alone(record: RuntimeRecord) -> None:
    async with serving(Daemon(), record):
        assert stat.S_IMODE(record.socket_path.stat().st_mode) == 0o600
        assert stat.S_IMODE(record.socket_path.parent.stat().st_mode) == 0o700


async def test_a_daemon_that_ends_in_the_middle_is_an_error(record: RuntimeRecord) -> None:
    def talk(connection: Connection) -> None:
        with connection, pytest.raises(MountError, match="ended before it was done"):
            list(connection.ask("sync"))

    daemon = Daemon()
    async with trio.open_nursery() as nursery, serving(daemon, record):
        connection = control.reach("/mnt")
        assert connection is not None
        nursery.start_soon(trio.to_thread.run_sync, talk, connection)
        with trio.fail_after(30):
            while not daemon.asked:
                await trio.sleep(0.01)


def test_a_killed_daemon_is_not_reached_and_forgotten_once_its_mount_is_gone(record: RuntimeRecord) -> None:
    runtime.listen(record.socket_path).close()
    record.write()
    assert runtime.records("/mnt") == [record]
    assert control.reach("/mnt") is None
    assert control.running() == []
    assert runtime.records() == []


def test_the_latest_daemon_of_a_mount_point_comes_first(record: RuntimeRecord) -> None:
    later = RuntimeRecord(2, record.started_ns + 1, "/mnt", "memory:", "/state2", "/log2")
    elsewhere = RuntimeRecord(3, record.started_ns + 2, "/other", "memory:", "/state3", "/log3")
    for each in (later, record, elsewhere):
        each.write()
    assert runtime.records("/mnt") == [later, record]
    assert runtime.records() == [elsewhere, later, record]
