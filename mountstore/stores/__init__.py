"""Stores over stores: each is an ObjectStore itself, and says by its capabilities what it cannot do.

    FanoutStore             the same objects in several stores; reads fail over
    CachingStore            a slow store behind a fast one
    BufferingStore          puts collected in memory, written together
    RoutingStore            the key decides which store an object lies in
    PrefixStore             the keys below a prefix
    HashPrefixStore         keys spread over hashed folders
    UrlEncodedStore         percent-encoded keys
    GzipStore, Base64Store  content in another form
    ReadOnlyStore, WriteOnlyStore, ValidatingStore      less is allowed
    PermissionsStore        each path has its own permissions
    QuotaStore              a limit on what the store holds
    LoggingStore, ExceptionLoggingStore, NotifyingStore somebody is told
    TextStore, JsonStore    typed views, no stores of bytes themselves (TypedStore makes others)

All but BufferingStore, which is not durable, and WriteOnlyStore, which cannot be read, can be mounted.
Closing one closes what it was made of.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mountstore.stores.buffering import BufferingStore
    from mountstore.stores.caching import CachingStore
    from mountstore.stores.codecs import Base64Store, CodecStore, GzipStore
    from mountstore.stores.fanout import FanoutStore
    from mountstore.stores.keys import HashPrefixStore, MappedStore, PrefixStore, UrlEncodedStore
    from mountstore.stores.observe import (
        Event,
        ExceptionLoggingStore,
        LoggingStore,
        NotifyingStore,
        ReadOnlyStore,
        ValidatingStore,
        WriteOnlyStore,
        url_safe,
    )
    from mountstore.stores.permissions import PermissionsStore
    from mountstore.stores.quota import QuotaStore
    from mountstore.stores.routing import RoutingStore
    from mountstore.stores.typed import JsonStore, TextStore, TypedStore
    from mountstore.stores.wrapper import AroundStore, WrapperStore

__all__ = [
    "AroundStore",
    "Base64Store",
    "BufferingStore",
    "CachingStore",
    "CodecStore",
    "Event",
    "ExceptionLoggingStore",
    "FanoutStore",
    "GzipStore",
    "HashPrefixStore",
    "JsonStore",
    "LoggingStore",
    "MappedStore",
    "NotifyingStore",
    "PermissionsStore",
    "PrefixStore",
    "QuotaStore",
    "ReadOnlyStore",
    "RoutingStore",
    "TextStore",
    "TypedStore",
    "UrlEncodedStore",
    "ValidatingStore",
    "WrapperStore",
    "WriteOnlyStore",
    "url_safe",
]

_MODULES = {
    "buffering": ["BufferingStore"],
    "caching": ["CachingStore"],
    "codecs": ["Base64Store", "CodecStore", "GzipStore"],
    "fanout": ["FanoutStore"],
    "keys": ["HashPrefixStore", "MappedStore", "PrefixStore", "UrlEncodedStore"],
    "observe": [
        "Event",
        "ExceptionLoggingStore",
        "LoggingStore",
        "NotifyingStore",
        "ReadOnlyStore",
        "ValidatingStore",
        "WriteOnlyStore",
        "url_safe",
    ],
    "permissions": ["PermissionsStore"],
    "quota": ["QuotaStore"],
    "routing": ["RoutingStore"],
    "typed": ["JsonStore", "TextStore", "TypedStore"],
    "wrapper": ["AroundStore", "WrapperStore"],
}


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            value: object = getattr(import_module(f"{__name__}.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
