"""The forms of URLs of the original, each read as it reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mountstore.backends.s3 import BucketStore
from mountstore.errors import BackendDoesNotExist, BadUrl, MountstoreError
from mountstore.namespaces import Store
from mountstore.namespaces.target import BucketTarget, FolderTarget
from mountstore.namespaces.urls import target_of
from tests.servers import S3Server

CONFIG = {"data": {"levels": [1]}}


def test_folders(tmp_path: Path) -> None:
    for url in (f"file://{tmp_path}/a%20b", f"{tmp_path}/a b"):
        target = target_of(url)
        assert isinstance(target, FolderTarget)
        assert target.path == tmp_path / "a b"


@pytest.mark.parametrize(
    "form", ["sqlite://{}/x.db", "hashdir://{}/h", "zip://{}/x.zip", "memory:", "memory:{}"]
)
def test_what_else_the_registry_holds(form: str, tmp_path: Path) -> None:
    store = Store(form.format(tmp_path), config=CONFIG)
    with pytest.raises(BackendDoesNotExist):
        store.open()
    store.create()
    with store:
        store.store("data/abcd", b"content")
    with store:
        assert [item.name for item in store.list()] == ["abcd"]
        assert store.load("data/abcd", offset=-3) == b"ent"
    store.destroy()
    with pytest.raises(BackendDoesNotExist):
        store.open()


@pytest.mark.parametrize("kind", ["s3", "b2"])
def test_buckets(kind: str, versitygw: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in versitygw.env():
        monkeypatch.delenv(name, raising=False)
    bucket = versitygw.new_bucket()
    login = f"{versitygw.access_key}:{versitygw.secret_key}"
    store = Store(f"{kind}:{login}@{versitygw.endpoint}/{bucket}/some/path", config=CONFIG)
    store.create()
    with store:
        store.store("data/abcd", b"content")
    found = versitygw.client().list_objects_v2(Bucket=bucket)["Contents"]
    assert "some/path/data/ab/abcd" in {entry["Key"] for entry in found}

    profiles = tmp_path / "credentials"
    key, secret = login.split(":")
    profiles.write_text(f"[tests]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profiles))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with Store(f"{kind}:tests@{versitygw.endpoint}/{bucket}/some/path/", config=CONFIG) as store:
        assert store.load("data/abcd") == b"content"

    for variable, value in versitygw.env().items():
        monkeypatch.setenv(variable, value)
    with Store(f"{kind}:{versitygw.endpoint}/{bucket}/some/path", config=CONFIG) as store:
        assert store.load("data/abcd") == b"content"
    if kind == "s3":
        for url in (f"s3:/{bucket}/some/path", f"s3://{bucket}/some/path"):
            with Store(url, config=CONFIG) as store:
                assert store.load("data/abcd") == b"content"


def test_at_signs_in_a_path_are_no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[profile me]\nregion = us-east-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for url, prefix in {
        "s3:http://127.0.0.1:1/b/p@th": "p@th/",
        "s3:me@http://127.0.0.1:1/b/p@/x": "p@/x/",
        "s3:/b": "",
    }.items():
        target = target_of(url)
        assert isinstance(target, BucketTarget)
        with target.reached() as store:
            assert isinstance(store, BucketStore)
            assert store.prefix == prefix
            assert repr(store) == repr(BucketStore("b", prefix=prefix))


@pytest.mark.parametrize(
    "url", ["s3:", "s3:key:secret-of-ours@", "b2:key:secret-of-ours@/bucket/path", "nope://x", "x"]
)
def test_a_bad_url_is_told_without_its_secret(url: str) -> None:
    with pytest.raises(MountstoreError) as caught:
        Store(url, config=CONFIG).create()
    assert isinstance(caught.value, BadUrl)
    assert "secret-of-ours" not in str(caught.value)
    assert "\n" not in str(caught.value)
