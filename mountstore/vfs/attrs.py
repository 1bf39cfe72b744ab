"""Attributes of a file as metadata of its object, under the keys that s3fs and rclone use.

    mode    octal st_mode with the type bits and a zero in front: s3fs reads that, and its own decimal,
            by the rules of C, rclone as octal; a decimal one would be other permissions for rclone
    uid gid decimal
    mtime atime ctime   seconds since 1970, with nine decimals

A symlink is an object whose mode says so and whose content is its target. What gcsfuse writes is read, too:
`gcsfuse_mtime`, and `gcsfuse_symlink_target` of an object without content.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

NS = 1_000_000_000
_MTIMES = ("mtime", "gcsfuse_mtime", "goog-reserved-file-mtime")
_TARGET = "gcsfuse_symlink_target"
OUR_KEYS = frozenset({"mode", "uid", "gid", "atime", "ctime", "rdev", *_MTIMES})
"""The metadata keys that are written anew, or left out, whenever attributes are stored."""
_INT64 = 1 << 63  # what the index can hold
_SECONDS = re.compile(r"(-?)(\d{1,20})(?:\.(\d*))?", re.ASCII)
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class StoredAttrs:
    """What an object's metadata tells; None where it tells nothing."""

    mode: int | None = None  # with type bits; 0 type if only permissions are known
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    rdev: int | None = None

    @property
    def any_known(self) -> bool:
        """Whether anything at all is told."""
        return self != _NOTHING


_NOTHING = StoredAttrs()


def metadata_of(
    mode: int, uid: int, gid: int, atime_ns: int, mtime_ns: int, ctime_ns: int, rdev: int = 0
) -> dict[str, str]:
    """The metadata to put beside the content."""
    metadata = {
        "mode": f"0{mode:o}",
        "uid": str(uid),
        "gid": str(gid),
        "mtime": _time_text(mtime_ns),
        "atime": _time_text(atime_ns),
        "ctime": _time_text(ctime_ns),
    }
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        metadata["rdev"] = str(rdev)
    return metadata


def attrs_of(metadata: Mapping[str, str]) -> StoredAttrs:
    """What metadata tells; what cannot be read counts as not told."""
    return StoredAttrs(
        mode=_mode(metadata.get("mode", "")),
        uid=_number(metadata.get("uid", "")),
        gid=_number(metadata.get("gid", "")),
        atime_ns=_time_ns(metadata.get("atime", "")),
        mtime_ns=_first(_time_ns(metadata.get(key, "")) for key in _MTIMES),
        ctime_ns=_time_ns(metadata.get("ctime", "")),
        rdev=_number(metadata.get("rdev", "")),
    )


def link_target_of(metadata: Mapping[str, str]) -> bytes | None:
    """The target of a symlink that is told by metadata instead of content."""
    target = metadata.get(_TARGET)
    return target.encode() if target and "\0" not in target and len(target.encode()) < 4096 else None


def _first(values: Iterable[int | None]) -> int | None:
    return next((value for value in values if value is not None), None)


def _time_text(time_ns: int) -> str:
    sign = "-" if time_ns < 0 else ""
    return f"{sign}{abs(time_ns) // NS}.{abs(time_ns) % NS:09d}"


def _time_ns(text: str) -> int | None:
    if match := _SECONDS.fullmatch(text):
        sign, seconds, fraction = match.groups()
        time_ns = int(seconds) * NS + _nanoseconds(fraction)
        time_ns = -time_ns if sign else time_ns
    elif match := _RFC3339.fullmatch(text):
        whole, fraction, zone = match.groups()
        try:
            time_ns = int(datetime.fromisoformat(whole + (zone or "Z")).timestamp()) * NS
        except ValueError:
            return None
        time_ns += _nanoseconds(fraction)
    else:
        return None
    return time_ns if -_INT64 <= time_ns < _INT64 else None


def _nanoseconds(fraction: str | None) -> int:
    return int((fraction or "")[:9].ljust(9, "0"))


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and int(text) < 2**32 else None


def _mode(text: str) -> int | None:
    """s3fs writes decimal, rclone octal: what has valid type bits is what was meant."""
    if not (text.isascii() and text.isdecimal()):
        return None
    decimal = int(text)
    if text[0] != "0" and decimal <= 0xFFFF and stat.S_IFMT(decimal) in _TYPES:
        return decimal
    octal = int(text, 8) if not set(text) & {"8", "9"} else -1
    if 0 <= octal <= 0xFFFF and stat.S_IFMT(octal) in _TYPES | {0}:
        return octal
    return None


_TYPES = {
    stat.S_IFREG,
    stat.S_IFDIR,
    stat.S_IFLNK,
    stat.S_IFIFO,
    stat.S_IFSOCK,
    stat.S_IFCHR,
    stat.S_IFBLK,
}
