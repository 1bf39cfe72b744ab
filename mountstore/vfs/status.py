"""What a mount tells of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Pending:
    """One thing that the store does not have yet."""

    path: str
    what: Literal["upload", "copy", "delete", "attributes"]
    bytes: int
    since_ns: int
    attempts: int
    error: str | None
    state: Literal["waiting", "uploading", "error"]


@dataclass(frozen=True, slots=True)
class Loss:
    """What a loss of power took of one file: it was written, but not synced."""

    path: str  # when that was found out
    bytes_left: int | None  # of what was written here; None: nothing of it, the store's version is left
    time_ns: int  # when that was found out


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a mount at one moment."""

    pending: list[Pending]  # at most 1000 of them, oldest first
    pending_count: int
    pending_bytes: int
    conflicts: list[str]  # paths of the conflict copies that are still there
    requests: dict[str, int] = field(default_factory=dict)  # by kind, if the store counts them
    open_files: int = 0
    staged_bytes: int = 0
    uploaded_count: int = 0  # since the mount began
    uploaded_bytes: int = 0
    last_error: str | None = None
    lost: list[Loss] = field(default_factory=list)  # by a loss of power, since the last clean umount
