"""What follows -o: ours and mount(8)'s are understood, anything else is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mountstore.cli.fstab import parse_options
from mountstore.errors import UsageError


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", {}),
        ("ro", {"read_only": True}),
        ("ro,rw", {"read_only": False}),
        ("allow_other,noexec", {"allow_other": True, "noexec": True}),
        ("uid=0,gid=0,umask=027", {"uid": 0, "gid": 0, "umask": 0o027}),
        ("uid=root", {"uid": 0}),
        ("ttl=2.5,checkpoint=0", {"ttl_s": 2.5, "checkpoint_s": 0.0}),
        ("upload_delay=0.2", {"upload_delay_s": 0.2}),
        ("fsync=local,attrs=listed", {"fsync": "local", "attrs": "listed"}),
        ("state_dir=/var/lib/m,,", {"state_dir": Path("/var/lib/m")}),
        ("defaults,_netdev,noauto,user,user=bob,nofail,x-systemd.automount,x-a=b", {}),
        ("exec,suid,nosuid,relatime,comment=hello", {}),
        ("dev,nodev,noatime,atime", {"dev": False, "atime": True}),
        (
            "xattr,acl,file_mode=640,dir_mode=0750",
            {"xattr": True, "acl": True, "file_mode": 0o640, "dir_mode": 0o750},
        ),
    ],
)
def test_options_are_read(text: str, fields: dict[str, Any]) -> None:
    assert parse_options((text,)) == fields


def test_later_options_win() -> None:
    assert parse_options(("uid=1,ro", "uid=2")) == {"uid": 2, "read_only": True}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sideways", "unknown mount option 'sideways'"),
        ("ro=1", "unknown mount option 'ro=1'"),
        ("uid", "uid needs a value"),
        ("uid=nobody-of-this-name", "-o uid: there is no user"),
        ("gid=nobody-of-this-name", "-o gid: there is no group"),
        ("umask=9", "-o umask: '9' is not an octal"),
        ("ttl=soon", "-o ttl: 'soon' is not a number"),
        ("fsync=maybe", "-o fsync: 'maybe' is none of"),
    ],
)
def test_others_are_named(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_options((text,))


def test_mount_may_ask_to_tolerate_what_is_unknown() -> None:
    assert parse_options(("sideways,ro",), sloppy=True) == {"read_only": True}
