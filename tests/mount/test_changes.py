"""A small change in a large object: the store makes the rest itself."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.mount.cases import S3Case, make_case
from tests.mount.mounting import Mounts

MIB = 1 << 20
SIZE = 64 * MIB + 1


@pytest.mark.parametrize("kind", ["versitygw", "minio"])
def test_fsync_sends_what_changed(
    kind: str, request: pytest.FixtureRequest, base: Path, mounts: Mounts
) -> None:
    case = make_case(kind, request, base)
    assert isinstance(case, S3Case)
    noise = bytearray(random.Random(3).randbytes(SIZE))
    case.write("big", bytes(noise))
    mount = mounts(case)
    with open(mount.root / "big", "r+b", buffering=0) as file:
        for number in range(3):
            position = (10 + 20 * number) * MIB + number
            file.seek(position)
            patch = random.Random(number).randbytes(4096)
            noise[position : position + 4096] = patch
            assert file.write(patch) == 4096
            before = mount.status()["requests"]
            os.fsync(file.fileno())
            after = mount.status()["requests"]
            assert after["PUT"] - before.get("PUT", 0) == 1  # one part of 8 MiB
            assert after["COPY"] > before.get("COPY", 0)
            assert case.read("big") == bytes(noise)
    with open(mount.root / "big", "r+b", buffering=0) as file:
        file.truncate(SIZE - 5 * MIB)
        file.seek(0, os.SEEK_END)
        file.write(b"tail")
    del noise[SIZE - 5 * MIB :]
    noise += b"tail"
    mount.umount()
    assert case.read("big") == bytes(noise)
    mount.remount(fresh_state=True)
    assert (mount.root / "big").read_bytes() == bytes(noise)
    mount.umount()
