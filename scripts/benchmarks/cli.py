"""Arguments, and the order of things: each group of rows by each subject in turn, on the same weather."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import mountstore
from mountstore.errors import MountstoreError, UsageError
from mountstore.registry import open_store
from scripts.benchmarks import plot, raw, workloads
from scripts.benchmarks.inputs import Inputs
from scripts.benchmarks.place import KINDS, Place, fill_huge, fill_listing, fill_million, open_place
from scripts.benchmarks.profile import Profiler
from scripts.benchmarks.report import Report, machine, sizes_json
from scripts.benchmarks.rows import FULL, SHORT, Row, long_rows, rows
from scripts.benchmarks.run import Results, Run, drop_caches
from scripts.benchmarks.subjects import OURS, RAW, Broken, Subject, from_command_line, installed, ours

BROKEN = (Broken, MountstoreError, OSError, subprocess.SubprocessError, sqlite3.Error)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when all work was done and right, 1 when some was broken, 2 when it was asked for wrongly."""
    given = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _ended)
    try:
        return _bench(given)
    except (UsageError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: interrupted; everything is unmounted", file=sys.stderr)
        return 130


def _ended(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench",
        description="Time everyday work on a mountstore mount, on other mounts of the same store and on the "
        "raw store client, in one run. Exits with 1 when work comes out wrong, never because of a time.",
        epilog="`bench stores` times the stores by themselves, `bench rest` the server, and `bench plot` "
        "draws results that were kept with --json (each has --help). The groups huge and million, whose "
        "folders take minutes to fill, are measured when --only names them. "
        "As root the page cache is dropped as a whole; other users measure cold rows less coldly.",
    )
    add = parser.add_argument
    add("what", nargs="?", choices=["mount"], default="mount", help="what is measured [mount]")
    add("--store", default="versitygw", help=f"{', '.join(KINDS)}, or the URL of an empty store [versitygw]")
    add("--short", action="store_true", help="small sizes, for a look whether everything works")
    add("--latency", type=float, default=0.0, metavar="MS", help="added to each round trip, through a proxy")
    add("--runs", type=int, default=1, metavar="N", help="do all of it N times, and show medians")
    add(
        "--only",
        default="",
        metavar="NAME,...",
        help="these rows or groups of rows alone (see --list)",
    )
    add("--list", action="store_true", help="name the rows and end")
    add("--json", type=Path, metavar="FILE", help="write everything there too")
    add("--plot", type=Path, metavar="FILE.png", help="draw a picture (needs matplotlib)")
    add("--options", default="", metavar="'OPT ...'", help="for our mount, such as '--fsync=local'")
    add("--peers", default="auto", metavar="NAME,...", help="rclone, s3fs: those installed [auto]; none")
    add(
        "--peer",
        action="append",
        default=[],
        metavar="'NAME=COMMAND'",
        help="another mount: a command that stays in the foreground, in which {bucket}, {prefix}, "
        "{endpoint}, {url}, {mountpoint} and {cache} (an empty folder) are filled in",
    )
    add("--no-raw", action="store_true", help="leave the raw client out")
    add("--profile", type=Path, metavar="FOLDER", help="py-spy stacks of our daemon, a file a row")
    add("--timeout", type=float, default=300.0, metavar="S", help="at most this long for one row [300]")
    add("--work", type=Path, metavar="FOLDER", help="where local files and mounts go [the temporary folder]")
    return parser


def _bench(given: argparse.Namespace) -> int:
    sizes = SHORT if given.short else FULL
    known = rows(sizes)
    chosen = _chosen(known + long_rows(sizes), given.only) if given.only or given.list else known
    if given.list:
        for row in chosen:
            print(f"{row.group:8} {row.name:16} {row.title}")
        return 0
    if given.runs < 1 or given.timeout <= 0 or given.latency < 0:
        raise UsageError("--runs is at least 1, --timeout more than 0, --latency not negative")
    if given.plot:
        plot.check_available()
    profiler = Profiler(given.profile) if given.profile else None
    unique = f"{os.getpid()}-{time.time_ns():x}"
    with tempfile.TemporaryDirectory(prefix="mountstore-bench-", dir=given.work) as folder:
        base = Path(folder).resolve()
        with open_place(given.store, given.latency, base, unique) as place:
            subjects = [ours(shlex.split(given.options))]
            if place.is_s3:
                subjects += installed(given.peers)
            subjects += [from_command_line(text) for text in given.peer]
            names = [OURS] + [RAW] * (not given.no_raw) + [subject.name for subject in subjects[1:]]
            if len(set(names)) < len(names):
                raise UsageError("two peers have the same name")
            report = Report(chosen, names)
            facts = {
                "mountstore": mountstore.__version__,
                "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "machine": machine(subjects),
                "store": place.name,
                "latency_ms": given.latency,
                "runs": given.runs,
                "sizes": sizes_json(sizes),
            }
            _measure(given, place, base, subjects, report, profiler)
    result = report.as_json(facts)
    print(f"\n{plot.title_of(result)}; seconds unless said, × under 1 is faster\n\n{report.table()}\n")
    print("\n".join(report.memory()))
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    if given.plot:
        plot.draw([result], given.plot)
    for error in report.errors():
        print(f"bench: BROKEN: {error}", file=sys.stderr)
    return 1 if report.errors() else 0


def _chosen(known: list[Row], only: str) -> list[Row]:
    wanted = {name for name in only.split(",") if name}
    if unknown := wanted - {row.name for row in known} - {row.group for row in known}:
        raise UsageError(f"--only knows no {', '.join(sorted(unknown))}; --list names them")
    return [row for row in known if not wanted or row.name in wanted or row.group in wanted]


def _measure(
    given: argparse.Namespace,
    place: Place,
    base: Path,
    subjects: Sequence[Subject],
    report: Report,
    profiler: Profiler | None,
) -> None:
    groups = [name for name in workloads.GROUPS if any(row.group == name for row in report.rows)]
    inputs = Inputs(base / "inputs", FULL if not given.short else SHORT)
    inputs.folder.mkdir()
    inputs.make()
    if "listing" in groups and place.truth is not None:
        fill_listing(place.truth, inputs)
    if "huge" in groups:
        fill_huge(place, inputs)
    if "million" in groups:
        fill_million(place, inputs)
    numbers = itertools.count(1)
    for turn, group in itertools.product(range(given.runs), groups):
        for name in report.names:
            print(f"{turn + 1}/{given.runs} {group}: {name} ...", file=sys.stderr, flush=True)
            if name == RAW:
                results = _raw(place, inputs, group, f"{RAW}-{next(numbers)}")
            else:
                subject = next(one for one in subjects if one.name == name)
                run = Run(subject, place, inputs, base, lambda: next(numbers), given.timeout, profiler)
                results = _mounted(run, group)
            report.add(name, group, results)


def _mounted(run: Run, group: str) -> Results:
    try:
        with run:
            workloads.GROUPS[group](run)
            run.end()
    except BROKEN as error:
        late = f"took more than {run.timeout_s:.0f} s and was killed; " if run.timed_out else ""
        run.results.error = f"{late}{error}"
    return run.results


def _raw(place: Place, inputs: Inputs, group: str, folder: str) -> Results:
    if group not in raw.GROUPS:
        return Results()
    with open_store(place.url) as store:
        if place.truth is None and group == "listing":
            fill_listing(store, inputs)
        work = raw.Raw(place, store, inputs, folder, drop_caches)
        try:
            raw.GROUPS[group](work)
        except BROKEN as error:
            work.results.error = str(error)
        return work.results
