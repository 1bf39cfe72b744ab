"""The quota of a server that is killed at any moment: what is there afterwards is what is counted."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from tests.server.serving import Client, Served, serving

LIMIT = 1 << 20
SIZES = (1, 5_000, 70_000, 150_000, 300_000)


def usage(served: Served) -> int:
    answer = served.ask("POST", "/?cmd=quota").body
    limit, used = (int(part.split(b":")[1]) for part in answer.strip(b"{}").split(b","))
    assert limit == LIMIT
    return used


def held(folder: Path) -> int:
    """The bytes of all items."""
    return sum(path.stat().st_size for path in folder.glob("data/*") if path.is_file())


def work(client: Client, number: int, done: threading.Semaphore) -> None:
    """Store, overwrite, move onto others and delete until the server is gone."""
    try:
        for step in range(1_000_000):
            name, other = f"{(number + step) % 7}", f"{(number * 3 + step) % 7}"
            if step % 4 == 2:
                status = client.ask("POST", f"/?cmd=move&current=data/{name}&new=data/{other}").status
            elif step % 4 == 3:
                status = client.ask("DELETE", f"/data/{other}").status
            else:
                body = bytes(SIZES[(number + step) % len(SIZES)])
                status = client.ask("POST", f"/data/{name}", body=body).status
            assert status in (200, 404, 507), status
            done.release()
    except ConnectionError:
        return


def test_it_is_exact_after_kills(tmp_path: Path, store_url: str) -> None:
    """Four clients at once, and a fifth in the middle of a body, while the server is killed; three times."""
    folder = tmp_path / "store"
    for attempt in range(3):
        with serving(store_url, tmp_path, "--quota", str(LIMIT), create=not attempt) as served:
            assert usage(served) == held(folder) <= LIMIT
            done = threading.Semaphore(0)
            threads = [
                threading.Thread(target=work, args=(served.connect(), number + attempt, done))
                for number in range(4)
            ]
            for thread in threads:
                thread.start()
            half = served.connect()
            half.send(half.head("POST", "/data/half", f"Content-Length: {SIZES[-1]}") + bytes(SIZES[-1] - 1))
            for _ in range(40 + 17 * attempt):
                assert done.acquire(timeout=60)
            os.kill(served.pid, signal.SIGKILL)
            for thread in threads:
                thread.join(60)
    assert not (folder / "data" / "half").exists()
    with serving(store_url, tmp_path, "--quota", str(LIMIT), create=False) as served:
        used = usage(served)
        assert used == held(folder)
        # To the byte: what is left fits, and not one more.
        left = LIMIT - used
        assert served.ask("POST", "/data/left", body=bytes(left + 1)).status == 507
        assert served.ask("POST", "/data/left", body=bytes(left)).status == 200
        assert served.ask("POST", "/data/one", body=b"1").status == 507
        assert usage(served) == held(folder) == LIMIT


@pytest.mark.parametrize("name", ["no-delete", "borgbackup-no-delete"])
def test_a_store_to_which_is_only_added(tmp_path: Path, store_url: str, name: str) -> None:
    """Append-only, by a set of permissions that has a name: nothing that is there changes or goes."""
    with serving(store_url, tmp_path) as served:
        assert served.ask("POST", "/data/x", body=b"content").status == 200
    with serving(store_url, tmp_path, "--permissions", name, create=False) as served:
        assert served.ask("POST", "/data/y", body=b"more").status == 200
        for number, (method, target) in enumerate(
            [
                ("POST", "/data/x"),
                ("DELETE", "/data/x"),
                ("POST", "/?cmd=move&current=data/x&new=data/z"),
                ("POST", "/?cmd=move&current=data/y&new=data/x"),
                ("DELETE", "/?cmd=destroy"),
            ]
        ):
            assert served.ask(method, target, body=b"other").status == 403, number
        pieces = b'[["data/y", 0, 4]]'
        assert served.ask("POST", "/?cmd=defrag&target=data/x", body=pieces).status == 403
        assert served.ask("GET", "/data/x").body == b"content"
        assert served.ask("GET", "/data/y").body == b"more"
