"""A file far larger than the memory that the daemon may use."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import pytest

from tests.mount.cases import LONG, make_case
from tests.mount.mounting import Mounts

MIB = 1 << 20
SIZE_MIB = 4096 if LONG else 600
PEAK_BYTES = 400 * MIB


def write_large(path: Path) -> str:
    """SIZE_MIB of which no two blocks are the same; their SHA-256."""
    noise = random.Random(9).randbytes(MIB)
    told = hashlib.sha256()
    with open(path, "wb", buffering=0) as file:
        for number in range(SIZE_MIB):
            block = number.to_bytes(16, "big") + noise[16:]
            told.update(block)
            assert file.write(block) == MIB
    return told.hexdigest()


def read_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize("kind", ["versitygw", "minio", "sqlite", "file"])
def test_memory_is_bounded(kind: str, request: pytest.FixtureRequest, base: Path, mounts: Mounts) -> None:
    """Written, uploaded, read back from the store alone, in order and at random: never over 400 MiB."""
    case = make_case(kind, request, base)
    mount = mounts(case)
    written = write_large(mount.root / "large")
    mount.sync()
    peaks = [mount.peak_rss_bytes()]
    mount.umount()
    assert case.keys() == {"large": SIZE_MIB * MIB}
    mount.remount(fresh_state=True)
    chance = random.Random(10)
    with open(mount.root / "large", "rb", buffering=0) as file:
        for _ in range(50):
            number = chance.randrange(SIZE_MIB)
            assert int.from_bytes(os.pread(file.fileno(), 16, number * MIB), "big") == number
    assert read_digest(mount.root / "large") == written
    with open(mount.root / "large", "r+b") as file:
        file.seek(SIZE_MIB * MIB // 2)
        file.write(b"in the middle of an object that is not here")
    mount.sync()
    peaks.append(mount.peak_rss_bytes())
    mount.umount()
    print(f"{kind}: peak of the daemon {[peak // MIB for peak in peaks]} MiB")
    assert max(peaks) < PEAK_BYTES, f"{[peak // MIB for peak in peaks]} MiB"
    mount.remount(fresh_state=True)
    with open(mount.root / "large", "rb") as file:
        file.seek(SIZE_MIB * MIB // 2)
        assert file.read(43) == b"in the middle of an object that is not here"
        file.seek(-MIB, os.SEEK_END)
        assert int.from_bytes(file.read(16), "big") == SIZE_MIB - 1
    mount.umount()
