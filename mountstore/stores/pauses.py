"""What keeps failing is left alone for a while."""

from __future__ import annotations

import time

_TRIES = 3
_SLOW_S = 1.0
_FIRST_S = 1.0
_LONGEST_S = 60.0


class Pause:
    """After three failures in a row, or a slow one, no further try for a second; each failure after that
    doubles it, up to a minute. One success, and all is forgotten."""

    __slots__ = ("_until", "failures")

    def __init__(self) -> None:
        self.failures = 0  # in a row: 0, and nothing has to be asked or told
        self._until = 0.0

    def is_over(self) -> bool:
        """Whether it may be tried."""
        return not self.failures or time.monotonic() >= self._until

    def failed(self, took_s: float) -> float:
        """It failed, after so long; returns for how many seconds it is left alone now."""
        self.failures = max(self.failures + 1, _TRIES if took_s >= _SLOW_S else 0)
        if self.failures < _TRIES:
            return 0.0
        wait_s: float = min(_FIRST_S * 2 ** min(self.failures - _TRIES, 10), _LONGEST_S)
        self._until = time.monotonic() + wait_s
        return wait_s

    def worked(self) -> None:
        self.failures = 0
