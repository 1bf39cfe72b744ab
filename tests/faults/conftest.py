"""Fixtures of the tests with faults: mounts as in tests/mount, on stores behind a proxy that fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.fault_proxy import FaultProxy, fault_proxy
from tests.mount.cases import LONG, S3Case, s3_case
from tests.mount.conftest import base, fuse, mounts, pytest_runtest_makereport
from tests.mount.mounting import MOUNTS, Mount, Mounts
from tests.servers import S3Server

__all__ = ["base", "fuse", "mounts", "pytest_runtest_makereport"]

SEED = int(os.environ.get("MOUNTSTORE_TEST_SEED", "1"))

IMPATIENT = """
[stores.faulty]
url = "{url}"
connect_timeout_s = 1
read_timeout_s = 2
retry_deadline_s = 3
"""


class Bench:
    """An empty bucket, a fault proxy in front of its server, and mounts through it."""

    def __init__(self, case: S3Case, proxy: FaultProxy, base: Path, mounts: Mounts) -> None:
        self.case = case
        self.proxy = proxy
        self.base = base
        self._mounts = mounts

    def mount(self, *options: str, name: str = "mnt", impatient: bool = False, start: bool = True) -> Mount:
        """A mount through the proxy. `impatient`: with time-outs and a deadline of few seconds."""
        env = {**self.case.env, "AWS_ENDPOINT_URL": self.proxy.endpoint}
        limit_s = 1800 if LONG else 240
        made = self._mounts(self.case, *options, name=name, env=env, start=False, limit_s=limit_s)
        if impatient:
            file = self.base / "impatient.toml"
            file.write_text(IMPATIENT.format(url=self.case.url))
            made.store = f"config:faulty?file={file}"
        return made.start() if start else made

    def files(self) -> dict[str, bytes]:
        """What the bucket holds, asked for directly; markers left out."""
        return {key: self.case.read(key) for key in self.case.keys() if not key.endswith("/")}

    def keys(self) -> list[str]:
        """All keys, markers too."""
        return sorted(self.case.keys())


Benches = Callable[..., Bench]


@pytest.fixture
def benches(base: Path, mounts: Mounts, request: pytest.FixtureRequest) -> Iterator[Benches]:
    """Makes benches: `benches("versitygw")`; all is ended with the test, mounts before proxies."""
    with ExitStack() as stack:

        def make(kind: str, **more: object) -> Bench:
            server = request.getfixturevalue(kind)
            assert isinstance(server, S3Server)
            proxy = stack.enter_context(fault_proxy(server.endpoint, SEED, **more))  # type: ignore[arg-type]
            return Bench(s3_case(server), proxy, base, mounts)

        yield make
        for mount in request.node.stash.get(MOUNTS, []):
            mount.clean_up()


@pytest.fixture
def bench(benches: Benches) -> Bench:
    """On versitygw."""
    return benches("versitygw")
