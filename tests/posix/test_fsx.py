"""fsx: random reads, writes, mappings and truncations of one file, each read compared with what it has to be.

Afterwards a mount with an empty state directory, with the cache that is there and without it, and the bucket
itself have the same bytes.
"""

from __future__ import annotations

import hashlib
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mount.cases import LONG, make_case
from tests.mount.mounting import CACHE, Mounts
from tests.mount.tree import digest
from tests.posix.suites import suite

pytestmark = pytest.mark.timeout(7200 if LONG else 1500)  # the first to come builds the suite

OPERATIONS = 100_000 if LONG else 1_500
SEEDS = range(1, 6) if LONG else range(1, 3)
LIMIT_S = 6000.0 if LONG else 300.0
AT_ONCE = 2
CACHES: dict[str, tuple[str, ...]] = {
    "default": (),
    "16M": ("--cache", "{base}/caches", "--cache-size", "16M"),
    "off": ("--no-cache",),
}
"""Options of the mount, by the name of the test."""

# Each fsync is a PUT, and so is each msync: the weights make them some hundreds in the long form.
CONFIGURATION = """
flen = {flen}
nomsyncafterwrite = {quiet}
opsize = {{ min = 1 }}  # fsx takes the EINVAL of an empty fallocate for an error

[weights]
read = 10
write = 10
mapread = {mmap}
mapwrite = {mapwrite}
invalidate = {invalidate}
truncate = 5
close_open = 2
fsync = 0.02
fdatasync = 0.02
posix_fallocate = 0.5
sendfile = 1
posix_fadvise = 1
copy_file_range = 1
"""


@dataclass(frozen=True, slots=True)
class Round:
    """One run of fsx on a file of its own."""

    seed: int
    mmap: bool

    @property
    def name(self) -> str:
        return f"{'mmap' if self.mmap else 'plain'}-{self.seed}"

    @property
    def configuration(self) -> str:
        # Within one block, over several, and over what is sent in parts.
        flen = (1 << 18, 3 << 20, 20 << 20)[self.seed % 3]
        quiet = self.seed != 1
        mapwrite = (10.0 if quiet else 0.1) * self.mmap
        return CONFIGURATION.format(
            flen=flen,
            quiet=str(quiet).lower(),
            mmap=10 * self.mmap,
            mapwrite=mapwrite,
            invalidate=int(self.mmap and quiet),
        )


def exercise(program: Path, scratch: Path, root: Path, one: Round) -> str:
    """Run fsx; what it said, if it found a difference, else nothing."""
    configuration = scratch / f"{one.name}.toml"
    configuration.write_text(one.configuration)
    numbers = ["-N", str(OPERATIONS), "-S", str(one.seed)]
    done = subprocess.run(
        [program, *numbers, "-f", configuration, "-P", scratch, root / one.name],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=LIMIT_S,
        check=False,
    )
    return f"{one.name}: exit {done.returncode}\n{done.stdout[-3000:]}" if done.returncode else ""


@pytest.mark.parametrize("cache", CACHES)
def test_fsx(cache: str, request: pytest.FixtureRequest, base: Path, mounts: Mounts) -> None:
    case = make_case("versitygw", request, base)
    program = suite("fsx")
    rounds = [Round(seed, mmap) for seed in SEEDS for mmap in (False, True)]
    scratch = base / "scratch"
    scratch.mkdir()
    options = [option.format(base=base) for option in CACHES[cache]]
    mount = mounts(case, *options)
    with mount.limit(LIMIT_S), ThreadPoolExecutor(AT_ONCE) as threads:
        said = [*threads.map(lambda one: exercise(program, scratch, mount.root, one), rounds)]
    assert not any(said), "\n".join(said)
    assert bool(mount.caches()) == (CACHE != "off" if cache == "default" else cache != "off")
    wanted = {one.name: digest(mount.root / one.name) for one in rounds}
    mount.umount()

    for name in ("fresh", "alone"):
        mount = mounts(case, *options, name=name)
        assert {one.name: digest(mount.root / one.name) for one in rounds} == wanted
        mount.umount()
        mount.drop_cache()
    assert {key: hashlib.sha256(case.read(key)).hexdigest() for key in case.keys() if key} == wanted
