"""How long to wait before a request is sent again."""

from __future__ import annotations

import random
import time
from email.utils import parsedate_to_datetime

_FIRST_S = 0.1


def wait_s(tried: int, retry_after: str, *, longest_s: float) -> float:
    """Seconds to wait after so many tries: longer each time, with a part of chance, so that clients that were
    turned away together do not come back together; not before what the server asks for by `Retry-After` ("",
    if it does not), and never longer than `longest_s`."""
    own_s = random.uniform(0.5, 1.0) * _FIRST_S * 2.0 ** min(tried, 16)
    return min(max(own_s, seconds_of(retry_after)), longest_s)


def seconds_of(retry_after: str) -> float:
    """What a `Retry-After` asks for, be it seconds or a date (RFC 9110, 10.2.3); 0 for what is neither."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
