"""Fixtures of the POSIX suites: mounts as in tests/mount."""

from __future__ import annotations

from tests.mount.conftest import base, bucket_case, fuse, mounts, pytest_runtest_makereport, store_case

__all__ = ["base", "bucket_case", "fuse", "mounts", "pytest_runtest_makereport", "store_case"]
