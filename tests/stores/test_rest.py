"""RestStore: the contract over `mountstore serve`, and what of it there is over borgstore's server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mountstore.backends.rest import RestStore
from mountstore.store import ObjectStore
from tests.rest import mountstore_server
from tests.services import Service
from tests.stores.conformance import PersistentStoreConformance


@pytest.fixture(scope="session")
def served_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("served")
    with mountstore_server(f"file://{folder}") as server:
        yield server


def address(server: Service) -> str:
    return f"http://127.0.0.1:{server.port}/"


class TestRestStore(PersistentStoreConformance):
    """Over a folder that is served."""

    @pytest.fixture
    def reopen(self, served_folder: Service) -> Callable[[], ObjectStore]:
        return lambda: RestStore.open_http(address(served_folder))

    @pytest.fixture
    def store(self, reopen: Callable[[], RestStore]) -> Iterator[ObjectStore]:
        with reopen() as store:
            store.delete_many(list(store.keys()))
            yield store


class TestRestStoreOfSqlite(TestRestStore):
    """Over a store that reads a put more than once, and has longer limits than the protocol."""

    @pytest.fixture(scope="class")
    def served_folder(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
        folder = tmp_path_factory.mktemp("served")
        with mountstore_server(f"sqlite://{folder}/store.sqlite") as server:
            RestStore.open_http(address(server)).create_storage()
            yield server
