"""What a store is told of its namespaces: levels of nesting, and what is cached how.

    {"data": {"levels": [2], "cache": "write-through", "max_age": 3600, "size": 1 << 30},
     "config": {"levels": [0]}}

`levels` are the nestings in which items may lie; new ones go to the last, and all are looked at, so a store
can be read and written while its items move from one to another. `cache` is one of

    off             nothing (the default)
    mirror          the cache store is kept like the store, and never read
    write-through   what is stored and loaded is kept there, and loaded from there while the store has
                    that very version

`max_age` are seconds after which a cached item is fetched anew, `size` the bytes that all of them may have.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mountstore.errors import UsageError
from mountstore.namespaces.errors import UnknownNamespace
from mountstore.namespaces.names import DELETED, ROOT, check_name, nest

_KEYS = {"levels", "cache", "max_age", "size"}


class CachePolicy(enum.Enum):
    OFF = "off"
    MIRROR = "mirror"
    WRITE_THROUGH = "write-through"


_POLICIES = {policy.value: policy for policy in CachePolicy} | {"writethrough": CachePolicy.WRITE_THROUGH}


@dataclass(frozen=True, slots=True)
class Namespace:
    """One namespace, as it is configured."""

    name: str
    levels: tuple[int, ...]
    cache: CachePolicy = CachePolicy.OFF
    max_age_s: float | None = None
    size_bytes: int | None = None

    def places(self, name: str, *, deleted: bool = False) -> list[str]:
        """Where the item may lie, the place of new ones first. Raises InvalidName."""
        suffix = DELETED if deleted else ""
        return [check_name(nest(name, levels)) + suffix for levels in dict.fromkeys(reversed(self.levels))]


class Namespaces:
    """All namespaces of a store."""

    def __init__(self, config: Mapping[str, Mapping[str, Any]] | None) -> None:
        if not config:
            raise UsageError('a store needs a config, as {"data": {"levels": [2]}}')
        self._of: dict[str, Namespace] = {}
        for name, told in config.items():
            namespace = _namespace(check_name(name.removesuffix("/"), root=True), told)
            self._of[namespace.name] = namespace

    def of(self, name: str) -> Namespace:
        """The namespace of an item's name: the longest that it is in. Raises UnknownNamespace."""
        path = name
        while path:
            path = path.rpartition("/")[0]
            if path in self._of:
                return self._of[path]
        raise UnknownNamespace(
            f"no namespace in the config for {name!r}; it has {', '.join(map(repr, self._of))}", key=name
        )

    def is_folder(self, name: str) -> bool:
        """Whether `name` is the root, a namespace, or leads to one."""
        return name in (ROOT, *self._of) or any(known.startswith(f"{name}/") for known in self._of)

    def reach(self, name: str) -> list[Namespace]:
        """The namespaces that items below `name` may be in."""
        inside = [namespace for known, namespace in self._of.items() if f"{known}/".startswith(f"{name}/")]
        if name == ROOT:
            return [*self._of.values()]
        try:
            return [*inside, self.of(f"{name}/x")]
        except UnknownNamespace:
            return inside

    def __iter__(self) -> Iterator[Namespace]:
        return iter(self._of.values())


def _namespace(name: str, told: Mapping[str, Any]) -> Namespace:
    if not isinstance(told, Mapping):
        raise UsageError(f'the namespace {name!r} is described by a dict, as {{"levels": [2]}}')
    unknown = set(told) - _KEYS
    if unknown:
        raise UsageError(
            f"namespace {name!r}: unknown {min(unknown)!r}; known are {', '.join(sorted(_KEYS))}"
        )
    levels = told.get("levels")
    if not isinstance(levels, list | tuple) or not levels:
        raise UsageError(f"namespace {name!r}: levels is a list of one or more whole numbers, as [2]")
    if any(type(level) is not int or not 0 <= level <= 16 for level in levels):
        raise UsageError(f"namespace {name!r}: a level is a whole number from 0 to 16")
    policy = told.get("cache") or "off"
    if policy not in _POLICIES:
        raise UsageError(f"namespace {name!r}: cache is one of off, mirror and write-through")
    max_age, size = told.get("max_age"), told.get("size")
    if max_age is not None and (
        isinstance(max_age, bool) or not isinstance(max_age, int | float) or max_age < 0
    ):
        raise UsageError(f"namespace {name!r}: max_age is a number of seconds")
    if size is not None and (type(size) is not int or size < 0):
        raise UsageError(f"namespace {name!r}: size is a number of bytes")
    return Namespace(name, tuple(levels), _POLICIES[policy], max_age, size)
