"""Fixtures of the tests with disks that lose power."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import base, mounts, pytest_runtest_makereport
from tests.power.disks import Disk, disk

__all__ = ["base", "mounts", "pytest_runtest_makereport"]


@pytest.fixture(params=["ext4", "xfs"])
def power(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    with disk(request.param, tmp_path) as made:
        yield made
