"""Fixtures for servers from Debian. Each runs once a session, when first asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import services
from tests.services import Service


@pytest.fixture(scope="session")
def redis_service() -> Iterator[Service]:
    with services.redis_server() as service:
        yield service
