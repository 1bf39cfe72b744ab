"""The namespace: names, directories, links, and which key each name wants.

Everything here is one transaction on the index, without a request to the store and without waiting: what
applications see changes at once, and `due` times tell the reconciler what to make true. Errors are OSError
with the errno that POSIX names. Callers have made sure that the directories concerned are listed.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time

from mountstore.vfs.clock import file_time_ns
from mountstore.vfs.content import Content
from mountstore.vfs.extras import XATTRS
from mountstore.vfs.failpoints import failpoint
from mountstore.vfs.index import Index
from mountstore.vfs.markers import directory_of, is_row, marker_for
from mountstore.vfs.names import NAME_MAX, name_of_segment, segment_of_name
from mountstore.vfs.options import VfsOptions
from mountstore.vfs.places import (
    Places,
    deep_id,
    deep_suffix,
    is_deep_prefix,
    prefix_below,
    segment_of,
    without_deep,
)
from mountstore.vfs.rows import ROOT_INO, Dentry, Known, Node
from mountstore.vfs.staging import Layer
from mountstore.vfs.xattrs import inherited

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4
_RENAME_FLAGS = RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT
_LINK_MAX = 65_000
_LAZY_NS = 30_000_000_000
"""How long the time of a directory may lag behind in the store, while nothing else of it changes."""


_RECENT_NS = 60_000_000_000
"""A file whose time lies so near to its upload is told about well enough by the object's own time."""


def fail(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class Tree:
    """Names and nodes; for the thread of the event loop alone."""

    def __init__(
        self,
        index: Index,
        content: Content,
        options: VfsOptions,
        *,
        max_key_bytes: int | None = None,
        max_segment_bytes: int | None = None,
    ) -> None:
        self._index = index
        self._content = content
        self._delay_ns = int(options.upload_delay_s * 1e9)
        self._checkpoint_ns = int(options.checkpoint_s * 1e9)
        self._options = options
        self.places = Places(max_key_bytes, max_segment_bytes)
        self._prefixes: dict[int, str] = {ROOT_INO: ""}  # where each directory belongs in the store
        # How often a file was replaced whose content the store had under another key; once before we began.
        self.moves_ended = 1
        # Before we began: the store may hold more than the index knows of, and other things.
        self.has_lost_power = False

    # -- keys --------------------------------------------------------------------------------------

    def prefix_of(self, ino: int) -> str:
        """The prefix that the names of this directory want."""
        prefix = self._prefixes.get(ino)
        if prefix is None:
            links = self._index.links(ino)
            if not links:
                raise fail(errno.ENOENT)
            (link,) = links
            prefix = prefix_below("" if deep_id(link) else self.prefix_of(link.parent), link)
            if len(self._prefixes) > 50_000:
                self._prefixes = {ROOT_INO: ""}
            self._prefixes[ino] = prefix
        return prefix

    def key_of(self, dentry: Dentry) -> str:
        """The key that a name of anything but a directory wants."""
        return self.prefix_of(dentry.parent) + segment_of(dentry)

    def marker_of(self, ino: int) -> str:
        """The key that the marker of a directory wants: its prefix, but for those with too long a path."""
        links = self._index.links(ino)
        if not links:
            raise fail(errno.ENOENT)
        return self.key_of(links[0]) + "/"

    def find(self, key: str) -> tuple[Dentry, Node] | None:
        """The name that wants this key, if any; a key that ends in a slash is a directory's."""
        parent = ROOT_INO
        is_dir = key.endswith("/")
        found = None
        if (suffix := deep_suffix(key)) is not None and (deep := self._index.dentry_of_deep(suffix)):
            node = self._index.node(deep.ino)
            if node is None or not node.is_dir:
                return None
            if is_deep_prefix(key):
                return deep, node
            parent, key = node.ino, key.split("/", 2)[2]
        segments = key[:-1].split("/") if is_dir else key.split("/")
        for depth, segment in enumerate(segments):
            want_dir = is_dir or depth < len(segments) - 1
            found = self.find_segment(parent, segment, want_dir=want_dir)
            if found is None:
                return None
            parent = found[1].ino
        return found

    def find_segment(self, parent: int, segment: str, *, want_dir: bool) -> tuple[Dentry, Node] | None:
        """The entry of a directory that wants this segment."""
        if "%(" in segment and (explicit := self._index.dentry_of_segment(parent, segment)):
            node = self._index.node(explicit.ino)
            if node is not None and node.is_dir == want_dir:
                return explicit, node
        for clash in (False,) if want_dir else (False, True):
            dentry = self._index.dentry(parent, name_of_segment(segment, clash=clash))
            if dentry is not None and segment_of(dentry) == segment:
                node = self._index.node(dentry.ino)
                if node is not None and node.is_dir == want_dir:
                    return dentry, node
        return None

    def path_of(self, ino: int) -> str:
        """A path for people, from the root of the mount."""
        names = []
        while ino != ROOT_INO:
            links = self._index.links(ino)
            if not links:
                return "(deleted)"
            names.append(os.fsdecode(links[0].name))
            ino = links[0].parent
        return "/" + "/".join(reversed(names))

    def _check_name(
        self, parent: Node, name: bytes, *, is_dir: bool = False, old: Dentry | None = None
    ) -> str | None:
        """The segment to remember with a new name, if the name does not tell it."""
        if len(name) > NAME_MAX:
            raise fail(errno.ENAMETOOLONG)
        if parent.nlink == 0:
            raise fail(errno.ENOENT)
        return self.places.segment(self.prefix_of(parent.ino), name, is_dir=is_dir, old=old)

    def refit(self, dentry: Dentry, *, is_dir: bool) -> None:
        """The directory of this name has moved: the name may need another place in it, or its own again.

        In the caller's transaction.
        """
        segment = self.places.segment(self.prefix_of(dentry.parent), dentry.name, is_dir=is_dir, old=dentry)
        if segment != dentry.segment:
            self._index.set_segment(dentry.id, segment)
            if is_dir:
                self._prefixes = {ROOT_INO: ""}

    # -- due times ---------------------------------------------------------------------------------

    def want(self, node: Node, delay_ns: int | None = None) -> None:
        """The store is to follow this node, within the delay; the caller saves it."""
        now = time.time_ns()
        due = now + (self._delay_ns if delay_ns is None else delay_ns)
        if node.due is None or due < node.due:
            node.due = due
        if node.since is None:
            node.since = now

    def changed_content(self, node: Node) -> None:
        """The bytes of the node are new ones; the caller saves it."""
        node.cid = self._index.new_id()
        node.mtime_ns, node.ctime_ns = file_time_ns(), time.time_ns()
        if node.nlink:
            self.want(node, self._checkpoint_ns if node.writers else None)

    def changed_attrs(self, node: Node, now_ns: int) -> None:
        """The attributes of the node are new ones; the caller saves it."""
        node.mid = self._index.new_id()
        node.ctime_ns = now_ns
        if node.is_dir:
            node.marker = 1
        if node.nlink and node.ino != ROOT_INO:
            self.want(node)

    def is_lazy(self, node: Node) -> bool:
        """Whether a directory that the store has is due for its times alone, which can wait."""
        if node.due is None or node.subtree or node.due <= time.time_ns() + self._delay_ns:
            return False
        marker = self._index.object(self.marker_of(node.ino))
        return marker is not None and marker.etag is not None

    def _changed_entries(self, parent: Node, now_ns: int) -> None:
        parent.mtime_ns, parent.ctime_ns = file_time_ns(), now_ns
        if parent.marker and parent.ino != ROOT_INO:
            # The times travel with the marker; a directory in use would else cost a request a change.
            parent.mid = self._index.new_id()
            self.want(parent, _LAZY_NS)
        self._index.save(parent)

    # -- making ------------------------------------------------------------------------------------

    def new_node(self, mode: int, uid: int, gid: int, now_ns: int) -> Node:
        new_id, mtime_ns = self._index.new_id, min(now_ns, file_time_ns())
        return Node(
            (
                new_id(), mode, 1, uid, gid, 0, 0, mtime_ns, mtime_ns, now_ns, None, new_id(), 0, new_id(), 1,
                None, None, None, 0, 0, 0, None, 0,
            )
        )  # fmt: skip

    def create(
        self,
        parent: Node,
        name: bytes,
        mode: int,
        uid: int,
        gid: int,
        *,
        target: bytes | None = None,
        rdev: int = 0,
        writers: int = 0,
    ) -> Node:
        """A new file, directory, symlink or special file. Raises EEXIST, ENAMETOOLONG, ENOENT."""
        segment = self._check_name(parent, name, is_dir=stat.S_ISDIR(mode))
        if self._index.dentry(parent.ino, name) is not None:
            raise fail(errno.EEXIST)
        now = time.time_ns()
        if parent.mode & stat.S_ISGID:
            gid = parent.gid
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
        mode, xattrs = self._inherited(parent, mode)
        node = self.new_node(mode, uid, gid, now)
        node.rdev = rdev
        node.writers = writers
        if node.is_dir:
            node.nlink = 2
            node.marker = 1
            dentry = Dentry(0, parent.ino, name, node.ino, segment)
            node.prefix = prefix_below(self.prefix_of(parent.ino), dentry)
            node.listed_ns = now
        elif target is not None:
            node.target = target
            node.size = len(target)
        self.want(node, self._checkpoint_ns if writers else None)
        with self._index.transaction():
            self._index.insert_node(node)
            if xattrs:
                self._index.set_extras(node.ino, XATTRS, xattrs)
            self._index.insert_dentry(parent.ino, name, node.ino, segment)
            if node.is_dir:
                parent.nlink += 1
                self._reclaim(self.marker_of(node.ino))
            self._changed_entries(parent, now)
        failpoint("create-recorded")
        return node

    def _inherited(self, parent: Node, mode: int) -> tuple[int, dict[str, bytes]]:
        if not self._options.acl:
            return mode, {}
        return inherited(self._index.extras(parent.ino, XATTRS), mode)

    def _reclaim(self, prefix: str) -> None:
        """A directory is made where one was removed: what the store still has of that is no news."""
        known = self._index.object(prefix)
        if known is not None and known.stale:
            self._index.set_stale(prefix, 0)

    def link(self, node: Node, parent: Node, name: bytes) -> None:
        """A further name. Raises EEXIST, EPERM, EMLINK, ENAMETOOLONG."""
        if node.is_dir:
            raise fail(errno.EPERM)
        if node.nlink == 0:
            raise fail(errno.ENOENT)
        if node.nlink >= _LINK_MAX:
            raise fail(errno.EMLINK)
        segment = self._check_name(parent, name)
        if self._index.dentry(parent.ino, name) is not None:
            raise fail(errno.EEXIST)
        now = time.time_ns()
        with self._index.transaction():
            self._index.insert_dentry(parent.ino, name, node.ino, segment)
            if node.link is None:
                node.link = secrets.token_hex(8)
            node.names = node.shown_nlink + 1
            node.nlink += 1
            node.ctime_ns = now
            node.mid = self._index.new_id()  # each name says how many there are
            self.want(node)
            self._index.save(node)
            self._changed_entries(parent, now)

    # -- removing ----------------------------------------------------------------------------------

    def unlink(self, parent: Node, name: bytes) -> Node:
        """Remove a name. Raises ENOENT, EISDIR."""
        dentry, node = self._entry(parent, name)
        if node.is_dir:
            raise fail(errno.EISDIR)
        now = time.time_ns()
        with self._index.transaction():
            gone = self._remove_name(dentry, node, now)
            self.keep_implicit(parent)
            self._changed_entries(parent, now)
        failpoint("unlink-recorded")
        self._content.remove(gone)
        return node

    def rmdir(self, parent: Node, name: bytes) -> Node:
        """Remove an empty directory. Raises ENOENT, ENOTDIR, ENOTEMPTY."""
        dentry, node = self._entry(parent, name)
        if not node.is_dir:
            raise fail(errno.ENOTDIR)
        if self._index.has_children(node.ino):
            raise fail(errno.ENOTEMPTY)
        now = time.time_ns()
        with self._index.transaction():
            self._remove_dir(dentry, node, parent, now)
            self._changed_entries(parent, now)
        failpoint("rmdir-recorded")
        return node

    def _entry(self, parent: Node, name: bytes) -> tuple[Dentry, Node]:
        if len(name) > NAME_MAX:
            raise fail(errno.ENAMETOOLONG)
        dentry = self._index.dentry(parent.ino, name)
        node = self._index.node(dentry.ino) if dentry else None
        if dentry is None or node is None:
            raise fail(errno.ENOENT)
        return dentry, node

    def _remove_name(self, dentry: Dentry, node: Node, now: int) -> list[Layer]:
        self._unwant_key(self.key_of(dentry))
        self._index.delete_dentry(dentry.id)
        node.names = max(node.names - 1, 0)
        node.nlink -= 1
        node.ctime_ns = now
        gone: list[Layer] = []
        if node.nlink == 0:
            self.unwant_content(node)
            node.due = node.since = None
            if not node.opens:
                gone = self.forget_content(node)
        else:
            node.mid = self._index.new_id()
            self.want(node)
        self._index.save(node)
        return gone

    def forget_content(self, node: Node) -> list[Layer]:
        """Nobody can read this node any more; the caller saves it and removes the result."""
        node.base_cid = 0
        return self._content.drop(node)

    def _remove_dir(self, dentry: Dentry, node: Node, parent: Node, now: int) -> None:
        self._unwant_markers(self.key_of(dentry) + "/")
        for vacated in self.vacated(node.ino):
            self.unwant_prefix(vacated)
        self._index.delete_dentry(dentry.id)
        node.nlink = 0
        node.due = node.since = None
        node.ctime_ns = now
        self._index.save(node)
        parent.nlink -= 1
        self._prefixes.pop(node.ino, None)
        self.keep_implicit(parent)

    def _unwant_markers(self, key: str) -> None:
        self._unwant_key(key)
        if is_row(self._index.object(marker_for(key))):
            self._unwant_key(marker_for(key))

    def _unwant_key(self, key: str) -> None:
        if self._index.object(key) is not None:
            self._index.set_stale(key, time.time_ns() + self._delay_ns)

    def unwant_content(self, node: Node) -> None:
        """Objects of this content that no name wants are stale; in the caller's transaction.

        Where a directory has moved and has not been visited yet, they are elsewhere than their names.
        """
        for known in self._index.objects_with(node.base_cid) if node.base_cid else ():
            if not known.stale and self.find(known.key) is None:
                self._index.set_stale(known.key, time.time_ns() + self._delay_ns)

    def unwant_prefix(self, prefix: str) -> None:
        """A directory has left this prefix: what the store has there is stale, unless a name wants it now.

        In the caller's transaction.
        """
        now = time.time_ns() + self._delay_ns
        marker = self._index.object(prefix)
        for known in [*self._index.objects_in(prefix), *([marker] if marker else [])]:
            wanted = directory_of(known.key) if is_row(known) else known.key
            if not known.stale and self.find(wanted) is None:
                self._index.set_stale(known.key, now)

    def keep_implicit(self, parent: Node) -> None:
        """A directory without a marker would vanish with its last member; in the caller's transaction."""
        if parent.ino != ROOT_INO and not parent.marker and not self._index.has_children(parent.ino):
            parent.marker = 1
            self.want(parent)
            self._index.save(parent)

    def tell_attributes(self, node: Node) -> None:
        """The store has this node with attributes of its own: the markers above say that there are some.

        A mount that knows of the store alone asks for attributes only where a marker carries any itself.
        For what looks the same without, no marker is made: a folder of others' stays as it is.
        """
        for link in self._index.links(node.ino):
            parent = self._index.node(link.parent)
            if parent is None or parent.ino == ROOT_INO or (parent.marker and parent.known):
                continue
            if self._looks_plain(node):
                continue
            parent.marker = parent.known = 1
            parent.mid = self._index.new_id()
            self.want(parent)
            with self._index.transaction():
                self._index.save(parent)

    def _looks_plain(self, node: Node) -> bool:
        options = self._options
        if (node.uid, node.gid) != (options.uid, options.gid) or node.shown_nlink > 1 + node.is_dir:
            return False
        if self._index.extras(node.ino, XATTRS):
            return False
        if node.is_dir:
            return stat.S_IMODE(node.mode) == options.dir_mode
        plain = stat.S_IFREG | options.file_mode
        return node.mode == plain and abs(time.time_ns() - node.mtime_ns) < _RECENT_NS

    # -- renaming ----------------------------------------------------------------------------------

    def rename(
        self,
        parent: Node,
        name: bytes,
        new_parent: Node,
        new_name: bytes,
        flags: int,
        owner: tuple[int, int] = (0, 0),
    ) -> tuple[Node, Node | None]:
        """Move a name, replacing what is there; returns what moved and what was replaced.

        With RENAME_WHITEOUT a device 0:0 of this owner takes the old name. Raises what rename(2) names.
        """
        if flags & ~_RENAME_FLAGS or (flags & RENAME_EXCHANGE and flags != RENAME_EXCHANGE):
            raise fail(errno.EINVAL)
        dentry, node = self._entry(parent, name)
        segment = self._check_name(new_parent, new_name, is_dir=node.is_dir, old=dentry)
        target_dentry = self._index.dentry(new_parent.ino, new_name)
        target = self._index.node(target_dentry.ino) if target_dentry else None
        if flags & RENAME_EXCHANGE:
            if target_dentry is None or target is None:
                raise fail(errno.ENOENT)
            self._exchange(dentry, node, parent, target_dentry, target, new_parent)
            return node, None
        if node.is_dir and self._is_within(new_parent.ino, node.ino):
            raise fail(errno.EINVAL)
        if target is not None:
            if flags & RENAME_NOREPLACE:
                raise fail(errno.EEXIST)
            if target is node:
                return node, None
            if target.is_dir and not node.is_dir:
                raise fail(errno.EISDIR)
            if node.is_dir and not target.is_dir:
                raise fail(errno.ENOTDIR)
            if target.is_dir and self._index.has_children(target.ino):
                raise fail(errno.ENOTEMPTY)
        now = time.time_ns()
        gone: list[Layer] = []
        with self._index.transaction():
            if target is not None and target_dentry is not None:
                if target.is_dir:
                    self._remove_dir(target_dentry, target, new_parent, now)
                else:
                    objects = self._index.objects_with(target.base_cid) if target.base_cid else []
                    key = self.key_of(target_dentry)
                    gone = self._remove_name(target_dentry, target, now)
                    self.moves_ended += not target.nlink and any(known.key != key for known in objects)
            self._leave_key(dentry, node)
            self._index.delete_dentry(dentry.id)
            # A name that is replaced keeps its place, and one that stays in its directory, too: whoever
            # reads that sees it once.
            place = dentry.id if new_parent is parent else None
            if target_dentry is not None:
                place = target_dentry.id
            self._index.insert_dentry(new_parent.ino, new_name, node.ino, segment, place)
            if node.is_dir and parent is not new_parent:
                parent.nlink -= 1
                new_parent.nlink += 1
            self._moved(node, now)
            if flags & RENAME_WHITEOUT:
                self.create(parent, name, stat.S_IFCHR, *owner)
            self.keep_implicit(parent)
            self._changed_entries(parent, now)
            if new_parent is not parent:
                self._changed_entries(new_parent, now)
        failpoint("rename-recorded")
        self._content.remove(gone)
        return node, target

    def _exchange(
        self, dentry: Dentry, node: Node, parent: Node, other_dentry: Dentry, other: Node, other_parent: Node
    ) -> None:
        if node is other:
            return
        if (node.is_dir and self._is_within(other_parent.ino, node.ino)) or (
            other.is_dir and self._is_within(parent.ino, other.ino)
        ):
            raise fail(errno.EINVAL)
        now = time.time_ns()
        with self._index.transaction():
            self._leave_key(dentry, node)
            self._leave_key(other_dentry, other)
            self._index.point_dentry(dentry.id, other.ino)
            self._index.point_dentry(other_dentry.id, node.ino)
            self._prefixes = {ROOT_INO: ""}
            for name, there in ((dentry, other), (other_dentry, node)):
                if name.segment is not None or there.is_dir:
                    prefix = self.prefix_of(name.parent)
                    old = without_deep(name)
                    segment = self.places.segment(prefix, name.name, is_dir=there.is_dir, old=old)
                    self._index.set_segment(name.id, segment)
            if node.is_dir != other.is_dir and parent is not other_parent:
                step = 1 if node.is_dir else -1
                parent.nlink -= step
                other_parent.nlink += step
            self._moved(node, now)
            self._moved(other, now)
            for folder in {parent.ino: parent, other_parent.ino: other_parent}.values():
                self._changed_entries(folder, now)

    def vacated(self, ino: int) -> set[str]:
        """Prefixes below which the store may still have something of this directory: it or one above moved.

        Several, where it has moved again before all of it was visited: what was uploaded in between is there.
        """
        if ino == ROOT_INO:
            return set()
        prefixes = self._index.vacated(ino)
        for link in self._index.links(ino):
            if deep_id(link) is None:
                prefixes |= {prefix_below(prefix, link) for prefix in self.vacated(link.parent)}
        return prefixes

    def _leave_key(self, dentry: Dentry, node: Node) -> None:
        if node.is_dir:
            prefix = self.prefix_of(node.ino)
            self._unwant_markers(self.key_of(dentry) + "/")
            self._index.add_vacated(node.ino, {prefix} | self.vacated(node.ino))
        else:
            self._unwant_key(self.key_of(dentry))

    def _moved(self, node: Node, now: int) -> None:
        node.ctime_ns = now
        if node.is_dir:
            node.subtree = 1
            node.marker |= any(deep_id(link) is not None for link in self._index.links(node.ino))
            self._prefixes = {ROOT_INO: ""}
        else:
            self.unwant_content(node)
        self.want(node, self._checkpoint_ns if node.writers and not node.is_clean else None)
        self._index.save(node)

    def is_held(self, key: str, ino: int | None = None) -> bool:
        """Whether what the store has under this key may belong to a directory that has moved away.

        As long as that one has not been visited, nobody else may write there or take over what is there;
        but for `ino` (a directory) if it is in there itself. Of several, the one that was listed nearest to
        the key has it: it may have left the others.
        """
        owners = [
            node for moved in self._index.moving(key) if (node := self._index.node(moved)) and node.nlink
        ]
        if not owners:
            return False
        owner = max(owners, key=lambda node: len(node.prefix or ""))
        return self.prefix_of(owner.ino) != owner.prefix and (
            ino is None or not self._is_within(ino, owner.ino)
        )

    def _is_within(self, ino: int, ancestor: int) -> bool:
        while ino != ROOT_INO:
            if ino == ancestor:
                return True
            links = self._index.links(ino)
            if not links:
                return False
            ino = links[0].parent
        return ancestor == ROOT_INO

    # -- what the store tells ----------------------------------------------------------------------

    def adopt(
        self,
        parent: Node,
        segment: str,
        known: Known,
        *,
        is_dir: bool,
        place: int | None = None,
        name: bytes | None = None,
        is_deep: bool = False,
    ) -> Node:
        """A name for what was found in the store; in the caller's transaction.

        A directory takes the plain name, a file of the same name steps aside. `place` is the position in the
        directory of a name that this one replaces; `name` the name, where the segment does not tell it.
        """
        options = self._options
        if name is None or self._index.dentry(parent.ino, name) is not None:
            name = name_of_segment(segment)
        there = self._index.dentry(parent.ino, name)
        if there is not None and is_dir:
            file_name = name_of_segment(segment, clash=True)
            self._index.delete_dentry(there.id)
            self._index.insert_dentry(parent.ino, file_name, there.ino, segment_of(there))
        elif there is not None:
            name = name_of_segment(segment, clash=True)
        explicit = None if segment_of_name(name) == segment and not is_deep else segment
        mode = stat.S_IFDIR | options.dir_mode if is_dir else stat.S_IFREG | options.file_mode
        node = self.new_node(mode, options.uid, options.gid, known.mtime_ns or time.time_ns())
        node.known = 0
        node.mid = known.mid
        if is_dir:
            node.nlink = 2
            node.prefix = known.key
            if is_deep:
                node.prefix = prefix_below("", Dentry(0, parent.ino, name, node.ino, segment))
            parent.nlink += 1
            self._index.save(parent)
        else:
            node.size = known.size
            node.cid = node.base_cid = known.cid
        self._index.insert_node(node)
        self._index.insert_dentry(parent.ino, name, node.ino, explicit, place)
        return node

    def forget_attrs(self, node: Node) -> None:
        """Make it a plain file: what was said of an object is not said of the one that replaced it."""
        node.mode = stat.S_IFREG | self._options.file_mode
        node.uid, node.gid, node.rdev = self._options.uid, self._options.gid, 0

    def disown(self, dentry: Dentry, node: Node) -> None:
        """The store has lost what this name stood for; in the caller's transaction."""
        self._index.delete_dentry(dentry.id)
        node.nlink = 0 if node.is_dir else node.nlink - 1
        node.names = max(node.names - 1, 0)
        if node.nlink == 0:
            node.due = node.since = None
        if node.is_dir:
            self._prefixes.pop(node.ino, None)
            parent = self._index.node(dentry.parent)
            if parent is not None:
                parent.nlink -= 1
                self._index.save(parent)
        self._index.save(node)
        if node.nlink == 0 and not node.opens:
            self._index.drop_node(node)
