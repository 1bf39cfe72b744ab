"""fsck: state directory, journal, cache and store held against each other."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from mountstore import registry
from mountstore.cli.output import escape, json_line
from mountstore.daemon.localcache import cache_folder, examined
from mountstore.daemon.statedir import CACHE, LOCK, STATE, Damaged, StateDir, default_state_dir
from mountstore.errors import MountError, MountstoreError, UsageError
from mountstore.fsck import Finding, Report, check_cache, check_state, check_store
from mountstore.store import ObjectStore

NOT_CHECKED = 2
"""What a check that could not be made ends with: nobody may take it for a clean one."""


@click.command(epilog="Exit status: 0 nothing is wrong, 1 all of it is repaired, 2 something is left, or it"
               " could not be checked (the line says why).")  # fmt: skip
@click.argument("target", metavar="STORE|STATE-DIR")
@click.option("--repair", is_flag=True, help="Put right what is wrong; nothing is lost, see lost+found.")
@click.option(
    "--state-dir", metavar="DIR", help="The state directory of STORE [default: where mount keeps it]."
)
@click.option("--cache", metavar="DIR", help="As given to mount [default: what the mount has noted].")
@click.option("--verify-content", is_flag=True, help="Read every object from beginning to end, too.")
@click.option("--json", "is_json", is_flag=True, help="One JSON object with all findings.")
def fsck(
    target: str, repair: bool, state_dir: str | None, cache: str | None, verify_content: bool, is_json: bool
) -> None:
    """Hold index, staged data, cache and store of a mount against each other, and say what is wrong.

    STATE-DIR knows its store. Where a STORE has no state directory, it is checked alone: whether all of
    it can be listed, reached by a path, and has attributes that can be read. The mount must not be
    running. Content that has lost its name gets one in lost+found, and the next mount uploads it; before
    an index is changed, a copy of it is kept. What is wrong in the cache is dropped: it is a copy.
    """
    try:
        report = _check(target, state_dir, cache, repair=repair, verify_content=verify_content)
    except (MountstoreError, OSError, sqlite3.Error) as error:
        if isinstance(error, UsageError):
            raise
        line = " ".join((getattr(error, "strerror", None) or str(error)).split())
        click.echo(f"mountstore: {escape(line)}", err=True)
        raise click.exceptions.Exit(NOT_CHECKED) from error
    if is_json:
        told = {"status": report.status, "findings": [asdict(one) for one in report.findings]}
        click.echo(json_line({**told, "kept": report.kept}))
    else:
        for finding in report.findings:
            click.echo(_line(finding, repairing=repair))
        click.echo(_summary(report))
    if report.status:
        raise click.exceptions.Exit(report.status)


def _check(
    target: str, state_dir: str | None, cache: str | None, *, repair: bool, verify_content: bool
) -> Report:
    if state_dir is None and _is_state_dir(target):
        with StateDir.examine(Path(target).absolute()) as state:
            url = _store_of(state)
            with _opened(url) as store:
                report = check_state(state.path, store, repair=repair, verify_content=verify_content)
                report.add(_cache(cache, state, registry.canonical(url), store, repair, verify_content))
                return report
    canonical = registry.canonical(target)
    path = Path(state_dir).absolute() if state_dir else None
    if path is None:
        path = default_state_dir(canonical, registry.redact(canonical))
        if not path.is_dir():
            with _opened(target) as store:
                report = check_store(store, repair=repair, verify_content=verify_content)
                report.add(_cache(cache, None, canonical, store, repair, verify_content))
                return report
    with StateDir.examine(path) as state, _opened(target) as store:
        claimed = _claim(state, canonical, target, repair=repair)
        report = check_state(path, store, repair=repair, verify_content=verify_content)
        if claimed is not None:
            (report.repaired if repair else report.left).append(claimed)
        report.add(_cache(cache, state, canonical, store, repair, verify_content))
        return report


def _cache(
    named: str | None,
    state: StateDir | None,
    canonical: str,
    store: ObjectStore,
    repair: bool,
    verify_content: bool,
) -> Report:
    """Check the cache below the folder `named`, else that which the state directory knows of, else that at
    the usual place; none is there is well. Raises MountError if none is below `named`."""
    report = Report()
    folder = None
    if named is None and state is not None:
        try:
            folder = state.cache()
        except Damaged as damage:
            advice = "it is removed; mountstore fsck --cache DIR checks the cache, if DIR was given to mount"
            told = Finding("cache", "error", CACHE, str(damage).rpartition("; ")[0], advice)
            if repair:
                (state.path / CACHE).unlink()
            (report.repaired if repair else report.left).append(told)
    if folder is None:
        where = Path(named).absolute() if named is not None else None
        folder = cache_folder(where, canonical, registry.redact(canonical))
        if named is not None and not folder.is_dir():
            raise MountError(f"there is no cache of this store below {named}")
    if not os.path.lexists(folder):
        return report
    try:
        with examined(folder) as (blocks, capacity):
            if blocks.is_dir():
                report.add(
                    check_cache(
                        blocks, store, capacity_bytes=capacity, repair=repair, verify_content=verify_content
                    )
                )
    except MountError as failure:
        report.left.append(Finding("cache", "error", str(folder), f"it cannot be checked: {failure}"))
    return report


def _is_state_dir(target: str) -> bool:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", target):
        return False
    names = (LOCK, STATE, "index.sqlite")
    return os.path.isdir(target) and any(os.path.exists(os.path.join(target, name)) for name in names)


def _store_of(state: StateDir) -> str:
    """The URL of the store that a state directory belongs to. Raises MountError if it cannot be told."""
    try:
        known = state.store()
    except Damaged:
        known = None
    if known is not None:
        digest, url = known
        with contextlib.suppress(MountstoreError):
            if hashlib.sha256(registry.canonical(url).encode(errors="surrogatepass")).hexdigest() == digest:
                return url
    raise MountError(
        f"{state.path} does not say of which store it is, or the environment names another server: mountstore"
        f" fsck STORE --state-dir {state.path}"
    )


def _claim(state: StateDir, canonical: str, url: str, *, repair: bool) -> Finding | None:
    """What is wrong with what the directory says of itself. Raises MountError if it is of another store."""
    try:
        known = state.store()
    except Damaged:
        known = None
    else:
        if (
            known is not None
            and known[0] != hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest()
        ):
            raise MountError(f"{state.path} is the state of another store ({known[1]})")
    if known is not None:
        return None
    if repair:
        shown = registry.redact(canonical if registry.local_path(url) else url)
        state.claim(canonical, shown)
    return Finding(
        "index", "error", STATE, "it does not say of which store this is the state", "it is written anew"
    )


@contextlib.contextmanager
def _opened(url: str) -> Iterator[ObjectStore]:
    """The store, once it has answered; a local one is not made by being looked at."""
    local = registry.local_path(url)
    if local is not None and not local.exists():
        raise MountError(f"there is no store at {local}")
    with registry.open_store(url) as store:
        check = getattr(store, "check", None)
        if check is not None:
            check()
        yield store


def _line(finding: Finding, *, repairing: bool) -> str:
    subject = escape(" ".join(finding.subject.split("\n")))
    advice = f"; {finding.advice}" if finding.advice else ""
    state = "repaired" if finding.repaired else finding.level
    if advice and finding.level == "error" and not finding.repaired and not repairing:
        advice = f"; --repair: {finding.advice}"
    return f"{state}: {finding.part}: {subject}: {escape(' '.join(finding.what.split()))}{escape(advice)}"


def _summary(report: Report) -> str:
    kept = f"; the index as it was is kept as {escape(report.kept)}" if report.kept else ""
    if not report.left and not report.repaired:
        return "nothing is wrong"
    return f"repaired: {len(report.repaired)}; left: {len(report.left)}{kept}"
