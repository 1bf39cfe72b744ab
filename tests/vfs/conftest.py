"""Fixtures of the Vfs tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from mountstore.backends.memory import DictStore


@pytest.fixture
def store() -> DictStore:
    return DictStore()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"
