"""REST protocol v1, row by row: each request of its table, what it answers, and each of its errors."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests import services
from tests.server.serving import MEDIA_TYPE, Served, serving


def put(served: Served, name: str, data: bytes) -> None:
    assert served.ask("POST", f"/{name}", body=data).status == 200


def get(served: Served, name: str, *lines: str) -> bytes:
    answer = served.ask("GET", f"/{name}", *lines)
    assert answer.status in (200, 206), answer
    return answer.body


def as_json(data: Any) -> bytes:
    return json.dumps(data).encode()


# -- what holds for each request --------------------------------------------------------------------


@pytest.mark.parametrize("accept", ["", "*/*", "application/json", f"{MEDIA_TYPE}, */*", "text/html"])
def test_without_its_media_type_a_request_is_not_acceptable(served: Served, accept: str) -> None:
    assert served.ask("GET", "/config/x", accept=accept).status == 406


def test_acceptable_is_asked_before_who_asks(tmp_path: Path) -> None:
    env = {"MOUNTSTORE_SERVE_PASSWORD": "right"}
    basic = "Basic " + base64.b64encode(b"me:right").decode()
    with serving("memory:", tmp_path, "--user", "me", env=env, authorization=basic) as served:
        served.authorization = ""
        assert served.ask("GET", "/data/x", accept="").status == 406
        told = served.ask("GET", "/data/x")
        assert told.status == 401
        assert told.headers["www-authenticate"].startswith("Basic realm=")


def test_answers_have_a_length_and_are_not_to_be_cached(served: Served, namespace: str) -> None:
    put(served, f"{namespace}/x", b"1")
    with served.connect() as client:
        for method, target in (("GET", f"/{namespace}/x"), ("GET", f"/{namespace}/"), ("GET", "/none/x")):
            answer = client.ask(method, target)
            assert int(answer.headers["content-length"]) == len(answer.body)
            assert "no-store" in answer.headers["cache-control"]


def test_a_connection_is_kept_over_successes_and_errors(served: Served, namespace: str) -> None:
    with served.connect() as client:
        for number in range(5):
            assert client.ask("POST", f"/{namespace}/{number}", body=b"x" * number).status == 200
            assert client.ask("GET", f"/{namespace}/{number}").body == b"x" * number
            assert client.ask("GET", f"/{namespace}/none").status == 404


def test_http_1_0_is_answered_and_closed(served: Served, namespace: str) -> None:
    put(served, f"{namespace}/x", b"1")
    with served.connect() as client:
        client.send(f"GET /{namespace}/x HTTP/1.0\r\nAccept: {MEDIA_TYPE}\r\n\r\n".encode())
        answer = client.answer()
        assert (answer.status, answer.body, answer.closes) == (200, b"1", True)
        assert client.is_closed()


def test_the_target_may_be_a_whole_url(served: Served, namespace: str) -> None:
    put(served, f"{namespace}/x", b"1")
    assert served.ask("GET", f"http://test/{namespace}/x").body == b"1"


def test_slashes_at_the_ends_are_not_of_the_name(served: Served, namespace: str) -> None:
    put(served, f"/{namespace}/x/", b"1")
    assert get(served, f"/{namespace}/x") == b"1"


def test_names_are_percent_decoded(served: Served, namespace: str) -> None:
    put(served, f"{namespace}/100%25%7e", b"1")
    (entry,) = json.loads(get(served, f"{namespace}/"))
    assert entry["name"] == "100%~"


@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "PROPFIND"])
def test_other_methods_are_told_which_there_are(served: Served, method: str) -> None:
    answer = served.ask(method, "/config/x")
    assert (answer.status, answer.headers["allow"]) == (405, "DELETE, GET, HEAD, POST")


# -- create, destroy --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "sqlite", "memory"])
def test_create_and_destroy(tmp_path: Path, kind: str) -> None:
    store = {"file": f"file://{tmp_path}/store", "sqlite": f"sqlite:{tmp_path}/db", "memory": "memory:"}[kind]
    with serving(store, tmp_path, create=False) as served, served.connect() as client:
        assert client.ask("DELETE", "/?cmd=destroy").status == 410
        for method, target in (("GET", "/data/x"), ("GET", "/"), ("HEAD", "/x"), ("DELETE", "/x")):
            assert client.ask(method, target).status == 410
        assert client.ask("POST", "/?cmd=quota").status == 410
        assert client.ask("POST", "/data/x", body=b"1").status == 410
        assert client.ask("POST", "/?cmd=create").status == 200
        assert client.ask("POST", "/data/x", body=b"1").status == 200
        assert client.ask("POST", "/?cmd=create").status == 409
        assert client.ask("GET", "/data/x").body == b"1"
        assert client.ask("DELETE", "/?cmd=destroy").status == 200
        assert client.ask("GET", "/data/x").status == 410
        assert client.ask("POST", "/?cmd=create").status == 200
        assert client.ask("GET", "/data/x").status == 404


def test_a_store_that_another_process_made_anew_is_found(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    with serving(url, tmp_path) as one, serving(url, tmp_path, create=False) as other:
        put(one, "data/x", b"1")
        assert get(other, "data/x") == b"1"
        assert other.ask("DELETE", "/?cmd=destroy").status == 200
        assert one.ask("GET", "/data/x").status == 410
        assert other.ask("POST", "/?cmd=create").status == 200
        put(one, "data/x", b"2")
        assert get(other, "data/x") == b"2"


# -- mkdir, rmdir -----------------------------------------------------------------------------------


def test_mkdir_and_rmdir(served: Served, namespace: str) -> None:
    assert served.ask("GET", f"/{namespace}/").status == 404
    assert served.ask("DELETE", f"/{namespace}?cmd=rmdir").status == 404
    assert served.ask("POST", f"/{namespace}?cmd=mkdir").status == 200
    assert served.ask("POST", f"/{namespace}?cmd=mkdir").status == 200
    assert served.ask("GET", f"/{namespace}/").body == b"[]"
    assert served.ask("HEAD", f"/{namespace}").headers["x-borgstore-is-directory"] == "true"
    assert served.ask("DELETE", f"/{namespace}?cmd=rmdir").status == 200
    assert served.ask("GET", f"/{namespace}/").status == 404


def test_a_folder_that_holds_something_is_not_removed(served: Served, namespace: str) -> None:
    put(served, f"{namespace}/x", b"1")
    assert served.ask("DELETE", f"/{namespace}?cmd=rmdir").status == 412
    assert get(served, f"{namespace}/x") == b"1"


# -- HEAD, GET --------------------------------------------------------------------------------------


def test_head_tells_size_kind_and_times(served: Served, namespace: str) -> None:
    put(served, f"{namespace}/x", b"12345")
    with served.connect() as client:
        answer = client.ask("HEAD", f"/{namespace}/x")
        assert (answer.status, answer.headers["content-length"]) == (200, "5")
        assert answer.headers["x-borgstore-is-directory"] == "false"
        assert float(answer.headers["x-borgstore-atime"]) >= 0
        assert float(answer.headers["x-borgstore-mtime"]) > 1_700_000_000
        assert client.ask("HEAD", f"/{namespace}").headers["x-borgstore-is-directory"] == "true"
        assert client.ask("HEAD", "/").headers["x-borgstore-is-directory"] == "true"
        assert client.ask("HEAD", f"/{namespace}/none").status == 404


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=2-4", b"234"),
        ("bytes=2-", b"23456789"),
        ("bytes=-3", b"789"),
        ("bytes=0-0", b"0"),
        ("bytes=7-100", b"789"),
        ("bytes=10-20", b""),
        ("bytes=100-200", b""),
        ("bytes=100-", b""),
        ("bytes=-100", b"0123456789"),
        ("bytes=-0", b""),
        # How the original's client asks for nothing, and for a window that begins before the item.
        ("bytes=0--1", b""),
        ("bytes=5-4", b""),
        ("bytes=-7-2", b"0123456789"[:10]),
    ],
)
def test_ranges(served: Served, namespace: str, header: str, expected: bytes) -> None:
    put(served, f"{namespace}/x", b"0123456789")
    answer = served.ask("GET", f"/{namespace}/x", f"Range: {header}")
    assert (answer.status, answer.body) == (206, expected)
    if expected:
        start = b"0123456789".index(expected)
        assert answer.headers["content-range"].startswith(f"bytes {start}-{start + len(expected) - 1}/")


@pytest.mark.parametrize(
    "header", ["bytes=a-b", "bytes=1-2,4-5", "lines=1-2", "bytes=", "bytes=--1", "bytes=-"]
)
def test_what_is_no_range_gets_the_whole(served: Served, namespace: str, header: str) -> None:
    put(served, f"{namespace}/x", b"0123456789")
    answer = served.ask("GET", f"/{namespace}/x", f"Range: {header}")
    assert (answer.status, answer.body) == (200, b"0123456789")


def test_a_range_of_a_large_item(served: Served, namespace: str) -> None:
    data = bytes(range(256)) * (5 << 12)
    put(served, f"{namespace}/x", data)
    assert get(served, f"{namespace}/x") == data
    assert get(served, f"{namespace}/x", "Range: bytes=1000000-4999999") == data[1_000_000:5_000_000]
    assert get(served, f"{namespace}/x", "Range: bytes=-3000001") == data[-3_000_001:]
    assert get(served, f"{namespace}/x", "Range: bytes=4000000-99999999") == data[4_000_000:]


def test_get_of_what_is_missing(served: Served, namespace: str) -> None:
    assert served.ask("GET", f"/{namespace}/x").status == 404
    assert served.ask("GET", f"/{namespace}/x", "Range: bytes=0-1").status == 404
    assert served.ask("GET", f"/{namespace}/x", "Range: bytes=-1").status == 404


def test_a_listing_tells_items_and_folders(served: Served, namespace: str) -> None:
    put(served, f"{namespace}/b", b"22")
    put(served, f"{namespace}/a/deep", b"1")
    answer = served.ask("GET", f"/{namespace}/")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    folder, item = json.loads(answer.body)
    assert (folder["name"], folder["directory"]) == ("a", True)
    assert (item["name"], item["size"], item["directory"]) == ("b", 2, False)
    assert set(item) == {"name", "size", "directory", "atime", "mtime"}
    assert namespace in {entry["name"] for entry in json.loads(get(served, ""))}


# -- POST, DELETE -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 5 << 20])
def test_store_with_its_hash(served: Served, namespace: str, size: int) -> None:
    data = (b"0123456789abcde" * (size // 15 + 1))[:size]
    digest = hashlib.sha256(data).hexdigest()
    answer = served.ask("POST", f"/{namespace}/x", f"X-Content-hash-sha256: {digest}", body=data)
    assert answer.status == 200
    assert get(served, f"{namespace}/x") == data


@pytest.mark.parametrize("size", [0, 10, 3 << 20])
def test_another_hash_stores_nothing(served: Served, namespace: str, size: int) -> None:
    put(served, f"{namespace}/old", b"before")
    wrong = f"X-Content-hash-sha256: {hashlib.sha256(b'else').hexdigest()}"
    with served.connect() as client:
        for name in ("new", "old"):
            assert client.ask("POST", f"/{namespace}/{name}", wrong, body=bytes(size)).status == 422
        assert client.ask("GET", f"/{namespace}/new").status == 404
        assert client.ask("GET", f"/{namespace}/old").body == b"before"


@pytest.mark.parametrize(
    "name",
    ["UPPER", "a%20b", "x.tmp", "x.hid", "%C3%BC", "a" * 101, "a..b", "x%09y"],
)
def test_bad_names(served: Served, namespace: str, name: str) -> None:
    with served.connect() as client:
        assert client.ask("POST", f"/{namespace}/{name}", body=b"1").status == 400
        assert client.ask("GET", f"/{namespace}/{name}").status == 400
        assert client.ask("HEAD", f"/{namespace}/{name}").status == 400
        assert client.ask("DELETE", f"/{namespace}/{name}").status == 400
        assert client.ask("POST", f"/{namespace}/{name}?cmd=mkdir").status == 400
        assert client.ask("POST", f"/{namespace}/{name}?cmd=hash").status == 400


def test_a_request_that_names_nothing(served: Served) -> None:
    assert served.ask("POST", "/", body=b"1").status == 400
    assert served.ask("DELETE", "/").status == 400
    assert served.ask("POST", "/x?cmd=unheard-of", body=b"1").status == 400


def test_an_upload_says_how_long_it_is(served: Served, namespace: str) -> None:
    with served.connect() as client:
        client.send(client.head("POST", f"/{namespace}/x"))
        assert client.answer().status == 411
        assert client.ask("GET", f"/{namespace}/x").status == 404


def test_delete(served: Served, namespace: str) -> None:
    put(served, f"{namespace}/x", b"1")
    assert served.ask("DELETE", f"/{namespace}/x").status == 200
    assert served.ask("GET", f"/{namespace}/x").status == 404
    assert served.ask("DELETE", f"/{namespace}/x").status == 404


def test_move(served: Served, namespace: str) -> None:
    put(served, f"{namespace}/a", b"1")
    put(served, f"{namespace}/b", b"2")
    move = f"/?cmd=move&current={namespace}/a&new={namespace}"
    assert served.ask("POST", f"{move}/b").status == 200
    assert get(served, f"{namespace}/b") == b"1"
    assert served.ask("GET", f"/{namespace}/a").status == 404
    assert served.ask("POST", f"{move}/c").status == 404
    assert served.ask("POST", f"/?cmd=move&current={namespace}/b").status == 400
    assert served.ask("POST", f"/?cmd=move&new={namespace}/b").status == 400
    assert served.ask("POST", f"/?cmd=move&current={namespace}/b&new=UP").status == 400


# -- hash, quota, defrag, gather --------------------------------------------------------------------


def test_hash(served: Served, namespace: str) -> None:
    data = bytes(range(256)) * (3 << 12)
    put(served, f"{namespace}/x", data)
    for algorithm in ("sha256", "sha1", "blake2b"):
        answer = served.ask("POST", f"/{namespace}/x?cmd=hash&algorithm={algorithm}")
        assert answer.body.decode() == hashlib.new(algorithm, data).hexdigest()
    assert served.ask("POST", f"/{namespace}/x?cmd=hash").body.decode() == hashlib.sha256(data).hexdigest()
    assert served.ask("POST", f"/{namespace}/x?cmd=hash&algorithm=none").status == 400
    assert served.ask("POST", f"/{namespace}/x?cmd=hash&algorithm=shake_128").status == 400
    assert served.ask("POST", f"/{namespace}/none?cmd=hash").status == 404
    assert served.ask("POST", "/?cmd=hash").status == 400


def test_quota_where_there_is_none(served: Served) -> None:
    assert json.loads(served.ask("POST", "/?cmd=quota").body) == {"limit": -1, "usage": -1}


def test_quota(tmp_path: Path, store_url: str) -> None:
    with serving(store_url, tmp_path, "--quota", "1000") as served, served.connect() as client:
        assert client.ask("POST", "/data/a", body=bytes(600)).status == 200
        assert json.loads(client.ask("POST", "/?cmd=quota").body) == {"limit": 1000, "usage": 600}
        assert client.ask("POST", "/data/b", body=bytes(401)).status == 507
        assert client.ask("GET", "/data/b").status == 404
        assert client.ask("POST", "/data/a", body=bytes(1000)).status == 200
        assert client.ask("POST", "/data/a", body=bytes(1)).status == 200
        pieces = as_json([["data/a", 0, 1]] * 1000)
        assert client.ask("POST", "/?cmd=defrag&target=data/c", body=pieces).status == 507
        assert json.loads(client.ask("POST", "/?cmd=quota").body) == {"limit": 1000, "usage": 1}


def test_defrag(served: Served, namespace: str) -> None:
    put(served, f"{namespace}/a", b"0123456789")
    put(served, f"{namespace}/b", b"abcdefghij")
    pieces = as_json([[f"{namespace}/a", 2, 3], [f"{namespace}/b", -2, 2], [f"{namespace}/a", 0, 0]])
    content = b"234ij"
    named = served.ask("POST", f"/?cmd=defrag&target={namespace}/c", body=pieces)
    assert (named.status, named.body.decode()) == (200, f"{namespace}/c")
    assert get(served, f"{namespace}/c") == content
    digest = hashlib.sha256(content).hexdigest()
    hashed = served.ask("POST", f"/?cmd=defrag&algorithm=sha256&namespace={namespace}", body=pieces)
    assert hashed.body.decode() == f"{namespace}/{digest}"
    nested = f"{namespace}/{digest[:2]}/{digest[2:4]}/{digest}"
    levels = served.ask("POST", f"/?cmd=defrag&algorithm=sha256&namespace={namespace}&levels=2", body=pieces)
    assert levels.body.decode() == nested
    assert get(served, nested) == content


@pytest.mark.parametrize("command", ["defrag&target=z/z", "gather"])
def test_pieces_that_are_wrong(served: Served, namespace: str, command: str) -> None:
    put(served, f"{namespace}/a", b"0123456789")
    name = f"{namespace}/a"
    with served.connect() as client:

        def status(body: bytes) -> int:
            return client.ask("POST", f"/?cmd={command}", body=body).status

        for short in ([name, 8, 3], [name, 100, 1], [name, -11, 1], [name, -1, 2]):
            assert status(as_json([[name, 0, 1], short])) == 416
        for wrong in ([name, 0], [name, 0, -1], [name, 0.5, 1], [name, True, 1], [1, 0, 1], "x", None):
            assert status(as_json([wrong])) == 400
        for body in (b"", b"{", b"{}", b"1", b"[" * 100_000, b"\xff"):
            assert status(body) == 400
        assert status(as_json([["UP", 0, 1]])) == 400
        assert status(as_json([["none/x", 0, 1]])) == 404
        assert client.ask("GET", "/z/z").status == 404


def test_defrag_wants_a_name_or_an_algorithm(served: Served, namespace: str) -> None:
    for query in ("", "&levels=2", "&algorithm=none", "&target=UP", "&algorithm=sha256&levels=x"):
        assert served.ask("POST", f"/?cmd=defrag{query}", body=b"[]").status == 400


def test_gather(served: Served, namespace: str) -> None:
    data = bytes(range(256)) * (3 << 12)
    put(served, f"{namespace}/a", data)
    name = f"{namespace}/a"
    pieces = [[name, 5, 10], [name, -7, 7], [name, 0, 2 << 20], [name, 3, 0]]
    answer = served.ask("POST", "/?cmd=gather", body=as_json(pieces))
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.body == data[5:15] + data[-7:] + data[: 2 << 20]
    assert served.ask("POST", "/?cmd=gather", body=b"[]").body == b""


# -- permissions ------------------------------------------------------------------------------------


def test_permissions_by_name_and_as_json(tmp_path: Path, store_url: str) -> None:
    with serving(store_url, tmp_path) as served:
        put(served, "data/x", b"1")
        put(served, "locks/l", b"1")
    statuses: dict[str, list[int]] = {}
    for permissions in ("read-only", "no-delete", "write-only", "borgbackup-read-only", '{"data": "lrD"}'):
        options = ("--permissions", permissions)
        with serving(store_url, tmp_path, *options, create=False) as served, served.connect() as client:
            statuses[permissions] = [
                client.ask("GET", "/data/").status,
                client.ask("GET", "/data/x").status,
                client.ask("POST", f"/data/new{len(statuses)}", body=b"1").status,
                client.ask("POST", "/data/x", body=b"2").status,
                client.ask("DELETE", "/locks/l").status,
            ]
    assert statuses == {
        "read-only": [200, 200, 403, 403, 403],
        "no-delete": [200, 200, 200, 403, 403],
        "write-only": [200, 403, 200, 403, 403],
        "borgbackup-read-only": [200, 200, 403, 403, 200],
        '{"data": "lrD"}': [200, 200, 403, 403, 403],
    }


def test_what_is_forbidden_stays_so_by_every_way(tmp_path: Path, store_url: str) -> None:
    with serving(store_url, tmp_path) as served:
        put(served, "data/x", b"1")
    options = ("--permissions", '{"": "l"}')
    with serving(store_url, tmp_path, *options, create=False) as served, served.connect() as client:
        assert client.ask("POST", "/data/x?cmd=hash").status == 403
        pieces = as_json([["data/x", 0, 1]])
        assert client.ask("POST", "/?cmd=gather", body=pieces).status == 403
        assert client.ask("POST", "/?cmd=defrag&target=data/y", body=pieces).status == 403
        assert client.ask("POST", "/?cmd=move&current=data/x&new=data/y").status == 403
        assert client.ask("POST", "/data?cmd=mkdir").status == 403
        assert client.ask("DELETE", "/?cmd=destroy").status == 403
        assert client.ask("POST", "/data/y", body=bytes(3 << 20)).status == 403


# -- what watches the server ------------------------------------------------------------------------


def test_health_and_metrics_tell_nothing_of_names(served: Served, namespace: str) -> None:
    put(served, f"{namespace}/secret", b"1")
    health = served.ask("GET", "/HEALTH", accept="")
    assert (health.status, health.body) == (200, b"ok\n")
    metrics = served.ask("GET", "/METRICS", accept="text/plain")
    assert b'mountstore_requests_total{verb="POST",status="200"}' in metrics.body
    assert b"secret" not in metrics.body
    assert namespace.encode() not in metrics.body


def test_metrics_are_for_those_who_may_come_in(tmp_path: Path) -> None:
    env = {"MOUNTSTORE_SERVE_PASSWORD": "right"}
    basic = "Basic " + base64.b64encode(b"me:right").decode()
    with serving("memory:", tmp_path, "--user", "me", env=env, authorization=basic) as served:
        assert served.ask("GET", "/METRICS", accept="").status == 200
        served.authorization = ""
        assert served.ask("GET", "/METRICS", accept="").status == 401
        assert served.ask("GET", "/HEALTH", accept="").status == 200


def test_a_store_that_is_away_is_unavailable_not_gone(tmp_path: Path) -> None:
    with services.redis_server() as redis:
        url = f"redis://127.0.0.1:{redis.port}/0"
        with serving(url, tmp_path) as served, served.connect() as client:
            assert client.ask("POST", "/data/x", body=b"1").status == 200
            redis.end()
            answer = client.ask("GET", "/data/x")
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert client.ask("GET", "/HEALTH").status == 200
