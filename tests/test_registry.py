"""URLs: what each spelling means, what is refused and how, and that no secret is ever shown."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountstore import BadUrl, open_store, registry
from mountstore.backends.filesystem import FilesystemStore
from mountstore.backends.memory import DictStore
from mountstore.backends.sqlite import SqliteStore
from mountstore.registry import Url, canonical, local_path, parse, redact, split_key

ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")


@pytest.fixture(autouse=True)
def no_configured_endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ENDPOINT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-such-config"))


@pytest.fixture
def s3_options(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Opens an s3: URL and gives what the backend's constructor was called with."""

    def options(url: str, **more: Any) -> dict[str, Any]:
        seen: dict[str, Any] = {}

        def construct(**given: Any) -> DictStore:
            seen.update(given)
            return DictStore()

        monkeypatch.setattr("mountstore.backends.s3.BucketStore", construct)
        open_store(url, **more).close()
        return seen

    return options


# -- opening ------------------------------------------------------------------------------------------


def test_memory_is_a_new_store_each_time_and_a_named_one_is_shared() -> None:
    first, second = open_store("memory:"), open_store("memory:")
    assert isinstance(first, DictStore)
    first.put("a", b"1")
    assert not second.exists("a")
    open_store("memory:test-registry").put("a", b"2")
    assert bytes(open_store("memory:test-registry").get("a")) == b"2"
    assert not open_store("memory:test-registry-other").exists("a")


def test_file_spellings_mean_the_same_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "a b#c?d%20e"
    root.mkdir()
    monkeypatch.chdir(tmp_path)
    quoted = "a%20b%23c%3Fd%2520e"
    with open_store(f"file://{tmp_path}/{quoted}") as store:
        assert isinstance(store, FilesystemStore)
        store.put("k", b"here")
    spellings = [
        f"file:{tmp_path}/{quoted}",
        f"file://localhost{tmp_path}/{quoted}",
        f"FILE:///{tmp_path}/{quoted}",
        f"file:{quoted}",
        str(root),
        "./a b#c?d%20e",
    ]
    for spelling in spellings:
        assert local_path(spelling) == root, spelling
        assert canonical(spelling) == f"file://{tmp_path}/{quoted}"
        with open_store(spelling) as store:
            assert bytes(store.get("k")) == b"here"


def test_sqlite_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_store(f"sqlite://{tmp_path}/x.db") as store:
        assert isinstance(store, SqliteStore)
        store.put("k", b"v")
    assert (tmp_path / "x.db").is_file()
    with open_store("sqlite:x.db") as store:
        assert bytes(store.get("k")) == b"v"
    assert (
        canonical("sqlite:x.db") == canonical(f"sqlite:///{tmp_path}/./x.db") == f"sqlite://{tmp_path}/x.db"
    )


def test_sqlite_alone_is_the_embedded_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    expected = tmp_path / "data/mountstore/default.sqlite"
    for url in ("sqlite:", "sqlite://", "SQLITE:"):
        assert local_path(url) == expected
        with open_store(url) as store:
            store.put("k", b"v")
    assert expected.is_file()
    assert stat.S_IMODE(expected.parent.stat().st_mode) == 0o700
    assert canonical("sqlite:") == f"sqlite://{expected}"


def test_s3_url_becomes_the_options_of_the_bucket(s3_options: Any) -> None:
    assert s3_options("s3://bucket") == {
        "bucket": "bucket",
        "prefix": "",
        "endpoint": None,
        "region": None,
        "profile": None,
        "anonymous": False,
    }
    url = "s3://Buck_et/some/prefix?endpoint=http://127.0.0.1:9000/&region=eu-1&profile=my%20p&anonymous=true"
    assert s3_options(url) == {
        "bucket": "Buck_et",
        "prefix": "some/prefix/",
        "endpoint": "http://127.0.0.1:9000/",
        "region": "eu-1",
        "profile": "my p",
        "anonymous": True,
    }
    assert s3_options("s3://b", region="x")["region"] == "x"
    assert s3_options("s3://b?region=y", region="x")["region"] == "x"


@pytest.mark.parametrize(
    ("url", "prefix"),
    [
        ("s3://b/", ""),
        ("s3://b/a b", "a b/"),
        ("s3://b/a%20b", "a%20b/"),
        ("s3://b/100%", "100%/"),
        ("s3://b/a#b", "a#b/"),
        ("s3://b/a+b/", "a+b/"),
        ("s3://b//a//b/", "/a//b/"),
        ("s3://b/../x", "../x/"),
        ("s3://b?prefix=what%3F/a%20b", "what?/a b/"),
        ("s3://b/ä", "ä/"),
    ],
)
def test_an_s3_path_is_the_prefix_as_it_stands(s3_options: Any, url: str, prefix: str) -> None:
    assert s3_options(url)["prefix"] == prefix


def test_a_registered_scheme_gets_the_url_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    seen: list[Url] = []

    def factory(url: Url, *, depth: int = 0) -> DictStore:
        url.allow("mode")
        seen.append(url)
        assert depth == 3
        return DictStore()

    registry.register("Mine", factory)
    assert "mine" in registry.schemes()
    open_store("mine://us%40er:pa%2Fss@[::1]:8022/a%20b?mode=x+y", depth=3)
    url = seen[0]
    assert (url.scheme, url.host, url.port) == ("mine", "::1", 8022)
    assert (url.username, url.password) == ("us@er", "pa/ss")
    assert (url.path, url.raw_path, url.query) == ("/a b", "/a%20b", {"mode": "x+y"})
    assert "pa" not in repr(url).replace("path", "")
    with pytest.raises(BadUrl, match=r"unknown parameter 'depth' in a mine: URL; it knows mode"):
        open_store("mine://host?depth=1", depth=3)
    with pytest.raises(ValueError, match="not a URL scheme"):
        registry.register("no scheme", factory)


def test_an_entry_point_brings_a_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "third_party_store.py").write_text(
        "from mountstore.backends.memory import DictStore\ndef open_it(url):\n    return DictStore()\n"
    )
    info = tmp_path / "third_party-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[mountstore.backends]\nthird = third_party_store:open_it\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._entry_points.cache_clear()
    try:
        assert "third" in registry.schemes()
        assert isinstance(open_store("third:x"), DictStore)
    finally:
        registry._entry_points.cache_clear()


# -- refusing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nope://x", "unknown scheme 'nope'; known are .*file.*memory.*s3.*sqlite"),
        ("x.db", "not a store URL"),
        ("", "not a store URL"),
        ("file:", "path is missing"),
        ("file://", "path is missing"),
        ("file://server/share", "names a host"),
        ("file://rel", "names a host"),
        ("sqlite://x.db", "names a host"),
        ("file:///a#b", "%23"),
        ("file:///a?b=c", "unknown parameter 'b'"),
        ("file:///a?", "%3F"),
        ("file:///a\0b", "NUL"),
        ("file:///a%00b", "NUL"),
        ("sqlite:\ud800", "surrogates"),
        ("memory:?x=1", "unknown parameter 'x' in a memory: URL; it has none"),
        ("memory://x", "memory:NAME"),
        ("s3:bucket", "s3://BUCKET"),
        ("s3://", "bucket is missing"),
        ("s3:///key", "bucket is missing"),
        ("s3://b?regoin=x", "unknown parameter 'regoin' in a s3: URL; it knows anonymous, endpoint, prefix"),
        ("s3://b?region=x&region=y", "'region' is given twice"),
        ("s3://b?region", "name=value"),
        ("s3://b/what?", "prefix="),
        ("s3://b/a?prefix=b", "not both"),
        ("s3://b?anonymous=maybe", "true or false"),
        ("s3://b?endpoint=127.0.0.1:9000", "http://HOST:PORT"),
        ("s3://b?endpoint=ftp://x", "http://HOST:PORT"),
        ("s3://b:9000/x", "endpoint"),
    ],
)
def test_bad_urls_say_what_to_do(url: str, message: str) -> None:
    with pytest.raises(BadUrl, match=message) as caught:
        open_store(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIAKEY:HUNTER2@bucket/x",
        "s3://AKIAKEY:HUNTER/HUNTER2@bucket/x",
        "s3://AKIAKEY:HUNTER2/more@bucket",
        "s3:AKIAKEY:HUNTER2@https://host/bucket",
        "s3://b?endpoint=http://user:HUNTER2@host",
        "s3://b?secret_access_key=HUNTER2",
        "s3://b?X-Amz-Signature=HUNTER2",
        "sftp://user:HUNTER2@host/x",
        "sftp://user:HUNTER2@host:port/x",
        "sftp://user:HUNTER2@host/x?",
        "sftp://user:HUNTER/HUNTER2@host/x#y",
    ],
)
def test_secrets_are_refused_without_being_repeated(url: str) -> None:
    for read in (open_store, canonical):
        with pytest.raises(BadUrl) as caught:
            read(url)
        assert "HUNTER" not in str(caught.value)
    assert "HUNTER" not in redact(url)


def test_redact_keeps_what_is_no_secret() -> None:
    for url in (
        "s3://bucket/a@b?region=x",
        "file:///home/me@here",
        "sqlite:",
        "sftp://me@host:22/x",
        "nonsense",
    ):
        assert redact(url) == url
    assert redact("sftp://me:pw@host/x") == "sftp://me:***@host/x"
    assert redact("http://h/?token=abc&x=1") == "http://h/?token=***&x=1"


@given(
    st.text(), st.sampled_from(["", "s3:", "s3://", "file:", "file://", "sqlite:", "memory:", "x://u:p@h/"])
)
def test_any_text_is_read_or_refused(text: str, start: str) -> None:
    url = start + text
    redact(url)
    try:
        parse(url)
        split_key(url)
        canonical(url)
    except BadUrl:
        pass


# -- naming one object --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "store", "key"),
    [
        ("s3://b", "s3://b", ""),
        ("s3://b/", "s3://b", ""),
        ("s3://b/a/b", "s3://b", "a/b"),
        ("s3://b/a#b%20", "s3://b", "a#b%20"),
        ("s3://b//a", "s3://b", "/a"),
        ("s3://b/d/", "s3://b", "d/"),
        ("s3://b/a?region=x", "s3://b?region=x", "a"),
        ("s3://b?prefix=a%3F%23&region=x", "s3://b?region=x", "a?#"),
        ("sqlite:///x.db", "sqlite:///x.db", ""),
        ("sqlite:///x.db#a/b", "sqlite:///x.db", "a/b"),
        ("sqlite:#a%20?#b", "sqlite:", "a%20?#b"),
        ("file:rel#/abs", "file:rel", "/abs"),
        ("memory:n#k", "memory:n", "k"),
        ("/plain#path", "/plain#path", ""),
    ],
)
def test_split_key(argument: str, store: str, key: str) -> None:
    assert split_key(argument) == (store, key)


@given(st.text(st.characters(exclude_characters="?\0", exclude_categories=["Cs"]), min_size=1))
def test_any_s3_key_without_a_question_mark_is_written_as_it_is(key: str) -> None:
    assert split_key(f"s3://bucket/{key}") == ("s3://bucket", key)


# -- the identity of a store --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://b", "s3://b/"),
        ("s3://b/", "s3://b/"),
        ("S3://b/p?region=r&profile=x&anonymous=yes", "s3://b/p/"),
        ("s3://b?prefix=p/", "s3://b/p/"),
        ("s3://b?prefix=p%3F", "s3://b?prefix=p%3F/"),
        ("s3://b/p/?endpoint=http://h:1/", "s3://b/p/?endpoint=http%3A//h%3A1"),
        ("memory:", "memory:"),
        ("memory:n%41", "memory:nA"),
    ],
)
def test_canonical(url: str, expected: str) -> None:
    assert canonical(url) == expected


def test_canonical_resolves_symlinks(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert canonical(f"file:{tmp_path}/link/x") == canonical(f"file:{tmp_path}/real/x")


def test_canonical_knows_the_endpoint_that_boto3_will_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    config.write_text(
        "[default]\nregion = x\n[profile one]\nendpoint_url = http://one:1\n"
        "[profile two]\nservices = mine\nendpoint_url = http://no:1\n"
        "[services mine]\ns3 =\n  endpoint_url = http://two:2\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    assert canonical("s3://b") == "s3://b/"
    assert canonical("s3://b?profile=one") == canonical("s3://b?endpoint=http://one:1")
    assert canonical("s3://b?profile=two") == canonical("s3://b?endpoint=http://two:2")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://general:1")
    assert canonical("s3://b?profile=one") == canonical("s3://b?endpoint=http://general:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3:1")
    assert canonical("s3://b") == canonical("s3://b?endpoint=http://s3:1")
    assert canonical("s3://b?endpoint=http://h:1") == canonical("s3://b?endpoint=http://h:1/")
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert canonical("s3://b") == "s3://b/"


def test_canonical_of_another_scheme_hides_its_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {"gopher": lambda url: DictStore()})
    assert canonical("gopher://me:pw@Host:22/a%20b?x=1&b=2") == "gopher://me@host:22/a%20b?b=2&x=1"
    assert os.fsencode(canonical("gopher://h/\udcff")).startswith(b"gopher://h/")
