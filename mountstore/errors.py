"""Every error that mountstore raises on purpose, in one tree.

    MountstoreError
    ├── StoreError                  a store could not do what was asked; .key says for which key
    │   ├── NotFound                no such object (also a KeyError)
    │   ├── PreconditionFailed      if_match or if_absent did not hold: somebody else was first
    │   ├── Unsupported             this store cannot do this, ever (see its Capabilities)
    │   ├── InvalidKey              this store cannot hold this key (also a ValueError)
    │   │   └── InvalidName         not a name of an item in a namespace
    │   ├── InvalidRange            start lies beyond the end of the object, or start > stop
    │   │   └── RangeNotSatisfiable a piece that was asked for is not all there
    │   ├── AccessDenied            credentials missing, wrong, expired, or not allowed to do this
    │   ├── StoreFull               the store has no room
    │   │   └── QuotaExceeded       ... because a quota is used up
    │   ├── BackendAlreadyExists    create: something is there
    │   ├── BackendDoesNotExist     open, destroy: it was not created
    │   ├── BackendMustBeOpen       a verb before open or after close
    │   ├── BackendMustNotBeOpen    open, create or destroy between open and close
    │   ├── Corrupted               the bytes that came are not the bytes that were put
    │   ├── PartialFailure          some of several stores or objects failed; .failures says which
    │   └── Unavailable             unreachable, or overloaded; may work later
    ├── UsageError                  what the user asked for makes no sense; the message says what would
    │   └── BadUrl                  a store URL that cannot be read
    └── MountError                  a mount cannot be made, found or ended

Only `Unavailable` is worth trying again unchanged. Messages are one line, hold no secrets, and say
what to do next where that is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class MountstoreError(Exception):
    """The root of the tree."""


class StoreError(MountstoreError):
    """A store could not do what was asked."""

    def __init__(self, message: str = "", *, key: str | None = None) -> None:
        super().__init__(message or (repr(key) if key is not None else type(self).__name__))
        self.key = key

    def __str__(self) -> str:
        # KeyError.__str__ would show the repr of the message.
        return str(self.args[0])


class NotFound(StoreError, KeyError):
    """There is no object of this key."""

    def __init__(self, message: str = "", *, key: str | None = None) -> None:
        super().__init__(message or f"no such object: {key!r}", key=key)


class PreconditionFailed(StoreError):
    """The object is not (any more) what the caller said it was; nothing was changed."""


class Unsupported(StoreError):
    """The store cannot do this, whatever the arguments."""


class InvalidKey(StoreError, ValueError):
    """The store cannot hold an object of this key."""


class InvalidName(InvalidKey):
    """This is no name of an item in a namespace; the message says which rule it breaks."""


class InvalidRange(StoreError, ValueError):
    """The range starts beyond the end of the object."""


class RangeNotSatisfiable(InvalidRange):
    """A piece of an object that must come whole reaches beyond its end."""


class AccessDenied(StoreError):
    """The credentials are missing, wrong or expired, or do not allow this."""


class StoreFull(StoreError):
    """The store has no room for this object."""


class QuotaExceeded(StoreFull):
    """The object does not fit into what is left of the quota; nothing was changed."""


class BackendAlreadyExists(StoreError):
    """What should be created is there already, or something else is."""


class BackendDoesNotExist(StoreError):
    """There is nothing to open or to destroy: it was never created, or is destroyed."""


class BackendMustBeOpen(StoreError):
    """Only possible between open and close."""


class BackendMustNotBeOpen(StoreError):
    """Only possible before open or after close."""


class Corrupted(StoreError):
    """The store answered with bytes that fail their checksum, or with too few."""


class Unavailable(StoreError):
    """The store cannot be reached or is overloaded; the same call may work later."""


class PartialFailure(StoreError):
    """Some of several stores, or of several objects, failed, and the others did not.

    `failures` are pairs of what failed (the number of a child, a key) and its error.
    """

    def __init__(
        self, message: str, *, key: str | None = None, failures: Sequence[tuple[str, Exception]] = ()
    ) -> None:
        super().__init__(message, key=key)
        self.failures = tuple(failures)


class UsageError(MountstoreError):
    """What was asked for makes no sense; the message says what would."""


class BadUrl(UsageError):
    """A store URL that cannot be read."""


class MountError(MountstoreError):
    """A mount cannot be made, found or ended."""
