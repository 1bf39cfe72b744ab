"""The words of `mountstore.store`, as tests that every store is held to.

A backend's test file is a few lines::

    class TestDictStore(StoreConformance):
        @pytest.fixture
        def store(self, tmp_path):
            with DictStore() as store:
                yield store

The store must be empty when the fixture hands it over. A store whose data outlive the object derives
from `PersistentStoreConformance` and gives a `reopen` fixture too. What is left out is left out by
`store.capabilities`, never by name. Hooks to override, each for a reason that the override states:

- `odd_keys`, `key_sets`: the keys tried. `can_hold(store, key)` says which of them the store holds; a
  key that it cannot hold must be refused with InvalidKey, and nothing else. By default the limits of
  the capabilities decide.
- `key_characters`: the alphabet of the model test's keys.
- `peak_put_bytes`: the most that Python may allocate while a 64 MiB file is put; None if a store has
  to hold it.
- `examples`: how many sequences the model test tries; None lets capabilities.local decide.

Rules that the contract leaves to the suite:

- Metadata keys are lower case ASCII (letters, digits, `-`), values printable ASCII without blanks at
  their ends: what every store can carry as it is. A store without metadata drops it: the put is done,
  and `head` tells {}. `update_metadata` there is Unsupported.
- Metadata beyond `max_metadata_bytes` is refused with Unsupported, and nothing is changed.
- An entry of a listing (a key or a group) is left out if its name sorts at or before `after`; so
  `after="d/x"` leaves out the group `d/`, though `d/y` lies behind.
- A condition on an object that is not there: put with if_match is PreconditionFailed; get, copy and
  delete with if_match are NotFound (delete with missing_ok is done).
- The empty key and keys with lone surrogates are InvalidKey for every store.
"""

from __future__ import annotations

from tests.stores.conformance.concurrency import Concurrency
from tests.stores.conformance.conditions import Conditions
from tests.stores.conformance.keys import Keys
from tests.stores.conformance.listing import Listings
from tests.stores.conformance.metadata import MetadataAndCopies
from tests.stores.conformance.objects import Objects
from tests.stores.conformance.persistence import Persistence
from tests.stores.conformance.suite import KEY_SETS, MIB, ODD_KEYS, in_threads, key_order, listed_entries

__all__ = [
    "KEY_SETS",
    "MIB",
    "ODD_KEYS",
    "PersistentStoreConformance",
    "StoreConformance",
    "in_threads",
    "key_order",
    "listed_entries",
]


class StoreConformance(Objects, Conditions, MetadataAndCopies, Listings, Keys, Concurrency):
    """Subclass, and override `store`. See the package's docstring."""


class PersistentStoreConformance(StoreConformance, Persistence):
    """For stores whose data outlive the object: `reopen()` gives a second store over the same data."""
