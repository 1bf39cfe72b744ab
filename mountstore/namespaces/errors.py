"""The errors of this layer, by the names that its protocol uses.

All are of the one tree in `mountstore.errors`; two names there are called otherwise here. What only this
layer raises is defined here:

    InvalidName
    └── UnknownNamespace        the configuration has no namespace for this name (also a KeyError)
    PreconditionFailed
    └── ItemExists              an item of this name with other content is there; nothing was changed
    Unsupported
    └── UnknownAlgorithm        no such hash algorithm (also a ValueError)
"""

from __future__ import annotations

from mountstore.errors import (
    AccessDenied,
    BackendAlreadyExists,
    BackendDoesNotExist,
    BackendMustBeOpen,
    BackendMustNotBeOpen,
    InvalidName,
    NotFound,
    PreconditionFailed,
    QuotaExceeded,
    RangeNotSatisfiable,
    Unsupported,
)

__all__ = [
    "BackendAlreadyExists",
    "BackendDoesNotExist",
    "BackendMustBeOpen",
    "BackendMustNotBeOpen",
    "InvalidName",
    "ItemExists",
    "ObjectNotFound",
    "PermissionDenied",
    "QuotaExceeded",
    "RangeNotSatisfiable",
    "UnknownAlgorithm",
    "UnknownNamespace",
]

ObjectNotFound = NotFound
PermissionDenied = AccessDenied


class UnknownNamespace(InvalidName, KeyError):
    """The configuration has no namespace that this name could be in."""


class ItemExists(PreconditionFailed):
    """A soft deletion or undeletion would have overwritten an item with other content."""


class UnknownAlgorithm(Unsupported, ValueError):
    """There is no hash algorithm of this name, or it has no digest of a fixed length."""
