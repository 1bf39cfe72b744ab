"""The forms of URLs of the original, each read as it reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mountstore.backends.s3 import BucketStore
from mountstore.errors import BackendDoesNotExist, BadUrl, MountstoreError
from mountstore.namespaces import Store
from mountstore.namespaces.target import FolderTarget
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


def test_at_signs_in_a_path_are_no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[BucketStore] = []

    class Watched(BucketStore):
        def __init__(self, bucket: str, **options: object) -> None:
            opened.append(self)
            self.told = (bucket, options["prefix"], options["endpoint"], options["profile"])

    monkeypatch.setattr("mountstore.backends.s3.BucketStore", Watched)
    for url, told in {
        "s3:http://h:1/b/p@th": ("b", "p@th/", "http://h:1", None),
        "s3:me@http://h:1/b/p@/x": ("b", "p@/x/", "http://h:1", "me"),
        "s3:/b": ("b", "", None, None),
    }.items():
        target = target_of(url)
        assert target._opener() is opened[-1]  # type: ignore[attr-defined]
        assert opened[-1].told == told


@pytest.mark.parametrize(
    "url", ["s3:", "s3:key:secret-of-ours@", "b2:key:secret-of-ours@/bucket/path", "nope://x", "x"]
)
def test_a_bad_url_is_told_without_its_secret(url: str) -> None:
    with pytest.raises(MountstoreError) as caught:
        Store(url, config=CONFIG).create()
    assert isinstance(caught.value, BadUrl)
    assert "secret-of-ours" not in str(caught.value)
    assert "\n" not in str(caught.value)
