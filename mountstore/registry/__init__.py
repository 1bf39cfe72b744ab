"""A URL becomes a store: `open_store("s3://bucket/prefix")`.

    memory:                    a new, empty store in this process's memory
    memory:NAME                the store of this name, shared within the process
    file:///path  file:path    a directory; /path, ./path and ../path alone mean the same
    sqlite:///path  sqlite:path    an SQLite file
    sqlite:                    the embedded default: one SQLite file in the user's data directory
    hashdir:///path  hashdir:path    a directory of files named by the hash of their key, with
                               ?width=2 &depth=3 &durable=true &skip_unknown=false
    zip:///path  zip:path      a zip archive, with ?compress=false &durable=true &replace=true and the
                               limits ?max_entries= &max_ratio= &max_total_bytes= for what others made
    config:NAME                a store that a configuration file describes (see mountstore.config), with
                               ?file=PATH
    s3://bucket/prefix         a bucket of Amazon S3 or of anything that speaks its protocol, with
                               ?endpoint=URL &region=NAME &profile=NAME &anonymous=true &prefix=PREFIX
    redis://host:port/0        a Redis server's database, with ?prefix=PREFIX; rediss: is encrypted, with
                               ?ca=FILE for certificates of one's own. redis://user@host, and the password
                               in REDISCLI_AUTH
    https://host:port/path     a REST server, if one answers there (mountstore serve, borgstore), else what
                               a web server has below a URL, to be read only, with ?listing=nginx where its
                               autoindex_format is json; ?protocol=rest or http asks nobody which. With
                               ?ca=FILE; https://user@host, and the password in MOUNTSTORE_HTTP_PASSWORD,
                               in the file of MOUNTSTORE_HTTP_PASSWORD_FILE or in ~/.netrc
    rest://user@host:port/path a folder of another machine, by a REST server that ssh starts there for us
    rclone:REMOTE:path         what rclone reaches under the name REMOTE of its configuration
    b2://bucket/prefix         a bucket of Backblaze B2, with ?region=NAME or ?endpoint=URL, &profile=NAME;
                               or b2:KEY:SECRET@https://host/bucket/path
    sftp://user@host:port/path a directory of another machine, by its ssh, with ?durable=true; /path starts
                               at the home folder, //path at the root

Rules of reading:

- Parameters follow the first `?`, are separated by `&`, and are percent-decoded; `+` is a plus. An
  unknown one is an error.
- Paths of files are percent-decoded, relative ones start at the current directory, and `?`, `#` and
  `%` in them are written %3F, %23 and %25. A path without a scheme is taken as it is.
- The path of an S3 URL is a key, exactly as it stands (`aws s3` reads it so too): `a%20b` is that
  name, not `a b`, and `#` is a character like any other. Only `?` cannot stand in it; `?prefix=` says
  the same percent-decoded, for such keys. As a store's prefix it is a folder: a slash is added.
- One object is named by one argument, `split_key`: by the path of an S3 URL, and in every other URL
  by what follows the first `#`, taken as it is.
- Credentials never stand in an S3 URL; the environment or a profile holds them.

Third parties add schemes by `register`, or by an entry point of the group `mountstore.backends`
whose name is the scheme and whose object is a `Factory`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mountstore.errors import BadUrl
from mountstore.registry import factories, remote
from mountstore.registry.urls import SCHEME, Url, parse, quote_path, redact, write_query

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from mountstore.backends.memory import DictStore
    from mountstore.store import ObjectStore

__all__ = [
    "Factory",
    "Url",
    "canonical",
    "config_name",
    "default_path",
    "local_path",
    "open_store",
    "parse",
    "places",
    "redact",
    "register",
    "schemes",
    "split_key",
]

ENTRY_POINTS = "mountstore.backends"


Factory = Callable[..., "ObjectStore"]
"""`factory(url: Url, **options) -> ObjectStore`; options come from `open_store`, and win over the URL."""

_registered: dict[str, Factory] = {}


def register(scheme: str, factory: Factory) -> None:
    """Let `factory` open the URLs of `scheme`, from now on and in this process."""
    if not SCHEME.fullmatch(f"{scheme}:"):
        raise ValueError(f"not a URL scheme: {scheme!r}")
    _registered[scheme.lower()] = factory


def schemes() -> list[str]:
    """All schemes that `open_store` knows now."""
    return sorted({*_BUILT_IN, *_registered, *_entry_points()})


def open_store(url: str, **options: Any) -> ObjectStore:
    """The store that `url` names, opened; `options` go to its constructor and win over the URL.

    Raises BadUrl, and what the backend raises when it opens. The caller closes the store.
    """
    parsed = parse(url)
    if parsed.fragment is not None:
        raise BadUrl(f"{redact(url)}: a store is wanted, not a key in it; a # in a path is written %23")
    return _factory(parsed.scheme)(parsed, **options)


def split_key(url: str) -> tuple[str, str]:
    """(URL of the store, key) of an argument that names an object; the key is "" if it names none.

    `s3://bucket/a/b?region=r` is ("s3://bucket?region=r", "a/b"), `sqlite:///x.db#a/b` is
    ("sqlite:///x.db", "a/b").
    """
    parsed = parse(url)
    if not SCHEME.match(url):
        return url, ""
    if parsed.scheme != "s3":
        return url.partition("#")[0], parsed.fragment or ""
    query = {name: value for name, value in parsed.query.items() if name != "prefix"}
    return f"s3://{parsed.netloc or ''}{write_query(query)}", _s3_path(parsed)


def canonical(url: str) -> str:
    """One string for one store, the same however the URL was written, without secrets.

    Paths are absolute with symlinks resolved, parameters sorted, and those left out that do not change
    which store it is (profile, region, anonymous). The endpoint that the environment or the AWS
    configuration names is included, since another server has other buckets. Every `memory:` store is
    "memory:" here, although each is another.
    """
    parsed = parse(url)
    if parsed.fragment is not None:
        raise BadUrl(f"{redact(url)}: a store is wanted, not a key in it; a # in a path is written %23")
    _factory(parsed.scheme)
    if parsed.scheme == "config":
        from mountstore.config import load

        name, file = _config_name(parsed)
        return load(file).identity(name)
    if path := local_path(url):
        return f"{parsed.scheme}://{quote_path(str(path.resolve()))}"
    if parsed.scheme == "s3":
        options = _s3_options(parsed)
        endpoint = options["endpoint"] or _configured_endpoint(options["profile"])
        query = {"endpoint": endpoint.rstrip("/")} if endpoint else {}
        if "?" in options["prefix"]:
            return f"s3://{parsed.netloc}{write_query({**query, 'prefix': options['prefix']})}"
        return f"s3://{parsed.netloc}/{options['prefix']}{write_query(query)}"
    if parsed.scheme in ("redis", "rediss"):
        return factories.redis_canonical(parsed)
    if parsed.scheme in ("http", "https"):
        return factories.http_address(parsed)
    if parsed.scheme in remote.CANONICAL:
        return remote.CANONICAL[parsed.scheme](parsed)
    user = f"{parsed.username}@" if parsed.username else ""
    where = "" if parsed.netloc is None else f"//{user}{(parsed.host or '').lower()}"
    port = f":{parsed.port}" if parsed.port else ""
    return redact(f"{parsed.scheme}:{where}{port}{quote_path(parsed.path)}{write_query(parsed.query)}")


def local_path(url: str) -> Path | None:
    """The absolute path of the file or directory that holds a local store; None of any other store."""
    parsed = parse(url)
    if parsed.scheme == "config":
        from mountstore.config import load

        name, file = _config_name(parsed)
        plain = load(file).plain_url(name)
        return local_path(plain) if plain is not None else None
    if parsed.scheme not in ("file", "sqlite", *factories.LOCAL):
        return None
    parsed.allow(*factories.LOCAL.get(parsed.scheme, ()))
    return _sqlite_path(parsed) if parsed.scheme == "sqlite" else parsed.file_path()


def places(url: str) -> list[tuple[Path, bool]]:
    """Where a store keeps its objects on this machine, each with whether it is a folder of objects.

    Several, or none, where a configuration makes it of others.
    """
    parsed = parse(url)
    if parsed.scheme == "config":
        from mountstore.config import load

        name, file = _config_name(parsed)
        return [place for part in load(file).urls(name) for place in places(part)]
    path = local_path(url)
    return [] if path is None else [(path, parsed.scheme in ("file", "hashdir"))]


def default_path() -> Path:
    """Where the embedded default store lives: `mountstore/default.sqlite` in the user's data directory."""
    import platformdirs

    return Path(platformdirs.user_data_dir("mountstore", appauthor=False)) / "default.sqlite"


# -- the built-in schemes, each importing its backend when it is first opened -------------------------


def _factory(scheme: str) -> Factory:
    factory = _registered.get(scheme) or _BUILT_IN.get(scheme)
    if factory is not None:
        return factory
    if entry := _entry_points().get(scheme):
        loaded: Factory = entry.load()
        return loaded
    raise BadUrl(f"unknown scheme {scheme!r}; known are {', '.join(schemes())}")


@cache
def _entry_points() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}


_shared: dict[str, DictStore] = {}
_shared_lock = threading.Lock()


def _open_memory(url: Url, **options: Any) -> ObjectStore:
    from mountstore.backends.memory import DictStore

    url.allow()
    if url.netloc is not None:
        raise BadUrl("a store in memory is written memory: or memory:NAME")
    if not url.path:
        return DictStore(**options)
    with _shared_lock:
        return _shared.setdefault(url.path, DictStore(**options))


def _open_file(url: Url, **options: Any) -> ObjectStore:
    from mountstore.backends.filesystem import FilesystemStore

    url.allow()
    return FilesystemStore(url.file_path(), **options)


def _open_sqlite(url: Url, **options: Any) -> ObjectStore:
    from mountstore.backends.sqlite import SqliteStore

    url.allow()
    path = _sqlite_path(url)
    if not url.path:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return SqliteStore(path, **options)


def _open_s3(url: Url, **options: Any) -> ObjectStore:
    chosen = {"bucket": url.netloc, **_s3_options(url), **options}
    from mountstore.backends.s3 import BucketStore

    return BucketStore(**chosen)


def _open_config(url: Url, **options: Any) -> ObjectStore:
    from mountstore.config import open_config

    if options:
        raise BadUrl("what a config: store is like stands in its file, and is not given here")
    return open_config(*_config_name(url))


def config_name(url: str) -> tuple[str, str | None]:
    """(name, file or None) of a `config:` URL. Raises BadUrl."""
    return _config_name(parse(url))


def _config_name(url: Url) -> tuple[str, str | None]:
    url.allow("file")
    if not url.path or url.netloc is not None:
        raise BadUrl("a store of the configuration file is written config:NAME")
    return url.path, url.query.get("file")


def _sqlite_path(url: Url) -> Path:
    if url.path or url.netloc:
        return url.file_path()
    return default_path()


def _s3_options(url: Url) -> dict[str, Any]:
    url.allow("anonymous", "endpoint", "prefix", "profile", "region")
    if not url.netloc:
        raise BadUrl("the bucket is missing: s3://BUCKET or s3://BUCKET/PREFIX")
    endpoint = url.query.get("endpoint")
    if endpoint is not None:
        where = urlsplit(endpoint)
        if where.scheme not in ("http", "https") or not where.hostname:
            raise BadUrl("the endpoint of an s3: URL must be http://HOST:PORT or https://HOST")
        if where.username is not None:
            raise BadUrl("an endpoint holds no credentials; put them into the environment or a profile")
    prefix = _s3_path(url)
    return {
        "prefix": prefix if not prefix or prefix.endswith("/") else f"{prefix}/",
        "endpoint": endpoint,
        "region": url.query.get("region"),
        "profile": url.query.get("profile"),
        "anonymous": url.flag("anonymous"),
    }


def _s3_path(url: Url) -> str:
    path = url.raw_path.removeprefix("/")
    if url.netloc is None:
        raise BadUrl("a bucket is written s3://BUCKET or s3://BUCKET/PREFIX")
    if path and "prefix" in url.query:
        raise BadUrl("an s3: URL has a path or ?prefix=, not both")
    return path or url.query.get("prefix", "")


def _configured_endpoint(profile: str | None) -> str | None:
    """The endpoint that boto3 will use without being told: of the environment, then of the profile."""
    if os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return None
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if os.environ.get(name):
            return os.environ[name]
    file = Path(os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config").expanduser()
    if not file.is_file() or "endpoint_url" not in file.read_text(errors="replace"):
        return None
    # Only now, because it is slow to import and few configurations name an endpoint.
    from botocore.session import Session

    session = Session(profile=profile)
    config = session.get_scoped_config()
    services = session.full_config.get("services", {}).get(config.get("services"), {})
    endpoint = services.get("s3", {}).get("endpoint_url") or config.get("endpoint_url")
    return str(endpoint) if endpoint else None


_BUILT_IN: dict[str, Factory] = {
    "memory": _open_memory,
    "file": _open_file,
    "sqlite": _open_sqlite,
    "s3": _open_s3,
    "config": _open_config,
    "hashdir": factories.open_hashdir,
    "zip": factories.open_zip,
    "redis": factories.open_redis,
    "rediss": factories.open_redis,
    "http": remote.open_http,
    "https": remote.open_http,
    "sftp": remote.open_sftp,
    "rest": remote.open_rest,
    "rclone": remote.open_rclone,
    "b2": remote.open_b2,
}
