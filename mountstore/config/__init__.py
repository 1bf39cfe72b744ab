"""Stores and mounts described in a file, and opened by name: `config:NAME` wherever a STORE may stand.

    [stores.archive]
    url = "s3://${BUCKET:-my-archive}/photos?region=eu-central-1"

    [stores.fast]
    type = "caching"                        # a wrapper; the keys are the parameters of its class
    main = "archive"                        # another store of this file, or a URL, or a table:
    cache = { url = "sqlite:///var/cache/photos.sqlite", durable = false }
    capacity_bytes = "10 GiB"

    [mounts.photos]
    store = "fast"
    read_only = true                        # the fields of `mountstore mount`: see MOUNT_FIELDS
    ttl_s = 60

The format is TOML: the standard library reads it, it has comments, types and exactly one way to be read,
which YAML has not (`no`, `1e3` and `22:22` are what they look like here). `${VAR}` in a string is the
environment's, `${VAR:-text}` is `text` where VAR is unset or empty, `$${` is a plain `${`. What was
inserted is not looked at again.

Which file: $MOUNTSTORE_CONFIG, else `mountstore/config.toml` in the user's configuration directory, or
`config:NAME?file=PATH`. One in the current directory is not taken by itself: a folder that somebody else
filled must not decide where data goes.

One's own classes: `register("name", factory)` in one's program, or an entry point of the group
`mountstore.stores` (types) or `mountstore.backends` (URL schemes).

Every error names file and line, and is a UsageError.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mountstore.config.document import MOUNT_FIELDS, Config, parse
from mountstore.config.types import register
from mountstore.errors import UsageError
from mountstore.store import ObjectStore

__all__ = [
    "MOUNT_FIELDS",
    "Config",
    "default_file",
    "load",
    "mount_defaults",
    "open_config",
    "parse",
    "register",
]


def default_file() -> Path:
    """Where the configuration is looked for: see the module."""
    if given := os.environ.get("MOUNTSTORE_CONFIG"):
        return Path(given)
    import platformdirs

    return Path(platformdirs.user_config_dir("mountstore", appauthor=False)) / "config.toml"


def load(file: str | os.PathLike[str] | None = None) -> Config:
    """Read a configuration file. Raises UsageError if it is not there or makes no sense."""
    path = Path(file) if file is not None else default_file()
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise UsageError(f"there is no configuration {path}; write it, or set MOUNTSTORE_CONFIG") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return parse(text, str(path))


def open_config(name: str, file: str | os.PathLike[str] | None = None) -> ObjectStore:
    """The store that a configuration calls `name`, or the store of the mount that it calls so, opened."""
    return load(file).open(name)


def mount_defaults(name: str, file: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """The options of [mounts.NAME], by the names of MOUNT_FIELDS; {} where `name` is a store alone.

    Strings are to be read as on the command line. Relative paths are relative to the file.
    """
    return load(file).mount_defaults(name)
