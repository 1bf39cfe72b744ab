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
