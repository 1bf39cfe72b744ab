"""One answer of ListObjectsV2, exact: keys are asked for URL-encoded, because XML cannot carry them all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from mountstore.backends.s3.keys import NOT_XML
from mountstore.backends.s3.wire import Wire
from mountstore.errors import Corrupted
from mountstore.store import ObjectInfo, Page

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# Sorts behind whatever follows a group's delimiter, so that a server can skip the group at once.
_LAST = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class Answer:
    """Entries under whole keys, in key order; `token` asks for what follows, None at the end."""

    objects: list[ObjectInfo]
    prefixes: list[str]
    token: str | None


def quoted_etag(etag: str) -> str:
    """An etag as HTTP has it, in quotes, wherever it was read."""
    return '"' + etag.strip('"') + '"'


def time_ns(text: str) -> int:
    """A time as S3 lists it (2009-10-12T17:50:30.000Z)."""
    return (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND * 1000


def group_of(prefix: str, delimiter: str, key: str) -> str | None:
    """The group that a listing of `prefix` puts `key` into, if it does."""
    if not delimiter or not key.startswith(prefix):
        return None
    at = key.find(delimiter, len(prefix))
    return None if at < 0 else key[: at + len(delimiter)]


def fetch(
    wire: Wire,
    prefix: str,
    delimiter: str,
    after: str,
    limit: int,
    token: str | None = None,
    *,
    deadline_s: float | None = None,
    tries: int = 0,
) -> Answer:
    """Ask once. Entries at or before `after` are left out, also where a server would give them."""
    # MinIO takes max-keys=1 with a prefix and a delimiter for a question about one folder, and says that
    # nothing follows: so at least two are asked for, and more may come than `limit`.
    query = [
        ("list-type", "2"),
        ("encoding-type", "url"),
        ("max-keys", str(max(2, min(limit, 1000)))),
        ("prefix", prefix),
    ]
    if delimiter:
        query.append(("delimiter", delimiter))
    if token is not None:
        query.append(("continuation-token", token))
    elif after.encode() > prefix.encode():
        if not after.startswith(prefix):
            return Answer([], [], None)
        group = group_of(prefix, delimiter, after)
        query.append(("start-after", after if group is None else group + _LAST))
    elif after and after == prefix:
        query.append(("start-after", after))
    reply = wire.request("LIST", "GET", query=query, deadline_s=deadline_s, tries=tries)
    answer = parse(reply.body)
    floor = after.encode()
    objects = [
        info
        for info in answer.objects
        if info.key.startswith(prefix) and not (after and info.key.encode() <= floor)
    ]
    prefixes = [
        name for name in answer.prefixes if name.startswith(prefix) and not (after and name.encode() <= floor)
    ]
    return Answer(objects, prefixes, answer.token)


def grouped(wire: Wire, prefix: str, delimiter: str, after: str, limit: int) -> Answer:
    """A page of groups made here: MinIO takes other delimiters than a slash wrongly.

    Costs a request a group. More entries than `limit` mean that there are more; the token is None.
    """
    objects: list[ObjectInfo] = []
    prefixes: list[str] = []
    while True:
        answer = fetch(wire, prefix, "", after, 1000, tries=0)
        group = None
        for info in answer.objects:
            group = group_of(prefix, delimiter, info.key)
            if group is None:
                objects.append(info)
                after = info.key
            elif group.encode() > after.encode():
                prefixes.append(group)
                after = group + _LAST
                break
            if len(objects) + len(prefixes) > limit:
                break
        if len(objects) + len(prefixes) > limit or (answer.token is None and group is None):
            return Answer(objects, prefixes, None)


def page(wire: Wire, prefix: str, delimiter: str, after: str, limit: int) -> Page:
    """A page of whole keys, of at most `limit` entries."""
    token: str | None = None
    while True:
        if delimiter in ("", "/"):
            answer = fetch(wire, prefix, delimiter, after, limit, token)
        else:
            answer = grouped(wire, prefix, delimiter, after, limit)
        token = answer.token
        names = sorted([*(info.key for info in answer.objects), *answer.prefixes], key=str.encode)
        if names or token is None:
            break
    if token is None and len(names) <= limit:
        return Page(answer.objects, answer.prefixes, None)
    kept = set(names[:limit])
    return Page(
        [info for info in answer.objects if info.key in kept],
        [name for name in answer.prefixes if name in kept],
        names[:limit][-1],
    )


def pages(wire: Wire, prefix: str, delimiter: str, after: str, limit: int) -> Iterator[Page]:
    """All pages, by the server's own tokens; `limit` is two or more, the delimiter a slash or nothing."""
    token: str | None = None
    while True:
        answer = fetch(wire, prefix, delimiter, after, limit, token)
        names = [info.key for info in answer.objects] + answer.prefixes
        token = answer.token
        if names or token is None:
            yield Page(answer.objects, answer.prefixes, max(names, key=str.encode) if token else None)
        if token is None:
            return


def _tree(body: bytes) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(body)
    except ElementTree.ParseError:
        if b"<EncodingType>url</EncodingType>" not in body:
            raise
        # moto repeats the question unencoded; the answer itself is encoded, so nothing of it is lost.
        return ElementTree.fromstring(NOT_XML.sub("", body.decode()).encode())


def parse(body: bytes) -> Answer:
    """Read the XML of an answer."""
    try:
        root = _tree(body)
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise Corrupted(f"the server's listing is no XML: {error}") from error
    space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
    encoded = root.findtext(f"{space}EncodingType") == "url"
    # Some servers do not encode although they were asked to; then the text is the key.
    decode = unquote_plus if encoded else str
    names = {f"{space}{name}": name for name in ("Key", "Size", "ETag", "LastModified")}
    objects: list[ObjectInfo] = []
    for element in root.iterfind(f"{space}Contents"):
        found = {names[child.tag]: child.text or "" for child in element if child.tag in names}
        etag = found.get("ETag")
        objects.append(
            ObjectInfo(
                decode(found["Key"]),
                int(found.get("Size") or 0),
                time_ns(found["LastModified"]),
                quoted_etag(etag) if etag else None,
            )
        )
    groups = root.iterfind(f"{space}CommonPrefixes/{space}Prefix")
    prefixes = [decode(element.text or "") for element in groups]
    objects.sort(key=lambda info: info.key.encode())
    prefixes.sort(key=str.encode)
    truncated = root.findtext(f"{space}IsTruncated") == "true"
    token = root.findtext(f"{space}NextContinuationToken") if truncated else None
    if truncated and not token:
        raise Corrupted("the server's listing is cut off and does not say how to go on")
    return Answer(objects, prefixes, token)
