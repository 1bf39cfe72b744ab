"""A check from beginning to end: what is looked at, in which order, and what is repaired.

A part is a function that yields what is wrong, each with what mends it. Repairs are made one by one, each in
a transaction of its own, and then everything is looked at again: what a repair has brought to light is mended
in the next round. A cache of blocks on the disk is looked at once: its blocks rely on nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from mountstore.errors import StoreError
from mountstore.fsck import bare, cache, objects, staged, tree, values
from mountstore.fsck.findings import Fault, Finding, Report, error, note
from mountstore.fsck.opened import INDEX, STAGING, Broken, Opened
from mountstore.fsck.rebuild import rebuild
from mountstore.store import ObjectStore

PARTS: tuple[Callable[[Opened], Iterator[Fault]], ...] = (
    values.faults,
    tree.faults,
    staged.faults,
    objects.faults,
)
"""Each relies on what those before it have found right."""
_ROUNDS = 12


def check_state(
    path: Path, store: ObjectStore | None, *, repair: bool = False, verify_content: bool = False
) -> Report:
    """Check a state directory, of which the caller holds the lock, and its store (None: it alone).

    Raises MountError if its index is of another version, StoreError if the store cannot be listed, OSError.
    """
    report = Report()
    doubtful = False
    if not (path / INDEX).exists() and not (path / f"{INDEX}-wal").exists():
        if not _staged_files(path):
            report.notes.append(note("index", INDEX, "there is none yet, and nothing is staged").finding)
            return _with_store(report, store, repair=repair, verify_content=verify_content)
        missing = error(
            "index", INDEX, "it is missing", "it is made anew, and what is staged goes to lost+found"
        )
        if not repair:
            report.left.append(missing.finding)
            return report
        rebuild(path)
        report.repaired.append(missing.finding)
        doubtful = True
    try:
        at = Opened(path, store, repairing=repair)
    except Broken as broken:
        advice = "it is set aside, and made anew of what can be read; staged data that lost its name gets one"
        damage = error("index", INDEX, f"it is damaged: {broken}", advice)
        if not repair:
            report.left.append(damage.finding)
            return report
        aside = rebuild(path)
        report.repaired.append(damage.finding)
        report.kept = str(aside) if aside is not None else None
        doubtful = True
        at = Opened(path, store, repairing=True)
    try:
        if at.doubtful:
            report.repaired.append(
                error("index", INDEX, "its search trees did not fit its tables", "they are made anew").finding
            )
        at.doubtful |= doubtful
        _rounds(at, report, repair)
        report.notes += [fault.finding for fault in objects.pending(at)]
        if at.kept is not None and report.kept is None:
            report.kept = str(at.kept)
    finally:
        at.close()
    if verify_content and store is not None:
        _take(report, objects.verify(store), repair=False)
    return report


def _staged_files(path: Path) -> bool:
    folder = path / STAGING
    return folder.is_dir() and any(one.name.isdecimal() and one.lstat().st_size for one in folder.iterdir())


def _rounds(at: Opened, report: Report, repair: bool) -> None:
    stuck: dict[Finding, str] = {}  # what could not be mended, and why
    for _ in range(_ROUNDS if repair else 1):
        errors, notes = [], []
        for part in PARTS:
            found = list(part(at))
            errors += [fault for fault in found if fault.finding.level == "error"]
            notes += [fault.finding for fault in found if fault.finding.level == "note"]
            if errors and part in (values.faults, tree.faults):
                at.doubtful = True
                if repair:
                    break  # the other parts rely on it
                if part is values.faults:
                    break
        report.notes[:] = notes
        todo = [fault for fault in errors if fault.repair is not None and fault.finding not in stuck]
        if not repair or not todo:
            report.left += [_with_reason(fault.finding, stuck) for fault in errors]
            return
        at.keep_copy()
        for fault in todo:
            assert fault.repair is not None
            try:
                with at.transaction():
                    fault.repair()
            except (sqlite3.Error, StoreError, OSError, ArithmeticError, LookupError, ValueError) as failure:
                stuck[fault.finding] = str(failure)  # perhaps mended with another: the next round tells
            else:
                report.repaired.append(fault.finding)
    report.left += [fault.finding for part in PARTS for fault in part(at) if fault.finding.level == "error"]


def _with_reason(finding: Finding, stuck: dict[Finding, str]) -> Finding:
    reason = stuck.get(finding)
    return finding if reason is None else replace(finding, what=f"{finding.what} (not repaired: {reason})")


def check_store(store: ObjectStore, *, repair: bool = False, verify_content: bool = False) -> Report:
    """Check a store of which no state directory is known. Raises StoreError if it cannot be listed."""
    return _with_store(Report(), store, repair=repair, verify_content=verify_content)


def _with_store(report: Report, store: ObjectStore | None, *, repair: bool, verify_content: bool) -> Report:
    if store is not None:
        _take(report, bare.faults(store), repair=repair)
        if verify_content:
            _take(report, objects.verify(store), repair=False)
    return report


def check_cache(
    blocks: Path,
    store: ObjectStore,
    *,
    capacity_bytes: int | None = None,
    repair: bool = False,
    verify_content: bool = False,
) -> Report:
    """Check the blocks in a folder where mounts of `store` keep their cache; the caller holds its lock.

    `capacity_bytes` is the bound that the last mount kept, if it is known. Raises StoreError if the store
    cannot be listed, OSError if the folder cannot.
    """
    report = Report()
    found = cache.faults(cache.Cache(blocks, capacity_bytes), store, verify_content=verify_content)
    _take(report, found, repair=repair)
    return report


def _take(report: Report, found: Iterator[Fault], *, repair: bool) -> None:
    for fault in found:
        if fault.finding.level == "note" and (fault.repair is None or not repair):
            report.notes.append(fault.finding)
            continue
        if repair and fault.repair is not None:
            try:
                fault.repair()
            except (StoreError, OSError) as failure:
                left = _with_reason(fault.finding, {fault.finding: str(failure)})
                (report.left if left.level == "error" else report.notes).append(left)
            else:
                if fault.finding.level == "note":  # it was right, and is not needed
                    report.notes.append(replace(fault.finding, repaired=True))
                else:
                    report.repaired.append(fault.finding)
        else:
            report.left.append(fault.finding)
