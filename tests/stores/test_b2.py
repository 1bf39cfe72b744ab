"""`b2:` URLs: the S3 store under another name, with B2's keys; here on versitygw and MinIO."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mountstore import open_store
from mountstore.errors import BadUrl, StoreError
from mountstore.registry import canonical
from mountstore.registry.buckets import bucket_of
from mountstore.registry.urls import parse, redact
from mountstore.store import ObjectStore
from tests.servers import S3Server
from tests.stores import test_s3


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """No keys but those that a test gives."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")


class TestB2(test_s3.TestVersitygw):
    """The whole contract, by a URL with a key in it."""

    examples = 2

    @pytest.fixture
    def reopen(self, versitygw: S3Server) -> Callable[[], ObjectStore]:
        login = f"{versitygw.access_key}:{versitygw.secret_key}"
        url = f"b2:{login}@{versitygw.endpoint}/{versitygw.new_bucket()}/some/path"
        return lambda: open_store(url)


def test_the_form_with_a_key(s3_server: S3Server) -> None:
    bucket = s3_server.new_bucket()
    login = f"{s3_server.access_key}:{s3_server.secret_key}"
    with open_store(f"b2:{login}@{s3_server.endpoint}/{bucket}/some/path") as store:
        store.put("k", b"content")
        assert list(store.keys()) == ["k"]
        assert s3_server.secret_key not in repr(store)
    found = s3_server.client().get_object(Bucket=bucket, Key="some/path/k")["Body"].read()
    assert found == b"content"


def test_keys_from_the_environment(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("B2_APPLICATION_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("B2_APPLICATION_KEY", s3_server.secret_key)
    bucket = s3_server.new_bucket()
    for url in (
        f"b2://{bucket}/path?endpoint={s3_server.endpoint}",
        f"b2:{s3_server.endpoint}/{bucket}/path",
    ):
        with open_store(url) as store:
            store.put("k", url.encode())
            assert bytes(store.get("k")) == url.encode()


def test_a_wrong_key_is_not_repeated(versitygw: S3Server) -> None:
    bucket = versitygw.new_bucket()
    url = f"b2:{versitygw.access_key}:not-the-secret@{versitygw.endpoint}/{bucket}/path"
    with open_store(url) as store, pytest.raises(StoreError) as caught:
        store.put("k", b"x")
    assert "not-the-secret" not in str(caught.value)
    assert "not-the-secret" not in redact(url)
    assert "not-the-secret" not in canonical(url)


def test_a_region_names_the_server() -> None:
    bucket = bucket_of(parse("b2://bucket/a/b?region=us-west-004"))
    assert (bucket.name, bucket.prefix) == ("bucket", "a/b/")
    assert (bucket.endpoint, bucket.region) == ("https://s3.us-west-004.backblazeb2.com", "us-west-004")


def test_an_at_sign_in_a_path_is_no_login() -> None:
    bucket = bucket_of(parse("b2:https://s3.us-west-004.backblazeb2.com/bucket/p@th"))
    assert (bucket.prefix, bucket.key, bucket.profile) == ("p@th/", None, None)


def test_one_name_for_one_store() -> None:
    names = {
        canonical("b2:k:s@https://s3.eu-central-003.backblazeb2.com/bucket/path"),
        canonical("b2:profile@https://s3.eu-central-003.backblazeb2.com/bucket/path/"),
        canonical("b2://bucket/path?region=eu-central-003"),
    }
    assert names == {"b2://bucket/path/?endpoint=https%3A//s3.eu-central-003.backblazeb2.com"}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("b2://bucket/path", "which of B2's servers"),
        ("b2:/bucket/path", "which of B2's servers"),
        ("b2:key:hidden@bucket", "a B2 bucket is written"),
        ("b2://key:hidden@bucket/path", "holds no key"),
        ("b2:///path?region=x", "the bucket is missing"),
        ("b2://bucket?endpoint=ftp://x", "the endpoint of a b2: URL"),
        ("b2://bucket?endpoint=https://u:hidden@x", "the endpoint of a b2: URL"),
        ("b2://bucket?colour=red", "unknown parameter"),
    ],
)
def test_urls_that_make_no_sense(url: str, said: str) -> None:
    with pytest.raises(BadUrl, match=said) as caught:
        open_store(url)
    assert "hidden" not in str(caught.value)
