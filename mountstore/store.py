"""The contract of an object store, on one page.

A store maps keys to objects. A key is a non-empty `str` of Unicode scalar values (no lone
surrogates); stores take it as it is: `a//b`, `../x`, `/a` and `dir/` are keys like any
other, and nothing normalises them. What a backend cannot hold it refuses with `InvalidKey`. Keys sort
by their UTF-8 bytes, everywhere. An object is bytes, user metadata, and an etag: an opaque string
that changes whenever the content changes (it may also change when only metadata does).

Every method is synchronous and may be called from any number of threads at once. Every method may
raise `AccessDenied`, `Unavailable` and `Corrupted` beside what it names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from mountstore.errors import NotFound, PreconditionFailed, Unsupported

Data = bytes | bytearray | memoryview
"""What `get` returns (bytes-like, not to be changed by the caller) and `put` takes."""

EMPTY: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True, init=False)
class ObjectInfo:
    """What is known of one object.

    `etag` is None only where the store's listing does not tell it. `metadata` is None where it was not
    asked for (a listing); `head`, `put` and `copy` always tell it. Metadata keys are lower case ASCII.
    """

    key: str
    size: int
    mtime_ns: int
    etag: str | None = None
    metadata: Mapping[str, str] | None = None

    def __init__(
        self,
        key: str,
        size: int,
        mtime_ns: int,
        etag: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        # What the dataclass would write takes twice as long, and each put and each line of a listing is one.
        _set_key(self, key)
        _set_size(self, size)
        _set_mtime_ns(self, mtime_ns)
        _set_etag(self, etag)
        _set_metadata(self, metadata)


_set_key, _set_size, _set_mtime_ns, _set_etag, _set_metadata = (
    ObjectInfo.__dict__[name].__set__ for name in ("key", "size", "mtime_ns", "etag", "metadata")
)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing, in key order.

    `prefixes` are the groups that a delimiter made, each ending in it. `after` asks for the next page
    when given to `list`, and is None on the last.
    """

    objects: list[ObjectInfo]
    prefixes: list[str] = field(default_factory=list)
    after: str | None = None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store can do; read once, where a stack is composed. The defaults are the full set.

    Conditions that are False are not honoured by this store or server: the call is refused with
    `Unsupported` rather than carried out without its condition.
    """

    writable: bool = True
    readable: bool = True  # head and get
    buffered: bool = False  # what is acknowledged may still be lost with this process
    listing: bool = True
    metadata: bool = True  # user metadata is kept
    conditional_put: bool = True  # if_match and if_absent of put
    conditional_get: bool = True  # if_match of get
    conditional_delete: bool = True
    server_copy: bool = False  # copy does not move the bytes through this process
    uploads: bool = False  # start_upload sends an object while it is being made
    atomic_rename: bool = False  # rename is one step, not copy and delete
    local: bool = False  # answers in microseconds, without a network
    whole_read_bytes: int = 0  # up to here, only an object that is read whole is compared with a checksum
    max_key_bytes: int | None = None
    max_segment_bytes: int | None = None  # longest run between two slashes that can be put again and again
    max_metadata_bytes: int | None = 2048  # keys and values added up (S3's limit)
    concurrency: int = 16  # calls worth having under way at once


class Upload(ABC):
    """An object that is sent while it is being made; nobody sees anything of it before `finish`."""

    part_bytes: int
    """The size of every part but the last."""

    @abstractmethod
    def put_part(self, number: int, data: Data) -> None:
        """Send part `number` (from 1 on, in any order, several at once from threads); a later one of the
        same number takes its place."""

    @abstractmethod
    def finish(self, *, if_match: str | None = None, if_absent: bool = False) -> ObjectInfo:
        """Make the parts, in the order of their numbers, the object, as `put` does with its conditions.

        Whatever is raised, the upload is over.
        """

    @abstractmethod
    def abort(self) -> None:
        """Forget the parts, if the upload is not over."""


class ObjectStore(ABC):
    """A thread-safe map from keys to objects; a context manager that closes itself."""

    capabilities: Capabilities = Capabilities()

    # -- required ---------------------------------------------------------------------------------

    @abstractmethod
    def head(self, key: str) -> ObjectInfo:
        """Everything about the object but its content. Raises NotFound."""

    @abstractmethod
    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        """Bytes [start, stop) of one version of the object; to its end if stop is None or beyond it.

        A `start` at the end gives b"", beyond it InvalidRange. Negative positions are InvalidRange.
        With `if_match`, PreconditionFailed unless the object has this etag. Raises NotFound.
        """

    @abstractmethod
    def put(
        self,
        key: str,
        data: Data | BinaryIO,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        """Make `data` (bytes, or a seekable binary file, read from its position to its end) the object.

        Atomic: readers, and what a crash leaves, are the old object or the new one, whole. Durable when
        it returns. Replaces metadata as a whole. With `if_match` (an etag) or `if_absent`,
        PreconditionFailed if another version, or any, is there; at most one of the two may be given.
        A file is read again from the same position if a retry needs it. Raises StoreFull, InvalidKey.
        """

    @abstractmethod
    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        """Remove the object. Raises NotFound (unless missing_ok), PreconditionFailed."""

    @abstractmethod
    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        """One page of the keys that start with `prefix`, in key order, at most `limit` entries.

        With a delimiter, keys that hold it behind the prefix are grouped into `Page.prefixes`. Entries
        up to and including `after` (a key, a group or a `Page.after`) are left out, a group with all
        its keys. Objects carry size, mtime and etag; metadata is None.
        """

    # -- derived: a backend overrides what it does better -----------------------------------------

    def stat(self, key: str) -> ObjectInfo:
        """What a listing tells of this object: `head`, without metadata where that is quicker."""
        return self.head(key)

    def pages(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000
    ) -> Iterator[Page]:
        """All pages of a listing, each fetched when it is asked for."""
        cursor: str | None = after
        while cursor is not None:
            page = self.list(prefix, delimiter=delimiter, after=cursor, limit=limit)
            yield page
            cursor = page.after

    def keys(self, prefix: str = "") -> Iterator[str]:
        """All keys that start with `prefix`, in order, fetched page by page."""
        for page in self.pages(prefix):
            for info in page.objects:
                yield info.key

    def exists(self, key: str) -> bool:
        """Whether there is an object of this key."""
        try:
            self.head(key)
        except NotFound:
            return False
        return True

    def head_many(self, keys: Iterable[str]) -> dict[str, ObjectInfo]:
        """What `head` tells of each of these; those that are not there are left out."""
        found = {}
        for key in keys:
            try:
                found[key] = self.head(key)
            except NotFound:
                continue
        return found

    def head_or_get_many(self, keys: Iterable[str]) -> dict[str, tuple[ObjectInfo, Data | None]]:
        """What `head` tells of each of these, those that are there; with the content where both come in one
        request that costs no more than a head, else None. For small objects."""
        return {key: (info, None) for key, info in self.head_many(keys).items()}

    def copy(
        self,
        source: str,
        target: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        """Make `target` an object with the content of `source`; metadata too, unless given anew.

        `if_match` is the etag that the source must have. `source` and `target` may be the same, to
        change metadata alone. Atomic at the target. Raises NotFound, PreconditionFailed.
        """
        info = self.head(source)
        if if_match is not None and info.etag != if_match:
            raise PreconditionFailed(f"{source!r} has changed", key=source)
        data = self.get(source, if_match=info.etag if self.capabilities.conditional_get else None)
        return self.put(target, data, metadata=info.metadata if metadata is None else metadata)

    def put_changes(
        self,
        key: str,
        data: BinaryIO,
        changed: Sequence[tuple[int, int]],
        *,
        source: str,
        source_etag: str,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        """As `put`, for content that is that of another object but for some ranges.

        Outside of `changed` ([start, stop) each, ascending, apart), `data` is what the version `source_etag`
        of `source` (perhaps `key` itself) has at the same positions; beyond its end all is changed. A store
        that can have the server copy what is the same sends the rest alone. Raises, beside what `put`
        raises, PreconditionFailed with the source's key if that is another version by now.
        """
        return self.put(key, data, metadata=metadata, if_match=if_match, if_absent=if_absent)

    def start_upload(self, key: str, *, metadata: Mapping[str, str] | None = None) -> Upload:
        """Begin to put an object whose end is not known yet. Raises Unsupported unless `uploads`."""
        raise Unsupported("this store takes objects whole", key=key)

    def rename(self, source: str, target: str, *, if_match: str | None = None) -> ObjectInfo:
        """Move an object with its metadata, replacing `target`; a crash leaves it at one or both keys."""
        info = self.copy(source, target, if_match=if_match)
        if source != target:
            self.delete(source, missing_ok=True)
        return info

    def update_metadata(
        self, key: str, metadata: Mapping[str, str], *, if_match: str | None = None
    ) -> ObjectInfo:
        """Replace the metadata and keep the content. Raises NotFound, PreconditionFailed."""
        if not self.capabilities.metadata:
            raise Unsupported("this store keeps no metadata", key=key)
        return self.copy(key, key, metadata=metadata, if_match=if_match)

    def delete_many(self, keys: Iterable[str]) -> None:
        """Remove all of these; those that are not there are not an error. Not atomic as a whole."""
        for key in keys:
            self.delete(key, missing_ok=True)

    def usage(self, prefix: str = "") -> tuple[int, int]:
        """(number of objects, bytes) under a prefix, counted by listing."""
        count = size = 0
        for page in self.pages(prefix):
            count += len(page.objects)
            size += sum(info.size for info in page.objects)
        return count, size

    def note_unfinished(self, journal: Path) -> None:  # noqa: B027  # most stores leave nothing
        """Note in this local file, from now on, what the death of this process in a `put` or `copy` would
        leave in the store beside objects (parts of uploads, which are paid for); in the background, remove
        what is noted there by others that have died. The file is this store's and this process's alone."""

    def close(self) -> None:  # noqa: B027  # most stores hold nothing open
        """Give back what the store holds open. Further calls are undefined; closing twice is not."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def check_conditions(key: str, if_match: str | None, if_absent: bool) -> None:
    """The one check of arguments that every `put` makes first."""
    if if_match is not None and if_absent:
        raise Unsupported("if_match and if_absent exclude each other", key=key)
