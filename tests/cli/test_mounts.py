"""mount, umount, sync, status and mount.mountstore: the real commands, on real mounts."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.mount.mounting import command, environment, mounted_at, need_fuse, temporary_base
from tests.mount.waiting import wait_until
from tests.servers import S3Server


class Place:
    """A folder with a home, an empty mount point, and the commands that know no other home."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.mnt = base / "mnt"
        self.mnt.mkdir()
        (base / "home").mkdir()
        self.env = environment({}, base / "home")
        self.seen: set[int] = set()

    def run(
        self, *arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A command that has to succeed."""
        with contextlib.chdir(cwd or self.base):
            done = command(*arguments, env=self.env | dict(env or {}))
        self.seen |= self.pids()
        return done

    def fails(self, *arguments: str | Path, env: Mapping[str, str] | None = None, code: int = 1) -> str:
        """The one line on stderr of a command that has to fail."""
        with contextlib.chdir(self.base):
            done = command(*arguments, env=self.env | dict(env or {}), check=False)
        self.seen |= self.pids()
        assert done.returncode == code, done.stderr
        last = done.stderr.splitlines()[-1]
        assert last.startswith("mountstore: ")
        assert "Traceback" not in done.stderr
        return last

    def refuses(self, *arguments: str | Path, env: Mapping[str, str] | None = None, code: int = 1) -> str:
        """The one and only line of a mount that has to fail; nothing is mounted or left running."""
        line = self.fails("mount", *arguments, env=env, code=code)
        assert not [
            row for row in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.base) in row
        ]
        assert not self.pids()
        return line

    def status(self) -> dict[str, Any]:
        answer = json.loads(self.run("status", "--json", self.mnt).stdout)
        assert isinstance(answer, dict)
        return answer

    def pids(self) -> set[int]:
        """The daemons that have a record here."""
        found = set()
        for file in (self.base / "home" / "run").glob("*.json"):
            with contextlib.suppress(FileNotFoundError):
                found.add(int(json.loads(file.read_text())["pid"]))
        return found

    def mount(self, store: str | Path, *options: str | Path, env: Mapping[str, str] | None = None) -> int:
        """Mount at `mnt`; the pid of the daemon."""
        self.run("mount", *options, str(store), self.mnt, env=env)
        return int(self.status()["pid"])


def has_ended(pid: int) -> bool:
    """Gone, or only waiting for a parent that never asks."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_for_end(pid: int) -> None:
    wait_until(f"daemon {pid} has ended", lambda: has_ended(pid))


@pytest.fixture
def place() -> Iterator[Place]:
    need_fuse()
    with temporary_base() as base:
        place = Place(base)
        try:
            yield place
        finally:
            for pid in place.seen | place.pids():
                if not has_ended(pid) and b"mountstore" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
                    wait_for_end(pid)


@pytest.fixture
def gateway() -> Iterator[S3Server]:
    """A server of this test's own, to be paused."""
    with servers.versitygw() as server:
        yield server
        server.resume()


# -- life -----------------------------------------------------------------------------------------


def test_the_default_store_is_mounted_at_a_directory_and_leaves_nothing_behind(place: Place) -> None:
    place.run("mount", place.mnt)
    (place.mnt / "hello").write_text("world")
    pid = place.status()["pid"]
    done = place.run("umount", place.mnt)
    assert done.stdout == ""
    assert mounted_at(place.mnt) is None
    assert has_ended(pid)
    assert not list((place.base / "home" / "run").iterdir())
    assert place.run("cat", "sqlite:#hello").stdout == "world"


def test_the_mount_is_its_owners_alone(place: Place) -> None:
    place.mount("sqlite:x.sqlite")
    entry = mounted_at(place.mnt)
    assert entry is not None
    flags, fstype, source, options = entry.split(" ")
    assert {"nosuid", "nodev", "rw"} <= set(flags.split(","))
    assert (fstype, source) == ("fuse.mountstore", f"sqlite://{place.base}/x.sqlite")
    assert "default_permissions" in options
    assert "allow_other" not in options
    home = place.base / "home"
    for private in (home / "run", home / ".local/state/mountstore", Path(place.status()["state_dir"])):
        assert stat.S_IMODE(private.stat().st_mode) == 0o700


def test_options_reach_the_mount(place: Place) -> None:
    place.mount("sqlite:x.sqlite", "-o", "allow_other,umask=077,noexec,uid=1,_netdev", "--uid", "12")
    entry = mounted_at(place.mnt)
    assert entry is not None
    assert "allow_other" in entry
    assert "noexec" in entry
    assert place.mnt.stat().st_uid == 12
    assert stat.S_IMODE(place.mnt.stat().st_mode) == 0o700


def test_read_only(place: Place) -> None:
    place.mount("sqlite:x.sqlite", "--read-only")
    with pytest.raises(OSError, match="Read-only") as error:
        (place.mnt / "new").write_text("x")
    assert error.value.errno == errno.EROFS


def test_the_state_of_a_memory_store_goes_with_it(place: Place) -> None:
    place.mount("memory:")
    (place.mnt / "file").write_text("x")
    state = Path(place.status()["state_dir"])
    assert state.is_dir()
    place.run("umount", place.mnt)
    assert not state.exists()


def test_the_daemon_holds_on_to_nothing_of_its_callers(place: Place) -> None:
    pid = place.mount("sqlite:x.sqlite")
    links = Path(f"/proc/{pid}")
    assert os.readlink(links / "cwd") == "/"
    assert os.readlink(links / "fd/0") == os.devnull
    assert os.readlink(links / "fd/1") == os.devnull
    assert os.readlink(links / "fd/2") == place.status()["log_file"]
    assert os.getsid(pid) == pid


def test_in_the_foreground_it_ends_by_an_interrupt(place: Place) -> None:
    words = [sys.executable, "-m", "mountstore", "mount", "--foreground", "sqlite:x.sqlite", str(place.mnt)]
    with subprocess.Popen(words, env=place.env, cwd=place.base, stderr=subprocess.PIPE, text=True) as daemon:
        try:
            wait_until("it is mounted", lambda: daemon.pid in place.pids())
            (place.mnt / "file").write_text("x")
            daemon.send_signal(signal.SIGINT)
            _, said = daemon.communicate(timeout=60)
        finally:
            daemon.kill()
    assert daemon.returncode == 0, said
    assert "the store has everything" in said
    assert mounted_at(place.mnt) is None
    assert place.run("cat", "sqlite:x.sqlite#file").stdout == "x"


@pytest.mark.parametrize("how", ["TERM", "fusermount3"])
def test_however_it_ends_the_store_has_everything(place: Place, how: str) -> None:
    pid = place.mount("sqlite:x.sqlite")
    (place.mnt / "file").write_text("x" * 100_000)
    if how == "TERM":
        os.kill(pid, signal.SIGTERM)
    else:
        subprocess.run(["fusermount3", "-u", place.mnt], check=True, timeout=60)
    wait_for_end(pid)
    assert mounted_at(place.mnt) is None
    assert len(place.run("cat", "sqlite:x.sqlite#file").stdout) == 100_000


def test_sigterm_with_a_file_open_keeps_serving_it(place: Place) -> None:
    pid = place.mount("sqlite:x.sqlite")
    with open(place.mnt / "file", "w") as file:
        file.write("before ")
        os.kill(pid, signal.SIGTERM)
        wait_until("the mount is out of sight", lambda: mounted_at(place.mnt) is None)
        assert not has_ended(pid)
        file.write("after")
    wait_for_end(pid)
    assert place.run("cat", "sqlite:x.sqlite#file").stdout == "before after"


# -- umount, sync, status -------------------------------------------------------------------------


def test_umount_while_a_file_is_open_says_so_and_stays_mounted(place: Place) -> None:
    place.mount("sqlite:x.sqlite")
    with open(place.mnt / "file", "w") as file:
        file.write("x")
        line = place.fails("umount", place.mnt)
        assert f"in use by python (pid {os.getpid()})" in re.sub(r"by \S+ \(", "by python (", line)
        assert mounted_at(place.mnt)
        assert place.status()["phase"] == "mounted"
    place.run("umount", place.mnt)
    assert place.run("cat", "sqlite:x.sqlite#file").stdout == "x"


def test_a_mount_point_may_be_given_relative_or_through_a_symlink(place: Place) -> None:
    (place.base / "link").symlink_to("mnt")
    place.run("mount", "sqlite:x.sqlite", "link")
    assert mounted_at(place.mnt)
    assert "mounted" in place.run("status", "link").stdout
    place.run("sync", ".", cwd=place.mnt)
    place.run("umount", "mnt/../link/")
    assert mounted_at(place.mnt) is None


def test_sync_returns_when_the_store_has_everything(place: Place) -> None:
    place.mount("sqlite:x.sqlite")
    for number in range(20):
        (place.mnt / f"file-{number}").write_text("x")
    place.run("sync", place.mnt)
    assert len(place.run("ls", "sqlite:x.sqlite").stdout.splitlines()) == 20
    assert place.status()["pending_count"] == 0


def test_status_lists_all_mounts(place: Place) -> None:
    assert place.run("status").stdout == "nothing is mounted\n"
    (place.base / "other").mkdir()
    place.run("mount", "memory:", "other")
    place.mount("sqlite:x.sqlite")
    told = json.loads(place.run("status", "--json").stdout)
    assert {each["mountpoint"] for each in told} == {str(place.mnt), str(place.base / "other")}
    assert "the store has everything" in place.run("status").stdout
    place.run("umount", "other")
    place.run("umount", place.mnt)


def test_a_store_that_does_not_answer_is_waited_for_and_nothing_is_lost(
    place: Place, gateway: S3Server
) -> None:
    url = f"s3://{gateway.new_bucket()}/prefix"
    name = "a\u202eb"
    pid = place.mount(url, "--ttl", "600", env=gateway.env())
    assert list(place.mnt.iterdir()) == []
    gateway.pause()
    (place.mnt / name).write_text("precious")

    line = place.fails("sync", "--timeout", "1", place.mnt)
    assert "1 change" in line
    assert "not in the store but in the journal" in line
    with contextlib.chdir(place.base):
        told = command("status", place.mnt, env=place.env).stdout
    assert r"a\u202eb" in told
    assert name not in told
    assert "stays mounted" in place.fails("umount", "--timeout", "1", place.mnt)
    assert (place.mnt / name).read_text() == "precious"
    line = place.fails("umount", "--timeout", "1", "--force", place.mnt)
    assert "is unmounted: 1 change" in line
    assert mounted_at(place.mnt) is None
    wait_for_end(pid)

    gateway.resume()
    place.mount(url, env=gateway.env())
    place.run("sync", place.mnt)
    found = gateway.client().get_object(Bucket=url.split("/")[2], Key=f"prefix/{name}")
    assert found["Body"].read() == b"precious"


def test_secrets_appear_nowhere(place: Place, gateway: S3Server) -> None:
    url = f"s3://{gateway.new_bucket()}"
    place.mount(url, "--verbose", env=gateway.env())
    (place.mnt / "file").write_text("x")
    place.run("sync", place.mnt)
    status = place.status()
    shown = [
        json.dumps(status),
        Path(f"/proc/{status['pid']}/cmdline").read_text(),
        str(mounted_at(place.mnt)),
    ]
    shown += [file.read_text() for file in (place.base / "home" / "run").glob("*.json")]
    shown += [file.read_text(errors="replace") for file in Path(status["state_dir"]).glob("*.log*")]
    assert gateway.secret_key not in "\n".join(shown)


# -- a daemon that died ---------------------------------------------------------------------------


def test_a_dead_daemon_is_told_and_cleaned_up_after(place: Place) -> None:
    pid = place.mount("sqlite:x.sqlite")
    os.kill(pid, signal.SIGKILL)
    wait_for_end(pid)
    assert "the daemon has died" in place.fails("status", place.mnt)
    assert "the daemon has died" in place.fails("sync", place.mnt)
    listed = command("status", env=place.env, check=False)
    assert listed.returncode == 1
    assert "has died" in listed.stdout
    assert "the next mount" in place.run("umount", place.mnt).stderr
    assert mounted_at(place.mnt) is None
    assert place.run("status").stdout == "nothing is mounted\n"


def test_mounting_over_a_dead_mount_goes_on_with_it(place: Place) -> None:
    pid = place.mount("sqlite:x.sqlite")
    (place.mnt / "file").write_text("x")
    os.kill(pid, signal.SIGKILL)
    wait_for_end(pid)
    place.mount("sqlite:x.sqlite")
    assert (place.mnt / "file").read_text() == "x"
    assert len(place.pids()) == 1
    place.run("umount", place.mnt)
    assert place.run("cat", "sqlite:x.sqlite#file").stdout == "x"


# -- bad input: one line, nothing mounted ---------------------------------------------------------


def test_bad_mount_points(place: Place) -> None:
    (place.base / "file").write_text("x")
    assert "does not exist" in place.refuses("memory:", "none")
    assert "not a directory" in place.refuses("memory:", "file")
    assert "not empty" in place.refuses("memory:", ".")
    assert "in use" in place.refuses("memory:", "/proc")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["foo:bar", "mnt"], 2, "unknown scheme 'foo'"),
        (["sqlite:x"], 2, "where to?"),
        (["memory:", "mnt", "more"], 2, "a store and a mount point"),
        (["-o", "sideways", "memory:", "mnt"], 2, "unknown mount option 'sideways'"),
        (["--ttl", "soon", "memory:", "mnt"], 2, "not a number"),
        (["--ttl", "-1", "memory:", "mnt"], 2, "ttl must be"),
        (["--umask", "999", "memory:", "mnt"], 2, "not an octal"),
        (["file:.", "mnt"], 1, "lies in the store"),
        (["file:mnt/store", "mnt"], 1, "which would hide it"),
        (["--state-dir", "mnt/state", "memory:", "mnt"], 1, "state directory"),
        (["--state-dir", ".", "memory:", "mnt"], 1, "lies in the state directory"),
        (["--state-dir", "full", "memory:", "mnt"], 1, "not a state directory"),
    ],
)
def test_what_makes_no_sense(place: Place, arguments: list[str], code: int, said: str) -> None:
    (place.base / "full").mkdir()
    (place.base / "full" / "thesis").write_text("x")
    if said in ("not a number", "not an octal"):
        with contextlib.chdir(place.base):
            done = command("mount", *arguments, env=place.env, check=False)
        assert done.returncode == code
        assert said in done.stderr
        return
    assert said in place.refuses(*arguments, code=code)


def test_in_use_names_what_is_mounted_and_by_whom(place: Place) -> None:
    pid = place.mount("sqlite:x.sqlite")
    assert f"sqlite://{place.base}/x.sqlite" in place.fails("mount", "memory:", place.mnt)
    (place.base / "other").mkdir()
    line = place.fails("mount", "sqlite:x.sqlite", "other")
    assert f"in use by pid {pid}, mounted at {place.mnt}" in line
    assert mounted_at(place.base / "other") is None
    place.run("mount", "--state-dir", "second", "sqlite:x.sqlite", "other")
    place.run("umount", "other")


def test_bad_buckets_and_credentials(place: Place, versitygw: S3Server) -> None:
    env = versitygw.env()
    assert "bucket" in place.refuses("s3://no-such-bucket-of-ours", "mnt", env=env)
    bucket = versitygw.new_bucket()
    wrong = env | {"AWS_SECRET_ACCESS_KEY": "something-else-entirely"}
    line = place.refuses(f"s3://{bucket}", "mnt", env=wrong)
    assert "something-else-entirely" not in line


def test_a_store_that_cannot_be_reached(place: Place, versitygw: S3Server) -> None:
    refused = versitygw.env() | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{servers.free_port()}"}
    place.refuses("s3://bucket", "mnt", env=refused)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        env = versitygw.env() | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        place.refuses("s3://bucket", "mnt", env=env)


def test_a_full_disk_of_the_state_directory(place: Place) -> None:
    # A namespace of its own for the file system: whatever happens, it goes away with the command.
    script = f"""
        mkdir full && mount -t tmpfs -o size=64k none full && chmod 700 full
        head -c 60000 /dev/zero > full/daemon.log
        head -c 60000 /dev/zero >> full/daemon.log 2>/dev/null
        {sys.executable} -m mountstore mount --state-dir full/state sqlite:x.sqlite mnt
        code=$?
        grep -c fuse.mountstore.*mnt /proc/self/mountinfo
        exit $code
    """
    unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    done = subprocess.run(
        [*unshare, "sh", "-c", script],
        env=place.env,
        cwd=place.base,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == "0\n"
    assert re.fullmatch(r"mountstore: .*(No space left on device|disk is full).*\n", done.stderr)


# -- mount(8) -------------------------------------------------------------------------------------


def helper(place: Place, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    script = "from mountstore.cli.mounts import mount_helper; mount_helper()"
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=place.env,
        cwd=place.base,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    place.seen |= place.pids()
    return done


def test_mount_8_can_mount(place: Place) -> None:
    options = "rw,_netdev,user=bob,noexec,nosuid,nodev,umask=077"
    done = helper(place, f"sqlite://{place.base}/x.sqlite", place.mnt, "-n", "-o", options)
    assert (done.returncode, done.stderr) == (0, "")
    assert mounted_at(place.mnt)
    place.run("umount", place.mnt)


def test_mount_8_gets_its_own_exit_codes(place: Place) -> None:
    done = helper(place, "memory:", place.base / "none")
    assert done.returncode == 32
    assert done.stderr.startswith("mount.mountstore: ")
    assert helper(place, "memory:").returncode == 1
    assert helper(place, "memory:", place.mnt, "-o", "sideways").returncode == 1
    assert helper(place, "memory:", place.mnt, "-s", "-f", "-o", "sideways").returncode == 0
    assert mounted_at(place.mnt) is None
