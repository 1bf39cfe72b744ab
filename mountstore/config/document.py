"""A configuration that was read: its tables, made stores and the options of mounts."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mountstore import registry
from mountstore.config import types
from mountstore.config.lines import KeyPath, key_lines
from mountstore.errors import StoreError, UsageError
from mountstore.store import ObjectStore

MOUNT_FIELDS: Mapping[str, str] = {
    "read_only": "bool",
    "allow_other": "bool",
    "noexec": "bool",
    "uid": "user",
    "gid": "user",
    "umask": "user",
    "file_mode": "user",
    "dir_mode": "user",
    "xattr": "bool",
    "acl": "bool",
    "dev": "bool",
    "atime": "bool",
    "ttl_s": "float",
    "checkpoint_s": "float",
    "upload_delay_s": "float",
    "fsync": "str",
    "attrs": "str",
    "state_dir": "str",
    "log_file": "str",
    "cache": "bool",
    "cache_dir": "str",
    "cache_size": "int",
}
"""What a [mounts.NAME] may set beside `store`. `user`: a number, or a string as on the command line."""

_URL_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "memory": {},
    "file": {"durable": "bool", "create": "bool"},
    "sqlite": {"durable": "bool"},
    "s3": {
        "addressing_style": "str",
        "part_bytes": "int",
        "uploads": "int",
        "copy_threshold_bytes": "int",
        "copy_part_bytes": "int",
        "connect_timeout_s": "float",
        "read_timeout_s": "float",
        "retry_deadline_s": "float",
        "connections": "int",
    },
}
"""What may stand beside the `url` of these; none of it changes which store it is. Other schemes take what
their factory takes."""

_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\}|\$\{")


def parse(text: str, shown: str) -> Config:
    """Read the text of a configuration; `shown` is what errors call it. Raises UsageError."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{shown}: {error}") from None
    config = Config(shown, found, key_lines(text))
    config.check()
    return config


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration, read and checked for its outline; what a store needs is checked when it is opened."""

    shown: str
    tables: Mapping[str, Any]
    lines: Mapping[KeyPath, int] = field(repr=False)

    def check(self) -> None:
        """Raise UsageError for what cannot be right, whichever name is asked for."""
        for key, value in self.tables.items():
            if key not in ("stores", "mounts") or not isinstance(value, dict):
                raise self.wrong((key,), f"unknown key {key!r}; [stores.NAME] and [mounts.NAME] are known")
            for name, table in value.items():
                if not isinstance(table, dict):
                    raise self.wrong((key, name), f"a table is wanted: [{key}.{name}]")
        for name, mount in self.tables.get("mounts", {}).items():
            for option in mount:
                if option != "store" and option not in MOUNT_FIELDS:
                    known = ", ".join(["store", *MOUNT_FIELDS])
                    raise self.wrong(("mounts", name, option), f"unknown key {option!r}; known are {known}")
            if "store" not in mount:
                raise self.wrong(("mounts", name), f"the mount {name!r} names no store")
            if name in self.tables.get("stores", {}) and mount["store"] != name:
                raise self.wrong(("mounts", name), f"{name!r} is the name of another store too; rename one")

    def open(self, name: str) -> ObjectStore:
        return self._open(*self._named(name), ())

    def mount_defaults(self, name: str) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for option, value in self.tables.get("mounts", {}).get(name, {}).items():
            if option == "store":
                continue
            path = ("mounts", name, option)
            with self._at(path):
                value = self._expanded(path, value)
                kind = MOUNT_FIELDS[option]
                if kind == "user" and (isinstance(value, bool) or not isinstance(value, int | str)):
                    raise UsageError(f"a number or a string is wanted, not {value!r}")
                value = types.converted(value, kind)
                if option in ("state_dir", "log_file", "cache_dir"):
                    value = str(Path(self.shown).resolve().parent / os.path.expanduser(value))
            fields[option] = value
        return fields

    def plain_url(self, name: str) -> str | None:
        """The URL, where the store is nothing but a URL, however many names lead to it; else None."""
        path, value = self._named(name)
        seen: set[str] = set()
        while True:
            value = self._expanded(path, value) if isinstance(value, str) else value
            if isinstance(value, str) and value in self.tables.get("stores", {}):
                if value in seen:
                    raise self.wrong(path, f"the store {value!r} is made of itself")
                seen.add(value)
                path, value = ("stores", value), self.tables["stores"][value]
            elif isinstance(value, dict) and "url" in value and "type" not in value:
                url = self._expanded((*path, "url"), value["url"])
                tuned = set(value) - {"url"} <= set(_URL_OPTIONS.get(registry.parse(url).scheme, ()))
                return str(url) if tuned else None
            else:
                return value if isinstance(value, str) else None

    def urls(self, name: str) -> list[str]:
        """The URLs of all stores that it is made of, caches too."""
        return list(self._urls(*self._named(name), ()))

    def identity(self, name: str) -> str:
        """A string that says which store it is, whatever only tunes it and under which name it goes."""
        found = self._identity(*self._named(name), ())
        if isinstance(found, str):
            return found
        written = json.dumps(found, sort_keys=True)
        return f"config:{hashlib.sha256(written.encode()).hexdigest()[:32]}"

    def wrong(self, path: KeyPath, message: str) -> UsageError:
        """An error that names the line of what `path` leads to."""
        while path and path not in self.lines:
            path = path[:-1]
        where = f":{self.lines[path]}" if path else ""
        return UsageError(f"{self.shown}{where}: {message}")

    # -- within -----------------------------------------------------------------------------------

    def _named(self, name: str) -> tuple[KeyPath, Any]:
        """Where the description of a store stands, and what it is."""
        mounts, stores = self.tables.get("mounts", {}), self.tables.get("stores", {})
        if name in mounts:
            return ("mounts", name, "store"), mounts[name]["store"]
        if name in stores:
            return ("stores", name), stores[name]
        known = ", ".join(sorted({*mounts, *stores})) or "none"
        raise UsageError(f"{self.shown}: there is no store or mount {name!r}; it has {known}")

    def _open(self, path: KeyPath, value: Any, inside: tuple[str, ...]) -> ObjectStore:
        if isinstance(value, str):
            text = self._expanded(path, value)
            if text in self.tables.get("stores", {}):
                if text in inside:
                    raise self.wrong(path, f"the store {text!r} is made of itself")
                return self._open(("stores", text), self.tables["stores"][text], (*inside, text))
            if ":" not in text and not text.startswith(("/", ".")):
                raise self.wrong(path, f"there is no store {text!r} in this file, and it is no URL")
            with self._at(path):
                return registry.open_store(self._url(text))
        if not isinstance(value, dict):
            raise self.wrong(path, "a store is wanted: its name, its URL, or a table")
        if ("url" in value) == ("type" in value):
            raise self.wrong(path, "a store has either a url or a type")
        return self._open_url(path, value) if "url" in value else self._open_type(path, value, inside)

    def _open_url(self, path: KeyPath, table: Mapping[str, Any]) -> ObjectStore:
        options: dict[str, Any] = {}
        with self._at((*path, "url")):
            url = self._url(types.converted(self._expanded((*path, "url"), table["url"]), "str"))
            known = _URL_OPTIONS.get(registry.parse(url).scheme)
        for name, given in table.items():
            if name == "url":
                continue
            if known is not None and name not in known:
                allowed = ", ".join(["url", *known])
                raise self.wrong((*path, name), f"unknown key {name!r}; known are {allowed}")
            with self._at((*path, name)):
                value = self._expanded((*path, name), given)
                options[name] = types.converted(value, known[name]) if known is not None else value
        with self._at((*path, "url")):
            return registry.open_store(url, **options)

    def _url(self, url: str) -> str:
        if registry.parse(url).scheme == "config":
            raise UsageError("in this file a store is named as it is, without config:")
        return url

    def _open_type(self, path: KeyPath, table: Mapping[str, Any], inside: tuple[str, ...]) -> ObjectStore:
        kind = self._type(path, table)
        with contextlib.ExitStack() as opened:
            arguments: dict[str, Any] = {}
            for name, value in table.items():
                if name == "type":
                    continue
                at, annotation = (*path, name), kind.parameters[name]
                if types.is_store(annotation):
                    arguments[name] = opened.enter_context(self._open(at, value, inside))
                elif types.is_stores(annotation):
                    arguments[name] = [
                        opened.enter_context(self._open((*at, number), element, inside))
                        for number, element in enumerate(self._list(at, value))
                    ]
                elif types.is_routes(annotation):
                    with self._at(at):
                        arguments[name] = types.routes_of(
                            (pattern, opened.enter_context(self._open(where, store, inside)))
                            for pattern, where, store in self._routes(at, value)
                        )
                else:
                    with self._at(at):
                        arguments[name] = types.converted(self._expanded(at, value), annotation)
            with self._at(path):
                store = kind.open(**arguments)
            opened.pop_all()  # they are the new store's to close now
            return store

    def _type(self, path: KeyPath, table: Mapping[str, Any]) -> types.StoreType:
        with self._at((*path, "type")):
            kind = types.find(types.converted(self._expanded((*path, "type"), table["type"]), "str"))
        for name in table:
            if name != "type" and name not in kind.parameters:
                known = ", ".join(["type", *kind.parameters])
                raise self.wrong((*path, name), f"unknown key {name!r}; known are {known}")
        if missing := kind.required - set(table):
            raise self.wrong(path, f"{', '.join(sorted(missing))} is missing")
        return kind

    def _identity(self, path: KeyPath, value: Any, inside: tuple[str, ...]) -> Any:
        if isinstance(value, str):
            text = self._expanded(path, value)
            if text not in self.tables.get("stores", {}):
                with self._at(path):
                    return registry.canonical(self._url(text))
            if text in inside:
                raise self.wrong(path, f"the store {text!r} is made of itself")
            return self._identity(("stores", text), self.tables["stores"][text], (*inside, text))
        if not isinstance(value, dict):
            raise self.wrong(path, "a store is wanted: its name, its URL, or a table")
        if "type" not in value and "url" in value:
            with self._at((*path, "url")):
                url = self._url(self._expanded((*path, "url"), value["url"]))
                canonical, scheme = registry.canonical(url), registry.parse(url).scheme
            if scheme in _URL_OPTIONS:
                return canonical
            rest = {n: self._expanded((*path, n), v) for n, v in value.items() if n != "url"}
            return [canonical, rest] if rest else canonical
        kind = self._type(path, value)
        if kind.same_as is not None:
            return self._identity((*path, kind.same_as), value[kind.same_as], inside)
        parts: dict[str, Any] = {"type": value["type"]}
        for name, part in value.items():
            at, annotation = (*path, name), kind.parameters.get(name, "str")
            if types.is_store(annotation):
                parts[name] = self._identity(at, part, inside)
            elif types.is_stores(annotation):
                elements = enumerate(self._list(at, part))
                parts[name] = [self._identity((*at, number), e, inside) for number, e in elements]
            elif types.is_routes(annotation):
                routes = self._routes(at, part)
                parts[name] = [[pattern, self._identity(w, s, inside)] for pattern, w, s in routes]
            elif name not in kind.tuning:
                parts[name] = repr(self._expanded(at, part))
        return parts

    def _urls(self, path: KeyPath, value: Any, inside: tuple[str, ...]) -> Iterator[str]:
        if isinstance(value, str):
            text = self._expanded(path, value)
            if text not in self.tables.get("stores", {}):
                yield text
                return
            if text in inside:
                raise self.wrong(path, f"the store {text!r} is made of itself")
            yield from self._urls(("stores", text), self.tables["stores"][text], (*inside, text))
            return
        if not isinstance(value, dict):
            raise self.wrong(path, "a store is wanted: its name, its URL, or a table")
        if "type" not in value and "url" in value:
            with self._at((*path, "url")):
                yield self._url(self._expanded((*path, "url"), value["url"]))
            return
        kind = self._type(path, value)
        for name, part in value.items():
            at, annotation = (*path, name), kind.parameters.get(name, "str")
            if types.is_store(annotation):
                yield from self._urls(at, part, inside)
            elif types.is_stores(annotation):
                for number, element in enumerate(self._list(at, part)):
                    yield from self._urls((*at, number), element, inside)
            elif types.is_routes(annotation):
                for _, where, store in self._routes(at, part):
                    yield from self._urls(where, store, inside)

    def _list(self, path: KeyPath, value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise self.wrong(path, "a list of stores is wanted")
        return value

    def _routes(self, path: KeyPath, value: Any) -> Iterator[tuple[str, KeyPath, Any]]:
        for number, route in enumerate(self._list(path, value)):
            at = (*path, number)
            if not isinstance(route, dict) or set(route) != {"pattern", "store"}:
                raise self.wrong(at, 'a route is wanted: { pattern = "REGEX", store = STORE }')
            pattern = types.converted(self._expanded((*at, "pattern"), route["pattern"]), "str")
            yield pattern, (*at, "store"), route["store"]

    def _expanded(self, path: KeyPath, value: Any) -> Any:
        """`value` with the variables of the environment in its strings."""
        if isinstance(value, str):
            return _VARIABLE.sub(lambda match: self._variable(path, match), value)
        if isinstance(value, list):
            return [self._expanded((*path, number), element) for number, element in enumerate(value)]
        if isinstance(value, dict):
            return {name: self._expanded((*path, name), element) for name, element in value.items()}
        return value

    def _variable(self, path: KeyPath, match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        if match[1] is None:
            raise self.wrong(path, "after ${ stands NAME} or NAME:-text}; a plain ${ is written $${")
        value = os.environ.get(match[1], "")
        if match[2] is not None:
            return value or match[3]
        if match[1] not in os.environ:
            raise self.wrong(path, f"the variable {match[1]} is not set; ${{{match[1]}:-text}} has a default")
        return value

    @contextlib.contextmanager
    def _at(self, path: KeyPath) -> Iterator[None]:
        """What makes no sense in here does so at this line."""
        try:
            yield
        except UsageError as error:
            if str(error).startswith(self.shown):
                raise
            raise self.wrong(path, str(error)) from error
        except (TypeError, ValueError) as error:
            if isinstance(error, StoreError):
                raise
            raise self.wrong(path, str(error)) from error
