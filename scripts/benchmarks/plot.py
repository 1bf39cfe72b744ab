"""The picture for the README: how each subject stands to the best one, a row a line. Needs matplotlib.

`bench plot PICTURE.png RESULT.json...` draws results that were kept with --json, side by side.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mountstore.errors import UsageError
from scripts.benchmarks.subjects import RAW

Result = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the picture is there, 2 when it was asked for wrongly."""
    parser = argparse.ArgumentParser(
        prog="bench plot", description="Draw results that were kept with --json, side by side."
    )
    parser.add_argument("picture", type=Path, metavar="PICTURE.png")
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULT.json")
    given = parser.parse_args(arguments)
    try:
        check_available()
        draw([json.loads(file.read_text()) for file in given.results], given.picture)
    except (UsageError, OSError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return 0


def check_available() -> None:
    """Raises UsageError where there is no matplotlib; asked before an hour of work, not after."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("a picture needs matplotlib: pip install 'mountstore[bench]'")


def title_of(result: Result) -> str:
    """What was measured where, on one line."""
    cpus, runs = result["machine"]["cpus"], result["runs"]
    return f"{result['store']}, {result['latency_ms']:g} ms added, {cpus} CPUs, median of {runs}"


def draw(results: Sequence[Result], path: Path) -> None:
    """Write a PNG: bars of time relative to the fastest mount in each row, on a logarithmic scale."""
    # By name, because it is no dependency that type checkers could look into everywhere.
    importlib.import_module("matplotlib").use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")

    longest = max(len(_rows(result)) for result in results)
    size = (2 + 6 * len(results), 1.5 + 0.45 * longest)
    # A mount has one colour, also where another panel lacks those before it.
    every = list(dict.fromkeys(name for result in results for name in _names(result)))
    colours = {name: f"C{position}" for position, name in enumerate(every)}
    figure, panels = pyplot.subplots(1, len(results), figsize=size, squeeze=False)
    for axes, result in zip(panels[0], results, strict=True):
        _panel(axes, result, colours, with_titles=axes is panels[0][0])
        names = _names(result)
        handles = [pyplot.Rectangle((0, 0), 1, 1, color=colours[name]) for name in names]
        axes.legend(handles, names, loc="lower right", fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _names(result: Result) -> list[str]:
    return [name for name in result["names"] if name != RAW]


def _rows(result: Result) -> list[Result]:
    names = _names(result)
    return [row for row in result["rows"] if any(row["results"][name]["median"] for name in names)]


def _panel(axes: Any, result: Result, colours: Mapping[str, str], *, with_titles: bool) -> None:
    names, rows = _names(result), _rows(result)
    height = 0.8 / len(names)
    for line, row in enumerate(rows):
        medians = {name: row["results"][name]["median"] for name in names}
        seconds = row["unit"] == "s"
        costs = {name: value if seconds else 1 / value for name, value in medians.items() if value}
        for position, name in enumerate(names):
            if name not in costs:
                continue
            factor = costs[name] / min(costs.values())
            at = line + (position - (len(names) - 1) / 2) * height
            axes.barh(at, factor, height, color=colours[name])
            text = f" {medians[name]:.2f} s" if seconds else f" {medians[name]:,.0f}/s"
            axes.text(factor, at, text, va="center", fontsize=6)
    axes.set_xscale("log")
    titles = [row["title"].replace("`", "") if with_titles else "" for row in rows]
    axes.set_yticks(range(len(rows)), titles, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("times as long as the fastest mount in this row (shorter is better)", fontsize=8)
    axes.set_title(title_of(result), fontsize=9)
