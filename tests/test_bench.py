"""scripts/bench: every row is measured on every kind of store, and wrong work makes it fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.benchmarks import plot
from scripts.benchmarks.rows import SHORT, long_rows, rows
from scripts.benchmarks.stores.table import ORIGINAL, OURS, Result
from scripts.benchmarks.stores.work import Seconds
from tests.servers import S3Server
from tests.services import Service, redis_server

PROJECT = Path(__file__).resolve().parents[1]
LIMIT_S = 240
MOUNT = f"{sys.executable} -m mountstore mount --foreground --state-dir {{cache}}/state"

TAMPER = """
import sys
from mountstore.registry import open_store

with open_store(sys.argv[1]) as store:
    for key in [key for key in store.keys() if key.endswith("/big")]:
        data = bytearray(store.get(key))
        data[len(data) // 2] = (data[len(data) // 2] + 1) % 256
        store.put(key, data)
"""


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    """Where the benchmark works; afterwards it has left nothing mounted and nothing behind."""
    folder = tmp_path / "work"
    folder.mkdir()
    yield folder
    assert str(folder) not in Path("/proc/self/mountinfo").read_text()
    assert list(folder.iterdir()) == []


@pytest.fixture
def redis() -> Iterator[Service]:
    with redis_server() as server:
        yield server


def bench(work: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    words = [
        str(PROJECT / "scripts" / "bench"),
        "--short",
        "--peers",
        "none",
        "--work",
        str(work),
        *arguments,
    ]
    # The environment that these tests run in, and a home whose daemons nobody else sees.
    mine = {"MOUNTSTORE_VENV": sys.prefix, "MOUNTSTORE_RUNTIME_DIR": str(work.parent / "run")}
    return subprocess.run(
        words,
        env=os.environ | mine | (env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def bench_stores(work: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(PROJECT / "scripts" / "bench"), "stores", "--short", "--work", str(work), *arguments],
        env=os.environ | {"MOUNTSTORE_VENV": sys.prefix},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def measured(file: Path) -> dict[str, Any]:
    answer = json.loads(file.read_text())
    assert isinstance(answer, dict)
    return answer


def assert_complete(done: subprocess.CompletedProcess[str], file: Path) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    found = measured(file)
    assert [row["name"] for row in found["rows"]] == [row.name for row in rows(SHORT)]
    for row in found["rows"]:
        cell = row["results"]["mountstore"]
        assert cell["error"] is None
        assert len(cell["values"]) == 1, row["name"]
        assert cell["values"][0] > 0, row["name"]
        assert row["title"] in done.stdout
    by_name = {row["name"]: row for row in found["rows"]}
    for name in ("write-big", "read-big-cold", "cp-small-stored", "cat-small-cold", "ls-cold", "find-cold"):
        assert by_name[name]["ratios"]["raw"] > 0, name
    assert found["machine"]["cpus"] == os.cpu_count()
    assert found["machine"]["kernel"] == os.uname().release
    assert found["peak_bytes"]["mountstore"] > 0
    assert all(found["peak_bytes_by_group"]["mountstore"][row["group"]] > 0 for row in found["rows"])


@pytest.mark.parametrize("store", ["sqlite", "file", "memory"])
def test_all_rows_on_a_local_store(work: Path, store: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert_complete(bench(work, "--store", store, "--json", str(out)), out)


def test_all_rows_on_a_server_with_added_latency(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert_complete(bench(work, "--store", "versitygw", "--latency", "2", "--json", str(out)), out)
    found = measured(out)
    assert found["latency_ms"] == 2
    sent = {row["name"]: row["results"]["mountstore"]["requests"][0] for row in found["rows"]}
    assert sent["ls-cold"]["LIST"] == 2  # the folder above it, too
    assert sent["ls-again"] == {}
    assert sent["cat-small-cold"]["GET"] == SHORT.small_files
    assert sent["cp-small-stored"]["PUT"] >= SHORT.small_files


def test_very_long_folders(work: Path, tmp_path: Path) -> None:
    """On a server and, with still more entries, in one file; both are shorter here."""
    out = tmp_path / "out.json"
    for store, group in (("versitygw", "huge"), ("sqlite", "million")):
        done = bench(work, "--store", store, "--only", group, "--json", str(out))
        assert done.returncode == 0, done.stdout + done.stderr
        found = measured(out)["rows"]
        assert [row["name"] for row in found] == [row.name for row in long_rows(SHORT) if row.group == group]
        assert all(row["results"]["mountstore"]["values"][0] > 0 for row in found)


def test_a_picture(work: Path, tmp_path: Path) -> None:
    out, picture = tmp_path / "out.json", tmp_path / "picture.png"
    done = bench(work, "--store", "memory", "--only", "append", "--json", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    assert plot.main([str(picture), str(out), str(out)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_bucket_is_left_as_it_was(work: Path, versitygw: S3Server, tmp_path: Path) -> None:
    bucket = versitygw.new_bucket()
    versitygw.client().put_object(Bucket=bucket, Key="mine/here", Body=b"before")
    out = tmp_path / "out.json"
    url = f"s3://{bucket}/mine"
    done = bench(work, "--store", url, "--only", "small", "--json", str(out), env=versitygw.env())
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(measured(out)["rows"]) == 4
    left = versitygw.client().list_objects_v2(Bucket=bucket)["Contents"]
    assert [one["Key"] for one in left] == ["mine/here"]


def test_other_bytes_than_were_written_fail(work: Path, tmp_path: Path) -> None:
    """A peer whose every mount first changes one byte of the big file behind its own back."""
    tamper = tmp_path / "tamper.py"
    tamper.write_text(TAMPER)
    peer = (
        f"""liar=sh -c '{sys.executable} {tamper} "$1" && exec {MOUNT} "$1" "$2"' sh {{url}} {{mountpoint}}"""
    )
    out = tmp_path / "out.json"
    done = bench(work, "--store", "sqlite", "--only", "big", "--peer", peer, "--json", str(out))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "bench: BROKEN: liar: cmp-big-cold: cmp " in done.stderr
    results = {row["name"]: row["results"] for row in measured(out)["rows"]}
    assert results["cmp-big-cold"]["mountstore"]["error"] is None
    assert results["cmp-big-cold"]["liar"]["error"]


def test_a_mount_whose_data_never_reaches_the_store_fails(work: Path) -> None:
    peer = f"forgets={MOUNT} memory: {{mountpoint}}"
    done = bench(work, "--store", "sqlite", "--only", "cp-small", "--peer", peer, "--timeout", "4")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "bench: BROKEN: forgets: cp-small" in done.stderr
    assert "the store does not have it" in done.stderr


def test_a_mount_that_dies_at_work_fails_at_once(work: Path) -> None:
    peer = f"dies=timeout -s KILL 3 {MOUNT} memory: {{mountpoint}}"
    done = bench(work, "--store", "sqlite", "--only", "cp-small", "--peer", peer)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "bench: BROKEN: dies: cp-small: dies has ended (exit " in done.stderr


def test_a_peer_that_does_not_mount_fails(work: Path) -> None:
    done = bench(work, "--store", "sqlite", "--only", "append", "--peer", "nothing=false")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "bench: BROKEN: nothing: append: nothing does not mount (exit 1)" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--store", "nowhere"], "--store is one of"),
        (["--only", "ls-cold,dance"], "--only knows no dance"),
        (["--store", "sqlite", "--latency", "5"], "TCP proxy"),
        (["--store", "sqlite", "--peer", "mountstore=x"], "a peer is NAME=COMMAND"),
        (["--runs", "0"], "--runs is at least 1"),
    ],
)
def test_wrong_arguments_are_answered_in_one_line(work: Path, arguments: list[str], said: str) -> None:
    done = bench(work, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("bench: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_all_stores(work: Path, redis: Service, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = bench_stores(work, "--json", str(out), "--redis", f"redis://127.0.0.1:{redis.port}/5")
    assert done.returncode == 0, done.stdout + done.stderr
    found = measured(out)["pairs"]
    names = ["file", "hashdir", "sqlite", "caching", "caching-fresh", "async-file", "zip", "memory", "redis"]
    assert [pair["name"] for pair in found] == names
    for pair in found:
        assert pair["errors"] == []
        for column in ("ours", "durable", "plain"):
            assert all(len(values) > 0 for values in pair["seconds"][column].values()), pair["name"]
        assert all(ratio > 0 for ratio in pair["ratios"]["plain"].values()), pair["name"]
        assert f"| {pair['name']} | large get |" in done.stdout


def test_keys_in_folders(work: Path) -> None:
    done = bench_stores(work, "--clock", "cpu", "--folders", "7", "--only", "file,hashdir")
    assert done.returncode == 0, done.stdout + done.stderr


def test_rounds_of_stores_end_in_time(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    for limit, rounds in (("0", 1), ("10", 3)):
        words = ("--only", "file,memory", "--rounds", "3", "--minutes", limit, "--json", str(out))
        done = bench_stores(work, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        found = measured(out)
        assert f"medians of {rounds} rounds" in done.stdout
        assert found["sizes"]["rounds"] == rounds
        for pair in found["pairs"]:
            assert {len(values) for values in pair["seconds"]["ours"].values()} == {rounds}
            noises = pair["noise"]["plain"].values()
            assert all(noise is None if rounds == 1 else noise >= 0 for noise in noises)
        asked = [line.split()[1] for line in done.stderr.splitlines() if line.endswith("...")]
        assert asked == ["file", "memory"] * rounds


def test_ratios_are_those_of_medians() -> None:
    result = Result("file", OURS)
    for name, samples in ((OURS, (1.0, 2.0, 9.0)), (ORIGINAL, (2.0, 4.0, 6.0))):
        result.columns[name] = seconds = Seconds()
        for sample in samples:
            seconds.add("put", sample, 1)
    assert result.ratio("put", ORIGINAL) == 2.0 / 4.0
    assert result.noise("put", ORIGINAL) == (1.0 - 0.5) / 2
    assert result.ratio("get", ORIGINAL) is None
    assert result.noise("get", ORIGINAL) is None


FORGETFUL = """
class FilesystemStore:
    def __init__(self, root):
        self.objects = {}
    def put(self, key, data):
        self.objects[key] = data
    def get(self, key):
        return self.objects[key][:-1]
    def keys(self):
        return list(self.objects)
"""


def test_another_implementation_is_measured_beside_ours_and_held_to_its_bytes(
    work: Path, tmp_path: Path
) -> None:
    package = tmp_path / "other" / "storage"
    package.mkdir(parents=True)
    for name in ("__init__", "utils", "aiofs", "db", "object", "zip"):
        (package / f"{name}.py").write_text("")
    (package / "fs.py").write_text(FORGETFUL.replace("[:-1]", ""))
    done = bench_stores(work, "--only", "file", "--original", str(package.parent))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| original | × |" in done.stdout
    assert "plain" not in done.stdout
    (package / "fs.py").write_text(FORGETFUL)
    done = bench_stores(work, "--only", "file", "--original", str(package.parent))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "bench: BROKEN: file: original: small objects came back with other bytes" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "tape"], "--only knows no tape"),
        (["--rounds", "0"], "--rounds is at least 1"),
        (["--original", "/nonexistent"], "there is no package 'storage' in it"),
    ],
)
def test_wrong_arguments_of_stores(work: Path, arguments: list[str], said: str) -> None:
    done = bench_stores(work, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_rest_is_measured_for_both_servers_and_each_client(tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    words = [
        str(PROJECT / "scripts" / "bench"),
        "rest",
        "--short",
        "--work",
        str(tmp_path),
        "--json",
        str(told),
    ]
    done = subprocess.run(
        words,
        env=os.environ | {"MOUNTSTORE_VENV": sys.prefix},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(told.read_text())
    rates, cpu_ms = found["rates"], found["cpu_ms"]
    assert set(rates) == set(cpu_ms) == {"lean", "borgstore", "mountstore"}
    assert {row for rows_of in cpu_ms.values() for row in rows_of} == set(rates["lean"])
    for rows_of in rates.values():
        assert len(rows_of) == 8
        assert all(min(values) > 0 for row in rows_of.values() for values in row.values())
        assert all(set(row) == {"mountstore", "borgstore"} for row in rows_of.values())
    assert "| GET 1 KiB, 32 at a time (/s) |" in done.stdout
