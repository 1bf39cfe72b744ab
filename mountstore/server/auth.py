"""Who may come in: HTTP Basic, the password kept as a scrypt hash and compared in constant time.

A password comes from a file, the environment or systemd's credentials, never from an argument, which
everybody on the machine can read. What is kept, and what a file should hold, is

    scrypt:LOG2_N:R:P:SALT:HASH        (SALT and HASH in base64)

scrypt takes some 50 ms and 16 MiB on purpose, so what was right once is remembered, as a keyed digest, and
few guesses are worked on at a time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import threading
from collections.abc import Mapping
from pathlib import Path

from mountstore.errors import UsageError

VARIABLE = "MOUNTSTORE_SERVE_PASSWORD"
CREDENTIAL = "mountstore-password"

_PREFIX = "scrypt"
_LOG2_N, _R, _P = 14, 8, 1
_SALT_BYTES, _HASH_BYTES = 16, 32
_MAX_LOG2_N, _MAX_R, _MAX_P = 20, 16, 16
_MAX_PASSWORD_BYTES = 1024
_GUESSES = 2  # worked on at once, each with the memory of scrypt


def hash_password(password: str) -> str:
    """The text to keep instead of the password; another each time."""
    salt = secrets.token_bytes(_SALT_BYTES)
    digest = _scrypt(password.encode(), salt, _LOG2_N, _R, _P)
    return ":".join([_PREFIX, str(_LOG2_N), str(_R), str(_P), _base64(salt), _base64(digest)])


def read_password(file: Path | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The hash of the password that this file, else systemd's credentials, else the environment hold.

    None if there is none. A password in plain text is hashed at once. Raises UsageError, OSError.
    """
    text, place = None, ""
    if file is not None:
        text, place = file.read_text(), str(file)
    elif folder := environment.get("CREDENTIALS_DIRECTORY"):
        credential = Path(folder) / CREDENTIAL
        if credential.exists():
            text, place = credential.read_text(), f"the credential {CREDENTIAL}"
    if text is None and VARIABLE in environment:
        text, place = environment[VARIABLE], f"${VARIABLE}"
    if text is None:
        return None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text or "\n" in text:
        raise UsageError(f"{place}: a password is one line that is not empty")
    if text.startswith(f"{_PREFIX}:"):
        try:
            _parse(text)
        except ValueError:
            raise UsageError(
                f"{place}: not a hash as `mountstore serve --hash-password` makes them; make it anew"
            ) from None
        return text
    return hash_password(text)


class Gate:
    """Lets in who knows the name and the password. Thread-safe."""

    def __init__(self, user: str, password_hash: str) -> None:
        self._user = user.encode()
        self._log2_n, self._r, self._p, self._salt, self._digest = _parse(password_hash)
        self._key = secrets.token_bytes(32)
        self._known = b""
        self._turn = threading.BoundedSemaphore(_GUESSES)

    def admits(self, authorization: bytes | None) -> bool:
        """Whether this `Authorization` is right; a wrong name takes as long as a wrong password."""
        if authorization is None:
            return False
        mark = hmac.digest(self._key, authorization, "sha256")
        if hmac.compare_digest(mark, self._known):
            return True
        scheme, _, encoded = authorization.partition(b" ")
        if scheme.lower() != b"basic":
            return False
        try:
            user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        except binascii.Error:
            return False
        if not colon or len(password) > _MAX_PASSWORD_BYTES:
            return False
        with self._turn:
            digest = _scrypt(password, self._salt, self._log2_n, self._r, self._p)
        is_user = hmac.compare_digest(user, self._user)
        if not (hmac.compare_digest(digest, self._digest) & is_user):
            return False
        self._known = mark
        return True


def _scrypt(password: bytes, salt: bytes, log2_n: int, r: int, p: int) -> bytes:
    n = 1 << log2_n
    return hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, dklen=_HASH_BYTES, maxmem=132 * r * (n + p + 2))


def _parse(text: str) -> tuple[int, int, int, bytes, bytes]:
    prefix, log2_n, r, p, salt, digest = text.split(":")
    numbers = int(log2_n), int(r), int(p)
    raw_salt, raw_digest = (base64.b64decode(part, validate=True) for part in (salt, digest))
    within = all(1 <= one <= most for one, most in zip(numbers, (_MAX_LOG2_N, _MAX_R, _MAX_P), strict=True))
    if prefix != _PREFIX or not within or len(raw_digest) != _HASH_BYTES or len(raw_salt) < _SALT_BYTES:
        raise ValueError(text)
    return *numbers, raw_salt, raw_digest


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
