"""Extended attributes and ACLs as part of a node, and as metadata of its object.

All of a node's stand in one metadata value, in the form of s3fs: a JSON object of names and base64 values,
URL-encoded, under the key `xattr`. Stores that limit metadata limit them: what does not fit is ENOSPC.
POSIX ACLs are the attributes `system.posix_acl_access` and `system.posix_acl_default` in the kernel's
format; an access ACL that says no more than the mode is none.
"""

from __future__ import annotations

import base64
import binascii
import errno
import json
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote

from mountstore.vfs.options import VfsOptions

METADATA_KEY = "xattr"
ACCESS = "system.posix_acl_access"
DEFAULT = "system.posix_acl_default"
OWN = "user.mountstore."
"""Names that tell the state of a file; they are not listed, and nothing is stored under them."""

_ACL_VERSION = 2
_USER_OBJ, _GROUP_OBJ, _MASK, _OTHER = 0x01, 0x04, 0x10, 0x20
_NAMED = {0x02, 0x08}


def decoded(metadata: Mapping[str, str]) -> dict[str, bytes]:
    """The attributes that an object's metadata tells; what cannot be read counts as not told."""
    text = metadata.get(METADATA_KEY)
    if not text:
        return {}
    try:
        found = json.loads(unquote(text))
        return {
            name: base64.b64decode(value)
            for name, value in found.items()
            if isinstance(name, str) and isinstance(value, str) and name
        }
    except (ValueError, AttributeError, binascii.Error):
        return {}


def encoded(xattrs: Mapping[str, bytes]) -> dict[str, str]:
    """The metadata that tells these attributes."""
    if not xattrs:
        return {}
    text = json.dumps(
        {name: base64.b64encode(value).decode() for name, value in sorted(xattrs.items())},
        separators=(",", ":"),
    )
    return {METADATA_KEY: quote(text, safe=":,=/")}


def allowed(name: str, options: VfsOptions) -> bool:
    """Whether this mount keeps attributes of this name."""
    if name in (ACCESS, DEFAULT):
        return options.acl
    return options.xattr and name.startswith(("user.", "trusted.", "security."))


@dataclass(frozen=True, slots=True)
class Acl:
    """A POSIX ACL: (tag, permissions, user or group)."""

    entries: tuple[tuple[int, int, int], ...]

    @classmethod
    def read(cls, value: bytes) -> Acl:
        """Raises EINVAL for what is none."""
        if len(value) < 4 or (len(value) - 4) % 8 or struct.unpack_from("<I", value)[0] != _ACL_VERSION:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return cls(tuple(struct.iter_unpack("<HHI", value[4:])))

    def pack(self) -> bytes:
        return struct.pack("<I", _ACL_VERSION) + b"".join(struct.pack("<HHI", *one) for one in self.entries)

    @property
    def is_extended(self) -> bool:
        """Whether it says more than a mode can."""
        return any(tag in _NAMED or tag == _MASK for tag, _, _ in self.entries)

    @property
    def _group_tag(self) -> int:
        return _MASK if any(tag == _MASK for tag, _, _ in self.entries) else _GROUP_OBJ

    def mode(self) -> int:
        """The permission bits that a file with this ACL shows."""
        shifts = {_USER_OBJ: 6, self._group_tag: 3, _OTHER: 0}
        return sum((rights & 7) << shifts[tag] for tag, rights, _ in self.entries if tag in shifts)

    def with_mode(self, mode: int) -> Acl:
        """The ACL after a chmod."""
        shifts = {_USER_OBJ: 6, self._group_tag: 3, _OTHER: 0}
        return Acl(
            tuple(
                (tag, mode >> shifts[tag] & 7 if tag in shifts else rights, who)
                for tag, rights, who in self.entries
            )
        )

    def masked(self, mode: int) -> Acl:
        """A default ACL as the access ACL of what is made with this mode."""
        return self.with_mode(self.mode() & mode)


def inherited(parent: Mapping[str, bytes], mode: int) -> tuple[int, dict[str, bytes]]:
    """(mode, attributes) of what is made in a directory that has these attributes."""
    default = parent.get(DEFAULT)
    if default is None or stat.S_ISLNK(mode):
        return mode, {}
    acl = Acl.read(default).masked(mode)
    mode = (mode & ~0o777) | acl.mode()
    xattrs = {ACCESS: acl.pack()} if acl.is_extended else {}
    if stat.S_ISDIR(mode):
        xattrs[DEFAULT] = default
    return mode, xattrs
