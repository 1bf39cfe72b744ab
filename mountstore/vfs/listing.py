"""What others changed: directories are listed anew, and clean names follow the store.

A listing that began before one of our own requests ended may not know of it, and a server may answer with
an old one. So nothing that we put or delete ourselves meanwhile is believed from a listing, and whatever a
listing tells of an object that we knew otherwise is confirmed by asking for the object itself. Nodes with
changes of their own are left alone: their conditional upload finds out.

A listing tells no metadata: mode, owner, times and whether an object is a symlink cost a request each, which
brings the content, too, if that is small.
With `attrs="auto"` they are asked for where there are any to be expected: in a directory whose marker
carries attributes (s3fs writes such, and so does a mount: see `Tree.tell_attributes`), in a root that
one page lists, and on stores that answer without a network.
"""

from __future__ import annotations

import errno
import logging
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import trio

from mountstore.aio import AsyncStore
from mountstore.errors import StoreError
from mountstore.store import Data, ObjectInfo, Page
from mountstore.vfs.arrivals import adopt_plain
from mountstore.vfs.attrs import attrs_of
from mountstore.vfs.busy import BusyKeys
from mountstore.vfs.extras import take_over
from mountstore.vfs.heads import Heads, small
from mountstore.vfs.index import Index
from mountstore.vfs.links import founded, join
from mountstore.vfs.markers import SUFFIX, directory_of, is_marker, is_row, marker_for, may_be_marker, row
from mountstore.vfs.options import VfsOptions
from mountstore.vfs.places import DEEP, forwards, is_deep_prefix, may_tell_name, stored_place
from mountstore.vfs.rows import EXPIRED_NS, Dentry, Known, Node
from mountstore.vfs.tree import Tree, fail

log = logging.getLogger(__name__)

_PAGE = 1000
_AT_ONCE_S = 0.3  # how long what an earlier mount knew is held back
_BEARABLE_S = 2.0  # how long a store may be silent before an older listing has to do
_GRACE_NS = 5_000_000_000  # how long that listing then does, at least
_GRAVE_S = 60.0  # for how long an old listing is reckoned with
_MANY_GRAVES = 10_000
_SAMPLE = 16  # objects of a large root that are asked whether there are attributes
_KEEPS_NS = 1_000_000_000  # listings that count for less than this are not begun ahead of their readers


class Flight:
    """One listing under way."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.progress = trio.Event()  # replaced at each page
        self.pages = 0
        self.began = self.moved = trio.current_time()  # `moved`: when the store has last answered
        self.error: Exception | None = None
        self.asks: bool | None = None  # whether attributes are asked for; None: not decided yet
        self.is_ahead = False  # nobody waits for it yet: of a long listing the first page is enough

    async def wait(self, *, first: bool = False) -> bool:
        """Return when it is done (`first`: or has a page): True; when the store is silent for long: False."""
        while not self.done.is_set() and not (first and self.pages):
            silent_s = trio.current_time() - self.moved
            if silent_s >= _BEARABLE_S:
                return False
            with trio.move_on_after(_BEARABLE_S - silent_s):
                await self.progress.wait()
        return True

    def step(self) -> None:
        self.pages += 1
        self.moved = trio.current_time()
        self.progress.set()
        self.progress = trio.Event()

    def finish(self) -> None:
        self.done.set()
        self.progress.set()


class Listing:
    """Brings directories up to date; for the thread of the event loop alone."""

    def __init__(
        self,
        index: Index,
        tree: Tree,
        store: AsyncStore,
        options: VfsOptions,
        busy: BusyKeys,
        keep: Callable[[int, bytes], None],
    ) -> None:
        """`keep` is given small contents that came with attributes, by content id."""
        self._index = index
        self._tree = tree
        self._store = store
        self._ttl_ns = int(options.ttl_s * 1e9)
        capabilities = store.store.capabilities
        self._asks: bool | None = {"auto": capabilities.local or None, "listed": False, "stored": True}[
            options.attrs
        ]
        if not capabilities.metadata:
            self._asks = False
        self._began_ns = time.time_ns()
        self._options = options
        self._busy = busy
        self._heads = Heads(store)
        self._keep = keep
        self._flights: dict[int, Flight] = {}
        self._asking = 0  # questions about single names that are under way
        self._clock = 0
        self._touched: dict[str, int] = {}
        self._graves: dict[str, float] = {}  # prefixes by when (trio's clock) we last deleted below them
        self.nursery: trio.Nursery | None = None

    # -- freshness ---------------------------------------------------------------------------------

    def touch(self, key: str) -> None:
        """We have changed this object: a listing that began before says nothing about it.

        Nor about the prefixes above it, which may be there for its sake alone.
        """
        self._clock += 1
        if self._flights or self._asking:
            self._touched[key] = self._clock
            for prefix in _above(key):
                self._touched[prefix] = self._clock
        elif self._touched:
            self._touched.clear()

    def bury(self, key: str) -> None:
        """We have deleted this object: for a while, an old answer may still tell of the prefixes above it."""
        self.touch(key)
        now = trio.current_time()
        if len(self._graves) > _MANY_GRAVES:
            self._graves = {p: when for p, when in self._graves.items() if when > now - _GRAVE_S}
        for prefix in (key, *_above(key)):
            self._graves[prefix] = now

    def valid_s(self, node: Node) -> float:
        """For how long the listing of this directory still counts, in seconds."""
        return max(0.0, (node.listed_ns + self._ttl_ns - time.time_ns()) / 1e9)

    def is_fresh(self, node: Node) -> bool:
        return node.listed_ns + self._ttl_ns > time.time_ns()

    def expire(self, node: Node) -> None:
        """The next look at this directory asks the store."""
        node.listed_ns = min(node.listed_ns, EXPIRED_NS)
        self._index.save(node)

    def start(self, node: Node) -> Flight:
        """The listing of this directory that is under way, begun if there is none."""
        flight = self._flights.get(node.ino)
        if flight is None:
            if self.nursery is None:
                raise fail(errno.EAGAIN)
            flight = self._flights[node.ino] = Flight()
            self.nursery.start_soon(self._run, node, flight)
        flight.is_ahead = False
        return flight

    def start_ahead(self, node: Node) -> None:
        """List a directory that is likely to be asked for next; nothing where that would not keep."""
        if (
            self.nursery is not None
            and self._ttl_ns >= _KEEPS_NS
            and node.nlink
            and node.ino not in self._flights
            and not self.is_fresh(node)
        ):
            self.start(node).is_ahead = True

    async def ensure(self, node: Node) -> None:
        """Return when the directory's listing is fresh.

        While the store does not answer, an older listing has to do. Raises StoreError if there is none.
        """
        if self.is_fresh(node) or node.nlink == 0:
            return
        flight = self.start(node)
        if node.listed_ns:
            await self.catch_up(node, flight)
            return
        await flight.done.wait()
        if flight.error is not None and not node.listed_ns:
            raise flight.error

    async def catch_up(self, node: Node, flight: Flight) -> bool:
        """Wait for a listing that is to replace an older one, for as long as that is bearable.

        False if the older one has to do: the store is silent, or an earlier mount has left one and the
        store needs long to list it anew.
        """
        if not self._is_inherited(node):
            return await flight.wait()
        with trio.move_on_at(flight.began + _AT_ONCE_S):
            await flight.wait()
        return flight.done.is_set()

    def _is_inherited(self, node: Node) -> bool:
        return EXPIRED_NS < node.listed_ns < self._began_ns

    async def ensure_name(self, node: Node, segment: str) -> None:
        """Return when the store has been asked for one name: by listing, or alone if that is long."""
        if self.is_fresh(node) or node.nlink == 0:
            return
        flight = self.start(node)
        while not flight.done.is_set() and not flight.pages:
            if not node.listed_ns:
                await flight.progress.wait()
            elif self._is_inherited(node):
                if not await self.catch_up(node, flight):
                    return
            elif not await flight.wait(first=True):
                return
        if not flight.done.is_set():
            await self._probe(node, segment)
        elif flight.error is not None and not node.listed_ns:
            raise flight.error

    async def _probe(self, node: Node, segment: str) -> None:
        prefix = node.prefix or ""
        key = prefix + segment
        with self._question() as clock:
            info = (await self._heads.of([key], {key: set()})).get(key)
            below = await self._store.list(key + "/", limit=1)
            if info is None and not below.objects:
                info = (await self._heads.of([marker_for(key)])).get(marker_for(key))
            page = Page([info] if info else [], [key + "/"] if below.objects else [])
            asks = node.marker and node.known if self._asks is None else self._asks
            await self._merge(node, prefix, page, None, None, clock, bool(asks))

    @contextmanager
    def _question(self) -> Iterator[int]:
        """The store is asked about single names: what is touched from now on, by this clock, is noted."""
        self._asking += 1
        try:
            yield self._clock
        finally:
            self._asking -= 1

    async def revalidate(self, node: Node) -> None:
        """Ask for the object behind a clean file, which turned out to be another one."""
        for dentry in self._index.links(node.ino):
            key = self._tree.key_of(dentry)
            parent = self._index.node(dentry.parent)
            old = self._index.object(key)
            with self._question() as clock:
                answers = await self._heads.of([key], {key: {old.etag} if old is not None else set()})
            if parent is None or old is None or key not in answers or self._doubtful(parent, key, clock):
                continue
            if self._index.object(key) != old or not node.is_clean or node.cid != old.cid:
                continue
            info = answers[key]
            with self._index.transaction():
                if info is None:
                    self._lost_object(parent, old)
                elif info.etag != old.etag:
                    self._follow(parent, dentry, node, info)

    async def _run(self, node: Node, flight: Flight) -> None:
        started = time.time_ns()
        prefix = node.prefix if node.prefix is not None else ""
        lower = ""
        try:
            if prefix and self._tree.is_held(prefix, node.ino):
                node.listed_ns = started
                return
            clock = self._clock
            async for page in self._store.pages(prefix, delimiter="/", limit=_PAGE):
                upper = None
                if page.after is not None:
                    last = max(
                        page.objects[-1].key.encode() if page.objects else b"",
                        page.prefixes[-1].encode() if page.prefixes else b"",
                    )
                    upper = last.decode()[len(prefix) :]
                if flight.asks is None:
                    flight.asks = await self._expects_attrs(node, prefix, page)
                await self._merge(node, prefix, page, lower, upper, clock, flight.asks)
                lower = upper or ""
                flight.step()
                if flight.is_ahead and page.after is not None:
                    return
                clock = self._clock
            if node.nlink and node.prefix == prefix:
                with self._index.transaction():
                    node.listed_ns = started
                    self._index.save(node)
        except StoreError as error:
            log.warning("cannot list %r: %s", prefix, error)
            flight.error = error
            if node.listed_ns:
                # Not asked again at once by each look-up while the store is away.
                grace_ns = max(self._ttl_ns, _GRACE_NS)
                node.listed_ns = max(node.listed_ns, time.time_ns() - self._ttl_ns + grace_ns)
        except Exception as error:
            # What others put into a store must not end a mount, whatever it is.
            log.exception("cannot take over the listing of %r", prefix)
            flight.error = error
        finally:
            del self._flights[node.ino]
            flight.finish()

    # -- merging -----------------------------------------------------------------------------------

    async def _expects_attrs(self, node: Node, prefix: str, first: Page) -> bool:
        """Whether the objects of this directory are asked for their attributes."""
        if self._asks is not None:
            return self._asks
        if not prefix:
            return first.after is None or await self._sample_has_attrs(first)
        if node.marker and node.known:
            return True
        if not first.objects or first.objects[0].key != prefix:
            return False
        marker = (await self._heads.of([prefix])).get(prefix)
        if marker is not None and marker.etag == first.objects[0].etag:
            first.objects[0] = marker  # it is not asked for twice
        return marker is not None and attrs_of(marker.metadata or {}).any_known

    async def _sample_has_attrs(self, page: Page) -> bool:
        keys = [info.key for info in page.objects]
        answers = await self._heads.of(keys[:: max(1, len(keys) // _SAMPLE)][:_SAMPLE])
        return any(attrs_of(info.metadata or {}).any_known for info in answers.values() if info is not None)

    async def _merge(
        self,
        node: Node,
        prefix: str,
        page: Page,
        lower: str | None,
        upper: str | None,
        clock: int,
        asks: bool,
    ) -> None:
        """Take a page over; `lower` to `upper` is what it covers of the directory (None: only itself)."""
        known = (
            {k.key: k for k in self._index.objects_in(prefix, lower, upper)}
            if lower is not None
            else {k.key: k for key in _keys(page) if (k := self._index.object(key))}
        )
        ask: list[str] = []  # what must be asked for one by one
        told: dict[str, ObjectInfo | None] = {}
        heard: dict[str, set[str | None]] = {}  # etags that these were said to have (None: no object)
        listed: set[str] = set(page.prefixes)
        for info in page.objects:
            listed.add(info.key)
            old = known.get(info.key) or (self._index.object(prefix) if info.key == prefix else None)
            if info.metadata is not None:
                told[info.key] = info
            elif old is None or old.etag is None:
                # A marker is asked for anyway: it may be the first to tell of attributes.
                if (
                    asks
                    or (info.key == prefix and self._asks is None)
                    or may_tell_name(info.key[len(prefix) :])
                    or may_be_marker(info, prefix)
                ):
                    ask.append(info.key)
            elif old.etag != info.etag:
                ask.append(info.key)
            heard[info.key] = {info.etag} if old is None else {info.etag, old.etag}
        ask += [
            key for key in page.prefixes if key not in known and (asks or may_tell_name(key[len(prefix) :]))
        ]
        missing = [key for key in known if key not in listed and lower is not None]
        gone = [key for key in missing if not key.endswith("/")]
        heard.update((key, {None, known[key].etag}) for key in gone)
        ask += gone
        empty = [key for key in missing if key.endswith("/") and await self._is_lost(node, known[key])]
        if DEEP in page.prefixes and not prefix and not await self._holds_others(DEEP):
            page = Page(page.objects, [key for key in page.prefixes if key != DEEP])
        elif prefix == DEEP:
            page = Page(page.objects, [key for key in page.prefixes if not is_deep_prefix(key)])
        ghosts = [key for key in page.prefixes if key not in known and await self._is_ghost(key)]
        contents: dict[str, tuple[str | None, Data]] = {}
        answers = told | await self._heads.of(ask, heard, small(page.objects) if ask else (), contents)
        if node.nlink == 0 or node.prefix != prefix:
            return
        with self._index.transaction():
            page, markers = self._take_markers(node, prefix, page, answers, clock)
            for key in page.prefixes:
                if key not in ghosts and not self._doubtful(node, key, clock):
                    self._found_prefix(node, key, answers)
            asked, found = [], []
            for info in page.objects:
                answer = answers.get(info.key)
                if info.key == prefix or (info.key in answers and (answer is None or answer.metadata)):
                    asked.append(info)
                else:
                    found.append(answer or info)  # if it was asked for, it has no attributes
            if lower is not None:
                found = adopt_plain(
                    self._index, self._options, node, prefix, found, lambda key: self._is_ours(key, clock)
                )
            for info in asked + found:
                if not self._doubtful(node, info.key, clock):
                    self._found_object(node, prefix, info, answers)
            for key in missing:
                if not self._doubtful(node, key, clock):
                    if key.endswith("/"):
                        if key in empty:
                            self._lost_prefix(node, key)
                    elif key in answers and answers[key] is None:
                        self._lost_object(node, known[key])

            for key in markers:
                found_dir = self._tree.find_segment(node.ino, key[len(prefix) : -1], want_dir=True)
                if found_dir is not None and not found_dir[1].marker:
                    found_dir[1].marker = 1  # it stays where it goes, although it be empty
                    self._index.save(found_dir[1])
        for key, (etag, content) in contents.items():
            now = self._index.object(key)
            if now is not None and now.cid and now.etag == etag and now.size == len(content):
                self._keep(now.cid, bytes(content))

    def _take_markers(
        self, node: Node, prefix: str, page: Page, answers: Mapping[str, ObjectInfo | None], clock: int
    ) -> tuple[Page, list[str]]:
        """The page with `name_$folder$` as the prefix `name/`; and these prefixes. In a transaction."""
        objects, markers = [], []
        for info in page.objects:
            if not info.key.endswith(SUFFIX) or self._doubtful(node, info.key, clock):
                objects.append(info)
                continue
            old = self._index.object(info.key)
            answer = answers.get(info.key, None if old is None else info)
            if (old is not None and not is_row(old)) or (old is None and not may_be_marker(info, prefix)):
                objects.append(info)
            elif answer is not None and not is_marker(answer):
                self._index.drop_object(info.key)
                objects.append(info)
            elif answer is not None and (old is None or not old.stale):
                self._index.put_object(row(answer))
                markers.append(directory_of(info.key))
        if len(objects) == len(page.objects):
            return page, []
        prefixes = [*page.prefixes, *(key for key in markers if key not in page.prefixes)]
        return Page(objects, prefixes, page.after), markers

    def _doubtful(self, folder: Node, key: str, clock: int) -> bool:
        return self._is_ours(key, clock) or self._tree.is_held(key, folder.ino)

    def _is_ours(self, key: str, clock: int) -> bool:
        """Whether a request of our own may be newer than what a listing tells of this key."""
        return key in self._busy or self._touched.get(key, 0) > clock

    async def _holds_others(self, deep: str) -> bool:
        """Whether there is more below this prefix than the members of directories that appear elsewhere."""
        async for page in self._store.pages(deep, delimiter="/", limit=_PAGE):
            if page.objects or not all(map(is_deep_prefix, page.prefixes)):
                return True
        return False

    async def _is_ghost(self, key: str) -> bool:
        """Whether a prefix below which we have deleted a moment ago is told of by an old listing alone."""
        if self._graves.get(key, -_GRAVE_S) < trio.current_time() - _GRAVE_S:
            return False
        found = (await self._store.list(key, limit=1)).objects
        return not found or (await self._heads.of([found[0].key])).get(found[0].key, found[0]) is None

    async def _is_lost(self, parent: Node, known: Known) -> bool:
        """Whether a prefix that a listing does not tell of any more is gone: a listing may be an old one."""
        key = known.key
        if known.etag is not None and (await self._heads.of([key])).get(key, known) is not None:
            return False
        if (await self._store.list(key, limit=1)).objects:
            return False
        marker = self._index.object(marker_for(key))
        if is_row(marker) and marker is not None and not marker.stale:
            return False
        found = self._tree.find_segment(parent.ino, key[len(parent.prefix or "") : -1], want_dir=True)
        if found is None or found[1].prefix != key:
            return True
        # Its members are asked for one by one, and taken away if they are gone.
        await self.start(found[1]).done.wait()
        return not self._index.has_children(found[1].ino)

    def _found_prefix(self, parent: Node, key: str, answers: dict[str, ObjectInfo | None]) -> None:
        old = self._index.object(key)
        if old is not None:
            return  # known, or on its way out
        segment = key[len(parent.prefix or "") : -1]
        found = self._tree.find_segment(parent.ino, segment, want_dir=True)
        if found is not None:
            self._index.put_object(Known(key, None, 0, 0, 0, 0, 0))
            return
        if self._busy.below(key) or next(self._index.objects_below(key), None) is not None:
            return  # what is left there is ours, and on its way out
        if forwards(segment) and key not in answers:
            return  # it could not be asked where the members are
        stored = answers.get(key)
        name, is_deep = stored_place(segment, stored.metadata if stored else None)
        known = Known(key, None, 0, 0, 0, self._index.new_id(), 0)
        node = self._tree.adopt(parent, segment, known, is_dir=True, name=name, is_deep=is_deep)
        if info := answers.get(key):
            known = Known(key, info.etag, info.size, info.mtime_ns, 0, known.mid, 0)
            self.apply(node, info)
        self._index.save(node)
        self._index.put_object(known)

    def _found_object(
        self, parent: Node, prefix: str, info: ObjectInfo, answers: dict[str, ObjectInfo | None]
    ) -> None:
        key = info.key
        if key in answers:
            answer = answers[key]
            if answer is None:
                return  # gone already; the next listing settles it
            info = answer
        if key == prefix:
            self._found_marker(parent, info)
            return
        old = self._index.object(key)
        segment = key[len(prefix) :]
        if old is not None and old.etag == info.etag:
            return
        if old is not None and key not in answers:
            return  # not confirmed
        found = self._tree.find_segment(parent.ino, segment, want_dir=False)
        if found is not None:
            node = found[1]
            if old is None or old.stale or not node.is_clean or node.cid != old.cid:
                return  # ours is newer: its upload is conditional and will meet this one
            self._follow(parent, *found, info)
            return
        known = Known(key, info.etag, info.size, info.mtime_ns, self._index.new_id(), self._index.new_id(), 0)
        if old is not None and not old.stale and self._index.users_of_content(old.cid):
            return  # the source of a move: the reconciler deals with it
        name, _ = stored_place(segment, info.metadata)
        if join(self._index, self._tree, parent, segment, info, name, self.apply):
            return
        node = self._tree.adopt(parent, segment, known, is_dir=False, name=name)
        self.apply(node, info)
        founded(self._index, node, info)
        self._index.save(node)
        self._index.put_object(known)

    def _follow(self, parent: Node, dentry: Dentry, node: Node, info: ObjectInfo) -> None:
        """A clean file was replaced in the store."""
        known = Known(
            info.key, info.etag, info.size, info.mtime_ns, self._index.new_id(), self._index.new_id(), 0
        )
        self._index.put_object(known)
        if node.opens or node.nlink > 1:
            # Those who have it open keep the version that they opened.
            segment = info.key[len(parent.prefix or "") :]
            self._tree.disown(dentry, node)
            node = self._tree.adopt(parent, segment, known, is_dir=False, place=dentry.id, name=dentry.name)
        else:
            node.cid = node.base_cid = known.cid
            node.size = known.size
            node.mid = known.mid
            node.target = None
            node.mtime_ns = node.ctime_ns = info.mtime_ns
            if node.due is None:
                self._tree.forget_attrs(node)
        self.apply(node, info)
        self._index.save(node)

    def _found_marker(self, node: Node, info: ObjectInfo) -> None:
        old = self._index.object(info.key)
        if old is not None and (old.etag == info.etag or old.stale):
            return
        mid = self._index.new_id()
        if not node.known or (old is not None and old.mid == node.mid and node.due is None):
            node.mid = mid
            self.apply(node, info)
        node.marker = 1
        self._index.save(node)
        self._index.put_object(Known(info.key, info.etag, info.size, info.mtime_ns, 0, mid, 0))

    def apply(self, node: Node, info: ObjectInfo) -> None:
        """Take over the attributes that an object carries, if they were asked for."""
        if not node.is_dir:
            node.mtime_ns = node.ctime_ns = node.atime_ns = info.mtime_ns
        else:
            node.marker = 1
        if info.metadata is None:
            return
        attrs = attrs_of(info.metadata)
        node.known = int(attrs.any_known or not node.is_dir)
        if attrs.mode is not None:
            kind = stat.S_IFMT(node.mode)
            if not node.is_dir and stat.S_IFMT(attrs.mode) not in (0, stat.S_IFDIR):
                kind = stat.S_IFMT(attrs.mode)
            node.mode = kind | stat.S_IMODE(attrs.mode)
        if attrs.uid is not None:
            node.uid = attrs.uid
        if attrs.gid is not None:
            node.gid = attrs.gid
        if attrs.rdev is not None:
            node.rdev = attrs.rdev
        if attrs.mtime_ns is not None:
            node.atime_ns = node.mtime_ns = attrs.mtime_ns
        if attrs.atime_ns is not None:
            node.atime_ns = attrs.atime_ns
        if attrs.ctime_ns is not None:
            node.ctime_ns = attrs.ctime_ns
        take_over(self._index, node, info.metadata)

    # -- losing ------------------------------------------------------------------------------------

    def _lost_object(self, parent: Node, old: Known) -> None:
        if self._index.object(old.key) != old:
            return
        self._index.drop_object(old.key)
        found = self._tree.find_segment(parent.ino, old.key[len(parent.prefix or "") :], want_dir=False)
        if found is None or old.stale:
            return
        dentry, node = found
        if node.is_clean and node.cid == old.cid and node.due is None:
            self._tree.disown(dentry, node)

    def _lost_prefix(self, parent: Node, key: str) -> None:
        old = self._index.object(key)
        if old is None:
            return
        segment = key[len(parent.prefix or "") : -1]
        found = self._tree.find_segment(parent.ino, segment, want_dir=True)
        if old.stale or found is None:
            self._index.drop_object(key)
            return
        dentry, node = found
        if node.due is None and not self._index.has_children(node.ino):
            self._index.drop_object(key)
            self._tree.disown(dentry, node)


def _keys(page: Page) -> list[str]:
    return [info.key for info in page.objects] + page.prefixes


def _above(key: str) -> list[str]:
    """The prefixes that a key lies below."""
    return [key[: cut + 1] for cut, char in enumerate(key[:-1]) if char == "/"]
