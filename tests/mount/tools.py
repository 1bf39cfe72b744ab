"""The list of workloads, and how they run the tools.

A workload is what people do in a directory, as a function of (root, scratch). `root` is an empty directory
to work in, of a mount or of any file system; `scratch` an empty one on a local disk, for what the result is
compared with. It raises AssertionError, OSError or CalledProcessError if anything is not as Unix has it, and
leaves its result in `root`, so that the same can be looked for later. Nothing in it knows of mountstore.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

Workload = Callable[[Path, Path], None]
WORKLOADS: dict[str, Workload] = {}
TOOL_DEADLINE_S = 240.0


def workload(function: Workload) -> Workload:
    """Enter a workload into the list, under its name."""
    WORKLOADS[function.__name__] = function
    return function


def run(*words: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a tool to its end and return what it printed; AssertionError with its errors if it fails."""
    if shutil.which(str(words[0])) is None:
        raise AssertionError(f"the tests of the mount need {words[0]}: install it")
    done = subprocess.run(
        list(map(str, words)),
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TOOL_DEADLINE_S,
        check=False,
    )
    shown = " ".join(map(str, words))[:200]
    assert done.returncode == 0, (
        f"{shown}: exit {done.returncode}\n"
        f"{done.stdout.decode(errors='replace')[-1000:]}{done.stderr.decode(errors='replace')[-2000:]}"
    )
    return done.stdout.decode(errors="surrogateescape")


def shell(script: str, cwd: Path) -> str:
    """Run a shell script that stops at its first error."""
    return run("bash", "-euo", "pipefail", "-c", script, cwd=cwd)
