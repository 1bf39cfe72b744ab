"""Every wrapper under the conformance suite, over memory and over SQLite or files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from mountstore import stores
from mountstore.backends.s3 import BucketStore
from mountstore.store import ObjectStore
from mountstore.stores import (
    Base64Store,
    BufferingStore,
    CachingStore,
    ExceptionLoggingStore,
    FanoutStore,
    GzipStore,
    HashPrefixStore,
    LoggingStore,
    NotifyingStore,
    PermissionsStore,
    PrefixStore,
    QuotaStore,
    ReadOnlyStore,
    RoutingStore,
    UrlEncodedStore,
    ValidatingStore,
    WrapperStore,
    WriteOnlyStore,
)
from tests.servers import S3Server
from tests.stores.wrappers.stacks import (
    HalvesStore,
    MakeBackend,
    OverFiles,
    OverSqlite,
    WrapperConformance,
)

SIMPLE = re.compile(r"[A-Za-z0-9_./é-]+")


class TestWrapper(WrapperConformance):
    def wrap(self, backend: MakeBackend) -> ObjectStore:
        return WrapperStore(backend("inner"))


class TestWrapperOverSqlite(OverSqlite, TestWrapper):
    pass


class TestFanout(WrapperConformance):
    def wrap(self, backend: MakeBackend) -> ObjectStore:
        return FanoutStore([backend("one"), backend("two"), backend("three")])


class TestFanoutOverSqlite(OverSqlite, TestFanout):
    def wrap(self, backend: MakeBackend) -> ObjectStore:
        return FanoutStore([backend("one"), backend("two")])


class TestFanoutOverFiles(OverFiles, TestFanout):
    def wrap(self, backend: MakeBackend) -> ObjectStore:
        return FanoutStore([backend("one"), backend("two")])


class TestCaching(WrapperConformance):
    def wrap(self, backend: MakeBackend) -> ObjectStore:
        return CachingStore(backend("main"), backend("cache"))


class TestCachingTrusting(WrapperConformance):
    def wrap(self, backend: MakeBackend) -> ObjectStore:
        return CachingStore(backend("main"), backend("cache"), ttl_s=3600)


class TestCachingTiny(WrapperConformance):
    def wrap(self, backend: MakeBackend) -> ObjectStore:
        return CachingStore(backend("main"), backend("cache"), capacity_bytes=100_000, ttl_s=3600)


class TestCachingBlocks(WrapperConformance):
    def wrap(self, backend: MakeBackend) -> ObjectStore:
        return CachingStore(
            backend("main"), backend("cache"), block_bytes=1000, capacity_bytes=1 << 20, writers=2
        )


class TestCachingBlocksOverSqlite(OverSqlite, TestCachingBlocks):
    pass


class TestCachingBlocksOverFiles(OverFiles, TestCachingBlocks):
    pass


class TestCachingOverSqlite(OverSqlite, TestCaching):
    pass


class TestCachingTrustingOverFiles(OverFiles, TestCachingTrusting):
    pass


class TestBuffering(WrapperConformance):
    def wrap(self, backend: MakeBackend) -> ObjectStore:
        return BufferingStore(backend("inner"))


class TestBufferingTiny(WrapperConformance):
    def wrap(self, backend: MakeBackend) -> ObjectStore:
        return BufferingStore(backend("inner"), capacity_bytes=100)


class TestBufferingOverSqlite(OverSqlite, TestBuffering):
    pass


class TestBufferingTinyOverFiles(OverFiles, TestBufferingTiny):
    pass


class TestQuota(WrapperConformance):
    def wrap(self, backend: MakeBackend) -> ObjectStore:
        return QuotaStore(backend("inner"), 1 << 40)


class TestQuotaOverSqlite(OverSqlite, TestQuota):
    pass


class TestQuotaOverFiles(OverFiles, TestQuota):
    pass


class TestPermissions(WrapperConformance):
    def wrap(self, backend: MakeBackend) -> ObjectStore:
        return PermissionsStore(backend("inner"), {"": "lrwWD"})


class TestPermissionsOverFiles(OverFiles, WrapperConformance):
    def wrap(self, backend: MakeBackend) -> ObjectStore:
        return PermissionsStore(backend("inner"), {"": "lrwWD", "elsewhere": ""})


class TestRouting(WrapperConformance):
    def wrap(self, backend: MakeBackend) -> ObjectStore:
        routes = [("a|round/|source", backend("one")), (".*b", backend("two"))]
        return RoutingStore(routes, backend("three"))


class TestRoutingOverSqlite(OverSqlite, TestRouting):
    pass


class TestPrefix(WrapperConformance):
    def wrap(self, backend: MakeBackend) -> ObjectStore:
        inner = backend("inner")
        return PrefixStore(inner, "a/some-é")


class TestPrefixBesideOthers(WrapperConformance):
    def wrap(self, backend: MakeBackend) -> ObjectStore:
        inner = backend("inner")
        for key in ("p", "p/", "o/x", "p0", "q"):
            inner.put(key, b"not ours")
        return PrefixStore(inner, "p/")


class TestPrefixOverSqlite(OverSqlite, TestPrefixBesideOthers):
    pass


class TestPrefixOverFiles(OverFiles, TestPrefix):
    pass


class TestHashPrefix(WrapperConformance):
    def wrap(self, backend: MakeBackend) -> ObjectStore:
        return HashPrefixStore(backend("inner"))


class TestHashPrefixOverSqlite(OverSqlite, WrapperConformance):
    def wrap(self, backend: MakeBackend) -> ObjectStore:
        inner = backend("inner")
        inner.put("00/stray", b"in the wrong folder")
        inner.put("other", b"not ours")
        return HashPrefixStore(inner, width=1)


class TestUrlEncoded(WrapperConformance):
    def wrap(self, backend: MakeBackend) -> ObjectStore:
        inner = backend("inner")
        inner.put("not%2fours", b"lower case")
        inner.put("not ours", b"a blank")
        inner.put("%FF", b"not UTF-8")
        return UrlEncodedStore(inner)


class TestUrlEncodedWithSlashes(WrapperConformance):
    def wrap(self, backend: MakeBackend) -> ObjectStore:
        return UrlEncodedStore(backend("inner"), safe="/")


class TestUrlEncodedOverFiles(OverFiles, TestUrlEncoded):
    pass


class TestUrlEncodedOverVersitygw(WrapperConformance):
    """A server that cannot hold `a` beside `a/b`, `p//q` or `../x`, holds all of them so."""

    peak_put_bytes = WrapperConformance.peak_put_bytes

    @pytest.fixture
    def store(self, versitygw: S3Server) -> Iterator[ObjectStore]:
        with BucketStore(versitygw.new_bucket(), client=versitygw.client()) as inner:
            yield UrlEncodedStore(inner)

    def can_hold(self, store: ObjectStore, key: str) -> bool:
        # The limit of its capabilities is what surely fits; the true one is that of the encoded name.
        return len(quote(key, safe="")) <= 255


class TestGzip(WrapperConformance):
    def wrap(self, backend: MakeBackend) -> ObjectStore:
        return GzipStore(backend("inner"), level=1)


class TestGzipOverSqlite(OverSqlite, TestGzip):
    pass


class TestBase64(WrapperConformance):
    def wrap(self, backend: MakeBackend) -> ObjectStore:
        return Base64Store(backend("inner"))


class TestBase64OverFiles(OverFiles, TestBase64):
    pass


class TestLogging(WrapperConformance):
    def wrap(self, backend: MakeBackend) -> ObjectStore:
        return LoggingStore(backend("inner"))


class TestLoggingOverSqlite(OverSqlite, TestLogging):
    pass


class TestExceptionLogging(WrapperConformance):
    def wrap(self, backend: MakeBackend) -> ObjectStore:
        return ExceptionLoggingStore(backend("inner"))


class TestExceptionLoggingOverSqlite(OverSqlite, TestExceptionLogging):
    pass


class TestNotifying(WrapperConformance):
    def wrap(self, backend: MakeBackend) -> ObjectStore:
        return NotifyingStore(backend("inner"), lambda event: None)


class TestNotifyingOverSqlite(OverSqlite, TestNotifying):
    pass


class TestValidating(WrapperConformance):
    def wrap(self, backend: MakeBackend) -> ObjectStore:
        return ValidatingStore(backend("inner"), SIMPLE)

    def can_hold(self, store: ObjectStore, key: str) -> bool:
        return SIMPLE.fullmatch(key) is not None and super().can_hold(store, key)

    KEYS = [key for key in WrapperConformance.KEYS if SIMPLE.fullmatch(key)]  # noqa: RUF012
    key_sets = [  # noqa: RUF012
        [key for key in keys if SIMPLE.fullmatch(key)] for keys in WrapperConformance.key_sets
    ]


class TestValidatingOverSqlite(OverSqlite, TestValidating):
    pass


class TestReadOnly(WrapperConformance):
    """Its reading half; nothing can be written through it."""

    def wrap(self, backend: MakeBackend) -> ObjectStore:
        inner = backend("inner")
        return HalvesStore(ReadOnlyStore(inner), inner, inner.capabilities)


class TestReadOnlyOverSqlite(OverSqlite, TestReadOnly):
    pass


class TestWriteOnly(WrapperConformance):
    """Its writing half; nothing can be read through it."""

    def wrap(self, backend: MakeBackend) -> ObjectStore:
        inner = backend("inner")
        return HalvesStore(inner, WriteOnlyStore(inner), inner.capabilities)


class TestWriteOnlyOverSqlite(OverSqlite, TestWriteOnly):
    pass


class TestStack(WrapperConformance):
    """Several at once, as a configuration would have them."""

    def wrap(self, backend: MakeBackend) -> ObjectStore:
        fanout = FanoutStore([backend("one"), PrefixStore(backend("two"), "copy/")])
        return LoggingStore(CachingStore(GzipStore(UrlEncodedStore(fanout)), backend("cache")))


class TestStackOverFiles(OverFiles, TestStack):
    pass


def test_every_wrapper_is_held_to_the_suite() -> None:
    wrappers = {name for name in stores.__all__ if name.endswith("Store")}
    bases = {"AroundStore", "CodecStore", "MappedStore", "TextStore", "JsonStore", "TypedStore"}
    tested = {name.removeprefix("Test") + "Store" for name in globals() if name.startswith("Test")}
    assert wrappers - bases <= tested


def test_every_wrapper_is_held_to_it_over_two_backends() -> None:
    classes = {name: value for name, value in globals().items() if name.startswith("Test")}
    over_disk = [name for name, value in classes.items() if issubclass(value, (OverSqlite, OverFiles))]
    wrappers = [name for name, value in classes.items() if WrapperConformance in value.__bases__]
    variants = ("Trusting", "Tiny", "BesideOthers", "WithSlashes", "OverVersitygw")  # of one that has both
    alone = [
        name
        for name in wrappers
        if not name.endswith(variants) and not any(other.startswith(name) for other in over_disk)
    ]
    assert len(wrappers) > 15
    assert alone == []
