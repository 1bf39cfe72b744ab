"""Heads: the short way reads none otherwise than the strict parser, which reads what it leaves out."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mountstore.server.head import Head, Refused, _parse_any, parse_head, parse_plain
from mountstore.server.limits import Limits

LIMITS = Limits(target_bytes=200)

NAMES = ["Host", "host", "Accept", "Content-Length", "CONTENT-LENGTH", "Connection", "Transfer-Encoding"]
NAMES += [
    "Range",
    "Expect",
    "X-Content-hash-sha256",
    "x y",
    "x\t",
    "",
    "x:",
    "(x)",
    "\u00fc",
    "Authorization",
]
VALUES = [
    "h",
    "5",
    "+5",
    "5, 5",
    "05",
    "1" * 19,
    "chunked",
    "close",
    "keep-alive, Close",
    "100-continue",
    "a b",
]
VALUES += ["a  b ", "", " ", "\t", "a\tb", "\x0b", "\x7f", "\u00fc", "a\rb", "a\nb", "\0", "1" * 300]
TARGETS = [
    "/",
    "/data/x",
    "/data/",
    "/a%20b",
    "/a%2fb",
    "/..",
    "*",
    "x",
    "/?cmd=move&current=a&new=b",
    "/?a=1&a=2",
]
TARGETS += ["http://h/data/x", "/a#b", "/\u00fc", "/a\\b", "/" + "x" * 300, "/a\x7f", ""]
METHODS = ["GET", "HEAD", "POST", "DELETE", "PUT", "get", "GET ", ""]
VERSIONS = ["HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "http/1.1", "HTTP/1.1 ", ""]
BETWEEN = [": ", ": ", ": ", ":", ":  ", " : ", ":\t", " "]
ENDS = ["\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", "\r\n ", "\r\n\r\n"]


@st.composite
def heads(draw: Any) -> bytes:
    first = " ".join(draw(st.sampled_from(part)) for part in (METHODS, TARGETS, VERSIONS))
    lines = draw(st.lists(st.tuples(*map(st.sampled_from, (NAMES, BETWEEN, VALUES, ENDS))), max_size=4))
    if draw(st.booleans()):
        lines.insert(0, ("Host", ": ", "h", "\r\n"))
    text: str = first + draw(st.sampled_from(ENDS)) + "".join(map("".join, lines)) + "\r\n"
    return text.encode("latin-1")


def told(head: Head) -> dict[str, Any]:
    """All that a head says but the parser that goes on with it, errors as their words."""
    fields = {field.name: getattr(head, field.name) for field in dataclasses.fields(head)}
    del fields["parser"]
    return {**fields, "fault": str(head.fault)}


@settings(max_examples=1500, deadline=None, suppress_health_check=[*HealthCheck])
@given(head=heads())
def test_the_short_way_is_the_parser_s(head: bytes) -> None:
    plain = parse_plain(head, LIMITS)
    if plain is not None:
        strict = _parse_any(head, LIMITS, None)
        assert strict is not None
        assert told(plain) == told(strict)
        assert plain.length is not None


@pytest.mark.parametrize(
    "lines",
    [
        ["Host: a", "Host: b"],
        ["Host: a", "Content-Length: 1", "content-length: 1"],
        ["Host: a", "Content-Length: 1", "Transfer-Encoding: chunked"],
        ["Host: a", "Content-Length: -1"],
        ["Content-Length: 1"],
        ["Host: a", "X : y"],
        ["Host: a", "X: y\nZ: z"],
    ],
)
def test_what_is_not_plain_is_refused(lines: list[str]) -> None:
    head = "\r\n".join(["GET /x HTTP/1.1", *lines, "", ""]).encode()
    assert parse_plain(head, LIMITS) is None
    with pytest.raises(Refused):
        parse_head(head, LIMITS)


def test_what_clients_send_is_plain() -> None:
    lines = ["Host: 127.0.0.1:5618", "User-Agent: python-requests/2.32.5", "Accept-Encoding: gzip, deflate"]
    lines += ["Accept: application/vnd.x.borgstore.rest.v1", "Connection: keep-alive", "Content-Length: 5"]
    head = parse_plain("\r\n".join(["POST /data/x HTTP/1.1", *lines, "", ""]).encode(), LIMITS)
    assert head is not None
    assert (head.method, head.name, head.length, head.keeps_alive) == ("POST", "data/x", 5, True)
