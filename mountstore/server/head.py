"""The head of a request: read strictly, as RFC 9112 words it, and no more leniently than any proxy may.

h11 parses; what it lets pass and another parser might read otherwise is refused before it: line ends
without CR, folded lines, several lengths, a length beside chunks. Where two readings of a message are
possible, a request can be smuggled past whoever reads the other; so such a message ends its connection.

Most heads are plain: a line of a known method and lines of visible ASCII, no name twice, no coding of the
body. One expression reads these, faster, and nothing else; a test holds the two together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import cast
from urllib.parse import parse_qsl, unquote_to_bytes

import h11

from mountstore.server.limits import Limits

_ABSOLUTE = re.compile(r"https?://[^/?#]*", re.IGNORECASE)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})|%2[Ff]|%5[Cc]|%[01][0-9A-Fa-f]|%7[Ff]|%[89A-Fa-f][0-9A-Fa-f]")
_LENGTH = re.compile(rb"\r\ncontent-length[ \t]*:([^\r]*)", re.IGNORECASE)
_CODING = re.compile(rb"\r\ntransfer-encoding[ \t]*:", re.IGNORECASE)
_HOST = re.compile(rb"\r\nhost[ \t]*:", re.IGNORECASE)
_FIELD = rb"([A-Za-z0-9!#$%&'*+.^_`|~-]+):[ ]?([!-~](?:[ -~]*[!-~])?)\r\n"
_FIELDS = re.compile(_FIELD)
_PLAIN = re.compile(rb"(GET|HEAD|POST|DELETE) ([!-~]+) HTTP/1\.1\r\n((?:%b)+)\r\n" % _FIELD)
_NOT_PLAIN = frozenset((b"transfer-encoding", b"expect", b"upgrade"))
_LENGTH_DIGITS = 18


class Refused(Exception):
    """A request that is answered with this status, and one line that says why.

    `closes` where it is not certain, or not worth finding out, where the next request begins.
    """

    def __init__(self, status: int, reason: str, *, closes: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.closes = closes


@dataclass(frozen=True, slots=True)
class Head:
    """What a request says before its body. `length` is None for chunks; 0 where there is no body.

    `name` is the path without the slashes at its ends, percent-decoded; `is_folder` if it ended in one.
    """

    method: str
    name: str
    is_folder: bool
    query: dict[str, str]
    headers: dict[bytes, bytes]
    length: int | None
    has_body: bool
    keeps_alive: bool
    expects_continue: bool
    parser: h11.Connection | None  # goes on with the chunks; None where there are none
    fault: Refused | None = None  # of the target: the message is clear, what it asks for is not


def has_bad_line_end(head: bytes | bytearray) -> bool:
    """Whether an LF or CR stands alone; may be asked before the head is complete."""
    pairs = head.count(b"\r\n")
    lone_cr = head.count(b"\r") - pairs - head.endswith(b"\r")
    return bool(head.count(b"\n") - pairs or lone_cr)


def parse_head(head: bytes, limits: Limits, *, host: bytes | None = None) -> Head:
    """Read a head that ends in an empty line. Raises Refused; `host` stands in for one that is missing."""
    found = parse_plain(head, limits) or _parse_any(head, limits, host)
    if found is None:
        raise Refused(400, "not a whole request", closes=True)
    return found


def parse_plain(head: bytes, limits: Limits) -> Head | None:
    """Read a head that has one reading only; None if it is not so plain."""
    match = _PLAIN.fullmatch(head)
    if match is None or match.end(2) + len(b" HTTP/1.1") > limits.target_bytes:
        return None
    fields = _FIELDS.findall(match[3])
    headers = {name.lower(): value for name, value in fields}
    if len(headers) != len(fields) or b"host" not in headers or not _NOT_PLAIN.isdisjoint(headers):
        return None
    length = headers.get(b"content-length")
    if length is not None and not (length.isdigit() and len(length) <= _LENGTH_DIGITS):
        return None
    return _head_of(match[1], match[2], b"1.1", headers, None)


def _parse_any(head: bytes, limits: Limits, host: bytes | None) -> Head | None:
    _check_lines(head, limits)
    if host is not None and not _HOST.search(head):
        head = head[:-2] + b"Host: " + host + b"\r\n\r\n"
    # The limit is checked here: h11 would count what follows the head, too.
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes + 1024)
    try:
        parser.receive_data(head)
        request = parser.next_event()
    except h11.RemoteProtocolError as error:
        raise Refused(error.error_status_hint, f"not HTTP: {error}", closes=True) from None
    if not isinstance(request, h11.Request):
        return None
    if request.http_version not in (b"1.0", b"1.1"):
        raise Refused(505, "the versions are HTTP/1.0 and HTTP/1.1", closes=True)
    headers: dict[bytes, bytes] = {}
    for key, value in request.headers:
        headers[key] = headers[key] + b", " + value if key in headers else value
    return _head_of(request.method, request.target, request.http_version, headers, parser)


def _head_of(
    method: bytes, target: bytes, version: bytes, headers: dict[bytes, bytes], parser: h11.Connection | None
) -> Head:
    length, has_body = _framing(headers, version)
    name, is_folder, query, fault = "", False, cast(dict[str, str], {}), None
    try:
        name, is_folder, query = _read_target(target.decode("ascii"))
    except Refused as refused:
        fault = refused
    connection = {word.strip() for word in headers.get(b"connection", b"").lower().split(b",")}
    return Head(
        method=method.decode("ascii"),
        name=name,
        is_folder=is_folder,
        query=query,
        headers=headers,
        length=length,
        has_body=has_body,
        keeps_alive=version == b"1.1" and b"close" not in connection,
        expects_continue=headers.get(b"expect", b"").lower() == b"100-continue" and version == b"1.1",
        parser=parser,
        fault=fault,
    )


def _check_lines(head: bytes, limits: Limits) -> None:
    if has_bad_line_end(head) or b"\0" in head:
        raise Refused(400, "lines end in CR LF, and neither stands alone", closes=True)
    if b"\r\n " in head or b"\r\n\t" in head or head[:1] in (b" ", b"\t", b"\r"):
        raise Refused(400, "a header is one line", closes=True)
    if head.find(b"\r\n") > limits.target_bytes:
        raise Refused(414, "the target is too long", closes=True)
    lengths = _LENGTH.findall(head)
    # h11 would take "5, 5" for 5.
    if len(lengths) > 1 or (lengths and b"," in lengths[0]) or len(_CODING.findall(head)) > 1:
        raise Refused(400, "a message has one length", closes=True)


def _framing(headers: dict[bytes, bytes], version: bytes) -> tuple[int | None, bool]:
    length = headers.get(b"content-length")
    if b"transfer-encoding" in headers:
        if length is not None or version != b"1.1":
            raise Refused(400, "a message is chunked or has a length", closes=True)
        return None, True
    if length is None:
        return 0, False
    if not length.isdigit():
        raise Refused(400, "a length is digits", closes=True)
    return int(length), True


def _read_target(target: str) -> tuple[str, bool, dict[str, str]]:
    path, _, query_text = target.partition("?")
    if not path.startswith("/"):
        absolute = _ABSOLUTE.match(path)
        path = path[absolute.end() :] or "/" if absolute else path
    if not path.startswith("/") or "#" in target:
        raise Refused(400, "the target is a path that begins with a slash")
    if "\\" in path or _BAD_ESCAPE.search(path):
        raise Refused(400, "no name holds a backslash, a control character or an encoded slash")
    name = unquote_to_bytes(path).decode("ascii")
    if any(part in (".", "..") for part in name.split("/")):
        raise Refused(400, "no name holds . or ..")
    try:
        pairs = parse_qsl(
            query_text, keep_blank_values=True, encoding="utf-8", errors="strict", max_num_fields=16
        )
    except ValueError:
        raise Refused(400, "the query cannot be read") from None
    query = cast(dict[str, str], {})
    for key, value in pairs:
        if key in query:
            raise Refused(400, f"{key!r} stands twice in the query")
        query[key] = value
    return name.strip("/"), path.endswith("/"), query
