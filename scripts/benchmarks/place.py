"""The store that every subject of a run uses: one server, one bucket, a folder for each subject."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from mountstore.errors import UsageError
from mountstore.registry import open_store, parse, redact
from mountstore.registry.urls import write_query
from mountstore.store import ObjectStore
from scripts.benchmarks import latency
from scripts.benchmarks.inputs import Inputs
from tests import servers

LISTING = "listing"
Server = Callable[[], contextlib.AbstractContextManager[servers.S3Server]]
SERVERS: Mapping[str, Server] = {"versitygw": servers.versitygw, "minio": servers.minio}
KINDS = (*SERVERS, "sqlite", "file", "memory")
BOUND = ("setpriv", "--pdeathsig", "TERM", "--")
"""Before a command: it is asked to end when we end, however we do."""


@dataclass(frozen=True, slots=True)
class Place:
    """A store as everybody is told of it. `truth` goes to it directly, never through added latency.

    `bucket`, `prefix` and `endpoint` are for S3. `truth` is None for `memory:`, which nobody can share.
    """

    name: str
    url: str
    truth: ObjectStore | None = field(repr=False)
    bucket: str = ""
    prefix: str = ""
    endpoint: str = ""

    @property
    def is_s3(self) -> bool:
        return bool(self.bucket)


@contextlib.contextmanager
def open_place(store: str, latency_ms: float, folder: Path, unique: str) -> Iterator[Place]:
    """The place that `--store` names, empty; taken away, or emptied of what is ours, at the end."""
    if latency_ms and store not in SERVERS and not store.startswith("s3:"):
        raise UsageError("--latency goes through a TCP proxy, which only an S3 server can stand behind")
    with contextlib.ExitStack() as stack:
        if store in SERVERS:
            server = stack.enter_context(SERVERS[store]())
            os.environ.update({k: v for k, v in server.env().items() if k != "AWS_ENDPOINT_URL"})
            os.environ.pop("AWS_ENDPOINT_URL", None)
            place = _s3(stack, store, server.new_bucket(), "", server.endpoint, latency_ms, {})
        elif store in KINDS:
            urls = {"memory": "memory:", "sqlite": f"sqlite://{folder / 'store.sqlite'}"}
            if store == "file":
                (folder / "store").mkdir()
            url = urls.get(store, f"file://{folder / 'store'}")
            truth = None if store == "memory" else stack.enter_context(open_store(url))
            place = Place(store, url, truth)
        elif ":" not in store:
            raise UsageError(f"--store is one of {', '.join(KINDS)}, or a URL; {store!r} is neither")
        else:
            place = _given(stack, store, latency_ms, unique)
        yield place


def _given(stack: contextlib.ExitStack, url: str, latency_ms: float, unique: str) -> Place:
    parsed = parse(url)
    if parsed.scheme != "s3":
        truth = stack.enter_context(open_store(url))
        if truth.list(limit=1).objects:
            raise UsageError(f"{redact(url)} is not empty; give a store that may be filled and emptied")
        stack.callback(lambda: truth.delete_many(list(truth.keys())))
        return Place(redact(url), url, truth)
    path = (parsed.query.get("prefix") or parsed.raw_path).strip("/")
    prefix = f"{path}/bench-{unique}".lstrip("/")
    more = {k: v for k, v in parsed.query.items() if k not in ("prefix", "endpoint")}
    endpoint = parsed.query.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL", "")
    return _s3(stack, redact(url), parsed.netloc or "", prefix, endpoint, latency_ms, more)


def _s3(
    stack: contextlib.ExitStack,
    name: str,
    bucket: str,
    prefix: str,
    endpoint: str,
    latency_ms: float,
    more: Mapping[str, str],
) -> Place:
    def url_at(where: str, path: str = prefix) -> str:
        return f"s3://{bucket}/{path}" + write_query({**more, **({"endpoint": where} if where else {})})

    if prefix:
        with open_store(url_at(endpoint, "")) as whole:
            whole.put(f"{prefix}/", b"")  # s3fs mounts no folder without its marker
            stack.callback(_delete, url_at(endpoint, ""), f"{prefix}/")
    truth = stack.enter_context(open_store(url_at(endpoint)))
    seen = stack.enter_context(_proxy(endpoint, latency_ms)) if latency_ms else endpoint
    return Place(name, url_at(seen), truth, bucket, prefix, seen)


def _delete(url: str, prefix: str) -> None:
    with open_store(url) as store:
        store.delete_many(list(store.keys(prefix)))


@contextlib.contextmanager
def _proxy(endpoint: str, latency_ms: float) -> Iterator[str]:
    to = urlsplit(endpoint)
    if to.scheme != "http" or to.hostname is None:
        raise UsageError("--latency needs an endpoint of plain http://, since its proxy speaks no TLS")
    words = [*BOUND, sys.executable, latency.__file__, to.hostname, str(to.port or 80), str(latency_ms / 2)]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def fill_huge(place: Place, inputs: Inputs) -> None:
    """The folder of very many objects, straight into the store."""
    assert place.truth is not None
    store = place.truth
    for folder in (f"{LISTING}/", f"{LISTING}/huge/"):
        store.put(folder, b"")
    with ThreadPoolExecutor(32) as pool:
        names = (f"{LISTING}/huge/entry-{number:06}" for number in range(inputs.sizes.huge_entries))
        for _ in pool.map(lambda key: store.put(key, b"x"), names):
            pass


def fill_million(place: Place, inputs: Inputs) -> None:
    """The folder of still more objects, as rows: put by put it would take an hour."""
    if place.name != "sqlite":
        raise UsageError("the rows of group million are for --store sqlite")
    with contextlib.closing(sqlite3.connect(urlsplit(place.url).path)) as database, database:
        database.executemany(
            "INSERT INTO objects (key, size, mtime_ns, etag, metadata, blob) VALUES (?, 0, ?, ?, NULL, 0)",
            (
                (f"{LISTING}/million/entry-{number:07}", time.time_ns(), f"{number:016x}")
                for number in range(inputs.sizes.million_entries)
            ),
        )


def fill_listing(store: ObjectStore, inputs: Inputs) -> None:
    """Put the objects that `ls` and `find` look at, as any S3 tool would: without our metadata."""
    folders = {f"{LISTING}/", f"{LISTING}/many/", f"{LISTING}/tree/"}
    objects = {f"{LISTING}/many/{name}": size for name, size in inputs.many().items()}
    objects |= {f"{LISTING}/tree/{path}": size for path, size in inputs.tree().items()}
    folders |= {key.rpartition("/")[0] + "/" for key in objects}
    for folder in sorted(folders):
        store.put(folder, b"")
    with ThreadPoolExecutor(16) as pool:
        for _ in pool.map(lambda item: store.put(item[0], bytes(item[1])), objects.items()):
            pass
