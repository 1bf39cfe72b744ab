"""The kinds of stores that a configuration can name by `type`, and what each takes."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from mountstore.errors import UsageError
from mountstore.store import ObjectStore

ENTRY_POINTS = "mountstore.stores"

_SIZE = re.compile(r"([0-9]+)\s*(B|KiB|MiB|GiB|TiB|kB|MB|GB|TB)?")
_UNITS = {
    None: 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoreType:
    """A factory of stores and its parameters, which are the keys of a table.

    `same_as` is the parameter whose store this one is only a way to, so that a journal for one serves the
    other too; `tuning` are parameters that do not change which store it is.
    """

    open: Callable[..., ObjectStore]
    parameters: Mapping[str, str]  # name: its annotation
    required: frozenset[str]
    same_as: str | None = None
    tuning: frozenset[str] = field(default_factory=frozenset)


def store_type(factory: Callable[..., ObjectStore], same_as: str | None = None, *tuning: str) -> StoreType:
    """Read a class or function. A parameter annotated ObjectStore takes a store, Iterable, Sequence or list
    of ObjectStore a list of stores; int, float, bool and str are checked; any other takes what TOML has."""
    parameters: dict[str, str] = {}
    required: set[str] = set()
    for name, parameter in inspect.signature(factory).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            continue
        annotation = parameter.annotation
        parameters[name] = annotation if isinstance(annotation, str) else _written(annotation)
        if parameter.default is parameter.empty:
            required.add(name)
    return StoreType(factory, parameters, frozenset(required), same_as, frozenset(tuning))


def _written(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return "Any"
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


_registered: dict[str, StoreType] = {}


def register(name: str, factory: Callable[..., ObjectStore]) -> None:
    """Let `type = "NAME"` make stores with `factory`, a class or function, in this process; its parameters
    are the keys (see `store_type`)."""
    _registered[name] = store_type(factory)


def find(name: str) -> StoreType:
    """The type of this name: registered here, built in, or an entry point. Raises UsageError."""
    if name in _registered:
        return _registered[name]
    if name in _BUILT_IN:
        where, same_as, *tuning = _BUILT_IN[name]
        assert where is not None
        module, _, attribute = where.partition(":")
        return store_type(getattr(import_module(module), attribute), same_as, *(t for t in tuning if t))
    from importlib.metadata import entry_points

    for entry in entry_points(group=ENTRY_POINTS, name=name):
        return store_type(entry.load())
    raise UsageError(f"unknown type {name!r}; known are {', '.join(names())}")


def names() -> list[str]:
    """All types that are known now."""
    from importlib.metadata import entry_points

    return sorted({*_BUILT_IN, *_registered, *(entry.name for entry in entry_points(group=ENTRY_POINTS))})


def is_store(annotation: str) -> bool:
    """Whether a parameter takes a store."""
    return bool(re.fullmatch(r"(?:\w+\.)*ObjectStore(?: \| None)?", annotation))


def is_stores(annotation: str) -> bool:
    """Whether a parameter takes several stores."""
    return bool(re.fullmatch(r"(?:Iterable|Sequence|list)\[(?:\w+\.)*ObjectStore\]", annotation))


def is_routes(annotation: str) -> bool:
    """Whether a parameter takes pairs of a pattern and a store."""
    return annotation == "Iterable[Route]"


def converted(value: Any, annotation: str) -> Any:
    """A value of TOML as a parameter wants it. Raises UsageError.

    Strings are read where a number or a boolean is wanted, since `${VAR}` gives strings; sizes may have a
    unit: "64 MiB".
    """
    wanted = annotation.removesuffix(" | None")
    if wanted == "bool":
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        good = isinstance(value, bool)
    elif wanted == "int":
        if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
            return int(match[1]) * _UNITS[match[2]]
        good = isinstance(value, int) and not isinstance(value, bool)
    elif wanted == "float":
        if isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                pass
        good = isinstance(value, int | float) and not isinstance(value, bool)
    elif wanted == "str":
        good = isinstance(value, str)
    else:
        good = True
    if not good:
        kinds = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "a string"}
        raise UsageError(f"{kinds[wanted]} is wanted, not {value!r}")
    return value


# -- factories for classes whose parameters are not plain values ---------------------------------------------


def logging_store(inner: ObjectStore, logger: str = "mountstore.stores", level: str = "INFO") -> ObjectStore:
    from mountstore.stores.observe import LoggingStore

    return LoggingStore(inner, logger=logging.getLogger(logger), level=_level(level))


def exception_logging_store(
    inner: ObjectStore, logger: str = "mountstore.stores", level: str = "ERROR"
) -> ObjectStore:
    from mountstore.stores.observe import ExceptionLoggingStore

    return ExceptionLoggingStore(inner, logger=logging.getLogger(logger), level=_level(level))


def validating_store(inner: ObjectStore, pattern: str) -> ObjectStore:
    from mountstore.stores.observe import ValidatingStore

    return ValidatingStore(inner, pattern)


def _level(name: str) -> int:
    levels = logging.getLevelNamesMapping()
    if name.upper() not in levels:
        raise UsageError(f"{name!r} is no log level; DEBUG, INFO, WARNING and ERROR are")
    return levels[name.upper()]


def routes_of(pairs: Iterable[tuple[str, ObjectStore]]) -> list[tuple[str, ObjectStore]]:
    """Pairs whose patterns can be compiled. Raises UsageError."""
    found = list(pairs)
    for pattern, _ in found:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UsageError(f"{pattern!r} is no regular expression: {error}") from None
    return found


_STORES = "mountstore.stores"
_HERE = "mountstore.config.types"

# name: where it is, the parameter that it is the same store as, parameters that only tune it
_BUILT_IN: Mapping[str, tuple[str | None, ...]] = {
    "base64": (f"{_STORES}:Base64Store", None),
    "buffering": (f"{_STORES}:BufferingStore", "inner"),
    "caching": (f"{_STORES}:CachingStore", "main"),
    "exception-logging": (f"{_HERE}:exception_logging_store", "inner"),
    "fanout": (f"{_STORES}:FanoutStore", None),
    "gzip": (f"{_STORES}:GzipStore", None, "level"),
    "hash-prefix": (f"{_STORES}:HashPrefixStore", None),
    "logging": (f"{_HERE}:logging_store", "inner"),
    "permissions": (f"{_STORES}:PermissionsStore", "inner"),
    "prefix": (f"{_STORES}:PrefixStore", None),
    "quota": (f"{_STORES}:QuotaStore", "inner", "limit_bytes"),
    "read-only": (f"{_STORES}:ReadOnlyStore", "inner"),
    "routing": (f"{_STORES}:RoutingStore", None),
    "url-encoded": (f"{_STORES}:UrlEncodedStore", None),
    "validating": (f"{_HERE}:validating_store", "inner"),
    "write-only": (f"{_STORES}:WriteOnlyStore", "inner"),
}
