"""What follows `-o`, on the command line and in /etc/fstab, read into what a mount is asked to be."""

from __future__ import annotations

import grp
import os
import pwd
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mountstore.errors import UsageError

# Those of mount(8) and fstab(5) that mean nothing to a mount of ours, or nothing else than it does anyway:
# it is nosuid and nodev whatever is asked, and keeps its own times.
_IGNORED = frozenset(
    (
        "defaults",
        "auto",
        "noauto",
        "user",
        "nouser",
        "users",
        "owner",
        "group",
        "nofail",
        "_netdev",
        "async",
        "exec",
        "suid",
        "nosuid",
        "diratime",
        "nodiratime",
        "relatime",
        "norelatime",
        "strictatime",
        "nostrictatime",
        "lazytime",
        "nolazytime",
        "default_permissions",
        "silent",
        "loud",
        "nomand",
        "noiversion",
    )
)
_IGNORED_WITH_VALUE = ("x-", "X-", "comment=", "user=", "uhelper=", "helper=")


def seconds(text: str) -> float:
    """A number of seconds."""
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{text!r} is not a number of seconds") from None


def byte_size(text: str) -> int:
    """Bytes: a number with K, M, G or T behind it (powers of 1024), or without."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise UsageError(f"{text!r} is not a size such as 10G or 500M")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))


def octal(text: str) -> int:
    """A umask."""
    try:
        return int(text, 8)
    except ValueError:
        raise UsageError(f"{text!r} is not an octal number such as 022") from None


def user_id(text: str) -> int:
    """A user, by number or by name."""
    try:
        return int(text) if text.isdecimal() else pwd.getpwnam(text).pw_uid
    except KeyError:
        raise UsageError(f"there is no user {text!r}") from None


def group_id(text: str) -> int:
    """A group, by number or by name."""
    try:
        return int(text) if text.isdecimal() else grp.getgrnam(text).gr_gid
    except KeyError:
        raise UsageError(f"there is no group {text!r}") from None


def absolute(text: str) -> Path:
    """A path; the daemon will have another working directory."""
    return Path(os.path.abspath(os.path.expanduser(text)))


def one_of(*choices: str) -> Callable[[str], str]:
    """One of these words."""

    def read(text: str) -> str:
        if text not in choices:
            raise UsageError(f"{text!r} is none of {', '.join(choices)}")
        return text

    return read


FLAGS: dict[str, tuple[str, bool]] = {
    "ro": ("read_only", True),
    "rw": ("read_only", False),
    "noexec": ("noexec", True),
    "allow_other": ("allow_other", True),
    "xattr": ("xattr", True),
    "acl": ("acl", True),
    "dev": ("dev", True),
    "nodev": ("dev", False),
    "atime": ("atime", True),
    "noatime": ("atime", False),
    "nocache": ("cache", False),
}
VALUES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "uid": ("uid", user_id),
    "gid": ("gid", group_id),
    "umask": ("umask", octal),
    "file_mode": ("file_mode", octal),
    "dir_mode": ("dir_mode", octal),
    "ttl": ("ttl_s", seconds),
    "checkpoint": ("checkpoint_s", seconds),
    "upload_delay": ("upload_delay_s", seconds),
    "fsync": ("fsync", one_of("remote", "local")),
    "attrs": ("attrs", one_of("auto", "stored", "listed")),
    "state_dir": ("state_dir", absolute),
    "log_file": ("log_file", absolute),
    "cache": ("cache_dir", absolute),
    "cache_size": ("cache_size", byte_size),
}


def parse_options(texts: tuple[str, ...], *, sloppy: bool = False) -> dict[str, Any]:
    """The fields of `MountRequest` that `-o a,b=c -o d` sets; of two that clash, the last holds.

    Raises UsageError, naming the option, for one that is unknown (unless `sloppy`) or cannot be read.
    """
    fields: dict[str, Any] = {}
    for option in (option for text in texts for option in text.split(",") if option):
        name, has_value, value = option.partition("=")
        if name in FLAGS and not has_value:
            field, flag = FLAGS[name]
            fields[field] = flag
        elif name in VALUES and has_value:
            field, read = VALUES[name]
            try:
                fields[field] = read(value)
            except UsageError as error:
                raise UsageError(f"-o {name}: {error}") from None
        elif name in VALUES:
            raise UsageError(f"-o {name} needs a value: {name}=...")
        elif option not in _IGNORED and not option.startswith(_IGNORED_WITH_VALUE) and not sloppy:
            known = ", ".join([*FLAGS, *(f"{name}=" for name in VALUES)])
            raise UsageError(f"unknown mount option {option!r}; known are {known}, and those of mount(8)")
    return fields
