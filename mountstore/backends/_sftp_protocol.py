"""SFTP version 3 (draft-ietf-secsh-filexfer-02) on the wire, with the extensions of OpenSSH's PROTOCOL."""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass
from typing import Final

INIT: Final = 1
VERSION: Final = 2
OPEN: Final = 3
CLOSE: Final = 4
READ: Final = 5
WRITE: Final = 6
LSTAT: Final = 7
FSTAT: Final = 8
SETSTAT: Final = 9
FSETSTAT: Final = 10
OPENDIR: Final = 11
READDIR: Final = 12
REMOVE: Final = 13
MKDIR: Final = 14
RMDIR: Final = 15
REALPATH: Final = 16
STAT: Final = 17
EXTENDED: Final = 200

STATUS: Final = 101
HANDLE: Final = 102
DATA: Final = 103
NAME: Final = 104
ATTRS: Final = 105
EXTENDED_REPLY: Final = 201

OK: Final = 0
EOF: Final = 1
NO_SUCH_FILE: Final = 2
PERMISSION_DENIED: Final = 3
FAILURE: Final = 4
BAD_MESSAGE: Final = 5
NO_CONNECTION: Final = 6
CONNECTION_LOST: Final = 7
OP_UNSUPPORTED: Final = 8

FOR_READING: Final = 0x01
NEW_FILE: Final = 0x02 | 0x08 | 0x20
"""To be written, made, and not there before."""

POSIX_RENAME: Final = "posix-rename@openssh.com"
FSYNC: Final = "fsync@openssh.com"
HARDLINK: Final = "hardlink@openssh.com"
LIMITS: Final = "limits@openssh.com"
COPY_DATA: Final = "copy-data"

_HAS_SIZE = 0x01
_HAS_OWNER = 0x02
_HAS_MODE = 0x04
_HAS_TIMES = 0x08
_HAS_MORE = 0x80000000


@dataclass(frozen=True, slots=True)
class Attributes:
    """Of a file, as far as version 3 tells: times in whole seconds."""

    size: int = 0
    mode: int = 0
    atime: int = 0
    mtime: int = 0

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)


class Status(Exception):
    """An answer that is no success."""

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.text = "".join(c if c.isprintable() else "?" for c in text)[:200]


def string(data: bytes | str) -> bytes:
    raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    return struct.pack(">I", len(raw)) + raw


def times(atime: int, mtime: int) -> bytes:
    """Attributes that set the two times."""
    return struct.pack(">III", _HAS_TIMES, atime, mtime)


class Reader:
    """Reads the fields of an answer, one after the other. Raises Status where it is cut."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self._at = 0

    def number(self) -> int:
        return int.from_bytes(self._take(4))

    def long(self) -> int:
        return int.from_bytes(self._take(8))

    def string(self) -> bytes:
        return bytes(self._take(self.number()))

    def data(self) -> memoryview:
        return self._take(self.number())

    def attributes(self) -> Attributes:
        flags = self.number()
        size = self.long() if flags & _HAS_SIZE else 0
        if flags & _HAS_OWNER:
            self._take(8)
        mode = self.number() if flags & _HAS_MODE else 0
        atime, mtime = (self.number(), self.number()) if flags & _HAS_TIMES else (0, 0)
        if flags & _HAS_MORE:
            for _ in range(self.number()):
                self.string()
                self.string()
        return Attributes(size, mode, atime, mtime)

    def pairs(self) -> dict[str, bytes]:
        """The rest, as names and values."""
        found = {}
        while self._at < len(self._data):
            name = self.string().decode(errors="replace")
            found[name] = self.string()
        return found

    def _take(self, count: int) -> memoryview:
        taken = self._data[self._at : self._at + count]
        if len(taken) != count:
            raise Status(BAD_MESSAGE, "an answer that is cut")
        self._at += count
        return taken
