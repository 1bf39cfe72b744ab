"""The values that travel between a namespace and what it lies on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from mountstore.errors import InvalidName, InvalidRange
from mountstore.store import Data, ObjectInfo


class ItemInfo(NamedTuple):
    """What is known of an item. Times are seconds since 1970; 0 where the store does not tell.

    `name` is its last part: without namespace, nesting and the suffix of soft deletion.
    """

    name: str
    exists: bool
    size: int
    directory: bool
    atime: float
    mtime: float


class Source(NamedTuple):
    """A piece of an item. A negative offset counts from the item's end."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Reading:
    """Bytes [start, stop) of one version of an item of `total` bytes, fetched as `pieces` is consumed.

    `pieces` raises PreconditionFailed where the item was replaced meanwhile.
    """

    start: int
    stop: int
    total: int
    info: ItemInfo
    pieces: Iterator[Data]


@runtime_checkable
class HasQuota(Protocol):
    """A store that knows how much it may hold."""

    def quota(self) -> Mapping[str, int]:
        """`limit` and `usage` in bytes; -1 where there is none, or it is not known."""
        ...


@runtime_checkable
class Admits(Protocol):
    """A store that can refuse a put before its content is at hand."""

    def admit(self, key: str, size: int) -> None:
        """Raise what a put of `size` bytes would now raise. A promise of nothing."""
        ...


@runtime_checkable
class ServerSide(HasQuota, Protocol):
    """A store whose far side computes. Names are keys of that store; errors are those of NamespaceBackend."""

    def hash_object(self, key: str, algorithm: str) -> str:
        """The hex digest of an object's content."""
        ...

    def defrag_objects(
        self,
        sources: Iterable[tuple[str, int, int]],
        *,
        target: str | None = None,
        algorithm: str | None = None,
        namespace: str | None = None,
        levels: int = 0,
    ) -> str:
        """Make an object of pieces of others; its key."""
        ...

    def gather_objects(self, sources: Iterable[tuple[str, int, int]]) -> bytes:
        """Pieces of objects, one behind the other."""
        ...


@runtime_checkable
class Provisioned(Protocol):
    """A store that is created and destroyed on its far side."""

    def create_storage(self) -> None:
        """Raises BackendAlreadyExists."""
        ...

    def destroy_storage(self) -> None:
        """Raises BackendDoesNotExist."""
        ...


def item_of(name: str, info: ObjectInfo) -> ItemInfo:
    return ItemInfo(name, True, info.size, False, 0, info.mtime_ns / 1e9)


def folder_of(name: str) -> ItemInfo:
    return ItemInfo(name, True, 0, True, 0, 0)


def missing(name: str) -> ItemInfo:
    return ItemInfo(name, False, 0, False, 0, 0)


def sources_of(pieces: Iterable[Any]) -> list[Source]:
    """Pieces as they came from a caller or out of JSON. Raises InvalidName, InvalidRange."""
    found = []
    for piece in pieces:
        if not isinstance(piece, tuple | list) or len(piece) != 3:
            raise InvalidRange("a piece is written (name, offset, size)")
        name, offset, size = piece
        if not isinstance(name, str):
            raise InvalidName("the name of a piece is a string")
        if type(offset) is not int or type(size) is not int or size < 0:
            raise InvalidRange("offset and size of a piece are whole numbers, and a size is not negative")
        found.append(Source(name, offset, size))
    return found
