"""Bits are flipped on the way, in ranges of large objects too: no reader gets wrong bytes, nor an error."""

from __future__ import annotations

import os

import pytest

from tests.faults.conftest import SEED, Bench, Benches
from tests.faults.fault_proxy import Fault, Rule
from tests.mount import writer

WRITTEN = ((24 << 20) + 12_345, (40 << 20) + 12_345)
"""Sizes of what is put when it is complete, and of what is sent while it is written."""
CHECKED_WHOLE = (6 << 20) + 54_321
RATE = 0.4


@pytest.fixture(params=["versitygw", "minio"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def read_at_random(path: str, data: bytes, count: int) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        for number in range(count):
            at = (number * 7_654_321) % (len(data) - 5000)
            assert os.pread(file, 5000, at) == data[at : at + 5000], f"wrong bytes at {at}"
    finally:
        os.close(file)


@pytest.mark.parametrize("size", WRITTEN)
def test_what_was_written_here_is_read_as_it_was(kind: str, benches: Benches, size: int) -> None:
    """A large file, written through the mount, changed in part, renamed, and read by later mounts."""
    bench: Bench = benches(kind)
    data = bytearray(writer.content(SEED, size))
    mount = bench.mount()
    (mount.root / "large").write_bytes(data)
    mount.umount()
    mount.drop_cache()
    mount.remount(fresh_state=False)
    bench.proxy.fail(Rule(Fault.FLIP_ANSWER, RATE))
    read_at_random(str(mount.root / "large"), bytes(data), 12)
    assert (mount.root / "large").read_bytes() == data
    assert bench.proxy.fired[Fault.FLIP_ANSWER] > 0
    with open(mount.root / "large", "r+b", buffering=0) as file:
        file.seek(10 << 20)
        file.write(b"changed")
    data[10 << 20 : (10 << 20) + 7] = b"changed"
    (mount.root / "large").rename(mount.root / "renamed")
    mount.sync()
    assert bench.files() == {"renamed": data}
    mount.umount()
    mount.drop_cache()
    mount.remount(fresh_state=False)
    before = bench.proxy.fired[Fault.FLIP_ANSWER]
    assert (mount.root / "renamed").read_bytes() == data
    assert bench.proxy.fired[Fault.FLIP_ANSWER] > before
    mount.umount()


def test_what_others_put_is_compared_as_a_whole(kind: str, benches: Benches) -> None:
    """Objects of up to 8 MiB, in whatever order their ranges are asked for."""
    bench: Bench = benches(kind)
    contents = {f"f{number}": writer.content(number, CHECKED_WHOLE) for number in range(6)}
    for name, data in contents.items():
        bench.case.write(name, data)
    mount = bench.mount()
    bench.proxy.fail(Rule(Fault.FLIP_ANSWER, RATE))
    for number, (name, data) in enumerate(contents.items()):
        if number % 2:
            read_at_random(str(mount.root / name), data, 20)
        else:
            assert (mount.root / name).read_bytes() == data
    assert bench.proxy.fired[Fault.FLIP_ANSWER] > 0
    mount.umount()
