"""What a run has brought: a table in Markdown, and JSON."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scripts.benchmarks.rows import Row, Sizes
from scripts.benchmarks.run import Results, Sample
from scripts.benchmarks.subjects import OURS, RAW, Subject

FORMAT = 1


@dataclass(slots=True)
class Cell:
    """All samples of one subject in one row, and what went wrong."""

    samples: list[Sample] = field(default_factory=list)
    error: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(sample.value for sample in self.samples) if self.samples else None


class Report:
    """Collects results; `names` are the subjects in the order of the columns."""

    def __init__(self, rows: Sequence[Row], names: Sequence[str]) -> None:
        self.rows = list(rows)
        self.names = list(names)
        self.peak_bytes: dict[str, int] = {}
        self.peak_bytes_by_group: dict[str, dict[str, int]] = {}
        self._cells = {(row.name, name): Cell() for row in rows for name in names}

    def add(self, name: str, group: str, results: Results) -> None:
        """Take what a group of rows has brought for a subject; its rows without a sample have its error."""
        self.peak_bytes[name] = max(self.peak_bytes.get(name, 0), results.peak_bytes)
        groups = self.peak_bytes_by_group.setdefault(name, {})
        groups[group] = max(groups.get(group, 0), results.peak_bytes)
        first_missing = True
        for row in self.rows:
            if row.group != group:
                continue
            cell = self._cells[row.name, name]
            if row.name in results.samples:
                cell.samples.append(results.samples[row.name])
            elif results.error:
                cell.error = cell.error or (results.error if first_missing else "not reached")
                first_missing = False
        if results.error and first_missing:  # the check of the last row, or of one that is not shown
            last = [row for row in self.rows if row.group == group][-1]
            self._cells[last.name, name].error = results.error

    def cell(self, row: Row, name: str) -> Cell:
        return self._cells[row.name, name]

    def errors(self) -> list[str]:
        """One line for each cell that broke."""
        return [
            f"{name}: {row.name}: {self.cell(row, name).error}"
            for row in self.rows
            for name in self.names
            if self.cell(row, name).error
        ]

    def ratio(self, row: Row, other: str) -> float | None:
        """Our time as a multiple of the other's (for "/s" the other's rate of ours); under 1 is faster."""
        mine, theirs = self.cell(row, OURS).median, self.cell(row, other).median
        if not mine or not theirs:
            return None
        return mine / theirs if row.unit == "s" else theirs / mine

    def best_peer(self, row: Row) -> tuple[str, float] | None:
        """(name, ratio) of the peer that is fastest in this row."""
        ratios = {
            name: ratio
            for name in self.names
            if name not in (OURS, RAW) and (ratio := self.ratio(row, name)) is not None
        }
        return max(ratios.items(), key=lambda item: item[1]) if ratios else None

    def table(self) -> str:
        """Medians, and how many times as long as the raw client and the best peer we take."""
        has_peers = any(name not in (OURS, RAW) for name in self.names)
        head = ["workload", *self.names, "CPU of ours, s", "× raw"]
        head += ["× best peer"] * has_peers + ["requests of ours"]
        lines = []
        for row in self.rows:
            cells = [self.cell(row, name) for name in self.names]
            ours = self.cell(row, OURS)
            cpu = f"{statistics.median(sample.cpu_s for sample in ours.samples):.2f}" if ours.samples else ""
            raw, best = self.ratio(row, RAW) if RAW in self.names else None, self.best_peer(row)
            line = [row.title, *(_shown(cell, row) for cell in cells), cpu, f"{raw:.2f}" if raw else ""]
            if has_peers:
                line.append(f"{best[1]:.2f} ({best[0]})" if best else "")
            sent = ours.samples[-1].requests if ours.samples else {}
            line.append(", ".join(f"{kind} {count}" for kind, count in sorted(sent.items())))
            lines.append(line)
        widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
        shown = ["| " + " | ".join(_padded(line, widths)) + " |" for line in [head, *lines]]
        rule = "|" + "|".join("-" * (width + 1) + (":" if i else "-") for i, width in enumerate(widths)) + "|"
        return "\n".join([shown[0], rule, *shown[1:]])

    def memory(self) -> list[str]:
        """The most memory that each subject had, as lines: in all, and by group of rows."""
        lines = []
        for name, groups in self.peak_bytes_by_group.items():
            if most := self.peak_bytes[name]:
                each = ", ".join(f"{group} {peak >> 20}" for group, peak in groups.items() if peak)
                lines.append(f"Peak memory of {name}: {most >> 20} MiB ({each})")
        return lines

    def as_json(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Everything, for programs."""
        return {
            "format": FORMAT,
            **facts,
            "names": self.names,
            "peak_bytes": self.peak_bytes,
            "peak_bytes_by_group": self.peak_bytes_by_group,
            "rows": [
                {
                    **asdict(row),
                    "results": {name: self._cell_json(row, name) for name in self.names},
                    "ratios": {
                        name: ratio
                        for name in self.names
                        if name != OURS and (ratio := self.ratio(row, name)) is not None
                    },
                }
                for row in self.rows
            ],
        }

    def _cell_json(self, row: Row, name: str) -> dict[str, Any]:
        cell = self.cell(row, name)
        values = [sample.value for sample in cell.samples]
        return {
            "values": values,
            "min": min(values, default=None),
            "median": cell.median,
            "cpu_s": [sample.cpu_s for sample in cell.samples],
            "requests": [dict(sample.requests) for sample in cell.samples],
            "error": cell.error or None,
        }


def _shown(cell: Cell, row: Row) -> str:
    if cell.error:
        return "BROKEN"
    if cell.median is None:
        return ""
    return f"{cell.median:,.0f}" if row.unit == "/s" else f"{cell.median:.2f}"


def _padded(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [line[0].ljust(widths[0]), *(text.rjust(widths[i]) for i, text in enumerate(line) if i)]


def machine(subjects: Sequence[Subject]) -> dict[str, Any]:
    """Facts about this machine that a time depends on."""
    model = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    packages = {name: importlib.metadata.version(name) for name in ("pyfuse3", "trio", "obstore", "boto3")}
    return {
        "cpus": os.cpu_count(),
        "cpu_model": model[0] if model else platform.machine(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": packages,
        "load_1min": os.getloadavg()[0],
        "peers": {subject.name: subject.version for subject in subjects if subject.name != OURS},
    }


def sizes_json(sizes: Sizes) -> dict[str, Any]:
    """The sizes of a run, for programs."""
    return asdict(sizes)
