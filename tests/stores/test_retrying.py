"""How long the REST and HTTP stores wait before they ask again."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from mountstore.backends._retrying import seconds_of, wait_s


def test_waits_grow_up_to_the_longest() -> None:
    for tried in range(1, 6):
        bound = 0.1 * 2**tried
        assert all(bound / 2 <= wait_s(tried, "", longest_s=60) <= bound for _ in range(20))
    assert wait_s(10_000, "", longest_s=7) == 7


def test_the_server_may_ask_for_longer_and_not_for_shorter() -> None:
    assert wait_s(1, "5", longest_s=10) == 5
    assert wait_s(1, "3600", longest_s=10) == 10
    assert wait_s(3, "0", longest_s=10) >= 0.4


def test_a_date_is_understood() -> None:
    assert 0 < seconds_of(formatdate(time.time() + 1000, usegmt=True)) <= 1000
    assert seconds_of(formatdate(time.time() - 100, usegmt=True)) == 0


@pytest.mark.parametrize("text", ["", "soon", "-1", "1.5", "\u0663", "Sun, 99 Nov 99999 00:00:00 GMT", "nan"])
def test_what_is_neither_asks_for_nothing(text: str) -> None:
    assert seconds_of(text) == 0
