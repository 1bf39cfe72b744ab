"""URLs of the stores that came later: hashed folders, zip archives, Redis, plain HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mountstore.registry.urls import Url

if TYPE_CHECKING:
    from mountstore.store import ObjectStore

LOCAL: Mapping[str, tuple[str, ...]] = {
    "hashdir": ("width", "depth", "durable", "skip_unknown"),
    "zip": ("compress", "durable", "max_entries", "max_ratio", "max_total_bytes", "replace"),
}
"""The stores of one path, and the parameters of their URLs, none of which makes it another store."""


def open_hashdir(url: Url, **options: Any) -> ObjectStore:
    from mountstore.backends.hashdir import HashdirStore

    url.allow(*LOCAL["hashdir"])
    chosen: dict[str, Any] = {
        "width": url.number("width", 2),
        "depth": url.number("depth", 3),
        "durable": url.flag("durable", True),
        "skip_unknown": url.flag("skip_unknown"),
    }
    return HashdirStore(url.file_path(), **{**chosen, **options})


def open_zip(url: Url, **options: Any) -> ObjectStore:
    from mountstore.backends.zip import ZipStore

    url.allow(*LOCAL["zip"])
    chosen: dict[str, Any] = {
        "compress": url.flag("compress"),
        "durable": url.flag("durable", True),
        "replace": url.flag("replace", True),
        "max_entries": url.number("max_entries", 1_000_000),
        "max_ratio": url.number("max_ratio", 200),
        "max_total_bytes": url.number("max_total_bytes", 1 << 40),
    }
    return ZipStore(url.file_path(), **{**chosen, **options})
