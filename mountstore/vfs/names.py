"""File names and key segments, each from the other.

A key is cut at its slashes into segments; a directory entry has a name of 1 to 255 bytes that is not
`.` or `..` and holds no NUL. Nearly always they are the same text. Where they cannot be, the name
holds a token, and the key is left alone:

    key              path              because
    a//b             a/%()/b           a name cannot be empty
    a/./b  a/../b    a/%(.)/b a/%(..)/b  these names are taken
    x<NUL>y          x%(00)y           a name holds no NUL
    xxx… (> 255)     xxx…%(long-HASH)  cut, HASH being 16 hexadecimal digits of its SHA-256
    d  beside d/e    d%(file)          the directory has the plain name
    x%(00)           x%(25)(00)        what looks like a token gets one (25) more

The other way round, a name that is not UTF-8 becomes a key that is: each byte that does not decode
stands as `%(80)` to `%(ff)` in the key. All are reversible, but for long names, whose segment the index
remembers and any listing tells again.
"""

from __future__ import annotations

import hashlib
import re

NAME_MAX = 255

_WHOLE = re.compile(r"%((?:\(25\))*)\((|\.|\.\.)\)")
_TOKEN = re.compile(r"%((?:\(25\))*)\((00\)|(?:file|long-[0-9a-f]{16})\)\Z)")
_BYTE = re.compile(r"%((?:\(25\))*)\(([89a-f][0-9a-f])\)")
_TEMPORARY = re.compile(
    rb"\..*\.[A-Za-z0-9_]{6,}|.*(~|\.te?mp|\.part|\.partial|\.crdownload)|te?mp[._-].*", re.IGNORECASE
)
_CLASH = "%(file)"
CLASH = _CLASH.encode()
"""What the name of a file ends in that stands beside a directory of its name."""


def is_temporary(name: bytes) -> bool:
    """Whether a name is about to be given up: as of rsync, git, browsers and editors."""
    return _TEMPORARY.fullmatch(name) is not None


def name_of_segment(segment: str, *, clash: bool = False) -> bytes:
    """The name under which a segment appears; `clash` when a directory has the plain name."""
    if segment in ("", ".", ".."):
        name = f"%({segment})".encode()
    elif "%(" in segment or "\0" in segment:
        name = _name_with_tokens(segment)
    else:
        name = segment.encode()
    if clash:
        name += CLASH
    return name if len(name) <= NAME_MAX else _hashed(name)


def _hashed(name: bytes) -> bytes:
    suffix = f"%(long-{hashlib.sha256(name).hexdigest()[:16]})".encode()
    return name[: NAME_MAX - len(suffix)].decode(errors="ignore").encode() + suffix


def _name_with_tokens(segment: str) -> bytes:
    if _WHOLE.fullmatch(segment):
        return _WHOLE.sub(_one_more, segment).encode()
    text = _TOKEN.sub(_one_more, segment)
    name = _BYTE.sub(_raw_byte, text).replace("\0", "%(00)").encode(errors="surrogateescape")
    # Tokens of bytes that decode together are no name's own key: the index remembers such a segment.
    return name if segment_of_name(name) == segment else _hashed(segment.replace("\0", "%(00)").encode())


def segment_of_name(name: bytes) -> str:
    """The segment that a name stands for (a long one's is known to the index alone)."""
    text = name.decode(errors="surrogateescape")
    if "%(" in text:
        if text.endswith(_CLASH) and len(text) > len(_CLASH):
            text = text.removesuffix(_CLASH)
        if whole := _WHOLE.fullmatch(text):
            return _one_less(whole) if whole[1] else whole[2]
        text = _TOKEN.sub(_one_less, _BYTE.sub(_one_more, text))
    if not text.isascii():
        text = "".join(
            f"%({ord(char) - 0xDC00:02x})" if 0xDC80 <= ord(char) <= 0xDCFF else char for char in text
        )
    return text


def _one_more(match: re.Match[str]) -> str:
    return f"%(25){match[0][1:]}"


def _one_less(match: re.Match[str]) -> str:
    if match[1]:
        return f"%{match[0][5:]}"
    return "\0" if match[2] == "00)" else match[0]


def _raw_byte(match: re.Match[str]) -> str:
    return f"%{match[0][5:]}" if match[1] else chr(0xDC00 + int(match[2], 16))
