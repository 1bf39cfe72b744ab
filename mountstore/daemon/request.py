"""What a mount is asked to be, and the checks that need neither the store nor FUSE running."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mountstore.daemon.mounttab import FSTYPE, mount_at, unmount
from mountstore.errors import MountError, UsageError
from mountstore.store import ObjectStore
from mountstore.vfs.options import Attrs

FUSE_DEVICE = "/dev/fuse"
MIN_CACHE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class MountRequest:
    """One `mountstore mount`. `mountpoint` is absolute (see `mounttab.resolve`); None means the default.

    The meanings and defaults of ttl_s, fsync, checkpoint_s, upload_delay_s, attrs, uid, gid,
    umask, file_mode, dir_mode, xattr, acl, dev and atime are `VfsOptions`'.
    What `cache_dir` and `cache_size` (in bytes) are by default, see `localcache`.
    """

    url: str
    mountpoint: str
    read_only: bool = False
    allow_other: bool = False
    noexec: bool = False
    uid: int | None = None
    gid: int | None = None
    umask: int | None = None
    file_mode: int | None = None
    dir_mode: int | None = None
    xattr: bool = False
    acl: bool = False
    dev: bool = False
    atime: bool = False
    ttl_s: float | None = None
    checkpoint_s: float | None = None
    upload_delay_s: float | None = None
    fsync: Literal["remote", "local"] | None = None
    attrs: Attrs | None = None
    state_dir: Path | None = None
    cache: bool = True
    cache_dir: Path | None = None
    cache_size: int | None = None
    log_file: Path | None = None
    log_level: str = "INFO"

    def __post_init__(self) -> None:
        for name in ("ttl_s", "checkpoint_s", "upload_delay_s"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 10**9:
                raise UsageError(f"{name.removesuffix('_s')} must be a number of seconds, 0 or more")
        for name in ("uid", "gid"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 2**32 - 1:
                raise UsageError(f"{name} must be a number between 0 and {2**32 - 2}")
        if self.cache_size is not None and self.cache_size < MIN_CACHE_BYTES:
            least = f"{MIN_CACHE_BYTES >> 20}M"
            raise UsageError(f"cache-size must be at least {least}; no-cache does without a cache")
        for name in ("umask", "file_mode", "dir_mode"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 0o777:
                raise UsageError(f"{name} must be octal, between 000 and 777")
        if self.dev and os.geteuid() != 0:
            raise UsageError("device nodes (--dev) are for mounts of root")


def check_mountpoint(mountpoint: str) -> None:
    """Raise MountError unless an empty directory of the caller's is there and nothing is mounted on it.

    What a daemon that was killed left mounted there is taken away first.
    """
    entry = mount_at(mountpoint)
    if entry and entry.fstype == FSTYPE and is_dead(mountpoint):
        unmount(mountpoint, lazy=True)
        entry = mount_at(mountpoint)
    if entry:
        raise MountError(f"{mountpoint} is in use: {entry.source} ({entry.fstype}) is mounted there")
    try:
        found = os.stat(mountpoint)
        if not stat.S_ISDIR(found.st_mode):
            raise MountError(f"{mountpoint} is not a directory")
        if os.listdir(mountpoint):
            raise MountError(f"{mountpoint} is not empty; mount on an empty directory")
    except FileNotFoundError:
        raise MountError(f"{mountpoint} does not exist; make it first (mkdir -p)") from None
    except OSError as error:
        raise MountError(f"cannot mount on {mountpoint}: {error.strerror}") from None
    if os.geteuid() != 0 and not os.access(mountpoint, os.W_OK):
        raise MountError(f"cannot mount on {mountpoint}: you may not write to it")


def is_dead(mountpoint: str) -> bool:
    """Whether a FUSE mount has lost its daemon ("transport endpoint is not connected")."""
    try:
        # Not stat: the kernel may remember the answer of a daemon that is gone.
        os.statvfs(mountpoint)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def check_fuse(*, allow_other: bool) -> None:
    """Raise MountError if this machine or this user cannot mount with FUSE; the message says what to do."""
    if not os.path.exists(FUSE_DEVICE):
        raise MountError(
            f"{FUSE_DEVICE} is missing: install fuse3 (apt install fuse3) and load the module (modprobe"
            " fuse); a container needs --device /dev/fuse --cap-add SYS_ADMIN"
        )
    if os.geteuid() == 0:
        return
    if not os.access(FUSE_DEVICE, os.R_OK | os.W_OK):
        raise MountError(f"you may not open {FUSE_DEVICE}; ask for its group, or mount as root")
    if not (shutil.which("fusermount3") or shutil.which("fusermount")):
        raise MountError("fusermount3 not found: install fuse3 (apt install fuse3)")
    if allow_other and not _user_allow_other():
        raise MountError("allow_other needs the line user_allow_other in /etc/fuse.conf, or root")


def check_mountable(store: ObjectStore) -> None:
    """Raise MountError for a store that would not keep the promises of a mount; the message says why."""
    able = store.capabilities
    if not able.readable:
        raise MountError("this store cannot be read (write-only); mount what is below it")
    if able.buffered:
        raise MountError(
            "this store keeps what it acknowledges in memory for a while (buffering), and a mount"
            " promises more; mount what is below it"
        )
    if not able.listing:
        raise MountError("this store cannot be listed, so a mount would show nothing; see its options")


def check_apart(mountpoint: str, *, state_dir: Path, store_path: Path | None, tree: bool) -> None:
    """Raise MountError if the mount would hide, or hold, what it is made of.

    `store_path` is where a store of this machine's files is; `tree`: it is a directory of objects.
    """
    mount = Path(mountpoint)
    state = Path(os.path.realpath(state_dir))
    if state.is_relative_to(mount):
        raise MountError(f"the state directory {state} lies in the mount point {mount}; name another")
    if mount.is_relative_to(state):
        raise MountError(f"the mount point {mount} lies in the state directory {state}; name another")
    if store_path is None:
        return
    if store_path.is_relative_to(mount):
        raise MountError(f"the store {store_path} lies in the mount point {mount}, which would hide it")
    if tree and mount.is_relative_to(store_path):
        raise MountError(f"the mount point {mount} lies in the store {store_path}, which would hold itself")
    if tree and state.is_relative_to(store_path):
        raise MountError(f"the state directory {state} lies in the store {store_path}; name another")


def _user_allow_other() -> bool:
    try:
        lines = Path("/etc/fuse.conf").read_text().splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)
