"""Fixtures of the tests of fsck."""

from __future__ import annotations

import pytest

from mountstore.backends.memory import DictStore


@pytest.fixture
def store() -> DictStore:
    return DictStore()
