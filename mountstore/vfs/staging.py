"""Staged content: what was written and is not in the store yet.

A node's content is a stack: the object in the store at the bottom (the base), above it layers, oldest
first. A layer is a sparse file in the state directory with the extents that were written to it; where it has
none, what lies beneath shows through, up to `below` (a truncation lowers it: beyond are zeros). Writes go
to the topmost layer. An upload takes the stack as it is and freezes it, so that writes meanwhile go to a
new layer and never tear what is being sent.

Extents are recorded in the index when the file is flushed; bytes are in the file before that. They are on the
disk once the layer is synced: the row says which are, and has a checksum of the others if they are few. A
file of which something is synced stays until an index that does not name it is on the disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zlib_ng import zlib_ng

from mountstore.store import Data

_CHECKED = 1 << 20
"""Up to so many bytes that are not synced have a checksum."""
_MIN_RESERVE = 1 << 20
_MAX_RESERVE = 32 << 20
"""Bounds of what is kept free for the index: removing a file must work on a full disk."""


class Extents:
    """A set of byte positions as sorted, disjoint, non-adjacent ranges."""

    __slots__ = ("_starts", "_stops")

    def __init__(self, packed: bytes = b"") -> None:
        numbers = array("q", packed).tolist()
        self._starts: list[int] = numbers[::2]
        self._stops: list[int] = numbers[1::2]

    def pack(self) -> bytes:
        numbers = array("q")
        for pair in zip(self._starts, self._stops, strict=True):
            numbers.extend(pair)
        return numbers.tobytes()

    def add(self, start: int, stop: int) -> None:
        starts, stops = self._starts, self._stops
        if stops and start == stops[-1]:
            stops[-1] = stop
            return
        first = bisect_left(stops, start)
        last = bisect_right(starts, stop)
        if first < last:
            start = min(start, starts[first])
            stop = max(stop, stops[last - 1])
        starts[first:last] = [start]
        stops[first:last] = [stop]

    def clip(self, size: int) -> None:
        """Forget everything from `size` on."""
        keep = bisect_left(self._starts, size)
        del self._starts[keep:], self._stops[keep:]
        if self._stops and self._stops[-1] > size:
            self._stops[-1] = size

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, bool]]:
        """[start, stop) cut into (from, to, whether it is in the set)."""
        starts, stops = self._starts, self._stops
        at = bisect_right(stops, start)
        while start < stop:
            if at == len(starts) or starts[at] >= stop:
                yield start, stop, False
                return
            if starts[at] > start:
                yield start, starts[at], False
                start = starts[at]
            end = min(stop, stops[at])
            yield start, end, True
            start = end
            at += 1

    @property
    def end(self) -> int:
        return self._stops[-1] if self._stops else 0

    def covers(self, size: int) -> bool:
        """Whether [0, size) is in the set."""
        return size == 0 or (bool(self._starts) and self._starts[0] == 0 and self._stops[0] >= size)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._stops, strict=True)

    def __bool__(self) -> bool:
        return bool(self._starts)

    def total(self) -> int:
        return sum(self._stops) - sum(self._starts)


LayerRow = tuple[int, int, int, bytes, bytes | None, int, int | None]
"""id, height, below, extents, synced extents (None: never), size when synced, checksum of the others"""


class Layer:
    """One sparse file of a stack."""

    __slots__ = (
        "_fd", "below", "check", "extents", "height", "id", "ino", "path", "rewrites", "synced",
        "synced_rewrites", "synced_size", "syncs", "truncations", "unsaved", "was_synced",
    )  # fmt: skip

    def __init__(
        self, layer_id: int, ino: int, path: Path, height: int, below: int, extents: Extents
    ) -> None:
        self.id = layer_id
        self.ino = ino
        self.height = height  # orders the layers of a node
        self.path = path
        self.below = below  # how many bytes of what lies beneath are visible
        self.extents = extents
        self.was_synced = False
        self.synced = Extents()  # what of them is on the disk
        self.synced_size = below  # the size of the file when that was so, or when the layer was made
        self.check: int | None = None  # of the other extents, as they were recorded last
        self.truncations = 0
        self.rewrites = 0  # of bytes that were written before
        self.synced_rewrites = 0  # how many of them had been made when it was last synced
        self.syncs = 0
        self.unsaved = True
        self._fd = -1

    @property
    def fd(self) -> int:
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        return self._fd

    def write(self, offset: int, data: Data) -> None:
        """Write all of `data`, or raise OSError and count nothing as written."""
        fd = self.fd
        written = os.pwrite(fd, data, offset)
        while written < len(data):
            more = os.pwrite(fd, memoryview(data)[written:], offset + written)
            if not more:
                raise OSError(errno.ENOSPC, "the state directory is full")
            written += more
        self.rewrites += offset < self.extents.end
        self.extents.add(offset, offset + len(data))
        self.unsaved = True

    @property
    def is_rewritten(self) -> bool:
        """Whether bytes that count as synced may be others by now, which are not."""
        return self.was_synced and self.rewrites != self.synced_rewrites

    def read(self, start: int, stop: int) -> bytes:
        data = os.pread(self.fd, stop - start, start)
        if len(data) < stop - start:
            raise OSError(errno.EIO, f"staged file {self.path} is shorter than its extents")
        return data

    def truncate(self, size: int) -> None:
        """Hide everything from `size` on; `trim` gives the space back once this is recorded."""
        self.extents.clip(size)
        self.synced.clip(size)
        self.synced_size = min(self.synced_size, size)
        self.below = min(self.below, size)
        self.truncations += 1
        self.unsaved = True

    def trim(self, size: int) -> None:
        if os.fstat(self.fd).st_size > size:
            os.ftruncate(self.fd, size)

    def sync(self, size: int) -> None:
        """Bring the bytes to the disk; they count as synced once that is recorded. `size`: of the file."""
        os.fsync(self.fd)
        self.mark_synced(self.extents.pack(), size, self.rewrites)

    def mark_synced(self, packed: bytes, size: int, rewrites: int) -> None:
        """These extents are on the disk, in a file of this size, as they were after so many rewrites."""
        self.was_synced = True
        self.syncs += 1
        self.synced_rewrites = rewrites
        self.synced = Extents(packed)
        self.synced_size = size
        self.unsaved = True

    def unsynced(self) -> list[tuple[int, int]]:
        """What of the extents is not known to be on the disk."""
        return [
            (start, stop)
            for begin, end in self.extents
            for start, stop, synced in self.synced.pieces(begin, end)
            if not synced
        ]

    def checksum(self) -> int | None:
        """A CRC-32 of what is not synced, positions included; None if it is too much. Raises OSError."""
        runs = self.unsynced()
        if sum(stop - start for start, stop in runs) > _CHECKED:
            return None
        check = zlib_ng.crc32(array("q", [number for run in runs for number in run]).tobytes())
        for start, stop in runs:
            check = zlib_ng.crc32(self.read(start, stop), check)
        return check

    def is_intact(self) -> bool:
        """Whether everything that was recorded is in the file, after a loss of power. Raises OSError."""
        if not self.extents:
            return True
        try:
            file_size = self.path.stat().st_size
        except FileNotFoundError:
            file_size = 0
        if file_size < self.extents.end:
            # An index that is on the disk names it, and a synced file that it names is never removed.
            self.synced.clip(file_size)
            return False
        return not self.unsynced() or (self.check is not None and self.check == self.checksum())

    def forget_unsynced(self) -> None:
        self.extents = Extents(self.synced.pack())
        self.check = None
        self.unsaved = True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@dataclass(frozen=True, slots=True)
class Piece:
    """[start, stop) of a file comes from a layer, from the base, or is a hole."""

    start: int
    stop: int
    layer: Layer | None
    base: bool


class Stack:
    """The layers of one node, oldest first."""

    __slots__ = ("frozen", "layers", "version")

    def __init__(self, layers: list[Layer]) -> None:
        self.layers = layers
        self.frozen = 0  # so many of the oldest layers are being uploaded
        self.version = 0  # grows whenever layers go or are merged

    def plan(self, start: int, stop: int, base_size: int) -> list[Piece]:
        """Where [start, stop) comes from, in order; `base_size` bytes of the base exist."""
        layers = self.layers
        if not layers:
            middle = max(start, min(stop, base_size))
            pieces = [Piece(start, middle, None, True)] if middle > start else []
            return pieces if middle == stop else [*pieces, Piece(middle, stop, None, False)]
        out: list[Piece] = []
        self._plan(len(layers) - 1, start, stop, base_size, out)
        return out

    def _plan(self, at: int, start: int, stop: int, base_size: int, out: list[Piece]) -> None:
        if at < 0:
            middle = max(start, min(stop, base_size))
            if middle > start:
                out.append(Piece(start, middle, None, True))
            if stop > middle:
                out.append(Piece(middle, stop, None, False))
            return
        layer = self.layers[at]
        for begin, end, present in layer.extents.pieces(start, stop):
            if present:
                out.append(Piece(begin, end, layer, False))
                continue
            middle = max(begin, min(end, layer.below))
            if middle > begin:
                self._plan(at - 1, begin, middle, base_size, out)
            if end > middle:
                out.append(Piece(middle, end, None, False))

    def merge(self) -> list[Layer]:
        """Make one layer of all; returns those that are not needed any more once it is recorded.

        Crash safe: the lowest file changes only where a higher layer hides it.
        """
        if len(self.layers) < 2 or self.frozen:
            return []
        lowest, *higher = self.layers
        for layer in higher:
            lowest.extents.clip(layer.below)
            lowest.below = min(lowest.below, layer.below)
            for start, stop in layer.extents:
                _copy_range(layer.fd, lowest.fd, start, stop)
                lowest.extents.add(start, stop)
        lowest.unsaved = True
        if any(layer.was_synced for layer in self.layers):
            os.fsync(lowest.fd)
            size = max(layer.synced_size for layer in self.layers)
            lowest.mark_synced(lowest.extents.pack(), size, lowest.rewrites)
        self.layers = [lowest]
        self.version += 1
        return higher


def _copy_range(source: int, target: int, start: int, stop: int) -> None:
    while start < stop:
        copied = os.pwrite(target, os.pread(source, min(stop - start, 1 << 20), start), start)
        if not copied:
            raise OSError(errno.EIO, "a staged file is shorter than its extents")
        start += copied


class Staging:
    """The folder of the layers' files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = folder
        self.doomed: list[Path] = []  # to be removed once the index has been synced
        self.unsynced: set[Layer] = set()

    def free_bytes(self) -> int:
        """What may be staged yet, so that the index has room to the end."""
        disk = os.statvfs(self._folder)
        total = disk.f_blocks * disk.f_frsize
        return disk.f_bavail * disk.f_frsize - min(max(total // 8, _MIN_RESERVE), _MAX_RESERVE)

    @property
    def device(self) -> int:
        """The number of the file system that the layers are on."""
        return os.stat(self._folder).st_dev

    def used_bytes(self) -> int:
        """What the layers take on the disk."""
        with os.scandir(self._folder) as entries:
            return sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in entries)

    def path(self, layer_id: int) -> Path:
        return self._folder / str(layer_id)

    def new_layer(self, layer_id: int, ino: int, below: int, *, lowest: bool = False) -> Layer:
        height = -layer_id if lowest else layer_id
        layer = Layer(layer_id, ino, self.path(layer_id), height, below, Extents())
        layer.fd  # noqa: B018  # the file is made now, while the error has somebody to go to
        self.unsynced.add(layer)
        return layer

    def load(self, rows: list[LayerRow], ino: int) -> Stack:
        layers = []
        for layer_id, height, below, extents, synced, synced_size, check in rows:
            layer = Layer(layer_id, ino, self.path(layer_id), height, below, Extents(extents))
            layer.was_synced, layer.synced = synced is not None, Extents(synced or b"")
            layer.synced_size, layer.check = synced_size, check
            layer.unsaved = False
            if layer.unsynced():
                self.unsynced.add(layer)
            layers.append(layer)
        return Stack(layers)

    def remove(self, layers: list[Layer]) -> None:
        """Remove files that no recorded layer names any more; what was synced goes with the next `sweep`."""
        for layer in layers:
            layer.close()
            self.unsynced.discard(layer)
            if layer.was_synced:
                self.doomed.append(layer.path)
            else:
                layer.path.unlink(missing_ok=True)

    def sweep(self, doomed: list[Path]) -> None:
        """The index has been synced since these were removed from it."""
        for path in doomed:
            path.unlink(missing_ok=True)
        self.doomed = self.doomed[len(doomed) :]

    def remove_unknown(self, known: set[int]) -> None:
        """After a crash: files that no recorded layer names were never acknowledged."""
        for path in self._folder.iterdir():
            if not (path.name.isdecimal() and int(path.name) in known):
                path.unlink(missing_ok=True)

    def sync_files(self, paths: list[Path]) -> None:
        """Bring files to the disk, in any thread; some may be gone by now."""
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    os.fdatasync(fd)
                finally:
                    os.close(fd)
        self.sync_folder()

    def sync_folder(self) -> None:
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
