"""Servers that the tests of the protocol share: over a folder, over SQLite, over memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.serving import Served, serving

_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=["file", "sqlite", "memory"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server over each kind of store, the store created."""
    folder = tmp_path_factory.mktemp("served")
    store = {"file": f"file://{folder}/store", "sqlite": f"sqlite:{folder}/store.db", "memory": "memory:"}
    with serving(store[request.param], folder) as server:
        yield server


@pytest.fixture(scope="module")
def file_served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server over a folder."""
    folder = tmp_path_factory.mktemp("served")
    with serving(f"file://{folder}/store", folder) as server:
        server.folder = folder / "store"
        yield server


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return f"ns{next(_numbers)}"


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store"
