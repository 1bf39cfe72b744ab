"""Configuration files: stores by name, variables, errors that name the line, one's own classes, mounts."""

from __future__ import annotations

import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mountstore import open_config, open_store, registry
from mountstore.backends.memory import DictStore
from mountstore.backends.sqlite import SqliteStore
from mountstore.config import Config, load, mount_defaults, parse, register
from mountstore.config.lines import key_lines
from mountstore.config.types import names
from mountstore.errors import AccessDenied, BadUrl, QuotaExceeded, StoreError, UsageError
from mountstore.store import ObjectStore
from mountstore.stores import (
    CachingStore,
    FanoutStore,
    GzipStore,
    LoggingStore,
    PrefixStore,
    ReadOnlyStore,
    RoutingStore,
    ValidatingStore,
)

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Makes a text the configuration of this process."""
    path = tmp_path / "config.toml"
    monkeypatch.setenv("MOUNTSTORE_CONFIG", str(path))
    monkeypatch.setenv("HERE", str(tmp_path))

    def write(text: str) -> Path:
        path.write_text(textwrap.dedent(text))
        return path

    return write


def wrong(text: str, name: str = "x") -> str:
    with pytest.raises(UsageError) as caught:
        parse(textwrap.dedent(text), "FILE").open(name).close()
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("FILE")
    return message


def test_a_store_by_its_url(write: Write, tmp_path: Path) -> None:
    write(
        """
        [stores.files]
        url = "file://${HERE}/files"
        durable = false

        [stores]
        plain = "sqlite://${HERE}/x.sqlite"
    """.replace("[stores]\n        plain", "[stores.other]\n        url")
    )
    with open_config("files") as store:
        store.put("k", b"x")
    assert (tmp_path / "files" / "k").read_bytes() == b"x"
    with open_store("config:other") as store:
        assert isinstance(store, SqliteStore)
    elsewhere = tmp_path / "elsewhere.toml"
    elsewhere.write_text('[stores.m]\nurl = "memory:"\n')
    with open_store(f"config:m?file={elsewhere}") as store:
        assert isinstance(store, DictStore)


def test_wrappers_are_nested(write: Write) -> None:
    write("""
        [stores.base]
        url = "sqlite://${HERE}/base.sqlite"

        [stores.all]
        type = "logging"
        level = "debug"
        inner = { type = "caching", main = "both", cache = "memory:", capacity_bytes = "1 MiB", ttl_s = 5 }

        [stores.both]
        type = "fanout"
        children = ["base", { type = "gzip", inner = "memory:", level = 1 }]

        [stores.routed]
        type = "routing"
        default = "base"
        routes = [
            { pattern = "logs/", store = { type = "prefix", inner = "memory:", prefix = "l/" } },
            { pattern = ".*[.]png", store = "memory:" },
        ]

        [stores.rest]
        type = "read-only"
        [stores.rest.inner]
        type = "validating"
        pattern = "[a-z]+"
        inner = { type = "url-encoded", inner = { type = "hash-prefix", inner = "memory:", width = 1 } }
    """)
    with open_config("all") as store:
        assert isinstance(store, LoggingStore)
        caching = store.inner
        assert isinstance(caching, CachingStore)
        fanout = caching.inner
        assert isinstance(fanout, FanoutStore)
        assert isinstance(fanout.children[0], SqliteStore)
        assert isinstance(fanout.children[1], GzipStore)
        store.put("k", b"data")
        assert bytes(fanout.children[1].get("k")) == b"data"
    with open_config("base") as store:
        assert bytes(store.get("k")) == b"data"
    with open_config("routed") as store:
        assert isinstance(store, RoutingStore)
        assert isinstance(store.store_of("logs/x"), PrefixStore)
        assert isinstance(store.store_of("k"), SqliteStore)
    with open_config("rest") as store:
        assert isinstance(store, ReadOnlyStore)
        assert isinstance(store.inner, ValidatingStore)


def test_quota_and_permissions(write: Write) -> None:
    write(
        """
        [stores.x]
        type = "permissions"
        permissions = { "" = "lr", data = "lrw" }
        [stores.x.inner]
        type = "quota"
        limit_bytes = "1 KiB"
        inner = "memory:"
        """
    )
    with open_config("x") as store:
        store.put("data/a", bytes(1024))
        with pytest.raises(QuotaExceeded):
            store.put("data/b", b"x")
        with pytest.raises(AccessDenied):
            store.put("other", b"")
    letters = '[stores.x]\ntype = "permissions"\npermissions = {a = "x"}\ninner = "memory:"'
    assert "l, r, w, W and D" in wrong(letters)
    assert "0 or more" in wrong('[stores.x]\ntype = "quota"\nlimit_bytes = -1\ninner = "memory:"')


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SET", "value")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("SIZE", "2 KiB")
    monkeypatch.setenv("TRICK", "${SET}")
    monkeypatch.delenv("UNSET", raising=False)
    config = parse('[stores.x]\nurl = "memory:"', "FILE")

    def expanded(text: str) -> Any:
        return config._expanded((), text)

    assert expanded("a${SET}b") == "avalueb"
    assert expanded("${UNSET:-text with :- and $}") == "text with :- and $"
    assert expanded("${EMPTY:-default}|${EMPTY}|${SET:-default}") == "default||value"
    assert expanded("${UNSET:-}") == ""
    assert expanded("$${SET} $SET $5 {SET}") == "${SET} $SET $5 {SET}"
    assert expanded("${TRICK}") == "${SET}"
    text = '[stores.x]\ntype = "caching"\nmain = "memory:"\ncache = "memory:"\ncapacity_bytes = "${SIZE}"'
    with parse(text, "FILE").open("x") as store:
        assert isinstance(store, CachingStore)
        assert store.stats.capacity_bytes == 2048
    assert wrong('[stores.x]\n\nurl = "memory:${UNSET}"') == (
        "FILE:3: the variable UNSET is not set; ${UNSET:-text} has a default"
    )
    assert "FILE:2: after ${ stands" in wrong('[stores.x]\nurl = "memory:${not a name}"')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[stores.x]\nurl = \n", "FILE: Invalid value (at line 2"),
        ('x = 1\n[stores.x]\nurl = "memory:"', "FILE:1: unknown key 'x'"),
        ("[stores]\nx = 1", "FILE:2: a table is wanted"),
        ("[stores.x]\n# nothing\n", "FILE:1: a store has either a url or a type"),
        ('[stores.x]\nurl = "memory:"\ntype = "gzip"', "FILE:1: a store has either"),
        ('[stores.x]\nurl = "memory:"\n\ndurable = true', "FILE:4: unknown key 'durable'; known are url"),
        ('[stores.x]\nurl = "file:/tmp/x"\ndurable = "maybe"', "FILE:3: true or false is wanted"),
        ('[stores.x]\nurl = "nope:x"', "FILE:2: unknown scheme 'nope'"),
        ('[stores.x]\nurl = "config:x"', "FILE:2: in this file a store is named as it is"),
        ("[stores.x]\nurl = 5", "FILE:2: a string is wanted, not 5"),
        ('[stores.x]\ntype = "zipper"\n', "FILE:2: unknown type 'zipper'; known are base64"),
        ('[stores.x]\ntype = "gzip"\ninner="memory:"\nlevle = 1', "FILE:4: unknown key 'levle'"),
        ('[stores.x]\ntype = "gzip"', "FILE:1: inner is missing"),
        ('[stores.x]\ntype = "gzip"\ninner = "memory:"\nlevel = "hi"', "FILE:4: a whole number is wanted"),
        ('[stores.x]\ntype = "gzip"\ninner = "memory:"\nlevel = 99', "FILE:1: a level of 0 to 9"),
        ('[stores.x]\ntype = "gzip"\ninner = "other"', "FILE:3: there is no store 'other' in this file"),
        ('[stores.x]\ntype = "gzip"\ninner = 5', "FILE:3: a store is wanted"),
        ('[stores.x]\ntype = "gzip"\ninner = "x"', "FILE:3: the store 'x' is made of itself"),
        ('[stores.x]\ntype = "fanout"\nchildren = "memory:"', "FILE:3: a list of stores is wanted"),
        ('[stores.x]\ntype = "fanout"\nchildren = [\n "memory:",\n {url="memory:", typo=1}]',
         "FILE:5: unknown key 'typo'"),
        ('[stores.x]\ntype = "routing"\nroutes = [\n {pattern = "a"}]', "FILE:4: a route is wanted"),
        ('[stores.x]\ntype = "routing"\nroutes = [\n {pattern = "(", store = "memory:"}]',
         "FILE:3: '(' is no regular expression"),
        ('[stores.x]\nurl="memory:"\n[mounts.m]\nstore="x"\nttl = 5', "FILE:5: unknown key 'ttl'; known are"),
        ('[stores.x]\nurl="memory:"\n[mounts.m]\nttl_s = 5', "FILE:3: the mount 'm' names no store"),
        ('[stores.x]\nurl="memory:"\n[mounts.x]\nstore = "sqlite:"', "FILE:3: 'x' is the name of another"),
        ('[stores.y]\nurl="memory:"', "FILE: there is no store or mount 'x'; it has y"),
    ],
)  # fmt: skip
def test_errors_name_the_line(text: str, message: str) -> None:
    assert message in wrong(text)


def test_a_store_that_cannot_be_made_leaves_none_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[object] = []
    monkeypatch.setattr(DictStore, "close", lambda self: closed.append(self))
    text = f"""
        [stores.x]
        type = "fanout"
        children = ["memory:", "memory:", {{ url = "file://{tmp_path}/none", create = false }}]
    """
    with pytest.raises(StoreError, match="does not exist"):
        parse(textwrap.dedent(text), "FILE").open("x")
    assert len(closed) == 2


def test_where_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOUNTSTORE_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mountstore.toml").write_text('[stores.planted]\nurl = "memory:"')
    with pytest.raises(UsageError, match="there is no configuration"):
        load()
    (tmp_path / "xdg" / "mountstore").mkdir(parents=True)
    (tmp_path / "xdg" / "mountstore" / "config.toml").write_text('[stores.mine]\nurl = "memory:"')
    assert list(load().tables["stores"]) == ["mine"]
    monkeypatch.setenv("MOUNTSTORE_CONFIG", "mountstore.toml")
    assert list(load().tables["stores"]) == ["planted"]
    (tmp_path / "bad.toml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="cannot be read"):
        load(tmp_path / "bad.toml")


class OwnStore(DictStore):
    def __init__(self, others: Iterable[ObjectStore] = (), size: int = 1, *, flag: bool = False) -> None:
        super().__init__()
        self.given = ([*others], size, flag)


def test_ones_own_class_by_registry() -> None:
    register("own", OwnStore)
    assert "own" in names()
    text = '[stores.x]\ntype = "own"\nothers = ["memory:"]\nsize = "1 kB"\nflag = "true"'
    store = parse(text, "FILE").open("x")
    assert isinstance(store, OwnStore)
    assert isinstance(store.given[0][0], DictStore)
    assert store.given[1:] == (1000, True)
    assert "FILE:3: unknown key 'colour'; known are type, others, size, flag" in wrong(
        '[stores.x]\ntype = "own"\ncolour = 1'
    )


def test_ones_own_class_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "own_stores-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-stores\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[mountstore.stores]\npackaged = own_stores_module:PackagedStore\n"
    )
    (tmp_path / "own_stores_module.py").write_text(
        "from mountstore.stores import WrapperStore\n\n\nclass PackagedStore(WrapperStore):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert "packaged" in names()
        text = '[stores.x]\ntype = "packaged"\ninner = "memory:"'
        with parse(text, "FILE").open("x") as store:
            assert type(store).__name__ == "PackagedStore"
    finally:
        sys.modules.pop("own_stores_module", None)


def test_mounts(write: Write, tmp_path: Path) -> None:
    write("""
        [stores.base]
        url = "sqlite://${HERE}/base.sqlite"

        [mounts.photos]
        store = "base"
        read_only = "${READ_ONLY:-true}"
        ttl_s = 60
        umask = 0o027
        uid = "nobody"
        fsync = "local"
        state_dir = "state"
    """)
    assert mount_defaults("photos") == {
        "read_only": True,
        "ttl_s": 60,
        "umask": 0o027,
        "uid": "nobody",
        "fsync": "local",
        "state_dir": str(tmp_path / "state"),
    }
    assert mount_defaults("base") == {}
    with open_store("config:photos") as store:
        assert isinstance(store, SqliteStore)


def test_one_store_is_one_store_under_whatever_name(write: Write, tmp_path: Path) -> None:
    write("""
        [stores.base]
        url = "sqlite://${HERE}/base.sqlite"
        durable = false
        [stores.cached]
        type = "caching"
        main = "base"
        cache = "memory:"
        capacity_bytes = 1000
        [stores.packed]
        type = "gzip"
        inner = "cached"
        level = 9
        [stores.packed-too]
        type = "gzip"
        inner = { url = "sqlite://${HERE}/base.sqlite" }
        [stores.prefixed]
        type = "prefix"
        inner = "base"
        prefix = "a/"
        [stores.elsewhere]
        type = "prefix"
        inner = "base"
        prefix = "b/"
        [mounts.m]
        store = "cached"
    """)
    plain = registry.canonical(f"sqlite://{tmp_path}/base.sqlite")
    for name in ("base", "cached", "m"):
        assert registry.canonical(f"config:{name}") == plain
    packed = registry.canonical("config:packed")
    assert packed.startswith("config:")
    assert registry.canonical("config:packed-too") == packed
    others = {registry.canonical(f"config:{name}") for name in ("packed", "prefixed", "elsewhere", "base")}
    assert len(others) == 4
    assert registry.local_path("config:base") == tmp_path / "base.sqlite"
    assert registry.local_path("config:packed") is None
    assert registry.split_key("config:base#a/b") == ("config:base", "a/b")
    for url in ("config:", "config://base", "config:base?x=1"):
        with pytest.raises(BadUrl):
            open_store(url)
    with pytest.raises(UsageError, match="no store or mount 'none'; it has base, cached"):
        open_store("config:none")


# -- lines ------------------------------------------------------------------------------------------------


def test_lines_of_all_that_toml_has() -> None:
    text = '''# a comment with [brackets] and "quotes
top = 1 # and = more
"quoted key" = 'x # no comment'
[a.b]
c.d = """
not = a key
[nor.a.table] \\""" ""\\"
"""
e = [ 1, # one
  [2, { x = "}", y = [
     3 ] } ],
]
[[list]]
x = \'\'\'
]]\'\'\'
[[list]]
x = 1979-05-27T07:32:00Z
[list.sub]
y = true
[ "a" . "f" ]
'''
    tomllib.loads(text)
    found = key_lines(text)
    assert found["top",] == 2
    assert found["quoted key",] == 3
    assert found["a", "b"] == 4
    assert found["a", "b", "c", "d"] == 5
    assert found["a", "b", "e"] == 9
    assert found["a", "b", "e", 1] == 10
    assert found["a", "b", "e", 1, 1, "y"] == 10
    assert found["a", "b", "e", 1, 1, "y", 0] == 11
    assert found["list", 0, "x"] == 14
    assert found["list", 1] == 16
    assert found["list", 1, "x"] == 17
    assert found["list", 1, "sub", "y"] == 19
    assert found["a", "f"] == 20


scalars = st.one_of(
    st.integers(-1000, 1000).map(str),
    st.text(alphabet="ab#[]{}=,.' ", max_size=6).map(lambda text: f'"{text}"'),
    st.text(alphabet='ab#[]{}=,." ', max_size=6).map(lambda text: f"'{text}'"),
    st.text(alphabet="ab#[]{}=\n' ", max_size=6).map(lambda text: f'"""{text}"""'),
    st.sampled_from(["true", "1.5", "[ ]", "{}", "0o17", "1979-05-27"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[\n" + ", # comment ]\n".join([*items, ""]) + "]"),
        st.lists(inner, max_size=3).map(
            lambda items: "{ " + ", ".join(f"k{n} = {item}" for n, item in enumerate(items)) + " }"
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(st.lists(values, max_size=4), st.lists(values, max_size=4))
def test_every_key_of_any_text_is_found_on_its_line(top: list[str], table: list[str]) -> None:
    text = "".join(f"t{n} = {value}\n" for n, value in enumerate(top)) + "[table]\n"
    text += "".join(f"\n x{n}.y = {value} # end\n" for n, value in enumerate(table))
    read = tomllib.loads(text)
    found = key_lines(text)

    def check(path: tuple[str | int, ...], value: Any) -> None:
        if path:
            assert path in found
            line = text.splitlines()[found[path] - 1] if isinstance(path[-1], str) else ""
            assert not isinstance(path[-1], str) or path[-1] in line
        if isinstance(value, dict):
            for key, inner in value.items():
                check((*path, key), inner)
        elif isinstance(value, list):
            for number, inner in enumerate(value):
                check((*path, number), inner)

    check((), read)


def test_a_configuration_is_a_value() -> None:
    config = parse('[stores.x]\nurl = "memory:"', "FILE")
    assert isinstance(config, Config)
    with pytest.raises(AttributeError):
        config.shown = "other"  # type: ignore[misc]
