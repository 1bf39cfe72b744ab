"""The picture for the README: how each subject stands to the best one, a row a line. Needs matplotlib."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

from mountstore.errors import UsageError
from scripts.benchmarks.report import Report
from scripts.benchmarks.subjects import RAW


def check_available() -> None:
    """Raises UsageError where there is no matplotlib; asked before an hour of work, not after."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib: pip install 'mountstore[bench]'")


def draw(report: Report, title: str, path: Path) -> None:
    """Write a PNG: bars of time relative to the fastest mount in each row, on a logarithmic scale."""
    # By name, because it is no dependency that type checkers could look into everywhere.
    importlib.import_module("matplotlib").use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")

    names = [name for name in report.names if name != RAW]
    rows = [row for row in report.rows if any(report.cell(row, name).median for name in names)]
    figure, axes = pyplot.subplots(figsize=(10, 1.5 + 0.45 * len(rows)))
    height = 0.8 / len(names)
    for position, name in enumerate(names):
        for line, row in enumerate(rows):
            medians = {other: report.cell(row, other).median for other in names}
            costs = {
                other: (value if row.unit == "s" else 1 / value) for other, value in medians.items() if value
            }
            if name not in costs:
                continue
            factor = costs[name] / min(costs.values())
            at = line + (position - (len(names) - 1) / 2) * height
            axes.barh(at, factor, height, color=f"C{position}")
            value = medians[name] or 0.0
            text = f" {value:,.0f}/s" if row.unit == "/s" else f" {value:.2f} s"
            axes.text(factor, at, text, va="center", fontsize=6)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [row.title.replace("`", "") for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("times as long as the fastest mount in this row (shorter is better)")
    axes.set_title(title, fontsize=10)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=f"C{position}") for position in range(len(names))]
    axes.legend(handles, names, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
