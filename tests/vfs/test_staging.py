"""Extents and stacks of layers, against plain byte arrays."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mountstore.vfs.staging import Extents, LayerRow, Stack, Staging

_ranges = st.tuples(st.integers(0, 60), st.integers(1, 12))
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), _ranges),
        st.tuples(st.just("clip"), st.tuples(st.integers(0, 60), st.just(0))),
    ),
    max_size=30,
)


@given(_steps, _ranges)
def test_extents_are_a_set_of_positions(
    steps: list[tuple[str, tuple[int, int]]], asked: tuple[int, int]
) -> None:
    extents = Extents()
    model: set[int] = set()
    for verb, (start, length) in steps:
        if verb == "add":
            extents.add(start, start + length)
            model |= set(range(start, start + length))
        else:
            extents.clip(start)
            model = {position for position in model if position < start}
        ranges = list(extents)
        assert {position for low, high in ranges for position in range(low, high)} == model
        assert all(low < high for low, high in ranges)
        gaps = itertools.pairwise(ranges)
        assert all(one[1] < two[0] for one, two in gaps), "sorted, disjoint and not adjacent"
        assert extents.total() == len(model)
        assert list(Extents(extents.pack())) == ranges
        for size in range(5):
            assert extents.covers(size) == (set(range(size)) <= model)
    start, length = asked
    at = start
    for low, high, present in extents.pieces(start, start + length):
        assert low == at
        assert high > low
        assert all((position in model) == present for position in range(low, high))
        at = high
    assert at == start + length


class Model:
    """A stack as `Content` uses it, beside the bytes that it stands for."""

    def __init__(self, folder: Path, base: bytes) -> None:
        self.staging = Staging(folder)
        self.base = base
        self.stack = Stack([])
        self.bytes = bytearray(base)
        self.ids: Iterator[int] = iter(range(1, 10_000))
        self.frozen: bytes | None = None

    def top(self) -> None:
        if len(self.stack.layers) == self.stack.frozen:
            self.stack.layers.append(self.staging.new_layer(next(self.ids), 7, len(self.bytes)))

    def write(self, offset: int, data: bytes) -> None:
        self.top()
        self.stack.layers[-1].write(offset, data)
        self.bytes.extend(bytes(max(0, offset + len(data) - len(self.bytes))))
        self.bytes[offset : offset + len(data)] = data

    def truncate(self, size: int) -> None:
        if size < len(self.bytes):
            self.top()
            self.stack.layers[-1].truncate(size)
            self.stack.layers[-1].trim(size)
            del self.bytes[size:]
        elif size > len(self.bytes):
            self.top()
            self.bytes.extend(bytes(size - len(self.bytes)))

    def read(self, layers: Stack, size: int, start: int = 0) -> bytes:
        out = b""
        for piece in layers.plan(start, size, len(self.base)):
            assert piece.start == start + len(out)
            if piece.layer is not None:
                out += piece.layer.read(piece.start, piece.stop)
            elif piece.base:
                out += self.base[piece.start : piece.stop]
            else:
                out += bytes(piece.stop - piece.start)
        return out

    def reload(self) -> None:
        """What the index keeps of it, as after a restart."""
        rows: list[LayerRow] = [
            (la.id, la.height, la.below, la.extents.pack(), None, la.below, None) for la in self.stack.layers
        ]
        for layer in self.stack.layers:
            layer.close()
        frozen = self.stack.frozen
        self.stack = self.staging.load(rows, 7)
        self.stack.frozen = frozen


_calls = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 40), st.binary(min_size=1, max_size=20)),
        st.tuples(st.just("truncate"), st.integers(0, 60), st.just(b"")),
        st.tuples(
            st.sampled_from(["freeze", "landed", "failed", "merge", "reload"]), st.just(0), st.just(b"")
        ),
    ),
    max_size=25,
)


@settings(deadline=None)
@given(st.binary(max_size=40), _calls)
def test_a_stack_is_the_bytes_that_were_written(base: bytes, calls: list[tuple[str, int, bytes]]) -> None:
    with TemporaryDirectory() as folder:
        model = Model(Path(folder) / "staging", base)
        snapshot: tuple[list[int], bytes] | None = None
        try:
            for verb, number, data in calls:
                if verb == "write":
                    model.write(number, data)
                elif verb == "truncate":
                    model.truncate(number)
                elif verb == "freeze" and snapshot is None:
                    model.stack.frozen = len(model.stack.layers)
                    snapshot = [layer.id for layer in model.stack.layers], bytes(model.bytes)
                elif verb == "landed" and snapshot is not None:
                    gone = [layer for layer in model.stack.layers if layer.id in snapshot[0]]
                    model.stack.layers = [la for la in model.stack.layers if la.id not in snapshot[0]]
                    model.staging.remove(gone)
                    model.stack.frozen = 0
                    model.base = snapshot[1]
                    snapshot = None
                elif verb == "failed":
                    model.stack.frozen = 0
                    snapshot = None
                elif verb == "merge":
                    model.staging.remove(model.stack.merge())
                elif verb == "reload":
                    model.reload()
                assert model.read(model.stack, len(model.bytes)) == model.bytes
                if snapshot is not None:
                    frozen = Stack([la for la in model.stack.layers if la.id in snapshot[0]])
                    assert model.read(frozen, len(snapshot[1])) == snapshot[1], "what is sent is not torn"
        finally:
            for layer in model.stack.layers:
                layer.close()


def test_files_that_no_record_names_are_removed(tmp_path: Path) -> None:
    staging = Staging(tmp_path / "s")
    for number in (1, 2):
        staging.new_layer(number, 7, 0).close()
    (tmp_path / "s" / "rubbish").write_bytes(b"")
    staging.remove_unknown({2})
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["2"]


def test_a_staged_file_that_lost_bytes_is_an_error_not_zeros(tmp_path: Path) -> None:
    layer = Staging(tmp_path / "s").new_layer(1, 7, 0)
    layer.write(0, b"12345")
    layer.path.write_bytes(b"123")
    with pytest.raises(OSError, match="shorter"):
        layer.read(0, 5)
    layer.close()
