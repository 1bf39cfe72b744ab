"""ls, cat, get, put, rm as a user runs them: real processes over real stores."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountstore.backends.sqlite import SqliteStore
from mountstore.cli import objects, output
from mountstore.cli.main import COMMANDS, run
from mountstore.errors import PreconditionFailed
from tests.servers import S3Server

DEADLINE_S = 60
COMMAND = [sys.executable, "-m", "mountstore"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(objects.__file__).parents[2]), "MOUNTSTORE_DEBUG": "0"}
ODD_KEYS = ["a b", "ü", "what?", "a#b", "%41", "-dash", "new\nline", "\x1b[31mred"]


def mountstore(
    *arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        capture_output=True,
        timeout=DEADLINE_S,
        env={**ENVIRONMENT, **(env or {})},
        cwd=cwd,
        check=False,
    )


def ok(
    *arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None, cwd: Path | None = None
) -> bytes:
    done = mountstore(*arguments, stdin=stdin, env=env, cwd=cwd)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    return done.stdout


def failure(
    *arguments: str, status: int = 1, env: dict[str, str] | None = None, cwd: Path | None = None
) -> str:
    """The one line of a command that fails."""
    done = mountstore(*arguments, env=env, cwd=cwd)
    assert done.returncode == status, (done.returncode, done.stderr.decode())
    lines = done.stderr.decode().splitlines()
    assert lines
    assert lines[0].startswith("mountstore: ")
    assert len(lines) == 1 or (status == 2 and lines[1].startswith("Try "))
    return lines[0]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/store.db"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path / "store.db") as store:
        yield store


# -- put, get, cat ------------------------------------------------------------------------------------


def test_bytes_come_back_as_they_went_in(url: str, tmp_path: Path) -> None:
    content = os.urandom(3 * objects.RANGE_BYTES // 2) + b"\r\n\0\xff"
    (tmp_path / "in").write_bytes(content)
    ok("put", str(tmp_path / "in"), f"{url}#dir/key")
    assert ok("cat", f"{url}#dir/key") == content
    ok("get", f"{url}#dir/key", str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == content
    assert ok("get", f"{url}#dir/key", "-") == content


def test_standard_input_becomes_an_object(url: str) -> None:
    ok("put", "-", f"{url}#k", stdin=b"from a pipe")
    ok("put", "-", f"{url}#empty")
    assert ok("cat", f"{url}#k", f"{url}#empty", f"{url}#k") == b"from a pipe" * 2


@pytest.mark.parametrize("key", ODD_KEYS)
def test_any_key_can_be_named(url: str, store: SqliteStore, key: str) -> None:
    ok("put", "-", f"{url}#{key}", stdin=b"x")
    assert list(store.keys()) == [key]
    assert ok("cat", f"{url}#{key}") == b"x"
    ok("rm", f"{url}#{key}")
    assert list(store.keys()) == []


def test_the_name_of_the_file_is_added_to_a_folder(url: str, store: SqliteStore, tmp_path: Path) -> None:
    (tmp_path / "name").write_bytes(b"x")
    ok("put", str(tmp_path / "name"), url)
    ok("put", str(tmp_path / "name"), f"{url}#d/")
    assert list(store.keys()) == ["d/name", "name"]
    assert "a key is missing" in failure("put", "-", f"{url}#d/", status=2)


def test_get_without_a_file_uses_the_last_part_of_the_key(
    url: str, store: SqliteStore, tmp_path: Path
) -> None:
    store.put("d/name", b"x")
    store.put("d/", b"")
    store.put("d/..", b"evil")
    here = tmp_path / "here"
    here.mkdir()
    ok("get", f"{url}#d/name", cwd=here)
    assert [path.name for path in here.iterdir()] == ["name"]
    assert "name a FILE" in failure("get", f"{url}#d/", status=2, cwd=here)
    assert "name a FILE" in failure("get", f"{url}#d/..", status=2, cwd=here)


def test_a_failed_get_leaves_the_old_file_and_no_other(url: str, store: SqliteStore, tmp_path: Path) -> None:
    store.put("k", b"x")
    target = tmp_path / "t" / "file"
    target.parent.mkdir()
    target.write_bytes(b"old")
    assert "no such object" in failure("get", f"{url}#missing", str(target))
    assert target.read_bytes() == b"old"
    target.chmod(0o640)
    ok("get", f"{url}#k", str(target))
    assert target.read_bytes() == b"x"
    assert target.stat().st_mode & 0o777 == 0o640
    assert os.listdir(target.parent) == ["file"]


def test_get_writes_through_a_symlink_and_to_a_device(url: str, store: SqliteStore, tmp_path: Path) -> None:
    store.put("k", b"x")
    (tmp_path / "link").symlink_to("real")
    ok("get", f"{url}#k", str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"x"
    ok("get", f"{url}#k", "/dev/null")


def test_no_clobber_keeps_what_is_there(url: str, store: SqliteStore) -> None:
    store.put("k", b"old")
    failure("put", "-n", "/dev/null", f"{url}#k")
    assert bytes(store.get("k")) == b"old"


def test_an_object_that_changes_while_it_is_read_is_an_error(store: SqliteStore) -> None:
    store.put("k", b"a" * (objects.RANGE_BYTES + 1))
    pieces = objects._ranges(store, "k", store.head("k"))
    assert len(next(pieces)) == objects.RANGE_BYTES
    store.put("k", b"b" * (objects.RANGE_BYTES + 1))
    with pytest.raises(PreconditionFailed, match="changed while it was being read"):
        next(pieces)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_error(url: str, store: SqliteStore, unbuffered: str) -> None:
    store.put("k", b"x" * (4 << 20))
    environment = {**ENVIRONMENT, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(
        [*COMMAND, "cat", f"{url}#k"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1) == b"x"
        process.stdout.close()
        assert process.wait(DEADLINE_S) == 141
        assert process.stderr.read() == b""


def test_ctrl_c_ends_with_130_and_leaves_nothing(url: str, store: SqliteStore, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with subprocess.Popen(
        [*COMMAND, "put", "-", f"{url}#k"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        cwd=out,
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        # More than a pipe holds: once it is written, the command is reading.
        process.stdin.write(b"x" * (1 << 20))
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130
        assert process.stderr.read() == b"mountstore: interrupted\n"
        process.stdin.close()
    assert not store.exists("k")
    assert list(out.iterdir()) == []


# -- ls -----------------------------------------------------------------------------------------------


def test_ls_shows_one_folder_or_all(url: str, store: SqliteStore) -> None:
    for key in ("b", "a/1", "a/2", "ab", "a/x/y", "é"):
        store.put(key, b"123")
    assert ok("ls", url).decode().splitlines() == ["a/", "ab", "b", "é"]
    assert ok("ls", f"{url}#a/").decode().splitlines() == ["a/1", "a/2", "a/x/"]
    assert ok("ls", f"{url}#a").decode().splitlines() == ["a/", "ab"]
    assert ok("ls", "-r", url).decode().splitlines() == ["a/1", "a/2", "a/x/y", "ab", "b", "é"]
    assert "no key begins with 'zz'" in failure("ls", f"{url}#zz")


def test_ls_long_shows_size_and_time(url: str, store: SqliteStore) -> None:
    info = store.put("k", b"12345")
    store.put("d/k", b"")
    folder, line = ok("ls", "-l", url, env={"TZ": "UTC"}).decode().splitlines()
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(info.mtime_ns // 10**9))
    assert line.split() == ["5", *when.split(), "k"]
    assert folder.split() == ["-", "-", "d/"]


def test_ls_json_is_exact(url: str, store: SqliteStore) -> None:
    for key in ODD_KEYS:
        store.put(key, b"x")
    store.put("d/k", b"")
    lines = [json.loads(line) for line in ok("ls", "--json", url).decode("ascii").splitlines()]
    assert {line["key"] for line in lines if "key" in line} == set(ODD_KEYS)
    assert [line["prefix"] for line in lines if "prefix" in line] == ["d/"]
    entry = next(line for line in lines if line.get("key") == "ü")
    info = store.head("ü")
    assert entry["size"] == 1
    assert entry["etag"] == info.etag
    assert entry["mtime"] == output.utc_time(info.mtime_ns)


def test_a_terminal_gets_no_control_characters(url: str, store: SqliteStore) -> None:
    store.put("\x1b]0;evil\x07\u202e\n\\x", b"")
    master, slave = pty.openpty()
    try:
        subprocess.run(
            [*COMMAND, "ls", url],
            stdout=slave,
            stderr=slave,
            stdin=slave,
            env=ENVIRONMENT,
            timeout=DEADLINE_S,
            check=True,
        )
        shown = os.read(master, 4096)
    finally:
        os.close(slave)
        os.close(master)
    assert shown.decode().strip() == r"\x1b]0;evil\x07\u202e\n\\x"


def test_times_are_written_to_the_nanosecond() -> None:
    assert output.utc_time(1_700_000_000_000_000_001) == "2023-11-14T22:13:20.000000001Z"
    assert output.utc_time(-1) == "1969-12-31T23:59:59.999999999Z"


# -- rm -----------------------------------------------------------------------------------------------


def test_rm_of_several_goes_on_after_a_missing_one(url: str, store: SqliteStore) -> None:
    store.put("a", b"")
    store.put("b", b"")
    assert "'nothing'" in failure("rm", f"{url}#a", f"{url}#nothing", f"{url}#b")
    assert list(store.keys()) == []
    ok("rm", "-f", f"{url}#nothing")
    both = mountstore("rm", f"{url}#x", f"{url}#y")
    assert both.returncode == 1
    assert len(both.stderr.splitlines()) == 2


def test_rm_of_a_folder_needs_the_flag_and_stays_in_it(url: str, store: SqliteStore) -> None:
    for key in ("d/", "d/1", "d/x/2", "d2", "da/1"):
        store.put(key, b"")
    failure("rm", f"{url}#d")
    assert len(list(store.keys())) == 5
    ok("rm", "-r", f"{url}#d")
    assert list(store.keys()) == ["d2", "da/1"]
    failure("rm", "-r", f"{url}#d")
    ok("rm", "-rf", f"{url}#d")


def test_emptying_a_store_has_to_be_said(url: str, store: SqliteStore) -> None:
    for number in range(3):
        store.put(f"k{number}", b"")
    assert "--all" in failure("rm", url, status=2)
    assert "--all" in failure("rm", "-r", url, status=2)
    assert "--all" in failure("rm", "--all", url, status=2)
    assert len(list(store.keys())) == 3
    ok("rm", "-r", "--all", url)
    assert list(store.keys()) == []


# -- errors and help ----------------------------------------------------------------------------------


def test_reading_makes_no_store(tmp_path: Path) -> None:
    for command in (["ls"], ["cat"], ["get"], ["rm"]):
        assert "no such store" in failure(*command, f"sqlite://{tmp_path}/none.db#k")
        assert "no such store" in failure(*command, f"file://{tmp_path}/none#k")
    assert list(tmp_path.iterdir()) == []


def test_errors_are_one_line_without_secrets(url: str, tmp_path: Path) -> None:
    assert "unknown scheme 'nope'" in failure("ls", "nope://x", status=2)
    assert "HUNTER2" not in failure("ls", "s3://KEY:HUNTER2@bucket", status=2)
    assert "key is missing" in failure("cat", url, status=2)
    assert "none'" in failure("put", str(tmp_path / "none"), f"{url}#k")
    assert "No such command" in failure("nonsense", status=2)
    assert "No such option" in failure("ls", "--nonsense", url, status=2)
    assert "\x1b" not in failure("cat", f"{url}#\x1b[31m")


def test_the_traceback_comes_only_when_asked_for(url: str) -> None:
    ok("put", "-", f"{url}#k")
    for value, expected in (("1", True), ("0", False), ("", False)):
        done = mountstore("cat", f"{url}#missing", env={"MOUNTSTORE_DEBUG": value})
        assert done.returncode == 1
        assert (b"Traceback" in done.stderr) is expected
        assert b"mountstore: no such object" in done.stderr


def test_help_names_every_command_and_way_of_naming_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    for word in (*COMMANDS, "s3://BUCKET/KEY", "sqlite:///PATH#KEY", "MOUNTSTORE_DEBUG"):
        assert word in shown
    for command in ("ls", "cat", "get", "put", "rm"):
        assert run([command, "--help"]) == 0
        assert "STORE#KEY" in capsys.readouterr().out
    assert run([]) == 2
    assert "Usage" in capsys.readouterr().err


# -- S3 -----------------------------------------------------------------------------------------------


def test_a_bucket_from_the_shell(versitygw: S3Server, tmp_path: Path) -> None:
    client = versitygw.client()
    client.create_bucket(Bucket="cli-objects")
    env = {
        "AWS_ACCESS_KEY_ID": versitygw.access_key,
        "AWS_SECRET_ACCESS_KEY": versitygw.secret_key,
        "AWS_REGION": versitygw.region,
    }
    where = f"?endpoint={versitygw.endpoint}"
    content = os.urandom(objects.RANGE_BYTES + 5)
    (tmp_path / "in").write_bytes(content)
    ok("put", str(tmp_path / "in"), f"s3://cli-objects/d/a%20b{where}", env=env)
    assert client.get_object(Bucket="cli-objects", Key="d/a%20b")["Body"].read() == content
    assert ok("cat", f"s3://cli-objects/d/a%20b{where}", env=env) == content
    assert ok("ls", f"s3://cli-objects{where}", env=env) == b"d/\n"
    assert ok("ls", f"s3://cli-objects/d/{where}", env={**env, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}) == (
        b"d/a%20b\n"
    )
    assert (
        ok("ls", "s3://cli-objects/d/", env={**env, "AWS_ENDPOINT_URL": versitygw.endpoint}) == b"d/a%20b\n"
    )
    ok("rm", "-r", f"s3://cli-objects/d{where}", env=env)
    assert ok("ls", f"s3://cli-objects{where}", env=env) == b""
    failure("ls", f"s3://no-such-bucket{where}", env=env)
    wrong = failure("ls", f"s3://cli-objects{where}", env={**env, "AWS_SECRET_ACCESS_KEY": "WRONG-SECRET"})
    assert "WRONG-SECRET" not in wrong
