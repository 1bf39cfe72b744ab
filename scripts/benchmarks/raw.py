"""The same work through the store client alone, in this process: what a mount on it can hope for.

Bodies go 8 MiB at a time, 4 ranges at once; small objects 16 at once. Ranges of S3 are asked of obstore, the
fastest client library that we know, and not of our own client, which has a faster way to them.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from mountstore.store import Data, ObjectStore
from scripts.benchmarks.inputs import Inputs
from scripts.benchmarks.place import LISTING, Place
from scripts.benchmarks.rows import MIB
from scripts.benchmarks.run import Results, Sample
from scripts.benchmarks.subjects import Broken

RANGE = 8 * MIB
RANGES_AT_ONCE = 4
SMALL_AT_ONCE = 16


class Raw:
    """The client at work in a folder of its own. `drop_caches` is called before what is to be cold."""

    def __init__(
        self,
        place: Place,
        store: ObjectStore,
        inputs: Inputs,
        folder: str,
        drop_caches: Callable[[], None],
    ) -> None:
        self.place = place
        self.store = store
        self.inputs = inputs
        self.folder = folder
        self.results = Results()
        self.drop_caches = drop_caches

    def record(self, row: str, work: Callable[[], None]) -> None:
        """Do it and keep the seconds that it took."""
        began, cpu = time.perf_counter(), _cpu_s()
        work()
        self.results.samples[row] = Sample(time.perf_counter() - began, _cpu_s() - cpu)


def big(raw: Raw) -> None:
    """One object put in parts and read in ranges."""
    key, data = f"{raw.folder}/big", raw.inputs.big_data

    def write() -> None:
        with open(raw.inputs.big, "rb") as file:
            raw.store.put(key, file)

    raw.record("write-big", write)
    raw.drop_caches()
    info = raw.store.head(key)
    get_range = _get_range(raw, key, info.etag)
    parts: list[Data] = []

    def read() -> None:
        starts = range(0, info.size, RANGE)
        with ThreadPoolExecutor(RANGES_AT_ONCE) as pool:
            parts.extend(pool.map(lambda at: get_range(at, min(at + RANGE, info.size)), starts))

    raw.record("read-big-cold", read)
    if b"".join(parts) != data:
        raise Broken("the client read other bytes than were put")


def _get_range(raw: Raw, key: str, etag: str | None) -> Callable[[int, int], Data]:
    if not raw.place.bucket:
        return lambda start, stop: raw.store.get(key, start, stop, if_match=etag)
    import obstore
    from obstore.store import S3Store

    prefix = raw.place.prefix or None
    client = S3Store(
        raw.place.bucket,
        prefix=prefix,
        endpoint=raw.place.endpoint or None,
        client_options={"allow_http": True},
    )
    options: obstore.GetOptions = {"if_match": etag}

    def get_range(start: int, stop: int) -> Data:
        return memoryview(obstore.get(client, key, options={**options, "range": (start, stop)}).bytes())

    get_range(0, 1)  # it is loaded and connected; our own client is, too
    return get_range


def small(raw: Raw) -> None:
    """Many small objects, put and read at once."""
    contents = raw.inputs.small_contents()
    keys = {f"{raw.folder}/small/{name}": data for name, data in contents.items()}
    read: list[bytes] = []

    def write_all() -> None:
        with ThreadPoolExecutor(SMALL_AT_ONCE) as pool:
            list(pool.map(lambda item: raw.store.put(item[0], item[1]), keys.items()))

    def read_all() -> None:
        with ThreadPoolExecutor(SMALL_AT_ONCE) as pool:
            read.extend(bytes(data) for data in pool.map(raw.store.get, keys))

    raw.record("cp-small-stored", write_all)
    raw.drop_caches()
    raw.record("cat-small-cold", read_all)
    if read != list(keys.values()):
        raise Broken("the client read other bytes than were put")


def listing(raw: Raw) -> None:
    """The listed folder, and the tree in one flat listing."""
    for row, folder, wanted in (
        ("ls-cold", "many", raw.inputs.many()),
        ("find-cold", "tree", raw.inputs.tree()),
    ):
        prefix = f"{LISTING}/{folder}/"
        found: dict[str, int] = {}

        def read(prefix: str = prefix, found: dict[str, int] = found) -> None:
            for page in raw.store.pages(prefix):
                found.update((info.key.removeprefix(prefix), info.size) for info in page.objects)

        raw.drop_caches()
        raw.record(row, read)
        if {key: size for key, size in found.items() if key and not key.endswith("/")} != wanted:
            raise Broken(f"the client lists other keys or sizes in {prefix}")


def huge(raw: Raw) -> None:
    """The folder of very many objects, its first page and all of it."""
    prefix, began = f"{LISTING}/huge/", time.perf_counter()
    count = 0
    for page in raw.store.pages(prefix):
        if not count:
            raw.results.samples["huge-first"] = Sample(time.perf_counter() - began)
        count += sum(info.key != prefix for info in page.objects)
    raw.results.samples["huge-all"] = Sample(time.perf_counter() - began)
    if count != raw.inputs.sizes.huge_entries:
        raise Broken(f"the client lists {count} keys in {prefix}")


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


GROUPS: Mapping[str, Callable[[Raw], None]] = {"big": big, "small": small, "listing": listing, "huge": huge}
"""The function of each group that the client alone can do."""
