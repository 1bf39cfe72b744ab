"""PostgreSQL on a mount whose fsync is that of the local disk: what it committed outlives SIGKILL.

Then the mount dies with it, and goes on from its journal; and when all is in the store, a mount of the store
alone holds the same data base.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mount.cases import LASTING, LONG, make_case
from tests.mount.mounting import Mounts
from tests.mount.waiting import wait_until

pytestmark = pytest.mark.timeout(1200)

USER = "postgres"
SCALE = 2
SECONDS = 20 if LONG else 5
COMMAND_LIMIT_S = 300.0
BALANCES = """
select (select count(*) from pgbench_history),
       (select sum(delta) from pgbench_history) = (select sum(abalance) from pgbench_accounts),
       (select sum(delta) from pgbench_history) = (select sum(tbalance) from pgbench_tellers),
       (select sum(delta) from pgbench_history) = (select sum(bbalance) from pgbench_branches)
"""


def programs() -> Path:
    """Where Debian keeps the programs of the newest PostgreSQL that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    assert found, "this test needs PostgreSQL: install the package postgresql"
    return found[-1]


@dataclass
class Server:
    """A data base in `data`, reached through a socket in `sockets`."""

    data: Path
    sockets: Path
    process: subprocess.Popen[bytes] | None = None

    def run(self, name: str, *words: str | Path, check: bool = True) -> str:
        """Run one of PostgreSQL's programs as its user; what it printed, errors included."""
        done = subprocess.run(
            self._words(name, *words),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
        assert not check or done.returncode == 0, f"{name}: exit {done.returncode}\n{done.stdout[-3000:]}"
        return done.stdout

    def _words(self, name: str, *words: str | Path) -> list[str]:
        account = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups"]
        return [*account, str(programs() / name), *map(str, words)]

    def client(self, name: str, *words: str, check: bool = True) -> str:
        """Run a client of this server on its only data base."""
        return self.run(name, "-h", self.sockets, "-U", USER, *words, check=check)

    def ask(self, query: str) -> list[str]:
        """The columns of the one row that answers."""
        return self.client("psql", "-XAtc", query, "postgres").strip().split("|")

    def start(self) -> None:
        """Return when it accepts connections, recovery included."""
        words = self._words("postgres", "-D", self.data, "-k", self.sockets, "-h", "")
        with open(self.sockets / "log", "ab") as log:
            self.process = subprocess.Popen(words, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log)

        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, (self.sockets / "log").read_text()[-3000:]
            return "accepting connections" in self.client("pg_isready", check=False)

        wait_until("PostgreSQL accepts connections", ready, timeout_s=180)

    def stop(self) -> None:
        """A shutdown with a checkpoint."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=180)
        self.process = None

    def kill(self) -> None:
        """SIGKILL of all its processes."""
        if self.process is None:
            return
        pids = [self.process.pid, *_children(self.process.pid)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(timeout=60)
        self.process = None
        wait_until("its processes are gone", lambda: not any(map(_lives, pids)), timeout_s=60)


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    """Servers that are entered here are killed before the mounts of the test are taken away."""
    made: list[Server] = []
    yield made
    for server in made:
        server.kill()


@pytest.mark.parametrize("kind", LASTING if LONG else ["versitygw"])
def test_what_postgresql_committed_survives(
    kind: str, request: pytest.FixtureRequest, base: Path, mounts: Mounts, servers: list[Server]
) -> None:
    case = make_case(kind, request, base)
    options = ["--fsync", "local", "--allow-other"]
    account = pwd.getpwnam(USER)
    base.chmod(0o755)
    sockets = base / "sockets"
    sockets.mkdir()
    mount = mounts(case, *options)
    data = mount.root / "data"
    for folder in (sockets, data):
        folder.mkdir(mode=0o700, exist_ok=True)
        os.chown(folder, account.pw_uid, account.pw_gid)
    server = Server(data, sockets)
    servers.append(server)
    server.run("initdb", "-D", data, "-A", "trust", "--data-checksums")
    server.start()
    server.client("pgbench", "-i", "-q", "-s", str(SCALE), "postgres")

    load = subprocess.Popen(
        server._words("pgbench", "-h", sockets, "-U", USER, "-c", "2", "-T", "600", "postgres"),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            load.wait(timeout=SECONDS)  # how long the load runs, not what is waited for
        assert load.poll() is None, load.communicate()[0]
        server.kill()
        said = load.communicate(timeout=60)[0]
    finally:
        load.kill()
        load.wait()
    found = re.search(r"transactions actually processed: (\d+)", said)
    assert found, said
    committed = int(found[1])
    assert committed > 0, said

    server.start()
    count, *balanced = server.ask(BALANCES)
    assert balanced == ["t", "t", "t"]
    assert committed <= int(count) <= committed + 2, "each client had one at work"
    server.client("pg_amcheck", "-a", "--heapallindexed", "--install-missing")

    # Both die: the mount goes on from its journal, and then PostgreSQL from its own.
    server.client("pgbench", "-n", "-c", "2", "-t", "20", "postgres")
    server.kill()
    mount.kill()
    mount.start()
    server.start()
    assert server.ask(BALANCES) == [str(int(count) + 40), "t", "t", "t"]
    server.stop()
    mount.umount()

    mount = mounts(case, *options, name="fresh")
    server = Server(mount.root / "data", sockets)
    servers.append(server)
    assert "Bad checksums:  0" in server.run("pg_checksums", "--check", "-D", server.data)
    server.start()
    assert server.ask(BALANCES) == [str(int(count) + 40), "t", "t", "t"]
    server.stop()
    mount.umount()
