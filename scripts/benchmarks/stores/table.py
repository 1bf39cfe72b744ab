"""What a run of `bench stores` has brought: a table in Markdown, and JSON."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from scripts.benchmarks.stores.work import MIB, ROWS, Seconds, Sizes

OURS, DURABLE, PLAIN, ORIGINAL = "ours", "durable", "plain", "original"


@dataclass(slots=True)
class Result:
    """What one pair took, by column; `errors` are lines of what came out wrong."""

    name: str
    beside: str  # which of our columns is compared
    columns: dict[str, Seconds] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def ratio(self, row: str, other: str) -> float | None:
        """Our median time as a multiple of the other's; under 1 is faster."""
        if self.beside not in self.columns or other not in self.columns:
            return None
        mine, theirs = self.columns[self.beside].median(row), self.columns[other].median(row)
        return mine / theirs if mine and theirs else None

    def noise(self, row: str, other: str) -> float | None:
        """Half the width of where the middle half of the ratios of single rounds lies; None of one round."""
        if self.ratio(row, other) is None:
            return None
        mine, theirs = self.columns[self.beside].of[row], self.columns[other].of[row]
        ratios = [one / two for one, two in zip(mine, theirs, strict=False) if two]
        if len(ratios) < 2:
            return None
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return (high - low) / 2


def table(results: list[Result], sizes: Sizes) -> str:
    """A line for each pair and row."""
    compared = [name for name in (PLAIN, ORIGINAL) if any(name in result.columns for result in results)]
    head = ["store", "row", OURS, DURABLE]
    for name in compared:
        head += [name, "×"]
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2)]
    for result in results:
        for row in ROWS:
            cells = [result.name, row, *(_rate(result, name, row, sizes) for name in (OURS, DURABLE))]
            for name in compared:
                ratio, noise = result.ratio(row, name), result.noise(row, name)
                told = "" if ratio is None else f"{ratio:.2f}"
                cells += [_rate(result, name, row, sizes), told if noise is None else f"{told} ±{noise:.2f}"]
            lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _rate(result: Result, column: str, row: str, sizes: Sizes) -> str:
    seconds = result.columns[column].median(row) if column in result.columns else None
    if not seconds:
        return ""
    if row.startswith("large"):
        return f"{sizes.large_bytes / MIB / seconds:,.0f} MiB/s"
    return f"{1 / seconds:,.0f}/s"


def as_json(results: list[Result], facts: dict[str, Any]) -> dict[str, Any]:
    """All samples: seconds an operation."""
    return facts | {
        "pairs": [
            {
                "name": result.name,
                "beside": result.beside,
                "seconds": {name: seconds.of for name, seconds in result.columns.items()},
                "ratios": {
                    other: {row: result.ratio(row, other) for row in ROWS}
                    for other in (PLAIN, ORIGINAL)
                    if other in result.columns
                },
                "noise": {
                    other: {row: result.noise(row, other) for row in ROWS}
                    for other in (PLAIN, ORIGINAL)
                    if other in result.columns
                },
                "errors": result.errors,
            }
            for result in results
        ]
    }
