"""RestStore: the contract over `mountstore serve`, and what of it there is over borgstore's server."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import urllib3

from mountstore import open_store
from mountstore.backends._rest_protocol import ACCEPT
from mountstore.backends.rest import RestStore
from mountstore.errors import InvalidKey, NotFound
from mountstore.store import ObjectStore
from tests import services
from tests.rest import PROJECT, borgstore_server, mountstore_server
from tests.services import Service
from tests.stores.conformance import ODD_KEYS, PersistentStoreConformance, listed_entries


@pytest.fixture(scope="session")
def served_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with mountstore_server(f"file://{tmp_path_factory.mktemp('served')}") as server:
        yield server


@pytest.fixture(scope="session")
def served_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with mountstore_server(f"sqlite://{tmp_path_factory.mktemp('served')}/store.sqlite") as server:
        with RestStore.open_http(address(server)) as store:
            store.create_storage()
        yield server


@pytest.fixture(scope="session")
def borgstore(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with borgstore_server(tmp_path_factory.mktemp("served") / "store") as server:
        yield server


def address(server: Service) -> str:
    return f"http://127.0.0.1:{server.port}/"


class TestRestStore(PersistentStoreConformance):
    """Over a folder that is served."""

    server = "served_folder"

    @pytest.fixture
    def reopen(self, request: pytest.FixtureRequest) -> Callable[[], RestStore]:
        server: Service = request.getfixturevalue(self.server)
        return lambda: RestStore.open_http(address(server))

    @pytest.fixture
    def store(self, reopen: Callable[[], RestStore]) -> Iterator[ObjectStore]:
        with reopen() as store:
            store.delete_many(list(store.keys()))
            yield store


class TestRestStoreOfSqlite(TestRestStore):
    """Over a store that reads a put more than once, and whose storage is marked as created."""

    server = "served_sqlite"


class TestRestStoreOverPipes(TestRestStore):
    """A server that is started for the store, on stdin and stdout."""

    examples = 5

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Callable[[], RestStore]:
        program = (
            f"import sys; sys.path.insert(0, {str(PROJECT)!r})\nfrom mountstore.cli.main import main; main()"
        )
        (tmp_path / "store").mkdir()
        words = [sys.executable, "-c", program, "serve", "--stdio", f"file://{tmp_path}/store"]
        return lambda: RestStore.open_pipe(words, "a server on pipes")


class TestRestStoreOfVersion1(TestRestStore):
    """Over borgstore's server: fewer names, no metadata, no conditions; folders as file systems have them."""

    server = "borgstore"
    examples = 2
    key_characters = "ab/-0."
    KEYS = [key for key in PersistentStoreConformance.KEYS if key.isascii()]  # noqa: RUF012
    key_sets = [["b/a", "b/c/d"], ["x", "xy", "x.y"]]  # noqa: RUF012  (a file and a folder of one name cannot be)

    def can_hold(self, store: ObjectStore, key: str) -> bool:
        usual = re.fullmatch(r"[a-z0-9!$&'()*+,;=:@._~-]+(/[a-z0-9!$&'()*+,;=:@._~-]+)*", key) is not None
        dots = ".." in key or not {".", ".."}.isdisjoint(key.split("/"))
        return usual and not dots and super().can_hold(store, key)

    @pytest.fixture
    def reopen(self, request: pytest.FixtureRequest) -> Callable[[], RestStore]:
        server: Service = request.getfixturevalue(self.server)
        return lambda: RestStore.open_http(address(server), prune=True)

    @pytest.fixture
    def store(self, reopen: Callable[[], RestStore]) -> Iterator[ObjectStore]:
        with reopen() as store, reopen() as other:
            store.create_storage()
            yield store
            other.destroy_storage()

    def test_a_marker_is_an_object_in_its_own_listing(self, store: ObjectStore) -> None:
        # A folder is an object while nothing is in it.
        store.put("d/", b"")
        assert listed_entries(store) == [("d/", False)]
        assert listed_entries(store, "", "/") == [("d/", True)]
        self.fill(store, ["d/x", "e"])
        assert listed_entries(store, "", "/") == [("d/", True), ("e", False)]
        assert listed_entries(store, "d/", "/") == [("d/x", False)]
        with pytest.raises(NotFound):
            store.head("d/")
        with pytest.raises(InvalidKey):
            store.put("d", b"a file where a folder is")

    def test_an_empty_marker(self, store: ObjectStore) -> None:
        info = store.put("d/", b"", metadata={"mode": "16877"})
        assert (info.size, info.metadata) == (0, {})
        assert store.head("d/") == info
        assert bytes(store.get("d/")) == b""
        assert not store.exists("d")
        with pytest.raises(InvalidKey):
            store.put("d/", b"content")
        assert store.rename("d/", "e/").key == "e/"
        assert not store.exists("d/")
        store.delete("e/")
        assert not store.exists("e/")

    def test_everything_is_there_after_reopening(
        self, store: ObjectStore, reopen: Callable[[], ObjectStore]
    ) -> None:
        store.put("d/k", b"content", metadata={"a": "1"})
        store.put("e/", b"")
        store.put("large", bytes(3 << 20))
        heads = {key: store.head(key) for key in ("d/k", "e/", "large")}
        store.close()
        with reopen() as again:
            assert {key: again.head(key) for key in heads} == heads
            assert bytes(again.get("d/k")) == b"content"
            assert list(again.keys()) == ["d/k", "e/", "large"]


def test_keys_reach_the_store_through_a_proxy(served_folder: Service) -> None:
    """nginx changes paths that hold `//`, `..` or `%2F`; keys are in the query, which it leaves alone."""

    def servers(port: int, _: Path) -> str:
        where = f"location /repos/one/ {{ proxy_pass http://127.0.0.1:{served_folder.port}/; }}"
        return f"server {{ listen 127.0.0.1:{port}; client_max_body_size 0; {where} }}"

    with services.nginx(servers) as proxy, open_store(f"http://127.0.0.1:{proxy.port}/repos/one") as store:
        assert isinstance(store, RestStore)
        assert store.capabilities.conditional_put
        store.delete_many(list(store.keys()))
        keys = [key for key in ODD_KEYS if len(key.encode()) <= 1024]
        for key in keys:
            etag = store.put(key, key.encode(), metadata={"note": '"quoted" %20'}).etag
            assert bytes(store.get(key, if_match=etag)) == key.encode()
        assert list(store.keys()) == sorted(keys, key=str.encode)
        assert store.head("a//b").metadata == {"note": '"quoted" %20'}
        store.put("large", bytes(9 << 20))
        assert store.head("large").size == 9 << 20
        with RestStore.open_http(address(served_folder)) as direct:
            assert bytes(direct.get("../x")) == b"../x"
            direct.delete_many(list(direct.keys()))
        with pytest.raises(InvalidKey):
            store.put("k" * 1025, b"")


@pytest.mark.parametrize(
    ("method", "query", "headers", "body", "status"),
    [
        ("PUT", "cmd=object&key=k", {"If-Match": "unquoted"}, b"x", 400),
        ("PUT", "cmd=object&key=k", {"If-None-Match": '"x"'}, b"x", 400),
        ("PUT", "cmd=object&key=k", {"X-Mountstore-Metadata": "%%%"}, b"x", 400),
        ("PUT", "cmd=object&key=k", {"X-Mountstore-Metadata": "WzFd"}, b"x", 400),
        ("PUT", "cmd=object", {}, b"x", 400),
        ("PUT", "cmd=object&key=%FF", {}, b"x", 400),
        ("PUT", "cmd=object&key=a&key=b", {}, b"x", 400),
        ("PATCH", "cmd=object&key=k", {}, b"", 405),
        ("GET", "cmd=object&key=k&start=-1", {}, None, 400),
        ("GET", "cmd=object&key=none", {}, None, 404),
        ("GET", "cmd=objects", {}, None, 405),
        ("POST", "cmd=objects", {}, b"[]", 400),
        ("POST", "cmd=objects", {}, b"{", 400),
        ("POST", "cmd=objects", {}, b'{"prefix":"","delimiter":"","after":"","limit":0}', 400),
        ("POST", "cmd=copy", {}, b'{"source":"k"}', 400),
        ("POST", "cmd=delete-many", {}, b'{"keys":[1]}', 400),
        ("POST", "cmd=metadata", {}, b'{"key":"k","metadata":{"a":1}}', 400),
    ],
)
def test_requests_that_make_no_sense(
    served_folder: Service, method: str, query: str, headers: dict[str, str], body: bytes | None, status: int
) -> None:
    """Each is refused with one line, and nothing is stored."""
    with RestStore.open_http(address(served_folder)) as store:
        store.delete("k", missing_ok=True)  # of another test: the server is that of the session
    with urllib3.PoolManager() as pool:
        answer = pool.request(
            method,
            f"{address(served_folder)}?{query}",
            headers={"Accept": ACCEPT, **headers},
            body=body,
            retries=False,
        )
        assert answer.status == status, answer.data
        assert b"\n" not in answer.data
    with RestStore.open_http(address(served_folder)) as store:
        assert not store.exists("k")


def test_the_mark_of_a_storage_is_no_object(served_sqlite: Service) -> None:
    with RestStore.open_http(address(served_sqlite)) as store:
        store.delete_many(list(store.keys()))
        for call in (
            lambda: store.head("mountstore.hid"),
            lambda: store.delete("mountstore.hid"),
            lambda: store.delete_many(["mountstore.hid"]),
            lambda: store.put("mountstore.hid", b""),
            lambda: store.copy("k", "mountstore.hid"),
        ):
            with pytest.raises(InvalidKey):
                call()
        assert list(store.keys()) == []
        assert store.usage() == (0, 0)
