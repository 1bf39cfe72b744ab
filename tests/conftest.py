"""Fixtures for servers that several test modules share. Each runs once a session, when first asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import servers
from tests.servers import S3Server


@pytest.fixture(scope="session")
def versitygw() -> Iterator[S3Server]:
    with servers.versitygw() as server:
        yield server


@pytest.fixture(scope="session")
def minio() -> Iterator[S3Server]:
    with servers.minio() as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    with servers.moto() as server:
        yield server


@pytest.fixture(scope="session", params=["versitygw", "minio"])
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """Each of the servers that keep objects as files, one after the other."""
    server = request.getfixturevalue(request.param)
    assert isinstance(server, S3Server)
    return server
