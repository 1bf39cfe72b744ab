"""What a mount can be told: one frozen value, handed down from the command line."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal

Attrs = Literal["auto", "listed", "stored"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VfsOptions:
    """The options of a mount; times in seconds, sizes in bytes."""

    read_only: bool = False
    uid: int = field(default_factory=os.getuid)  # owner of what carries no owner in the store
    gid: int = field(default_factory=os.getgid)
    umask: int = 0o022  # taken from 0666 and 0777 for what carries no mode in the store
    ttl_s: float = 10.0  # a directory listing older than this is asked for again
    fsync: Literal["remote", "local"] = "remote"  # what fsync waits for
    fsync_timeout_s: float = 120.0  # then fsync fails, and the upload goes on
    checkpoint_s: float = 30.0  # a file that stays open and dirty is uploaded this often
    upload_delay_s: float = 1.0  # how long a closed file waits for its final name and attributes
    attrs: Attrs = "auto"  # whether listing asks for stored attributes, see listing.py
    room_timeout_s: float = 60.0  # how long a writer waits for uploads to make room in the journal
    stream_bytes: int = 32 << 20  # from this size on a new file is sent while it is being written
    given_file_mode: int | None = None  # permissions of a file that carries none; None: by umask
    given_dir_mode: int | None = None
    xattr: bool = False  # user.*, security.* and trusted.* attributes
    acl: bool = False  # POSIX ACLs, which the kernel then enforces
    dev: bool = False  # device nodes may be made
    atime: bool = False  # reading a file that was changed since it was last read, or a day ago, is recorded
    journal_size: int = 0  # most bytes of staged data; 0: what the disk has

    @property
    def file_mode(self) -> int:
        """Permissions of a file that carries none."""
        return 0o666 & ~self.umask if self.given_file_mode is None else self.given_file_mode

    @property
    def dir_mode(self) -> int:
        """Permissions of a directory that carries none."""
        return 0o777 & ~self.umask if self.given_dir_mode is None else self.given_dir_mode
