"""Waiting for a condition, with a deadline; never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
DEADLINE_S = 60.0


def wait_until(what: str, condition: Callable[[], T], *, timeout_s: float = DEADLINE_S) -> T:
    """Ask `condition` until what it returns is true, and return that; AssertionError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout_s:.0f} s still not: {what} (last answer: {answer!r})")
        time.sleep(0.05)
