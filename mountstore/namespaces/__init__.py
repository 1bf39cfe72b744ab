"""Names over a store: namespaces with nesting, soft deletion, quota and permissions.

Store               the high-level store
NamespaceBackend    the verbs below it, which the REST protocol carries
errors              what both raise
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mountstore.namespaces.backend import NamespaceBackend
    from mountstore.namespaces.items import ItemInfo
    from mountstore.namespaces.store import Store

__all__ = ["ItemInfo", "NamespaceBackend", "Store"]

_MODULES = {"ItemInfo": "items", "NamespaceBackend": "backend", "Store": "store"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
