"""Arguments of `bench stores`, and the order of things."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import mountstore
from mountstore.errors import MountstoreError, UsageError
from scripts.benchmarks.stores.originals import Open, originals
from scripts.benchmarks.stores.pairs import PAIRS, Pair, redis_pair
from scripts.benchmarks.stores.table import DURABLE, ORIGINAL, OURS, PLAIN, Result, as_json, table
from scripts.benchmarks.stores.work import (
    CLOCKS,
    FULL,
    SHORT,
    Clock,
    Seconds,
    Sizes,
    Wrong,
    large_round,
    small_round,
)

BROKEN = (Wrong, MountstoreError, OSError, KeyError, sqlite3.Error)
MEMORY = Path("/dev/shm")


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when all work was done and right, 1 when some was broken, 2 when it was asked for wrongly."""
    given = _parser().parse_args(arguments)
    try:
        return _bench(given)
    except UsageError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench stores",
        description="Time put, get and list of our stores and of the least that plain Python needs for the "
        "same, or another implementation, in turn, in one run. Ratios are those of medians; ± is half the "
        "width of where the middle half of the ratios of single rounds lies. Exits with 1 when work comes "
        "out wrong, never because of a time.",
    )
    add = parser.add_argument
    add("--short", action="store_true", help="small sizes, for a look whether everything works")
    add("--only", default="", metavar="NAME,...", help="these pairs alone (see --list)")
    add("--list", action="store_true", help="name the pairs and end")
    add("--rounds", type=int, metavar="N", help="how often everything is done at most [9]")
    add("--minutes", type=float, default=4.0, metavar="M", help="begin no round that ends after them [4]")
    add("--clock", choices=CLOCKS, default="wall", help="cpu: this process alone, on a busy machine [wall]")
    add("--folders", type=int, default=0, metavar="N", help="spread the keys over N folders [none]")
    add("--original", type=Path, metavar="FOLDER", help="compare with the package 'storage' there")
    add("--redis", metavar="URL", help="add this server, whose database is emptied")
    add("--work", type=Path, metavar="FOLDER", help="where the stores lie [/dev/shm, a tmpfs]")
    add("--json", type=Path, metavar="FILE", help="write everything there too")
    return parser


def _bench(given: argparse.Namespace) -> int:
    sizes = replace(SHORT if given.short else FULL, folders=given.folders)
    if given.rounds is not None:
        sizes = replace(sizes, rounds=given.rounds)
    if sizes.rounds < 1 or sizes.folders < 0 or given.minutes < 0:
        raise UsageError("--rounds is at least 1, --folders and --minutes not negative")
    pairs = _chosen([*PAIRS, *([redis_pair(given.redis)] if given.redis else [])], given.only)
    if given.list:
        for pair in pairs:
            print(pair.name)
        return 0
    others = originals(given.original) if given.original else {}
    work = given.work or (MEMORY if MEMORY.is_dir() else None)
    clock = CLOCKS[given.clock]
    with tempfile.TemporaryDirectory(prefix="mountstore-bench-", dir=work) as folder:
        results, rounds = _measure(pairs, others, sizes, Path(folder), clock, given.minutes * 60)
    sizes = replace(sizes, rounds=rounds)
    print(
        f"{sizes.small} objects of {sizes.small_bytes} bytes, {sizes.large} of {sizes.large_bytes >> 20} MiB"
        f", medians of {sizes.rounds} rounds, {os.cpu_count()} CPUs, {given.clock} time; "
        f"× under 1 is faster\n\n{table(results, sizes)}"
    )
    facts = {
        "mountstore": mountstore.__version__,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpus": os.cpu_count(),
        "clock": given.clock,
        "kernel": os.uname().release,
        "sizes": asdict(sizes),
    }
    if given.json:
        given.json.write_text(json.dumps(as_json(results, facts), indent=1) + "\n")
    errors = [f"{result.name}: {error}" for result in results for error in result.errors]
    for error in errors:
        print(f"bench: BROKEN: {error}", file=sys.stderr)
    return 1 if errors else 0


def _chosen(known: list[Pair], only: str) -> list[Pair]:
    wanted = {name for name in only.split(",") if name}
    if unknown := wanted - {pair.name for pair in known}:
        raise UsageError(f"--only knows no {', '.join(sorted(unknown))}; --list names them")
    return [pair for pair in known if not wanted or pair.name in wanted]


def _measure(
    pairs: Sequence[Pair],
    others: Mapping[str, Open],
    sizes: Sizes,
    base: Path,
    clock: Clock,
    limit_s: float,
) -> tuple[list[Result], int]:
    """What came out for each pair, and of how many rounds, each of which goes through all pairs."""
    results = [Result(pair.name, DURABLE if pair.syncs else OURS) for pair in pairs]
    end, longest = time.monotonic() + limit_s, 0.0
    for turn in range(sizes.rounds):
        begin = time.monotonic()
        if turn and begin + longest > end:
            return results, turn
        for pair, result in zip(pairs, results, strict=True):
            print(f"{turn + 1}/{sizes.rounds} {pair.name} ...", file=sys.stderr, flush=True)
            _round(_sides(pair, others.get(pair.name)), turn, result, sizes, base, clock)
        longest = max(longest, time.monotonic() - begin)
    return results, sizes.rounds


def _sides(pair: Pair, original: Open | None) -> list[tuple[str, Open]]:
    """Ours, and what it is compared with: the original, where there is one."""
    return [
        (OURS, lambda folder: pair.ours(folder, False)),
        (DURABLE, lambda folder: pair.ours(folder, True)),
        (PLAIN, pair.yardstick) if original is None else (ORIGINAL, original),
    ]


def _round(
    sides: Sequence[tuple[str, Open]], turn: int, result: Result, sizes: Sizes, base: Path, clock: Clock
) -> None:
    """One round of one pair, each side in an empty folder, another one first each time."""
    first = turn % len(sides)
    for name, open_ in (*sides[first:], *sides[:first]):
        if any(error.startswith(f"{name}: ") for error in result.errors):
            continue
        seconds = result.columns.setdefault(name, Seconds())
        try:
            for do in (small_round, large_round):
                with _empty(base) as folder, contextlib.closing(open_(folder)) as subject:
                    do(subject, sizes, seconds, clock)
        except BROKEN as error:
            result.errors.append(f"{name}: {error}")


@contextlib.contextmanager
def _empty(base: Path) -> Iterator[Path]:
    folder = base / "store"
    folder.mkdir()
    gc.collect()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
