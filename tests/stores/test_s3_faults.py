"""BucketStore where things go wrong, against real servers; a proxy in between loses what it is told to."""

from __future__ import annotations

import gzip
import json
import os
import socket
import socketserver
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mountstore.backends.s3 import BucketStore, NoSuchBucket, sign
from mountstore.backends.s3.account import Credentials, Site
from mountstore.backends.s3.wire import Patience
from mountstore.errors import (
    AccessDenied,
    Corrupted,
    InvalidKey,
    PreconditionFailed,
    Unavailable,
    Unsupported,
)
from tests import servers
from tests.servers import S3Server

MIB = 1 << 20


class LossyProxy(socketserver.ThreadingTCPServer):
    """Passes HTTP requests on, one a connection, and does to each what the next of `faults` says.

    "pass": nothing; "lose reply": the server does it, and nobody hears of it; "busy": the server never
    sees it, and 503 with a Retry-After is the answer; "archived": nor this, and 403 is the answer; "cut":
    the answer's end is missing; "bent": a bit of its last byte is another. A pair
    (fault, method) waits for a request of this method.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = port
        self.faults: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(socketserver.StreamRequestHandler):
    server: LossyProxy

    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return
            head += line
        names = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:])
        }
        body = self.rfile.read(int(names.get("content-length", "0")))
        with self.server.lock:
            due = self.server.faults[:1]
            fault = due[0][0] if due and head.startswith(due[0][1].encode()) else ""
            if fault:
                self.server.faults.pop(0)
        if fault == "busy":
            self.wfile.write(
                b"HTTP/1.1 503 Slow Down\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            return
        if fault == "archived":
            error = b"<Error><Code>InvalidObjectState</Code><Message>It is archived.</Message></Error>"
            told = b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
            self.wfile.write(told % len(error) + error)
            return
        head = head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        with socket.create_connection(("127.0.0.1", self.server.target), timeout=30) as upstream:
            upstream.sendall(head + body)
            answer = b""
            while data := upstream.recv(1 << 16):
                answer += data
        if fault == "lose reply":
            return
        if fault == "cut":
            answer = answer[:-5]
        elif fault == "bent":
            answer = answer[:-1] + bytes([answer[-1] ^ 1])
        self.wfile.write(answer)


@pytest.fixture
def proxy(versitygw: S3Server) -> Iterator[LossyProxy]:
    with LossyProxy(int(versitygw.endpoint.rpartition(":")[2])) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
            assert proxy.faults == [], "a fault did not fire"


def opened(server: S3Server, bucket: str, prefix: str = "", **options: Any) -> BucketStore:
    return BucketStore(bucket, prefix, client=server.client(), **options)


@pytest.mark.parametrize("size", [100, 6 * MIB])
def test_a_put_whose_answer_was_lost_is_no_conflict(
    versitygw: S3Server, proxy: LossyProxy, size: int
) -> None:
    with opened(versitygw, versitygw.new_bucket(), endpoint=proxy.url, part_bytes=5 * MIB) as store:
        store.probe()
        # The request that makes the object: a PUT, or the second POST, after the parts.
        faults = [("lose reply", "PUT")] if size < 5 * MIB else [("pass", "POST"), ("lose reply", "POST")]
        for first in (True, False):
            data = os.urandom(size)
            etag = None if first else store.head("k").etag
            proxy.faults = list(faults)
            info = store.put("k", data, metadata={"a": "1"}, if_absent=first, if_match=etag)
            assert proxy.faults == []
            assert bytes(store.get("k")) == data
            assert store.head("k").etag == info.etag


def test_somebody_elses_put_is_a_conflict_though_an_answer_was_lost(
    versitygw: S3Server, proxy: LossyProxy
) -> None:
    with opened(versitygw, versitygw.new_bucket(), endpoint=proxy.url) as store:
        store.put("k", b"theirs")
        proxy.faults = [("busy", "PUT")]
        with pytest.raises(PreconditionFailed):
            store.put("k", b"mine!!", if_absent=True)
        assert bytes(store.get("k")) == b"theirs"


def test_it_tries_again(versitygw: S3Server, proxy: LossyProxy) -> None:
    with opened(versitygw, versitygw.new_bucket(), endpoint=proxy.url) as store:
        calls: list[tuple[str, Callable[[], object]]] = [
            ("PUT", lambda: store.put("k", b"x" * 1000)),
            ("GET", lambda: store.get("k")),
            ("GET", lambda: store.get("k", 2, 5)),
            ("HEAD", lambda: store.head("k")),
            ("GET", lambda: list(store.keys())),
            ("DELETE", lambda: store.delete("k")),
        ]
        for method, call in calls:
            for fault in ("busy", "lose reply", "cut") if method == "GET" else ("busy", "lose reply"):
                if not store.exists("k"):
                    store.put("k", b"x" * 1000)
                proxy.faults = [(fault, method)]
                call()
        assert not store.exists("k")


@pytest.mark.parametrize("fault", ["archived", "busy", "lose reply", "cut", "bent"])
def test_an_object_that_cannot_be_got_is_told_of(versitygw: S3Server, proxy: LossyProxy, fault: str) -> None:
    with opened(versitygw, versitygw.new_bucket(), endpoint=proxy.url) as store:
        store.put("a", b"x" * 1000, metadata={"n": "1"})
        store.put("b", b"y" * 1000)
        heads = {key: store.head(key) for key in "ab"}
        proxy.faults = [(fault, "GET")]
        found = store.head_or_get_many(["a", "absent", "b"])
        assert {key: info for key, (info, _) in found.items()} == heads
        assert found["a"][1] in (None, b"x" * 1000)
        assert found["b"][1] == b"y" * 1000


def test_retry_after_and_the_deadline() -> None:
    patience = Patience()
    assert all(0 <= patience.wait_s(tries) <= 0.1 * 2**tries for tries in range(6) for _ in range(20))
    assert patience.wait_s(50) <= 10
    assert patience.wait_s(1, 7.0) == 7.0


def test_errors_in_one_clear_line(s3_server: S3Server) -> None:
    bucket = s3_server.new_bucket()

    def fails(
        kind: type[Exception], words: str, name: str, key: str, secret: str, endpoint: str = ""
    ) -> None:
        import boto3

        client = boto3.session.Session().client(
            "s3",
            region_name="us-east-1",
            endpoint_url=endpoint or s3_server.endpoint,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
        )
        with BucketStore(name, client=client, retry_deadline_s=1.0) as store:
            calls: list[Callable[[], object]] = [store.check, partial(store.put, "k", b"")]
            for call in calls:
                with pytest.raises(kind, match=words) as caught:
                    call()
                text = str(caught.value)
                assert "\n" not in text
                assert secret not in text

    right = (s3_server.access_key, s3_server.secret_key)
    fails(NoSuchBucket, "no such bucket: nothere", "nothere", *right)
    fails(AccessDenied, "secret key", bucket, right[0], "wrong-secret")
    fails(AccessDenied, "access key", bucket, "wrong-key", right[1])
    nowhere = f"http://127.0.0.1:{servers.free_port()}"
    fails(Unavailable, "cannot reach http://127.0.0.1:.*refused", bucket, *right, nowhere)


def test_a_frozen_server_is_noticed() -> None:
    options: dict[str, Any] = {"read_timeout_s": 0.5, "retry_deadline_s": 1.0}
    with servers.versitygw() as server, opened(server, server.new_bucket(), "", **options) as store:
        store.put("k", b"x")
        server.pause()
        with pytest.raises(Unavailable, match="time-out"):
            store.check(0.5)
        with pytest.raises(Unavailable):
            store.get("k")
        server.resume()
        assert bytes(store.get("k")) == b"x"


def test_the_bucket_s_region_is_found() -> None:
    with (
        servers.minio("eu-central-1") as server,
        opened(server, server.new_bucket(), region="us-west-2") as store,
    ):
        store.put("k", b"x")
        assert bytes(store.get("k")) == b"x"
        assert [info.key for info in store.list().objects] == ["k"]


def test_reading_without_credentials(minio: S3Server) -> None:
    bucket = minio.new_bucket()
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": "*",
                "Action": ["s3:GetObject", "s3:ListBucket"],
                "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
            }
        ],
    }
    minio.client().put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    minio.client().put_object(Bucket=bucket, Key="d/k", Body=b"open")
    with BucketStore(bucket, endpoint=minio.endpoint, anonymous=True) as store:
        store.check()
        assert not store.capabilities.writable
        assert bytes(store.get("d/k")) == b"open"
        assert list(store.keys()) == ["d/k"]
        with pytest.raises(AccessDenied):
            store.put("k", b"")
        with pytest.raises(Unsupported):
            store.presigned_get("d/k")


def test_credentials_that_run_out_are_fetched_again(
    versitygw: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = tmp_path / "calls"
    script = tmp_path / "login.py"
    script.write_text(
        "import datetime, json\n"
        f"open({str(calls)!r}, 'a').write('.')\n"
        "end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=1)\n"
        f"print(json.dumps({{'Version': 1, 'AccessKeyId': {versitygw.access_key!r}, "
        f"'SecretAccessKey': {versitygw.secret_key!r}, 'Expiration': end.isoformat()}}))\n"
    )
    config = tmp_path / "config"
    config.write_text(
        f"[profile short]\nregion = us-east-1\nendpoint_url = {versitygw.endpoint}\n"
        f"credential_process = {sys.executable} {script}\n"
    )
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    # obstore reads such variables itself; they must not reach it.
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-somebody-else")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{servers.free_port()}")
    with BucketStore(versitygw.new_bucket(), profile="short", endpoint=versitygw.endpoint) as store:
        store.put("k", b"x")
        first = calls.stat().st_size
        assert bytes(store.get("k")) == b"x"
        store.check()
        assert calls.stat().st_size > first


def test_a_damaged_object_is_not_returned(versitygw: S3Server) -> None:
    bucket = versitygw.new_bucket()
    with opened(versitygw, bucket) as store:
        store.probe()
        store.put("d/k", b"right" * 100)
        with open(versitygw.data / bucket / "d" / "k", "r+b") as file:
            file.write(b"wrong")
        with pytest.raises(Corrupted):
            store.get("d/k")


def test_parts_of_a_failed_upload_are_removed(s3_server: S3Server) -> None:
    bucket = s3_server.new_bucket()
    with opened(s3_server, bucket, part_bytes=5 * MIB) as store:
        store.put("k", b"there")
        with pytest.raises(PreconditionFailed):
            store.put("k", bytes(11 * MIB), if_absent=True)
        assert bytes(store.get("k")) == b"there"
        found = s3_server.client().list_multipart_uploads(Bucket=bucket, Prefix="k")
        assert found.get("Uploads", []) == []


def test_copy_in_parts(s3_server: S3Server) -> None:
    sizes: dict[str, Any] = {"copy_threshold_bytes": 6 * MIB, "copy_part_bytes": 5 * MIB}
    with opened(s3_server, s3_server.new_bucket(), "", **sizes) as store:
        data = os.urandom(11 * MIB)
        store.put("a é+%", data, metadata={"mode": "1"})
        info = store.copy("a é+%", "b")
        assert (info.size, info.metadata) == (len(data), {"mode": "1"})
        assert store.head("b").etag == info.etag
        assert bytes(store.get("b")) == data
        assert store.update_metadata("b", {"mode": "2"}).metadata == {"mode": "2"}
        assert bytes(store.get("b")) == data
        assert store.requests["COPY"] >= 6


def test_headers_of_other_tools_are_kept(s3_server: S3Server) -> None:
    bucket = s3_server.new_bucket()
    body = gzip.compress(b"text" * 100)
    s3_server.client().put_object(
        Bucket=bucket,
        Key="k",
        Body=body,
        ContentType="text/html",
        ContentEncoding="gzip",
        Metadata={"a": "1"},
    )
    with opened(s3_server, bucket) as store:
        assert bytes(store.get("k")) == body
        assert store.head("k").metadata == {"a": "1"}
        store.update_metadata("k", {"mode": "1", "content-type": "mine"})
        assert store.head("k").metadata == {"mode": "1", "content-type": "mine"}
        store.put("own", b"x", metadata={"content-type": "mine"})
        assert store.head("own").metadata == {"content-type": "mine"}
    head = s3_server.client().head_object(Bucket=bucket, Key="k")
    assert (head["ContentType"], head["ContentEncoding"]) == ("text/html", "gzip")


def test_presigned_urls(s3_server: S3Server) -> None:
    with opened(s3_server, s3_server.new_bucket(), "p/") as store:
        for key in ("plain", "a b+c%é?#&"):
            request = urllib.request.Request(store.presigned_put(key), data=b"by url", method="PUT")
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert answer.status == 200
            with urllib.request.urlopen(store.presigned_get(key, 60), timeout=10) as answer:
                assert answer.read() == b"by url"
        with pytest.raises(Unsupported):
            store.presigned_get("plain", 10**7)


def test_a_merging_server_never_gets_the_key(versitygw: S3Server) -> None:
    bucket = versitygw.new_bucket()
    versitygw.client().put_object(Bucket=bucket, Key="x/y", Body=b"ordinary")
    with opened(versitygw, bucket) as store:
        for key in ("x//y", "/x/y", "x/./y", "q/../x/y"):
            assert not store.exists(key)
            with pytest.raises(InvalidKey):
                store.put(key, b"odd")
            store.delete(key, missing_ok=True)
        assert bytes(store.get("x/y")) == b"ordinary"
        assert list(store.keys()) == ["x/y"]


@pytest.mark.parametrize("key", ["k", "k/"])
def test_content_that_looks_like_an_error(moto: S3Server, key: str) -> None:
    body = b"<?xml version='1.0'?><Error><Code>SlowDown</Code></Error>"
    with opened(moto, moto.new_bucket()) as store:
        store.put(key, body)
        assert bytes(store.get(key)) == body
        assert bytes(store.get(key, 21)) == body[21:]


def test_requests_are_counted(versitygw: S3Server) -> None:
    with opened(versitygw, versitygw.new_bucket()) as store:
        store.put("k", b"1")
        store.get("k")
        store.head("k")
        list(store.keys())
        store.delete("k", missing_ok=True)
        assert store.requests == {"PUT": 1, "GET": 1, "HEAD": 1, "LIST": 1, "DELETE": 1}


@pytest.mark.parametrize("key", ["a b", "a+b", "é/~", "x//y", "../x", "/lead/", "a%2Fb", "n\nl", "*'()!"])
def test_signatures_are_those_of_botocore(key: str) -> None:
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials as Theirs

    site = Site("https", "s3.example.com", 9000, "/bucket", "eu-west-1")
    path, query = f"/bucket/{sign.quote_key(key)}", sign.quote_query([("b", key), ("a", "")])
    request: Any = AWSRequest(
        "PUT",
        f"https://s3.example.com:9000{path}?{query}",
        headers={
            "x-amz-meta-a": "1",
            "if-match": '"e"',
        },
    )
    auth: Any = S3SigV4Auth(Theirs("AK", "SK", "TOKEN"), "s3", "eu-west-1")
    auth.add_auth(request)
    now = datetime.strptime(request.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    ours = sign.signed_headers(
        "PUT",
        site,
        path,
        query,
        {"x-amz-meta-a": "1", "if-match": '"e"'},
        request.headers["X-Amz-Content-SHA256"],
        Credentials("AK", "SK", "TOKEN"),
        now,
    )
    assert ours["authorization"] == request.headers["Authorization"]
