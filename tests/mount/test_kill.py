"""SIGKILL of the daemon loses nothing that was acknowledged, and the next mount goes on by itself."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from tests.mount.cases import LONG, S3_SERVERS, S3Case, StoreCase, make_case
from tests.mount.mounting import Mounts
from tests.mount.proxy import Proxy, Request, proxied
from tests.mount.waiting import wait_until
from tests.torture.kills import Torture, files_in

KILLS = dict.fromkeys([*S3_SERVERS, "sqlite", "file"], 100) if LONG else {"versitygw": 25, "sqlite": 25}


def kept_more_than(proxy: Proxy, count: int) -> bool:
    return proxy.kept > count


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.xdist_group(f"kills-{kind}")) for kind in KILLS]
)
def test_kills_at_random_moments_lose_nothing(
    kind: str, request: pytest.FixtureRequest, base: Path, mounts: Mounts
) -> None:
    case = make_case(kind, request, base)
    mount = mounts(case, start=False, limit_s=120)
    torture = Torture(case, mount, seed=int(os.environ.get("MOUNTSTORE_TEST_SEED", "1")))
    for _ in range(KILLS[kind]):
        torture.kill()
    torture.finish()


@pytest.mark.parametrize("kind", S3_SERVERS)
def test_the_next_mount_finishes_the_uploads(
    kind: str, request: pytest.FixtureRequest, base: Path, mounts: Mounts
) -> None:
    """Closed, killed while every upload is held back, mounted again: the store gets it all, untouched."""
    case = make_case(kind, request, base)
    with proxied(case.env["AWS_ENDPOINT_URL"]) as proxy:
        mount = mounts(case, env={**case.env, "AWS_ENDPOINT_URL": proxy.endpoint})
        proxy.go.clear()
        wanted = {f"folder/{number}": os.urandom(number * 10_000) for number in range(20)}
        (mount.root / "folder").mkdir()
        for name, data in wanted.items():
            (mount.root / name).write_bytes(data)
        wait_until("an upload is held back", lambda: proxy.waiting > 0)
        mount.kill()
        assert files_in(case) == {}
        proxy.fault = lambda seen: "refuse"  # what was held back dies with its daemon
        proxy.go.set()
        wait_until("what was held back is gone", lambda: proxy.waiting == 0)
        proxy.fault = lambda seen: None
        assert files_in(case) == {}
        mount.start()
        wait_until("the store has all", lambda: files_in(case) == {n: len(d) for n, d in wanted.items()})
        assert {key: case.read(key) for key in wanted} == wanted


@pytest.mark.parametrize("killed", [False, True], ids=["alive", "killed"])
def test_an_upload_whose_reply_is_lost_is_no_conflict(
    killed: bool, bucket_case: S3Case, mounts: Mounts
) -> None:
    """The PUT landed, nobody heard of it: it is recognised as ours, not as a stranger's."""
    case = bucket_case
    with proxied(case.env["AWS_ENDPOINT_URL"]) as proxy:
        mount = mounts(case, env={**case.env, "AWS_ENDPOINT_URL": proxy.endpoint})
        for text in ["first", "second"]:

            def fault(seen: Request) -> str | None:
                if seen.method != "PUT" or seen.key != "file" or proxy.faults % 2:
                    return None
                return "keep the reply" if killed else "lose the reply"

            before = proxy.kept
            proxy.fault = fault
            proxy.faults = 0
            (mount.root / "file").write_text(text)
            if killed:
                wait_until("the upload has landed", partial(kept_more_than, proxy, before))
                assert case.read("file") == text.encode()
                mount.kill()
                mount.start()
            mount.sync()
            assert proxy.faults == 1, "the fault has not fired"
            assert files_in(case) == {"file": len(text)}
            assert case.read("file") == text.encode()
            assert os.listdir(mount.root) == ["file"]
            assert mount.status()["conflicts"] == []


def test_parts_of_an_upload_that_was_killed_are_removed(bucket_case: S3Case, mounts: Mounts) -> None:
    """They are paid for. Somebody else's upload to the same key is left alone."""
    case = bucket_case
    with proxied(case.env["AWS_ENDPOINT_URL"]) as proxy:

        def uploads() -> set[str]:
            found = case.client.list_multipart_uploads(Bucket=case.bucket, Prefix="large")
            return {one["UploadId"] for one in found.get("Uploads", [])}

        theirs = case.client.create_multipart_upload(Bucket=case.bucket, Key="large")["UploadId"]
        mount = mounts(case, env={**case.env, "AWS_ENDPOINT_URL": proxy.endpoint})
        data = os.urandom(20 << 20)
        proxy.fault = lambda seen: "keep the reply" if "partNumber=2" in seen.query else None
        (mount.root / "large").write_bytes(data)
        wait_until("a part has landed", lambda: proxy.kept > 0)
        mount.kill()
        assert len(uploads()) == 2
        proxy.fault = lambda seen: None
        proxy.go_on.set()
        mount.start()
        wait_until("only theirs is left", lambda: uploads() == {theirs})
        wait_until("the store has it", lambda: files_in(case) == {"large": len(data)})
        assert case.read("large") == data
        mount.sync()
        assert uploads() == {theirs}
        assert (mount.state / "unfinished").read_bytes() == b""


@pytest.mark.parametrize("how", ["refuse", "503"])
def test_an_outage_of_the_store(how: str, bucket_case: S3Case, mounts: Mounts) -> None:
    """While the store is away, work goes on and is told of as pending; when it is back, all goes up."""
    case = bucket_case
    with proxied(case.env["AWS_ENDPOINT_URL"]) as proxy:
        mount = mounts(case, env={**case.env, "AWS_ENDPOINT_URL": proxy.endpoint})
        (mount.root / "before").write_text("before")
        mount.sync()
        proxy.fault = lambda seen: how
        (mount.root / "during").write_text("during")
        (mount.root / "before").write_text("changed")
        wait_until("the fault has fired", lambda: proxy.faults > 0)
        assert (mount.root / "during").read_text() == "during"
        assert (mount.root / "before").read_text() == "changed"
        status = mount.status()
        assert sorted(one["path"].lstrip("/") for one in status["pending"]) == ["before", "during"]
        assert status["pending_count"] == 2
        assert files_in(case) == {"before": 6}
        mount.kill()
        proxy.fault = lambda seen: None
        mount.start()
        wait_until("the store has all", lambda: files_in(case) == {"before": 7, "during": 6}, timeout_s=90)


def test_a_dead_mount_point_can_be_mounted_again(store_case: StoreCase, mounts: Mounts) -> None:
    """The daemon was killed and its mount is left over: `mount` goes on there, or umount takes it away."""
    mount = mounts(store_case)
    (mount.root / "file").write_text("content")
    mount.kill_only()
    with pytest.raises(OSError, match=r"not connected|connection abort"):
        os.listdir(mount.root)
    mount.start()
    assert (mount.root / "file").read_text() == "content"
    mount.umount()
    assert store_case.read("file") == b"content"
