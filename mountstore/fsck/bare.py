"""A store that no state directory is known of: can all of it be listed, reached by a path, and read."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from functools import partial

from mountstore.errors import NotFound, StoreError
from mountstore.fsck.findings import Fault, error, note
from mountstore.store import ObjectInfo, ObjectStore
from mountstore.vfs.attrs import attrs_of
from mountstore.vfs.names import NAME_MAX, name_of_segment, segment_of_name

_READ = ("mode", "uid", "gid", "atime", "mtime", "ctime", "rdev")
_FIELD = {name: f"{name}_ns" if name.endswith("time") else name for name in _READ}


def faults(store: ObjectStore) -> Iterator[Fault]:
    """Raises StoreError where not even a listing can be read."""
    last = b""
    files: dict[str, int] = {}
    for page in store.pages():
        for info in page.objects:
            key = info.key.encode(errors="surrogatepass")
            if key <= last:
                yield error("store", info.key, "the listing is not in order", "ask whoever runs the server")
            last = key
            yield from _path(info.key)
            if "/" in info.key.rstrip("/"):
                for cut in [at for at, char in enumerate(info.key) if char == "/"]:
                    if files.pop(info.key[:cut], None) is not None:
                        name = info.key[:cut]
                        yield note(
                            "store", name, "an object and a folder have this name",
                            f"the file is {name.rsplit('/', 1)[-1]}%(file)",
                        )  # fmt: skip
            if not info.key.endswith("/"):
                files[info.key] = info.size
                if len(files) > 100_000:  # what a later key may lie below sorts close to it
                    files = {k: s for k, s in files.items() if info.key.startswith(k)}
        if store.capabilities.metadata:
            yield from _metadata(store, [info.key for info in page.objects])


def _path(key: str) -> Iterator[Fault]:
    """Whether the escapes lead there and back."""
    for segment in key.removesuffix("/").split("/"):
        name = name_of_segment(segment)
        bad = not 0 < len(name) <= NAME_MAX or b"/" in name or b"\0" in name or name in (b".", b"..")
        if bad or (segment_of_name(name) != segment and b"%(long-" not in name):
            yield error("store", key, "no path leads there", "copy it to another key; mountstore cp does")
            return


def _metadata(store: ObjectStore, keys: list[str]) -> Iterator[Fault]:
    try:
        found = store.head_many(keys)
    except StoreError:
        found = {}
        for key in keys:
            try:
                found[key] = store.head(key)
            except NotFound:
                continue
            except StoreError as failure:
                line = " ".join(str(failure).split())
                yield error("store", key, f"its attributes cannot be read: {line}", "ask for it later")
    for info in found.values():
        yield from _attributes(store, info)


def _attributes(store: ObjectStore, info: ObjectInfo) -> Iterator[Fault]:
    metadata = dict(info.metadata or {})
    attrs = attrs_of(metadata)
    bad = {
        name: metadata[name] for name in _READ if name in metadata and getattr(attrs, _FIELD[name]) is None
    }
    if info.key.endswith("/") and attrs.mode is not None and stat.S_IFMT(attrs.mode) not in (0, stat.S_IFDIR):
        bad["mode"] = metadata["mode"]
    if bad:
        told = ", ".join(f"{name} {value!r}" for name, value in bad.items())
        what = "a directory's marker" if info.key.endswith("/") else "an object"
        yield error(
            "store", info.key, f"{what} with attributes that make no sense: {told}",
            "they are removed, and defaults are shown", partial(_clean, store, info, bad),
        )  # fmt: skip


def _clean(store: ObjectStore, info: ObjectInfo, bad: dict[str, str]) -> None:
    metadata = {name: value for name, value in (info.metadata or {}).items() if name not in bad}
    store.update_metadata(info.key, metadata, if_match=info.etag)
