"""Parts of objects, read by ranges of one version and never held whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mountstore.errors import InvalidRange, RangeNotSatisfiable
from mountstore.namespaces.items import Source
from mountstore.store import Data, ObjectInfo, ObjectStore
from mountstore.stores.reader import RANGE_BYTES, ObjectReader

_LOCAL_BYTES = 1 << 20


def check_size(name: str, size: int | None) -> None:
    """Raises InvalidRange for a negative size."""
    if size is not None and size < 0:
        raise InvalidRange(f"{name!r}: a size is not negative; leave it out for all that follows", key=name)


def clip(total: int, size: int | None, offset: int) -> tuple[int, int]:
    """What there is of a range in an item of `total` bytes; a negative offset counts from its end."""
    start = min(offset, total) if offset >= 0 else max(0, total + offset)
    return start, total if size is None else min(start + size, total)


def pieces_between(store: ObjectStore, info: ObjectInfo, start: int, stop: int) -> Iterator[Data]:
    """Bytes [start, stop) of the version that `info` tells of. Raises PreconditionFailed once it is gone."""
    reader = ObjectReader(store, info)
    # A server reads many at once; where no request has to be paid for, small pieces cost nothing.
    most = _LOCAL_BYTES if store.capabilities.local else RANGE_BYTES
    for at in range(start, stop, most):
        yield reader.range(at, min(at + most, stop))


def located(store: ObjectStore, source: Source) -> tuple[ObjectInfo, int, int]:
    """Where a piece begins and ends. Raises RangeNotSatisfiable if it is not all there."""
    info = store.head(source.name)
    start = source.offset if source.offset >= 0 else info.size + source.offset
    if start < 0 or start + source.size > info.size:
        raise _short(source)
    return info, start, start + source.size


def gathered(store: ObjectStore, sources: Iterable[Source]) -> Iterator[Data]:
    """The bytes of all pieces, one behind the other. Raises RangeNotSatisfiable."""
    for source in sources:
        if source.offset >= 0 and source.size <= RANGE_BYTES:
            try:
                piece = store.get(source.name, source.offset, source.offset + source.size)
            except InvalidRange:
                piece = b""
            if len(piece) != source.size:
                raise _short(source)
            yield piece
        else:
            yield from pieces_between(store, *located(store, source))


def _short(source: Source) -> RangeNotSatisfiable:
    return RangeNotSatisfiable(
        f"{source.name!r} has no {source.size} bytes at {source.offset}", key=source.name
    )
