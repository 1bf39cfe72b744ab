"""What a check finds, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

Part = Literal["index", "staging", "cache", "store"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong ("error"), or worth knowing and right ("note")."""

    part: Part
    level: Literal["error", "note"]
    subject: str  # a path, a key, a file: what it is about
    what: str
    advice: str = ""  # what to do, or what --repair does
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """A finding and what mends it; what only people can mend has no repair, nor has most of what is noted."""

    finding: Finding
    repair: Callable[[], object] | None = None


def error(
    part: Part, subject: str, what: str, advice: str, repair: Callable[[], object] | None = None
) -> Fault:
    return Fault(Finding(part, "error", subject, what, advice), repair)


def note(
    part: Part, subject: str, what: str, advice: str = "", repair: Callable[[], object] | None = None
) -> Fault:
    return Fault(Finding(part, "note", subject, what, advice), repair)


@dataclass(slots=True)
class Report:
    """All findings of a check, those that were repaired first."""

    repaired: list[Finding] = field(default_factory=list)
    left: list[Finding] = field(default_factory=list)  # errors
    notes: list[Finding] = field(default_factory=list)
    kept: str | None = None  # the copy of the index before it was changed

    def add(self, other: Report) -> None:
        """Take over what another check found."""
        self.repaired += other.repaired
        self.left += other.left
        self.notes += other.notes

    @property
    def findings(self) -> list[Finding]:
        return [*(replace(one, repaired=True) for one in self.repaired), *self.left, *self.notes]

    @property
    def status(self) -> int:
        """As other fsck: 0 nothing was wrong, 1 all of it is repaired, 2 something is left."""
        return 2 if self.left else 1 if self.repaired else 0
