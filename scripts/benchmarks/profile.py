"""py-spy on our daemon while a row runs: FOLDER/ROW.txt has its stacks, folded, by thread."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

from mountstore.errors import UsageError


class Profiler:
    """Profiles go to `folder`, one file a row; a row that is measured again replaces its file."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))
        if program is None:
            raise UsageError("--profile needs py-spy: pip install py-spy")
        self._program = program
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[str] | None = None

    def start(self, row: str, pid: int) -> None:
        """Begin, and return once it samples; what was under way ends."""
        self.stop()
        words = ["record", "--rate", "200", "--format", "raw", "--threads"]
        self._process = subprocess.Popen(
            [self._program, *words, "--pid", str(pid), "--output", str(self._folder / f"{row}.txt")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "Sampling" in line:
                return
        raise UsageError("py-spy does not start; it needs the right to trace the daemon")

    def stop(self) -> None:
        """End, and return once the file is written."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.communicate(timeout=60)
            self._process = None
