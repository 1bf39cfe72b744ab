"""Attributes as s3fs and rclone write them."""

from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountstore.vfs.attrs import StoredAttrs, attrs_of, metadata_of

_types = st.sampled_from([stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK])
_times = st.integers(-(10**18), 4 * 10**18)
_ids = st.integers(0, 2**32 - 1)


@given(_types, st.integers(0, 0o7777), _ids, _ids, _times, _times, _times)
def test_what_is_written_is_read(
    kind: int, permissions: int, uid: int, gid: int, atime: int, mtime: int, ctime: int
) -> None:
    metadata = metadata_of(kind | permissions, uid, gid, atime, mtime, ctime)
    assert attrs_of(metadata) == StoredAttrs(kind | permissions, uid, gid, atime, mtime, ctime)
    assert all(key.islower() and value.isascii() for key, value in metadata.items())


def test_a_device_keeps_its_numbers() -> None:
    metadata = metadata_of(stat.S_IFCHR | 0o600, 0, 0, 0, 0, 0, 259)
    assert attrs_of(metadata).rdev == 259


def test_of_s3fs() -> None:
    attrs = attrs_of({"mode": "33188", "uid": "1000", "gid": "100", "mtime": "1700000000", "atime": "5"})
    assert attrs == StoredAttrs(0o100644, 1000, 100, 5 * 10**9, 1_700_000_000 * 10**9)


def test_a_mode_is_written_as_s3fs_and_rclone_read_it() -> None:
    assert metadata_of(stat.S_IFREG | 0o640, 0, 0, 0, 0, 0)["mode"] == "0100640"
    assert metadata_of(stat.S_IFIFO | 0o600, 0, 0, 0, 0, 0)["mode"] == "010600"


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("33184", 0o100640),
        ("0100640", 0o100640),
        ("100640", 0o100640),
        ("16893", 0o040775),
        ("040775", 0o040775),
        ("010600", 0o010600),
        ("640", 0o640),
        ("0640", 0o640),
        ("104755", 0o104755),
    ],
)
def test_modes_of_everybody(text: str, mode: int) -> None:
    assert attrs_of({"mode": text}).mode == mode


def test_of_rclone() -> None:
    attrs = attrs_of({"mode": "100644", "mtime": "2023-11-14T22:13:20.123456789Z", "uid": "1", "gid": "2"})
    assert attrs.mode == 0o100644
    assert attrs.mtime_ns == 1_700_000_000_123_456_789


def test_of_rclone_in_another_zone() -> None:
    attrs = attrs_of({"mtime": "2023-11-14T23:13:20.5+01:00"})
    assert attrs.mtime_ns == 1_700_000_000_500_000_000


def test_of_rclone_as_it_writes_mtime_of_s3() -> None:
    assert attrs_of({"mtime": "1700000000.000000001"}).mtime_ns == 1_700_000_000_000_000_001


@pytest.mark.parametrize(
    "text", ["", "x", "-", "1.x", "nan", "1e9", "9" * 400, "²", "２", "0x10", "-1", "1_000", " 5", "1\n"]
)
def test_what_cannot_be_read_is_not_told(text: str) -> None:
    attrs = attrs_of({"mode": text, "uid": text, "gid": text, "rdev": text})
    assert attrs == StoredAttrs()
    for time_ns in (attrs_of({"mtime": text}).mtime_ns, attrs_of({"atime": text}).atime_ns):
        assert time_ns is None or isinstance(time_ns, int)


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00", "9999-12-31T23:59:59", "9" * 30, "-" + "9" * 30])
def test_a_time_that_is_far_away_can_be_kept_or_is_not_told(text: str) -> None:
    time_ns = attrs_of({"mtime": text}).mtime_ns
    assert time_ns is None or -(2**63) <= time_ns < 2**63


@given(st.text(max_size=30))
def test_no_metadata_is_an_error(text: str) -> None:
    attrs_of(dict.fromkeys(("mode", "uid", "gid", "mtime", "atime", "ctime", "rdev"), text))


@given(_times | st.integers(10**20, 10**40))
def test_a_time_that_an_index_cannot_hold_is_not_told(seconds: int) -> None:
    """SQLite holds 64 bits: anything larger would fail the listing of its whole directory."""
    time_ns = attrs_of({"mtime": str(seconds)}).mtime_ns
    assert time_ns is None or -(2**63) <= time_ns < 2**63
