"""Messages that two parsers might read in two ways, names that lead elsewhere, and heads that do not end.

Each on a raw socket against a real server; where a request is refused, what follows it on the connection
must not be taken for another one.
"""

from __future__ import annotations

import threading

import pytest

from tests.server.serving import MEDIA_TYPE, Served

HEAD = f"POST /NS/x HTTP/1.1\r\nHost: test\r\nAccept: {MEDIA_TYPE}\r\n"
SMUGGLED = f"POST /NS/smuggled HTTP/1.1\r\nHost: test\r\nAccept: {MEDIA_TYPE}\r\nContent-Length: 1\r\n\r\nx"


def message(text: str, namespace: str) -> bytes:
    return text.replace("NS", namespace).encode("latin-1")


def check_refused(served: Served, namespace: str, text: str, status: int = 400) -> None:
    """It gets this status, the connection ends, and nothing was stored."""
    with served.connect() as client:
        client.send(message(text, namespace))
        answer = client.answer()
        assert (answer.status, answer.closes) == (status, True), answer
        assert client.is_closed()
    with served.connect() as client:
        assert client.ask("GET", f"/{namespace}/x").status == 404
        assert client.ask("GET", f"/{namespace}/smuggled").status == 404


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: \xb2\r\n",
        "Content-Length: 1e1\r\n",
        "Content-Length: 5_0\r\n",
        "Content-Length:\r\n",
        "Content-Length : 5\r\n",
        " Content-Length: 5\r\n",
        "X: y\r\n Content-Length: 5\r\n",
        "X: y\r\n\tfolded\r\nContent-Length: 5\r\n",
        "X: y\nContent-Length: 5\r\n",
        "X: y\rContent-Length: 5\r\n",
        "X: y\x00\r\nContent-Length: 5\r\n",
        "X\x00: y\r\nContent-Length: 5\r\n",
        "(X): y\r\nContent-Length: 5\r\n",
        "no colon\r\nContent-Length: 5\r\n",
        ": empty\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Host: other\r\nContent-Length: 5\r\n",
    ],
)
def test_a_message_of_two_readings_ends_its_connection(
    file_served: Served, namespace: str, framing: str
) -> None:
    check_refused(file_served, namespace, f"{HEAD}{framing}\r\n0\r\n\r\n{SMUGGLED}")


@pytest.mark.parametrize("coding", ["gzip", "gzip, chunked", "chunked, gzip", "xchunked", "chunked chunked"])
def test_other_codings_are_not_known(file_served: Served, namespace: str, coding: str) -> None:
    text = f"{HEAD}Transfer-Encoding: {coding}\r\n\r\n0\r\n\r\n{SMUGGLED}"
    with file_served.connect() as client:
        client.send(message(text, namespace))
        answer = client.answer()
        assert answer.status in (400, 501)
        assert answer.closes
        assert client.is_closed()
    assert file_served.ask("GET", f"/{namespace}/smuggled").status == 404


@pytest.mark.parametrize(
    "chunks",
    [
        "5\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "ffffffffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "5 ;\x00\r\nhello\r\n0\r\n\r\n",
    ],
)
def test_chunks_that_are_wrong(file_served: Served, namespace: str, chunks: str) -> None:
    check_refused(file_served, namespace, f"{HEAD}Transfer-Encoding: chunked\r\n\r\n{chunks}{SMUGGLED}")


@pytest.mark.parametrize(
    "start",
    [
        "POST /NS/x HTTP/1.1\n",
        "POST /NS/x\r\n",
        "POST  /NS/x HTTP/1.1\r\n",
        "POST /NS/x HTTP/1.1 \r\n",
        "POST /NS/x HTTP/2.0\r\n",
        "POST /NS/x http/1.1\r\n",
        "POST /NS/a b HTTP/1.1\r\n",
        "PO ST /NS/x HTTP/1.1\r\n",
        "POST /NS/\xfc HTTP/1.1\r\n",
        "\r\nPOST /NS/x HTTP/1.1\r\n",
        " POST /NS/x HTTP/1.1\r\n",
        "\x16\x03\x01 HTTP/1.1\r\n",
    ],
)
def test_first_lines_that_are_wrong(file_served: Served, namespace: str, start: str) -> None:
    rest = f"Host: test\r\nAccept: {MEDIA_TYPE}\r\nContent-Length: 1\r\n\r\nx"
    with file_served.connect() as client:
        client.send(message(f"{start}{rest}{SMUGGLED}", namespace))
        answer = client.answer()
        assert answer.status in (400, 505)
        assert answer.closes
        assert client.is_closed()
    assert file_served.ask("GET", f"/{namespace}/x").status == 404
    assert file_served.ask("GET", f"/{namespace}/smuggled").status == 404


def test_a_host_is_named(file_served: Served, namespace: str) -> None:
    text = f"POST /NS/x HTTP/1.1\r\nAccept: {MEDIA_TYPE}\r\nContent-Length: 1\r\n\r\nx"
    check_refused(file_served, namespace, text)


def test_requests_may_follow_each_other_at_once(file_served: Served, namespace: str) -> None:
    with file_served.connect() as client:
        client.send(
            message(f"{SMUGGLED}{SMUGGLED}", namespace) + client.head("GET", f"/{namespace}/smuggled")
        )
        assert client.answer().status == 200
        assert client.answer().status == 200
        assert client.answer().body == b"x"


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "NS/../../outside",
        "%2e%2e/outside",
        "NS/%2E%2E/outside",
        "NS/.%2e/outside",
        "NS%2foutside",
        "NS%2Foutside",
        "..%2foutside",
        "NS/x%00",
        "%00",
        "NS\\outside",
        "NS%5coutside",
        "..\\outside",
        "NS/./outside",
        "NS/%2e/outside",
        "NS/x%0a",
        "NS/x%0d%0aX-Header:%20y",
        "NS/x%7f",
        "NS/x%zz",
        "NS/x%",
        "NS/%c0%ae%c0%ae/outside",
        "NS/x#fragment",
        "//../outside",
    ],
)
def test_no_name_leads_out_of_the_store(file_served: Served, namespace: str, name: str) -> None:
    assert file_served.folder is not None
    outside = file_served.folder.parent / "outside"
    outside.write_text("secret")
    try:
        target = "/" + name.replace("NS", namespace)
        with file_served.connect() as client:
            for answer in (
                client.ask("GET", target),
                client.ask("POST", target, body=b"changed"),
                client.ask("DELETE", target),
                client.ask("GET", f"{target}/"),
                client.ask("POST", f"{target}?cmd=mkdir"),
                client.ask("POST", f"{target}?cmd=hash"),
            ):
                assert answer.status == 400
                assert "x-header" not in answer.headers
        assert outside.read_text() == "secret"
        assert {path.name for path in file_served.folder.parent.iterdir()} <= {
            "elsewhere",
            "outside",
            "store",
        } | {path.name for path in file_served.folder.parent.glob("serve-*.log")}
    finally:
        outside.unlink()


@pytest.mark.parametrize("name", ["..%2Foutside", "%2e%2e/outside", "a%5c..", "a%00"])
def test_nor_does_one_in_a_query_or_a_document(file_served: Served, namespace: str, name: str) -> None:
    from json import dumps
    from urllib.parse import unquote

    with file_served.connect() as client:
        assert client.ask("POST", f"/{namespace}/x", body=b"1").status == 200
        assert client.ask("POST", f"/?cmd=move&current={namespace}/x&new={name}").status == 400
        assert client.ask("POST", f"/?cmd=move&current={name}&new={namespace}/x").status == 400
        pieces = dumps([[unquote(name), 0, 1]]).encode()
        assert client.ask("POST", "/?cmd=gather", body=pieces).status == 400
        assert client.ask("POST", f"/?cmd=defrag&target={name}", body=b"[]").status == 400
        assert client.ask("POST", f"/?cmd=defrag&algorithm=sha256&namespace={name}", body=b"[]").status == 400


def test_links_are_not_followed_out_of_the_store(file_served: Served, namespace: str) -> None:
    assert file_served.folder is not None
    elsewhere = file_served.folder.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "secret").write_text("secret")
    with file_served.connect() as client:
        assert client.ask("POST", f"/{namespace}/x", body=b"1").status == 200
        (file_served.folder / namespace / "folder").symlink_to(elsewhere)
        (file_served.folder / namespace / "file").symlink_to(elsewhere / "secret")
        for name in ("folder/secret", "file"):
            assert client.ask("GET", f"/{namespace}/{name}").status == 404
            assert client.ask("HEAD", f"/{namespace}/{name}").status == 404
        assert b"secret" not in client.ask("GET", f"/{namespace}/folder/").body
        # Replacing a link is all that may happen to it.
        assert client.ask("POST", f"/{namespace}/file", body=b"changed").status in (200, 400, 403, 500)
        assert client.ask("POST", f"/{namespace}/folder/new", body=b"new").status != 200
        assert client.ask("DELETE", f"/{namespace}/folder/secret").status == 404
    assert (elsewhere / "secret").read_text() == "secret"
    assert [path.name for path in elsewhere.iterdir()] == ["secret"]


def test_too_much_of_a_head(file_served: Served, namespace: str) -> None:
    check_refused(file_served, namespace, f"{HEAD}X: {'y' * (64 << 10)}\r\n\r\n", 431)
    many = "".join(f"X-{number}: y\r\n" for number in range(5000))
    check_refused(file_served, namespace, f"{HEAD}{many}\r\n", 431)
    long = f"GET /NS/{'y' * 8000} HTTP/1.1\r\nHost: test\r\nAccept: {MEDIA_TYPE}\r\n\r\n"
    check_refused(file_served, namespace, long, 414)


def test_a_head_that_never_ends_is_not_kept(file_served: Served) -> None:
    with file_served.connect() as client:
        stop = threading.Event()

        def send() -> None:
            client.send(b"GET / HTTP/1.1\r\n")
            while not stop.is_set():
                try:
                    client.send(b"X: " + b"y" * 1000 + b"\r\n")
                except OSError:
                    return

        sender = threading.Thread(target=send)
        sender.start()
        try:
            assert client.answer().status == 431
        finally:
            stop.set()
            sender.join()


def test_a_query_is_read_once(file_served: Served, namespace: str) -> None:
    with file_served.connect() as client:
        assert (
            client.ask("POST", f"/?cmd=move&current={namespace}/a&current={namespace}/b&new=c").status == 400
        )
        assert client.ask("POST", f"/{namespace}/x?cmd=hash&cmd=mkdir").status == 400
        assert client.ask("POST", f"/{namespace}/x?cmd=%ff").status == 400
        many = "&".join(f"a{number}=1" for number in range(100))
        assert client.ask("GET", f"/{namespace}/x?{many}").status == 400


def test_answers_tell_no_paths_and_no_traces(file_served: Served, namespace: str) -> None:
    assert file_served.folder is not None
    with file_served.connect() as client:
        # Whichever test comes first on this server: a store that has nothing yet may be created again.
        assert client.ask("POST", f"/{namespace}/there", body=b"1").status == 200
        told = [
            client.ask("GET", f"/{namespace}/none"),
            client.ask("POST", "/?cmd=create"),
            client.ask("POST", f"/{namespace}/UPPER", body=b"1"),
            client.ask("POST", "/?cmd=gather", body=b"{"),
        ]
    for answer in told:
        assert answer.status >= 400
        assert str(file_served.folder).encode() not in answer.body
        assert b"Traceback" not in answer.body
        assert answer.body.count(b"\n") == 0
