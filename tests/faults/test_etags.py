"""An answer tells another etag than the object's; what the store says in the end is the object's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from mountstore.backends.s3 import BucketStore
from mountstore.errors import NotFound, PreconditionFailed
from tests.faults.conftest import SEED
from tests.faults.fault_proxy import Fault, FaultProxy, Rule, fault_proxy
from tests.servers import S3Server

MIB = 1 << 20


@dataclass
class Case:
    """A store behind a proxy, and the server asked directly."""

    store: BucketStore
    proxy: FaultProxy
    client: Any

    def etag(self, key: str) -> str:
        return str(self.client.head_object(Bucket=self.store.bucket, Key=key)["ETag"])

    def wrong(self, operation: str, limit: int | None = None) -> None:
        self.proxy.fail(Rule(Fault.WRONG_ETAG, operations=frozenset({operation}), limit=limit))

    def fired(self) -> int:
        return self.proxy.fired[Fault.WRONG_ETAG]


@pytest.fixture(scope="module", params=["versitygw", "minio"])
def shared(request: pytest.FixtureRequest) -> Iterator[Case]:
    server = request.getfixturevalue(request.param)
    assert isinstance(server, S3Server)
    client = server.client()
    with (
        fault_proxy(server.endpoint, SEED) as proxy,
        BucketStore(server.new_bucket(), client=client, endpoint=proxy.endpoint, part_bytes=5 * MIB) as store,
    ):
        assert store.probe().md5_etags
        yield Case(store, proxy, client)


@pytest.fixture
def case(shared: Case) -> Iterator[Case]:
    """With nothing in the bucket, nothing wrong, and what is known of the server."""
    yield shared
    shared.proxy.heal()
    shared.store._profile = None
    shared.store.delete_many(list(shared.store.keys()))
    shared.store.probe()


@pytest.fixture(params=["MD5s", "any"])
def etags(request: pytest.FixtureRequest, case: Case) -> str:
    """What etags are taken for; "any", as on servers that encrypt with keys of their own."""
    if request.param == "any":
        case.store._profile = replace(case.store.probe(), md5_etags=False)
    return str(request.param)


@pytest.mark.parametrize("size", [0, 1000, 3 * MIB, 11 * MIB])
def test_put(case: Case, etags: str, size: int) -> None:
    case.wrong("PUT" if size < 5 * MIB else "COMPLETE")
    info = case.store.put("k", os.urandom(size))
    assert info.etag == case.etag("k")
    assert case.store.put("k", b"later", if_match=info.etag).etag == case.etag("k")
    assert case.fired()


@pytest.mark.parametrize("limit", [1, None])
def test_parts(case: Case, limit: int | None) -> None:
    """The upload would end with a refusal; what the parts' etags are is asked for."""
    data = os.urandom(11 * MIB)
    case.wrong("PART", limit)
    assert case.store.put("k", data).etag == case.etag("k")
    assert case.fired()
    assert case.store.get("k") == data


@pytest.mark.parametrize("size", [0, 1000, 11 * MIB])
def test_copies(case: Case, etags: str, size: int) -> None:
    source = case.store.put("s", os.urandom(size))
    case.wrong("COPY" if size else "PUT")
    assert case.store.copy("s", "t", if_match=source.etag).etag == case.etag("t")
    assert case.store.update_metadata("t", {"a": "b"}).etag == case.etag("t")
    assert case.store.rename("t", "u").etag == case.etag("u")
    assert case.fired()
    with pytest.raises(NotFound):
        case.store.head("t")


VERBS: dict[str, Callable[[BucketStore, str], object]] = {
    "delete": lambda store, etag: store.delete("k", if_match=etag),
    "copy": lambda store, etag: store.copy("k", "t", if_match=etag),
    "copy any": lambda store, etag: store.copy("k", "t"),
    "rename": lambda store, etag: store.rename("k", "t", if_match=etag),
    "get nothing": lambda store, etag: store.get("k", 3, 3, if_match=etag),
}


@pytest.mark.parametrize("name", VERBS)
def test_one_wrong_answer_is_no_change_of_somebody_else(case: Case, name: str) -> None:
    etag = case.store.put("k", b"content").etag
    assert etag is not None
    if "delete" in name and not case.store.capabilities.conditional_delete:
        case.store.delete("k")
        pytest.skip("the store has no conditional_delete")
    case.wrong("HEAD", limit=1)
    VERBS[name](case.store, etag)
    assert case.fired() == 1
    case.proxy.heal()
    if name != "delete":
        case.client.put_object(Bucket=case.store.bucket, Key="k", Body=b"somebody else's")
        if name != "copy any":
            with pytest.raises(PreconditionFailed):
                VERBS[name](case.store, etag)


@pytest.mark.parametrize("size", [1000, 3 * MIB])
def test_get(case: Case, size: int) -> None:
    """Who asks for a version knows its etag; the answer's is not needed."""
    data = os.urandom(size)
    etag = case.store.put("k", data).etag
    case.wrong("GET")
    assert case.store.get("k", if_match=etag) == data
    assert case.fired()


def test_empty_objects_are_known(case: Case) -> None:
    """Markers above all, of which nothing but a HEAD tells."""
    etag = case.store.put("d/", b"").etag
    case.wrong("HEAD", limit=2)
    assert case.store.head("d/").etag == etag
    assert case.fired()
