"""HttpStore: the contract through a real nginx, and what it promises of servers, redirects and secrets."""

from __future__ import annotations

import base64
import json
import os
import socketserver
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import pytest

from mountstore import open_store
from mountstore.backends.filesystem import FilesystemStore
from mountstore.backends.http import HttpStore
from mountstore.backends.s3 import BucketStore
from mountstore.errors import (
    AccessDenied,
    BadUrl,
    Corrupted,
    InvalidKey,
    InvalidRange,
    NotFound,
    PreconditionFailed,
    StoreError,
    Unavailable,
    Unsupported,
    UsageError,
)
from mountstore.registry import canonical
from mountstore.store import Data, ObjectInfo, ObjectStore, Page
from tests import services
from tests.servers import S3Server
from tests.services import Service
from tests.stores.conformance import MIB, key_order, listed_entries
from tests.stores.test_s3 import FileServerConformance


class WrittenBehind(ObjectStore):
    """Reads by HTTP what is written into the bucket behind the server, by which all words can be tried."""

    def __init__(self, http: HttpStore, bucket: BucketStore) -> None:
        self._http, self._bucket = http, bucket
        self.capabilities = replace(bucket.capabilities, metadata=False, listing=False, server_copy=False)

    def head(self, key: str) -> ObjectInfo:
        return self._http.head(key)

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        return self._http.get(key, start, stop, if_match=if_match)

    def put(
        self,
        key: str,
        data: Data | BinaryIO,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        self._http._path(key)
        etag = None if if_match is None else if_match.strip('"')
        info = self._bucket.put(key, data, if_match=etag, if_absent=if_absent)
        return replace(info, etag=f'"{info.etag}"'.replace('""', '"'), metadata={})

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        etag = None if if_match is None else if_match.strip('"')
        self._bucket.delete(key, missing_ok=missing_ok, if_match=etag)

    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        raise Unsupported

    def close(self) -> None:
        self._http.close()
        self._bucket.close()


def readable_by_all(server: S3Server, bucket: str) -> None:
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": ["*"]},
        "Action": ["s3:GetObject"],
        "Resource": [f"arn:aws:s3:::{bucket}/*"],
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    server.client().put_bucket_policy(Bucket=bucket, Policy=policy)


@pytest.fixture(scope="module")
def proxy(minio: S3Server) -> Iterator[Service]:
    """An nginx in front of a MinIO."""
    with services.nginx(
        lambda port, folder: (
            f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {minio.endpoint}; "
            "proxy_http_version 1.1; proxy_set_header Connection ''; } }"
        )
    ) as service:
        yield service


class TestHttpStore(FileServerConformance):
    server_name = "minio"

    @pytest.fixture
    def reopen(self, minio: S3Server, proxy: Service) -> Callable[[], ObjectStore]:
        bucket = minio.new_bucket()
        readable_by_all(minio, bucket)

        def both() -> ObjectStore:
            http = HttpStore(f"http://127.0.0.1:{proxy.port}/{bucket}")
            return WrittenBehind(http, BucketStore(bucket, client=minio.client()))

        return both


# -- a web server of files ----------------------------------------------------------------------------

PASSWORDS = "user:{PLAIN}HUNTER2\n"


@dataclass(frozen=True)
class Web:
    """An nginx with files below `root`: plain, indexed, behind a password, compressed, and redirected."""

    service: Service
    root: Path
    elsewhere: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.service.port}"

    def seen(self) -> list[str]:
        """The Authorization header of each request so far that reached the other server."""
        log = self.service.folder / "elsewhere"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    from tests.servers import free_port

    elsewhere, tls = free_port(), free_port()

    def servers(port: int, folder: Path) -> str:
        root = folder / "root"
        (root / "files").mkdir(parents=True)
        (root / "private").mkdir()
        (folder / "passwords").write_text(PASSWORDS)
        certificate, key = services.certificate(folder)
        return (
            "log_format authorization '$uri [$http_authorization]';\n"
            f"server {{ listen 127.0.0.1:{port}; root {root};\n"
            " location /files/ { }\n"
            f" location /indexed/ {{ alias {root}/files/; autoindex on; autoindex_format json; }}\n"
            f" location /html/ {{ alias {root}/files/; autoindex on; }}\n"
            f" location /private/ {{ auth_basic x; auth_basic_user_file {folder}/passwords; }}\n"
            f" location /away/ {{ return 302 http://127.0.0.1:{elsewhere}/files/x; }}\n"
            " location /moved/ { return 301 /files/x; }\n"
            " location /circle/ { return 302 /circle/again; }\n"
            " location /file-url/ { return 302 file:///etc/passwd; }\n"
            " location /busy/ { return 503; }\n"
            " location /forbidden/ { return 403; }\n"
            " location /compressed/ { add_header Content-Encoding gzip always; return 200 abc; }\n"
            "}\n"
            f"server {{ listen 127.0.0.1:{elsewhere}; root {root};\n"
            f" access_log {folder}/elsewhere authorization; }}\n"
            f"server {{ listen 127.0.0.1:{tls} ssl; root {root};\n"
            f" ssl_certificate {certificate}; ssl_certificate_key {key};\n"
            f" location /down/ {{ return 302 http://127.0.0.1:{port}/files/x; }} }}\n"
        )

    with services.nginx(servers) as service:
        root = service.folder / "root"
        (service.folder / "tls-port").write_text(str(tls))
        (root / "files" / "x").write_bytes(b"0123456789")
        (root / "private" / "x").write_bytes(b"secret")
        yield Web(service, root, elsewhere)


@pytest.fixture
def store(web: Web) -> Iterator[HttpStore]:
    with HttpStore(f"{web.url}/files", tries=2) as store:
        yield store


def test_files_of_a_web_server(store: HttpStore, web: Web) -> None:
    info = store.head("x")
    assert (info.key, info.size, info.metadata) == ("x", 10, {})
    assert info.mtime_ns == int((web.root / "files" / "x").stat().st_mtime) * 10**9
    assert info.etag
    assert bytes(store.get("x")) == b"0123456789"
    assert bytes(store.get("x", 3, 5, if_match=info.etag)) == b"34"
    assert bytes(store.get("x", 3)) == b"3456789"
    assert bytes(store.get("x", 10)) == bytes(store.get("x", 5, 5)) == b""
    for start, stop in ((11, None), (11, 11), (5, 4), (-1, None)):
        with pytest.raises(InvalidRange):
            store.get("x", start, stop)
    for start, stop in ((0, None), (3, 5), (10, None), (5, 5)):
        with pytest.raises(PreconditionFailed):
            store.get("x", start, stop, if_match='"other"')
    for key in ("missing", "x/", "x/y", "X"):
        with pytest.raises(KeyError):
            store.get(key)
        assert not store.exists(key)


def test_it_is_read_only_and_says_so(store: HttpStore, web: Web) -> None:
    assert not store.capabilities.writable
    assert not store.capabilities.listing
    calls: list[Callable[[], object]] = [
        lambda: store.put("x", b""),
        lambda: store.delete("x"),
        lambda: store.copy("x", "y"),
        lambda: store.rename("x", "y"),
        lambda: store.update_metadata("x", {}),
        store.list,
        lambda: list(store.keys()),
    ]
    for call in calls:
        with pytest.raises(Unsupported):
            call()
    assert os.listdir(web.root / "files") == ["x"]


@pytest.mark.parametrize(
    "key",
    [
        "../private/x",
        "..",
        ".",
        "a/../x",
        "a//x",
        "/x",
        "//host/x",
        "x/..",
        "nul\0",
        "",
        "\ud800",
        "k" * 3000,
    ],
)
def test_keys_that_a_server_would_change_are_refused(store: HttpStore, key: str) -> None:
    for call in (store.get, store.head, store.delete):
        with pytest.raises(InvalidKey):
            call(key)


PLAIN_KEYS = "a b|%2e%2e|..%2fx|%|%2F|a?b=c#d|é/e\u0301|a+b|x;y|[x]|new\nline|\\|...|a:b@c|\U0001f600|~a|\x7f"


@pytest.mark.parametrize("key", PLAIN_KEYS.split("|"))
def test_keys_are_sent_as_they_are(store: HttpStore, web: Web, key: str) -> None:
    path = web.root / "files" / key
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(key.encode())
    try:
        assert bytes(store.get(key)) == key.encode()
        assert store.head(key).key == key
    finally:
        path.unlink()
        if path.parent != web.root / "files":
            path.parent.rmdir()


def test_a_folder_is_no_object(store: HttpStore, web: Web) -> None:
    (web.root / "files" / "d").mkdir()
    try:
        for call in (store.head, store.get):
            with pytest.raises(NotFound):
                call("d")
    finally:
        (web.root / "files" / "d").rmdir()


# -- listing ------------------------------------------------------------------------------------------


def test_an_index_in_json_is_a_listing(web: Web, tmp_path: Path) -> None:
    keys = [
        "a-b",
        "a.b",
        "a/1",
        "a/2",
        "a/b/1",
        "a0",
        "ab",
        "b/2/3",
        "c/d e%/é",
        "d/1/2/3",
        "x",
        "é",
        "\uffff",
    ]
    files = web.root / "files"
    with FilesystemStore(files, durable=False) as behind:
        for key in keys:
            behind.put(key, key.encode())
        with HttpStore(f"{web.url}/indexed", listing="nginx") as store:
            assert store.capabilities.listing
            assert list(store.keys()) == key_order(keys)
            for prefix in ("", "a", "a/", "b/2", "d/1/", "nothing", "nothing/", "../", "\uffff"):
                for delimiter in ("", "/", "-", "/b"):
                    for after in ("", "a", "a/", "a/1", "a/zz", "b/", "zz"):
                        want = listed_entries(behind, prefix, delimiter, after, 2)
                        assert listed_entries(store, prefix, delimiter, after, 2) == want
            [info] = store.list("a/b/").objects
            assert (info.key, info.size) == ("a/b/1", 5)
            assert abs(info.mtime_ns - behind.head("a/b/1").mtime_ns) < 10**9
            assert store.usage("a/") == (3, 11)
            with pytest.raises(NotFound):
                store.head("a/")
        behind.delete_many([key for key in keys if key != "x"])
    (files / "x").write_bytes(b"0123456789")


def test_an_index_that_is_not_json_is_said(web: Web) -> None:
    with (
        HttpStore(f"{web.url}/html", listing="nginx") as store,
        pytest.raises(StoreError, match="autoindex_format"),
    ):
        store.list()


# -- redirects and secrets ----------------------------------------------------------------------------


def test_credentials_are_sent_and_never_shown(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    where = f"{web.url}/private"
    for given in (HttpStore(where), HttpStore(where, username="user", password="HUNTER3")):
        with given as store, pytest.raises(AccessDenied) as caught:
            store.get("x")
        assert "HUNTER" not in str(caught.value) + repr(store)
    with HttpStore(where, username="user", password="HUNTER2") as store:
        assert bytes(store.get("x")) == b"secret"
    token = base64.b64encode(b"user:HUNTER2").decode()
    with HttpStore(where, headers={"Authorization": f"Basic {token}"}) as store:
        assert bytes(store.get("x")) == b"secret"
    address = f"user@127.0.0.1:{web.service.port}/private"
    monkeypatch.setenv("MOUNTSTORE_HTTP_PASSWORD", "HUNTER2")
    with open_store(f"http://{address}") as opened:
        assert bytes(opened.get("x")) == b"secret"
    assert "HUNTER" not in canonical(f"http://user:HUNTER2@127.0.0.1:{web.service.port}/private")


def test_credentials_do_not_follow_a_redirect_to_another_server(web: Web) -> None:
    before = len(web.seen())
    with HttpStore(
        f"{web.url}/away", username="user", password="HUNTER2", headers={"X-Key": "HUNTER2"}
    ) as store:
        assert bytes(store.get("x")) == b"0123456789"
        assert bytes(store.get("x", 2, 4)) == b"23"
    assert web.seen()[before:] == ["/files/x [-]"] * 2


def test_a_redirect_within_the_server_is_followed(web: Web) -> None:
    with HttpStore(f"{web.url}/moved") as store:
        assert bytes(store.get("x", 0, 3)) == b"012"
        assert store.head("x").size == 10


def test_a_redirect_from_https_to_http_is_refused(web: Web) -> None:
    tls = (web.service.folder / "tls-port").read_text()
    certificate = str(web.service.folder / "certificate.pem")
    store = HttpStore(f"https://127.0.0.1:{tls}/down", ca_certs=certificate)
    with store, pytest.raises(AccessDenied, match="unencrypted"):
        store.get("x")
    with HttpStore(f"https://127.0.0.1:{tls}/files", ca_certs=certificate) as store:
        assert bytes(store.get("x")) == b"0123456789"
    with (
        HttpStore(f"https://127.0.0.1:{tls}/files", tries=1) as store,
        pytest.raises(Unavailable, match="no trusted"),
    ):
        store.get("x")


@pytest.mark.parametrize(("place", "message"), [("circle", "circle"), ("file-url", "not HTTP")])
def test_redirects_that_lead_nowhere(web: Web, place: str, message: str) -> None:
    with HttpStore(f"{web.url}/{place}") as store, pytest.raises(StoreError, match=message):
        store.get("x")


# -- servers that fail --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "kind"), [("busy", Unavailable), ("forbidden", AccessDenied), ("compressed", Unsupported)]
)
def test_answers_become_our_errors(web: Web, place: str, kind: type[StoreError]) -> None:
    with HttpStore(f"{web.url}/{place}", tries=2) as store:
        for call in (store.get, store.head):
            with pytest.raises(kind) as caught:
                call("x")
            assert "\n" not in str(caught.value)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with (
        services.nginx(lambda port, folder: f"server {{ listen 127.0.0.1:{port}; }}") as service,
        HttpStore(f"http://127.0.0.1:{service.port}", tries=1, timeout_s=0.3) as store,
    ):
        with pytest.raises(NotFound):
            store.get("x")
        service.pause()
        with pytest.raises(Unavailable):
            store.get("x")
        service.end()
        with pytest.raises(Unavailable):
            store.get("x")


class Answers:
    """A server that answers each connection with the next of some bytes, for what no real one does."""

    def __init__(self, *answers: bytes) -> None:
        self.requests: list[bytes] = []
        left = list(answers)
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                lines = []
                while (line := self.rfile.readline()).strip():
                    lines.append(line)
                outer.requests.append(b"".join(lines))
                self.wfile.write(left.pop(0) if len(left) > 1 else left[0])

        self._server = socketserver.TCPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(30)
        self._server.server_close()


HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
PART = b"HTTP/1.1 206 Partial Content\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    ("answer", "start", "stop"),
    [
        (HEAD + b"Content-Length: 10\r\n\r\n01234", 0, None),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n", 0, None),
        (PART + b"Content-Range: bytes 1-4/10\r\nContent-Length: 4\r\n\r\n1234", 0, 4),
        (PART + b"Content-Range: bytes 0-9/10\r\nContent-Length: 10\r\n\r\n0123456789", 0, 4),
        (PART + b"Content-Range: bytes 0-3/10\r\nContent-Length: 3\r\n\r\n012", 0, 4),
        (PART + b"Content-Length: 4\r\n\r\n0123", 0, 4),
    ],
)
def test_bytes_that_are_not_those_asked_for_are_refused(answer: bytes, start: int, stop: int | None) -> None:
    with Answers(answer) as url, HttpStore(url, tries=2) as store, pytest.raises(Corrupted):
        store.get("x", start, stop)


def test_a_broken_answer_is_asked_for_again() -> None:
    answers = Answers(
        HEAD + b"Content-Length: 10\r\n\r\n01234",
        b"HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        HEAD + b"Content-Length: 10\r\n\r\n0123456789",
    )
    with answers as url, HttpStore(url) as store:
        assert bytes(store.get("x")) == b"0123456789"
    assert len(answers.requests) == 3


def test_a_server_without_ranges_is_read_no_further_than_needed() -> None:
    whole = HEAD + b'ETag: "v"\r\nContent-Length: %d\r\n\r\n' % (32 * MIB) + b"ab" * (16 * MIB)
    with Answers(whole) as url, HttpStore(url) as store:
        tracemalloc.start()
        try:
            assert bytes(store.get("x", MIB, MIB + 4)) == b"abab"
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 8 * MIB
        with pytest.raises(PreconditionFailed):
            store.get("x", 0, 4, if_match='"w"')
        assert bytes(store.get("x", 0, 4, if_match='"v"')) == b"abab"


def test_a_condition_that_the_server_ignores_is_checked_here() -> None:
    weak = HEAD + b'ETag: W/"v"\r\nContent-Length: 1\r\n\r\nx'
    answers = Answers(weak)
    with answers as url, HttpStore(url) as store:
        assert bytes(store.get("x", if_match='W/"v"')) == b"x"
        with pytest.raises(PreconditionFailed):
            store.get("x", if_match='W/"w"')
    assert not any(b"If-Match" in request for request in answers.requests)


def test_no_etag_is_made_of_time_and_size() -> None:
    dated = HEAD + b"Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 1\r\n\r\nx"
    with Answers(dated) as url, HttpStore(url) as store:
        info = store.head("x")
        assert info.mtime_ns == 784_111_777 * 10**9
        assert info.etag
        assert bytes(store.get("x", if_match=info.etag)) == b"x"
    with Answers(HEAD + b"Content-Length: 1\r\n\r\nx") as url, HttpStore(url) as store:
        assert store.head("x").etag is None
        with pytest.raises(PreconditionFailed):
            store.get("x", if_match="anything")


def test_a_server_that_does_not_answer_head_is_asked_by_get() -> None:
    refused = b"HTTP/1.1 405 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    part = PART + b'ETag: "v"\r\nContent-Range: bytes 0-0/7\r\nContent-Length: 1\r\n\r\nx'
    with Answers(refused, part) as url, HttpStore(url) as store:
        info = store.head("x")
        assert (info.size, info.etag) == (7, '"v"')
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    with Answers(chunked) as url, HttpStore(url) as store:
        assert bytes(store.get("x")) == b"abc"
        with pytest.raises(Unsupported, match="size"):
            store.head("x")


# -- by URL -------------------------------------------------------------------------------------------


def test_urls(web: Web) -> None:
    with open_store(f"{web.url}/indexed?listing=nginx") as store:
        assert isinstance(store, HttpStore)
        assert list(store.keys()) == ["x"]
    assert canonical("https://user:pw@Host:443/a%20b") == "https://host/a%20b/"
    assert canonical("http://host") == canonical("http://host:80/") == "http://host/"
    for url, message in (
        ("http:", "server is missing"),
        ("http:///x", "server is missing"),
        ("http://host/?x=1", "unknown parameter"),
    ):
        with pytest.raises(BadUrl, match=message):
            open_store(url)
    for base in ("ftp://host/", "http://", "http://user:HUNTER2@host/", "http://host/?a", "http://host:x/"):
        with pytest.raises(BadUrl) as caught:
            HttpStore(base)
        assert "HUNTER" not in str(caught.value)
    with pytest.raises(UsageError):
        HttpStore("http://host", listing="apache")
