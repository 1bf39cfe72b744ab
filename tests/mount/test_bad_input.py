"""What cannot work says so in one line, exits with an error, mounts nothing and loses nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.cases import S3Case, StoreCase, local_case
from tests.mount.mounting import Mount, Mounts, command, detach, environment, mounted_at
from tests.mount.waiting import wait_until
from tests.servers import free_port


def refused(store: str, mountpoint: Path, *options: str, env: dict[str, str], state: Path) -> str:
    """`mountstore mount` that has to fail; its one line."""
    was = mounted_at(mountpoint)
    done = command("mount", "--state-dir", state, *options, store, mountpoint, env=env, check=False)
    said = done.stderr.strip().splitlines()
    assert done.returncode not in (0, None), f"this worked: {store} at {mountpoint}"
    assert done.returncode > 0, f"ended by signal {-done.returncode}"
    assert len(said) == 1, f"one line was due:\n{done.stderr}"
    assert "Traceback" not in said[0]
    assert "internal error" not in said[0]
    assert done.stdout == ""
    assert mounted_at(mountpoint) == was, "something is mounted all the same"
    return said[0]


@pytest.fixture
def place(base: Path) -> Path:
    """An empty mount point."""
    folder = base / "place"
    folder.mkdir()
    return folder


@pytest.fixture
def env(base: Path) -> dict[str, str]:
    """The environment of a user who has set nothing up."""
    (base / "home").mkdir()
    return environment({}, base / "home")


def test_unknown_scheme(base: Path, place: Path, env: dict[str, str]) -> None:
    assert "nosuch" in refused("nosuch://x", place, env=env, state=base / "s")
    assert "no-url" in refused("no-url", place, env=env, state=base / "s")


def test_no_such_bucket(bucket_case: S3Case, base: Path, place: Path, env: dict[str, str]) -> None:
    said = refused("s3://not-a-bucket-of-ours/x", place, env=env | bucket_case.env, state=base / "s")
    assert "not-a-bucket-of-ours" in said
    assert "not-a-bucket-of-ours" not in [one["Name"] for one in bucket_case.client.list_buckets()["Buckets"]]


@pytest.mark.parametrize("variable", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_wrong_credentials(
    variable: str, bucket_case: S3Case, base: Path, place: Path, env: dict[str, str]
) -> None:
    wrong = env | bucket_case.env | {variable: "wrong-credential-here"}
    said = refused(bucket_case.url, place, env=wrong, state=base / "s")
    assert bucket_case.env["AWS_SECRET_ACCESS_KEY"] not in said
    assert "wrong-credential-here" not in said or variable != "AWS_SECRET_ACCESS_KEY"


def test_no_credentials(bucket_case: S3Case, base: Path, place: Path, env: dict[str, str]) -> None:
    none = {name: value for name, value in bucket_case.env.items() if "KEY" not in name}
    said = refused(bucket_case.url, place, env=env | none, state=base / "s")
    assert "credential" in said.lower()


def test_store_unreachable(bucket_case: S3Case, base: Path, place: Path, env: dict[str, str]) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    said = refused(
        bucket_case.url, place, env=env | bucket_case.env | {"AWS_ENDPOINT_URL": endpoint}, state=base / "s"
    )
    assert endpoint.removeprefix("http://") in said


def test_sqlite_that_is_none(base: Path, place: Path, env: dict[str, str]) -> None:
    other = base / "letter.txt"
    other.write_text("Dear Sir,\n" * 1000)
    refused(f"sqlite://{other}", place, env=env, state=base / "s")
    assert other.read_text() == "Dear Sir,\n" * 1000
    refused(f"sqlite://{base}/no/such/folder/store.sqlite", place, env=env, state=base / "s")


def test_file_store_that_is_none(base: Path, place: Path, env: dict[str, str]) -> None:
    (base / "letter.txt").write_text("Dear Sir")
    refused(f"file://{base / 'letter.txt'}", place, env=env, state=base / "s")
    assert (base / "letter.txt").read_text() == "Dear Sir"


def test_mount_point_missing(base: Path, env: dict[str, str]) -> None:
    said = refused("memory:", base / "missing", env=env, state=base / "s")
    assert "missing" in said
    assert not (base / "missing").exists()


def test_mount_point_is_a_file(base: Path, env: dict[str, str]) -> None:
    (base / "file").write_text("mine")
    refused("memory:", base / "file", env=env, state=base / "s")
    assert (base / "file").read_text() == "mine"


def test_mount_point_not_empty(base: Path, place: Path, env: dict[str, str]) -> None:
    (place / "mine").write_text("mine")
    assert "empty" in refused("memory:", place, env=env, state=base / "s")
    assert (place / "mine").read_text() == "mine"


def test_mount_point_in_use(store_case: StoreCase, base: Path, mounts: Mounts) -> None:
    mount = mounts(store_case)
    refused("memory:", mount.root, env=mount.env, state=base / "other state")
    (mount.root / "file").write_text("works")
    assert mount.alive()
    mount.umount()
    assert store_case.read("file") == b"works"


def test_second_daemon_on_the_same_state(
    store_case: StoreCase, base: Path, place: Path, mounts: Mounts
) -> None:
    mount = mounts(store_case)
    (mount.root / "file").write_text("works")
    refused(store_case.url, place, env=mount.env, state=mount.state)
    assert (mount.root / "file").read_text() == "works"
    mount.umount()
    assert store_case.read("file") == b"works"


def test_state_of_another_store(store_case: StoreCase, base: Path, place: Path, mounts: Mounts) -> None:
    """What is pending for one store must not go to another."""
    mount = mounts(store_case)
    (mount.root / "file").write_text("for this store alone")
    mount.kill()
    refused(f"file://{base / 'other'}", place, env=mount.env, state=mount.state)
    mount.start()
    assert (mount.root / "file").read_text() == "for this store alone"


@pytest.mark.parametrize(
    "option", ["--ttl=-1", "--ttl=abc", "--fsync=sometimes", "--umask=9", "--no-such-option"]
)
def test_bad_option(option: str, base: Path, place: Path, env: dict[str, str]) -> None:
    done = command("mount", "--state-dir", base / "s", option, "memory:", place, env=env, check=False)
    assert done.returncode > 0
    assert "Traceback" not in done.stderr
    assert option.lstrip("-").split("=")[0] in done.stderr
    assert mounted_at(place) is None


@pytest.mark.parametrize("what", ["umount", "sync", "status"])
def test_not_a_mount(what: str, place: Path, env: dict[str, str]) -> None:
    done = command(what, place, env=env, check=False)
    assert done.returncode > 0
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr


# -- full disks -------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(base: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    assert os.geteuid() == 0, "this test mounts a tmpfs of its own: run it as root"
    folder = base / "small disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=True, timeout=30)
    try:
        yield folder
    finally:
        detach(folder)


def fill(folder: Path) -> None:
    """Use up the room of a file system."""
    with open(folder / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"\1" * 65536):
            pass
    assert os.statvfs(folder).f_bavail == 0


def test_state_on_a_full_disk(small_disk: Path, base: Path, place: Path, env: dict[str, str]) -> None:
    fill(small_disk)
    case = local_case("sqlite", base)
    said = refused(case.url, place, env=env, state=small_disk / "state")
    assert "space" in said.lower() or "full" in said.lower(), said


def test_disk_full_while_writing(store_case: StoreCase, small_disk: Path, mounts: Mounts) -> None:
    """ENOSPC before anything is acknowledged; what was acknowledged stays; room made is used."""
    mount = mounts(store_case, state=small_disk / "state")
    (mount.root / "early").write_bytes(b"e" * 500_000)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        (mount.root / "huge").write_bytes(os.urandom(64 << 20))
    assert mount.alive()
    assert (mount.root / "early").read_bytes() == b"e" * 500_000
    os.unlink(mount.root / "huge")
    late = os.urandom(1_000_000)

    def write_late() -> bool:
        try:
            (mount.root / "late").write_bytes(late)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return False
        return True

    wait_until("there is room again", write_late)
    assert (mount.root / "late").read_bytes() == late
    mount.umount()
    assert store_case.read("early") == b"e" * 500_000
    assert store_case.read("late") == late
    assert set(store_case.keys()) == {"early", "late"}


@pytest.mark.parametrize("kind", ["file", "sqlite"])
def test_store_without_room(kind: str, base: Path, small_disk: Path, mounts: Mounts) -> None:
    """What the store cannot take is kept and told of; when the store has room, it goes up by itself."""
    case = local_case(kind, small_disk)
    mount = mounts(case)
    data = {f"file{number}": os.urandom(1_500_000) for number in range(10)}
    for name, content in data.items():
        (mount.root / name).write_bytes(content)
    wait_until(
        "an upload has failed and is told of",
        lambda: any(one["error"] for one in mount.status()["pending"]),
    )
    for name, content in data.items():
        assert (mount.root / name).read_bytes() == content
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True, timeout=30)
    wait_until("nothing is pending", lambda: mount.status()["pending_count"] == 0, timeout_s=90)
    mount.umount()
    assert {key: case.read(key) for key in case.keys()} == data


# -- what nobody else may see -----------------------------------------------------------------------


def test_private_and_without_secrets(bucket_case: S3Case, mounts: Mounts) -> None:
    """The mount is its owner's alone, nosuid and nodev; no secret in arguments, logs, records or states."""
    mount: Mount = mounts(bucket_case)
    (mount.root / "file").write_text("x")
    mount.sync()
    table = mounted_at(mount.root) or ""
    assert {"nosuid", "nodev"} <= set(table.split()[0].split(",")), table
    assert "allow_other" not in table
    assert mount.state.stat().st_mode & 0o7777 == 0o700
    secret = bucket_case.env["AWS_SECRET_ACCESS_KEY"].encode()
    assert secret not in Path(f"/proc/{mount.pid}/cmdline").read_bytes()
    assert secret.decode() not in table
    files = [path for path in mount.base.rglob("*") if path.is_file() and mount.root not in path.parents]
    assert len(files) > 2
    assert not [path for path in files if secret in path.read_bytes()]
    assert mount.status()["pid"] == mount.pid
