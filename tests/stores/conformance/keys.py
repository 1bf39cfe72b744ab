"""Keys of any kind, and sequences of calls against a dictionary."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mountstore.errors import (
    InvalidKey,
    NotFound,
)
from mountstore.store import ObjectStore
from tests.stores.conformance.suite import (
    Suite,
    expected_entries,
    key_order,
    listed_entries,
)


class Keys(Suite):
    # -- odd keys ------------------------------------------------------------------------------------

    def test_odd_keys(self, store: ObjectStore) -> None:
        held = []
        for key in self.odd_keys:
            if not self.can_hold(store, key):
                with pytest.raises(InvalidKey):
                    store.put(key, b"x")
                with pytest.raises((InvalidKey, NotFound)):
                    store.get(key)
                continue
            assert not store.exists(key), key
            info = store.put(key, b"is " + key.encode(), metadata={"n": "1"})
            assert info.key == key
            held.append(key)
        for key in held:
            assert bytes(store.get(key)) == b"is " + key.encode(), key
            assert bytes(store.get(key, 3, 4)) == key.encode()[:1]
            assert store.head(key).key == key
        if store.capabilities.listing:
            assert list(store.keys()) == key_order(held)
            assert listed_entries(store, "", "/", limit=4) == expected_entries(held, "", "/", "")
            for prefix in ("/", "a/", "dir/", "x/", "../", "s" * 255, "nul\x00"):
                if self.can_hold(store, prefix):
                    assert listed_entries(store, prefix, "/") == expected_entries(held, prefix, "/", "")
        for key in held:
            store.rename(key, "renamed")
            assert not store.exists(key), key
            store.copy("renamed", key)
            assert bytes(store.get(key)) == b"is " + key.encode()
        store.delete("renamed", missing_ok=True)
        for number, key in enumerate(held):
            store.delete(key)
            assert not store.exists(key), key
            assert [other for other in held[number + 1 :] if not store.exists(other)] == []
        if store.capabilities.listing:
            assert list(store.keys()) == []

    def test_keys_that_must_not_be_confused(self, store: ObjectStore) -> None:
        for keys in self.key_sets:
            for order in (keys, keys[::-1]):
                held = [key for key in order if self.can_hold(store, key)]
                for key in held:
                    store.put(key, b"is " + key.encode())
                for key in held:
                    assert bytes(store.get(key)) == b"is " + key.encode()
                if store.capabilities.listing:
                    assert list(store.keys()) == key_order(held)
                    for key in held:
                        assert listed_entries(store, key, "/") == expected_entries(held, key, "/", "")
                for number, key in enumerate(held):
                    store.delete(key)
                    assert [other for other in held if store.exists(other)] == held[number + 1 :]

    @pytest.mark.parametrize("key", ["", "lone\ud800", "\udcff"])
    def test_what_is_no_key_at_all(self, store: ObjectStore, key: str) -> None:
        with pytest.raises(InvalidKey) as caught:
            store.put(key, b"x")
        assert isinstance(caught.value, ValueError)
        for call in (store.get, store.head, store.delete):
            with pytest.raises((InvalidKey, NotFound)):
                call(key)
        if store.capabilities.listing:
            assert list(store.keys()) == []

    # -- against a model -----------------------------------------------------------------------------

    def test_it_behaves_like_a_dictionary(self, store: ObjectStore) -> None:
        count = self.examples if self.examples is not None else (60 if store.capabilities.local else 6)
        clash = any("a" in keys and "a/b" in keys for keys in self.key_sets)
        key = st.text(alphabet=self.key_characters, min_size=1, max_size=6)
        verb = st.sampled_from(["put", "put", "put", "delete", "copy", "rename"])
        steps = st.lists(st.tuples(verb, key, key, st.binary(max_size=20)), min_size=1, max_size=12)
        views = st.lists(
            st.tuples(
                key | st.just(""), st.sampled_from(["", "/", "/", "-"]), key | st.just(""), st.integers(1, 4)
            ),
            min_size=1,
            max_size=4,
        )

        def clashes(name: str, model: dict[str, bytes]) -> bool:
            return not clash and any(
                other.startswith(name + "/") or name.startswith(other + "/")
                for other in model
                if other != name
            )

        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(steps, views)
        def check(
            sequence: list[tuple[str, str, str, bytes]], listings: list[tuple[str, str, str, int]]
        ) -> None:
            model: dict[str, bytes] = {}
            try:
                for action, one, two, data in sequence:
                    if not self.can_hold(store, one) or not self.can_hold(store, two):
                        continue
                    if clashes(one, model) or clashes(two, model) or clashes(one, {two: b""}):
                        continue
                    if action == "put":
                        store.put(one, data)
                        model[one] = data
                    elif one not in model:
                        with pytest.raises(NotFound):
                            store.delete(one) if action == "delete" else getattr(store, action)(one, two)
                    elif action == "delete":
                        store.delete(one)
                        del model[one]
                    else:
                        getattr(store, action)(one, two)
                        model[two] = model[one] if action == "copy" else model.pop(one)
                for name, data in model.items():
                    assert bytes(store.get(name)) == data
                if store.capabilities.listing:
                    assert list(store.keys()) == key_order(model)
                    for prefix, delimiter, after, limit in listings:
                        got = listed_entries(store, prefix, delimiter, after, limit)
                        assert got == expected_entries(model, prefix, delimiter, after)
            finally:
                store.delete_many(list(model))
            if store.capabilities.listing:
                assert list(store.keys()) == []

        check()
