"""What may be found after the power was cut: of each file, the state that was synced or a later one.

A file that is not synced may be old, new, a prefix of either, or, where it was changed in place, old in one
place and new in another. It is never anything that nobody wrote.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.mount.writer import Model, temporary_name


@dataclass
class History:
    """The states of all names since the last moment at which everything was on the disk."""

    model: Model = field(default_factory=Model)
    states: list[Model] = field(default_factory=list)
    synced: dict[str, bytes] = field(default_factory=dict)
    steps: int = 0
    fsyncs: int = 0
    names: dict[str, set[str]] = field(default_factory=dict)
    """For a name, all that its file may have had since."""

    def begin(self, files: dict[str, bytes], folders: set[str]) -> None:
        """This is there now, and on the disk."""
        self.model = Model(dict(files), set(folders))
        self.states = [self._state()]
        self.names = {}

    def _state(self) -> Model:
        return Model(dict(self.model.files), set(self.model.folders))

    def read(self, journal: Path, *, whole: bool) -> None:
        """Take in a journal; `whole`: an fsync of one file makes everything before it durable but content."""
        under_way: dict[str, Any] | None = None
        self.synced = {}
        for line in journal.read_bytes().split(b"\n")[:-1]:
            step = json.loads(line)
            if step != "done":
                under_way = step
                continue
            assert under_way is not None
            self._done(under_way, whole)
            under_way = None
        if under_way is not None:
            self._apply(under_way)

    def _apply(self, step: dict[str, Any]) -> None:
        if step["do"] == "replace":
            written = Model({**self.model.files}, set(self.model.folders))
            written.apply({**step, "do": "write", "path": temporary_name(step)})
            self.states.append(written)
            self._same(temporary_name(step), step["path"])
        elif step["do"] == "rename":
            self._same(step["path"], step["to"])
        elif step["do"] == "rename folder":
            for name in [name for name in self.model.files if name.startswith(f"{step['path']}/")]:
                self._same(name, step["to"] + name[len(step["path"]) :])
        self.model.apply(step)
        self.states.append(self._state())
        self.steps += 1
        # Where a synced file is renamed, its content is synced still, but not which of the names it has.
        for name in {step["path"], step.get("to", "")}:
            for other in [other for other in self.synced if other == name or other.startswith(f"{name}/")]:
                del self.synced[other]

    def _same(self, old: str, new: str) -> None:
        both = self.names.get(old, {old}) | self.names.get(new, {new})
        for name in both:
            self.names[name] = both

    def _done(self, step: dict[str, Any], whole: bool) -> None:
        self._apply(step)
        if step.get("fsync") and step["do"] != "replace":  # there the fsync comes before the rename
            self.fsyncs += 1
            self.synced[step["path"]] = self.model.files[step["path"]]

    def check_synced(self, files: dict[str, bytes]) -> None:
        """AssertionError that names what was synced and is not in these files."""
        wrong = [
            f"{name!r} was synced with {len(data)} bytes, now: {_told(files.get(name), data)}"
            for name, data in self.synced.items()
            if files.get(name) != data
        ]
        assert not wrong, f"{len(wrong)} wrong:\n  " + "\n  ".join(wrong[:20])

    def check(self, files: dict[str, bytes], folders: set[str]) -> None:
        """AssertionError that names what was lost, and what nobody wrote."""
        wrong = []
        for name, data in self.synced.items():
            if files.get(name) != data:
                wrong.append(
                    f"{name!r} was synced with {len(data)} bytes, now: {_told(files.get(name), data)}"
                )
        for name, data in files.items():
            parts = name.split(".conflict-")
            bases = {".conflict-".join(parts[:end]) for end in range(1, len(parts) + 1)}
            bases = set().union(*(self.names.get(base, {base}) for base in bases))
            versions = [state.files[base] for state in self.states for base in bases & state.files.keys()]
            if len(parts) > 1:
                # Changed in part, and the store has the rest no more: zeros there, and the log says so.
                versions.append(bytes(len(data)))
            if not versions:
                wrong.append(f"{name!r} was never there")
            elif not _is_made_of(data, versions):
                wrong.append(f"{name!r} holds what nobody wrote: {_told(data, versions[-1])}")
        for name in folders - {folder for state in self.states for folder in state.folders}:
            wrong.append(f"folder {name!r} was never there")
        always = set.intersection(*(set(state.files) for state in self.states))
        wrong += [f"{name!r} was always there, and is gone" for name in sorted(always - files.keys())]
        assert not wrong, f"{len(wrong)} wrong:\n  " + "\n  ".join(wrong[:20])


def _is_made_of(data: bytes, versions: list[bytes]) -> bool:
    """Whether each byte is one that some version has there."""
    if any(version.startswith(data) for version in versions):
        return True
    left = set(range(len(data)))
    for version in versions:
        left = {at for at in left if at >= len(version) or version[at] != data[at]}
    return not left


def _told(data: bytes | None, wanted: bytes) -> str:
    if data is None:
        return "it is gone"
    at = next((i for i, (a, b) in enumerate(zip(data, wanted, strict=False)) if a != b), None)
    zeros = "" if at is None or any(data[at : at + 64]) else ", zeros there"
    return f"{len(data)} bytes, of {len(wanted)}; they differ at {at}{zeros}"
