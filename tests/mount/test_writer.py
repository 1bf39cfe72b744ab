"""The writer of the kill test and its model, on an ordinary directory: they must agree, and must notice."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.mount import writer
from tests.mount.waiting import wait_until


def worked(root: Path, journal: Path, seed: int, steps: int) -> writer.Model:
    """A model of a writer that was killed at a random moment, after some steps."""
    words = [sys.executable, writer.__file__, str(root), str(journal), str(seed)]
    with subprocess.Popen(words) as process:
        wait_until(
            "it has worked", lambda: journal.exists() and journal.read_bytes().count(b"\n") > 2 * steps
        )
        time.sleep(random.Random(seed).uniform(0, 0.02))
        process.kill()
    return writer.Model()


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_writer_leaves_what_its_model_says(tmp_path: Path, seed: int) -> None:
    root = tmp_path / "root"
    root.mkdir()
    model = writer.Model()
    for number in range(3):
        journal = tmp_path / f"journal{number}"
        worked(root, journal, seed * 10 + number, 60)
        model.read(journal)
        model.verify(root)
    assert model.steps > 180
    assert len(model.files) > 5


@pytest.mark.parametrize("harm", ["a byte", "an end", "a file", "an extra file", "a folder"])
def test_the_model_notices(tmp_path: Path, harm: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    worked(root, tmp_path / "journal", 5, 120)
    model = writer.Model()
    model.read(tmp_path / "journal")
    model.verify(root)
    name = max(model.files, key=lambda name: len(model.files[name]))
    data = model.files[name]
    if harm == "a byte":
        (root / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif harm == "an end":
        (root / name).write_bytes(data[:-1])
    elif harm == "a file":
        (root / name).unlink()
    elif harm == "an extra file":
        (root / f"{name}.conflict-here-now").write_bytes(data)
    else:
        (root / "extra folder").mkdir()
    with pytest.raises(AssertionError, match="wrong of"):
        model.verify(root)
