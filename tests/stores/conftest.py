"""Fixtures for servers from Debian. Each runs once a session, when first asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import services
from tests.services import Service
from tests.sshd import Sshd
from tests.sshd import sshd as sshd_server


@pytest.fixture(scope="session")
def redis_service() -> Iterator[Service]:
    with services.redis_server() as service:
        yield service


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd_server(tmp_path_factory.mktemp("ssh") / "home") as server:
        yield server
