"""What is measured: the rows of the table, their groups, and how big everything is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

KIB = 1 << 10
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. Seconds are better when low, "/s" is better when high."""

    name: str
    group: str
    title: str
    unit: Literal["s", "/s"] = "s"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    big_bytes: int
    small_files: int
    small_bytes: int
    entries: int
    folders: int
    random_read_s: float
    random_writes: int
    random_file_bytes: int
    transactions: int
    repository_files: int
    huge_entries: int
    million_entries: int


FULL = Sizes(
    big_bytes=256 * MIB,
    small_files=500,
    small_bytes=4 * KIB,
    entries=5000,
    folders=100,
    random_read_s=5.0,
    random_writes=4096,
    random_file_bytes=16 * MIB,
    transactions=50,
    repository_files=60,
    huge_entries=100_000,
    million_entries=1_000_000,
)
SHORT = Sizes(
    big_bytes=16 * MIB,
    small_files=50,
    small_bytes=4 * KIB,
    entries=300,
    folders=10,
    random_read_s=0.5,
    random_writes=256,
    random_file_bytes=MIB,
    transactions=10,
    repository_files=20,
    huge_entries=2500,
    million_entries=5000,
)


def rows(sizes: Sizes) -> list[Row]:
    """All rows, in the order of the table; those of a group are measured on the same mounts."""
    big = f"{sizes.big_bytes // MIB} MiB"
    small = f"{sizes.small_files} files of {sizes.small_bytes // KIB} KiB"
    written = f"{sizes.random_writes * 4 // KIB} MiB" if sizes.random_writes >= 256 else "some"
    return [
        Row("write-big", "big", f"{big} `dd conv=fsync`, until the store has it"),
        Row("read-big-cold", "big", f"{big} file, cold, `dd bs=1M`"),
        Row("read-big-again", "big", "again, page cache dropped"),
        Row("read-big-warm", "big", "again, page cache warm"),
        Row("cmp-big-cold", "big", f"{big} `cmp` with a local copy, cold"),
        Row("random-read", "big", "random 4 KiB reads of that file, cold (reads/s)", "/s"),
        Row("cp-small", "small", f"`cp` of {small}, until it returns"),
        Row("cp-small-stored", "small", "the same, until the store has all"),
        Row("cat-small-cold", "small", f"`cat` of {small}, cold"),
        Row("cat-small-again", "small", "again"),
        Row("ls-cold", "listing", f"`ls -l` of {sizes.entries:,} entries, cold"),
        Row("ls-again", "listing", "again"),
        Row("find-cold", "listing", f"`find -size` over {sizes.entries:,} files in {sizes.folders}, cold"),
        Row("find-again", "listing", "again"),
        Row("append", "edits", "two appends"),
        Row("random-write", "edits", f"{written} of random 4 KiB writes and fsync (writes/s)", "/s"),
        Row("folder", "edits", "fill, rename and read a folder of 10 files"),
        Row("sqlite", "sqlite", f"SQLite, {sizes.transactions} transactions"),
        Row("git", "tree", f"`git clone`, status, fsck of {sizes.repository_files} files"),
        Row("tar", "tree", "`tar x` of the same"),
        Row("rm", "tree", "`rm -rf` of all that"),
    ]


def long_rows(sizes: Sizes) -> list[Row]:
    """Rows that are measured when they are asked for by name, since filling their folders takes minutes."""
    huge, million = f"{sizes.huge_entries:,}", f"{sizes.million_entries:,}"
    return [
        Row("huge-first", "huge", f"first entry of a folder of {huge}, cold"),
        Row("huge-all", "huge", "all of them"),
        Row("huge-ls", "huge", f"`ls -l` of {huge} entries, cold"),
        Row("huge-again-first", "huge", "first entry after a restart of the mount"),
        Row("huge-again-all", "huge", "all of them after it"),
        Row("million-first", "million", f"first entry of a folder of {million}, cold"),
        Row("million-all", "million", "all of them"),
    ]
