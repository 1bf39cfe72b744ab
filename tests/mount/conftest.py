"""Fixtures of the tests of the mount: stores to mount, and mounts that never outlive their test."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mount.cases import LASTING, S3_SERVERS, S3Case, StoreCase, make_case
from tests.mount.mounting import MOUNTS, Mount, Mounts, need_fuse, temporary_base


def pytest_configure(config: pytest.Config) -> None:
    """The marker is pytest-xdist's; the tests run without it too."""
    config.addinivalue_line("markers", "xdist_group(name): tests that one worker has to run")


@pytest.fixture
def base() -> Iterator[Path]:
    """A local folder for this test's mounts; no mount is left in it afterwards."""
    with temporary_base() as folder:
        yield folder


@pytest.fixture(params=LASTING)
def store_case(request: pytest.FixtureRequest, base: Path) -> StoreCase:
    """An empty store of each kind that outlives its mount."""
    return make_case(request.param, request, base)


@pytest.fixture(params=S3_SERVERS)
def bucket_case(request: pytest.FixtureRequest, base: Path) -> S3Case:
    """An empty bucket on each server."""
    case = make_case(request.param, request, base)
    assert isinstance(case, S3Case)
    return case


@pytest.fixture
def mounts(base: Path, request: pytest.FixtureRequest) -> Iterator[Mounts]:
    """Makes mounts: `mounts(case, "--ttl", "1", name="m")`. They end with the test, whatever happens."""
    made = request.node.stash[MOUNTS] = []

    def make(case: StoreCase, *options: str, name: str = "mnt", start: bool = True, **more: Any) -> Mount:
        more.setdefault("env", case.env)
        mount = Mount(case.url, base, options=options, name=name, **more)
        made.append(mount)
        return mount.start() if start else mount

    yield make
    for mount in made:
        mount.clean_up()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """A failed test shows what its daemons had to say."""
    report = yield
    if report.failed:
        for mount in item.stash.get(MOUNTS, []):
            over = "; the daemon was KILLED, its time was over" if mount.timed_out else ""
            report.sections.append((f"daemon of {mount.store}{over}", mount.log()))
    return report


@pytest.fixture(scope="session", autouse=True)
def fuse() -> None:
    """Fail at once and clearly where nothing can be mounted."""
    need_fuse()
