"""Typed views of a store: text and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from mountstore.errors import Corrupted
from mountstore.store import ObjectInfo, ObjectStore

T = TypeVar("T")


class TypedStore(Generic[T]):
    """Values of one type, in a store of bytes. Not an ObjectStore itself: a value has no ranges.

    `encode` and `decode` convert whole values; what `decode` raises is Corrupted here. Conditions, infos and
    errors are those of `store`, which is there for everything else, and which closing closes.
    """

    def __init__(
        self, store: ObjectStore, encode: Callable[[T], bytes], decode: Callable[[bytes], T]
    ) -> None:
        self.store = store
        self._encode, self._decode = encode, decode

    def get(self, key: str, *, if_match: str | None = None) -> T:
        data = bytes(self.store.get(key, if_match=if_match))
        try:
            return self._decode(data)
        except ValueError as error:
            raise Corrupted(f"{key!r} is not what this store keeps: {error}", key=key) from error

    def put(
        self,
        key: str,
        value: T,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        data = self._encode(value)
        return self.store.put(key, data, metadata=metadata, if_match=if_match, if_absent=if_absent)

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        self.store.delete(key, missing_ok=missing_ok, if_match=if_match)

    def exists(self, key: str) -> bool:
        return self.store.exists(key)

    def keys(self, prefix: str = "") -> Iterator[str]:
        return self.store.keys(prefix)

    def close(self) -> None:
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class TextStore(TypedStore[str]):
    """Text, kept as UTF-8 unless `encoding` says otherwise; line ends stay as they are."""

    def __init__(self, store: ObjectStore, encoding: str = "utf-8") -> None:
        super().__init__(store, lambda text: text.encode(encoding), lambda data: data.decode(encoding))


class JsonStore(TypedStore[Any]):
    """What `json` can write, kept as UTF-8 JSON (RFC 8259): neither NaN nor infinities."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store, _to_json, json.loads)


def _to_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
