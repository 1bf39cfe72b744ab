"""File names and key segments: each from the other, and no two the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountstore.vfs.names import NAME_MAX, name_of_segment, segment_of_name

_pieces = st.sampled_from(
    ["%", "(", ")", "25", "(25)", "%(", "%(25)", "(00)", "%(00)", "%(file)", "%()", "%(.)", "%(..)", ".",
     "..", "\0", "a", "é", "%(80)", "%(c3)", "%(a9)", "%(long-0123456789abcdef)", "x"]
)  # fmt: skip
segments = st.one_of(
    st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), max_size=80),
    st.lists(_pieces, max_size=6).map("".join),
)
names = (
    st.one_of(
        st.binary(min_size=1, max_size=NAME_MAX),
        st.lists(_pieces, min_size=1, max_size=6).map(lambda pieces: "".join(pieces).encode()),
        st.lists(
            st.sampled_from([b"\xc3", b"\xa9", b"%", b"(", b"80", b")", b"\xff", b"25"]), min_size=1
        ).map(b"".join),
    )
    .map(lambda name: name.replace(b"/", b"").replace(b"\0", b"")[:NAME_MAX])
    .filter(lambda name: name not in (b"", b".", b".."))
)


def is_name(name: bytes) -> bool:
    return 0 < len(name) <= NAME_MAX and name not in (b".", b"..") and b"/" not in name and b"\0" not in name


@given(segments)
def test_a_segment_has_a_name_that_gives_it_back_or_is_long(segment: str) -> None:
    name = name_of_segment(segment)
    assert is_name(name)
    if b"%(long-" not in name:
        assert segment_of_name(name) == segment


@given(segments, segments)
def test_two_segments_have_two_names(one: str, two: str) -> None:
    assert (name_of_segment(one) == name_of_segment(two)) == (one == two)


@given(names)
def test_a_name_gives_a_segment_that_a_store_can_hold(name: bytes) -> None:
    segment = segment_of_name(name)
    segment.encode()  # no lone surrogates
    assert "/" not in segment


@given(names)
def test_a_name_comes_back_or_is_remembered_literally(name: bytes) -> None:
    """Whatever an application names a file: without the index it is found under the same name again."""
    segment = segment_of_name(name)
    if name_of_segment(segment) != name:
        assert b"%(" in name, "only what looks like a token"


@given(segments)
def test_a_file_beside_a_directory_has_a_name_of_its_own(segment: str) -> None:
    plain, clash = name_of_segment(segment), name_of_segment(segment, clash=True)
    assert is_name(clash)
    assert plain != clash
    if b"%(" not in plain:  # of other segments the index remembers it
        assert segment_of_name(clash) == segment


@pytest.mark.parametrize(
    ("segment", "name"),
    [
        ("plain", b"plain"),
        ("é", "é".encode()),
        ("", b"%()"),
        (".", b"%(.)"),
        ("..", b"%(..)"),
        ("x\0y", b"x%(00)y"),
        ("x%(00)", b"x%(25)(00)"),
        ("100%", b"100%"),
        ("%(ff)", b"\xff"),
    ],
)
def test_the_table_of_the_docstring(segment: str, name: bytes) -> None:
    assert name_of_segment(segment) == name
    assert segment_of_name(name) == segment
