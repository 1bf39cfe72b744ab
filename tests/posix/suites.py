"""External suites of Rust, built once by `cargo install` and kept beside the servers of the tests."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

from tests.servers import cache_directory

VERSIONS = {"pjdfstest": "0.2.2", "fsx": "0.3.2"}
BUILD_DEADLINE_S = 1200.0


def suite(name: str) -> Path:
    """The executable of a suite, in its one version, built if it is not there yet (a minute, once)."""
    folder = cache_directory() / f"{name}-{VERSIONS[name]}"
    path = folder / "bin" / name
    if path.exists():
        return path
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f"{folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _build(name, folder)
    return path


def _build(name: str, folder: Path) -> None:
    cargo = shutil.which("cargo") or shutil.which("cargo", path=str(Path.home() / ".cargo" / "bin"))
    if cargo is None:
        raise RuntimeError(
            "the suites are built with cargo 1.85 or newer: install cargo (Debian 12: cargo-web)"
        )
    command = [
        cargo,
        "install",
        "--locked",
        "--quiet",
        name,
        "--version",
        VERSIONS[name],
        "--root",
        str(folder),
    ]
    environment = os.environ | {"PATH": f"{Path(cargo).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=BUILD_DEADLINE_S,
        check=False,
    )
    if done.returncode:
        tail = done.stdout.decode(errors="replace")[-3000:]
        raise RuntimeError(f"{' '.join(command)!r} failed:\n{tail}")
