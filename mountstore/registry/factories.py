"""URLs of the stores that came later: hashed folders, zip archives, Redis, plain HTTP."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mountstore.errors import BadUrl, UsageError
from mountstore.registry.urls import Url, write_query

if TYPE_CHECKING:
    from mountstore.store import ObjectStore

LOCAL: Mapping[str, tuple[str, ...]] = {
    "hashdir": ("width", "depth", "durable", "skip_unknown"),
    "zip": ("compress", "durable", "max_entries", "max_ratio", "max_total_bytes", "replace"),
}
"""The stores of one path, and the parameters of their URLs, none of which makes it another store."""


REDIS_PORT = 6379


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


def open_redis(url: Url, **options: Any) -> ObjectStore:
    """`REDISCLI_AUTH` tells the password, as it does to redis-cli, where the URL has none."""
    url.allow("prefix", "ca")
    server, database = redis_address(url)
    password = url.password or os.environ.get("REDISCLI_AUTH")
    chosen: dict[str, Any] = {"prefix": url.query.get("prefix", "")}
    if url.username:
        chosen["username"] = url.username
    if password:
        chosen["password"] = password
    if "ca" in url.query:
        if url.scheme != "rediss":
            raise BadUrl("?ca= belongs to a rediss: URL, which is encrypted")
        chosen["ssl_ca_certs"] = url.query["ca"]
    try:
        from mountstore.backends.redis import RedisStore
    except ModuleNotFoundError as error:
        raise _missing(error, "redis") from None
    return RedisStore(f"{url.scheme}://{server}/{database}", **{**chosen, **options})


def redis_address(url: Url) -> tuple[str, int]:
    """(HOST:PORT, number of the database). Raises BadUrl."""
    if not url.host:
        raise BadUrl(f"the server is missing: {url.scheme}://HOST[:PORT]/DATABASE[?prefix=PREFIX]")
    database = url.path.strip("/") or "0"
    if not (database.isascii() and database.isdigit() and len(database) < 6):
        raise BadUrl(f"a Redis database is a number, as in {url.scheme}://HOST/0; names go into ?prefix=")
    host = f"[{url.host}]" if ":" in url.host else url.host.lower()
    return f"{host}:{url.port or REDIS_PORT}", int(database)


def redis_canonical(url: Url) -> str:
    """One string for one store; the user and the certificates do not make it another."""
    server, database = redis_address(url)
    query = {"prefix": url.query["prefix"]} if url.query.get("prefix") else {}
    return f"{url.scheme}://{server}/{database}{write_query(query)}"


def open_http(url: Url, **options: Any) -> ObjectStore:
    """`MOUNTSTORE_HTTP_PASSWORD` tells the password of a URL that names a user."""
    from mountstore.backends.http import HttpStore

    url.allow("listing", "ca", "protocol")
    if not url.host:
        raise BadUrl(f"the server is missing: {url.scheme}://HOST[:PORT]/PATH")
    chosen: dict[str, Any] = {"listing": url.query.get("listing", "none")}
    if url.username is not None:
        chosen["username"] = url.username
        chosen["password"] = url.password or os.environ.get("MOUNTSTORE_HTTP_PASSWORD")
    if "ca" in url.query:
        chosen["ca_certs"] = url.query["ca"]
    return HttpStore(http_address(url), **{**chosen, **options})


def http_address(url: Url) -> str:
    """The URL without user, password and parameters, the same however it was written."""
    host = f"[{url.host}]" if ":" in (url.host or "") else (url.host or "").lower()
    port = f":{url.port}" if url.port not in (None, {"http": 80, "https": 443}[url.scheme]) else ""
    path = url.raw_path if url.raw_path.endswith("/") else url.raw_path + "/"
    return f"{url.scheme}://{host}{port}{path}"


def _missing(error: ModuleNotFoundError, extra: str) -> UsageError:
    return UsageError(f"the package {error.name!r} is missing; run: pip install 'mountstore[{extra}]'")
