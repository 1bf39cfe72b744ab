"""The versions of one object, where the bucket keeps them (ListObjectVersions)."""

from __future__ import annotations

from urllib.parse import unquote_plus
from xml.etree import ElementTree

from mountstore.backends.s3.wire import Wire
from mountstore.errors import Corrupted

_MOST = 1000


def fetch(wire: Wire, whole: str) -> list[str]:
    """The ids of the versions of a whole key, newest first, deletions left out; at most a thousand.

    Empty where the bucket keeps none: what is there then has the id `null`.
    """
    query = [("versions", ""), ("encoding-type", "url"), ("max-keys", str(_MOST)), ("prefix", whole)]
    reply = wire.request("LIST", "GET", query=query)
    try:
        root = ElementTree.fromstring(reply.body)
    except ElementTree.ParseError as error:
        raise Corrupted(f"the answer to a listing of versions cannot be read: {error}") from None
    found = [
        element.findtext("{*}VersionId", "")
        for element in root.iterfind("{*}Version")
        if unquote_plus(element.findtext("{*}Key", "")) == whole
    ]
    return [] if found == ["null"] else found
