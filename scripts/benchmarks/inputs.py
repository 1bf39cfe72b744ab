"""Local files that the workloads copy in and compare with, made once a run from a fixed seed."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Mapping
from pathlib import Path

from scripts.benchmarks.rows import MIB, Sizes

BIG_ENTRY = 3000
SMALL_ENTRY = 100

GIT_ENV: Mapping[str, str] = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "safe.directory",
    "GIT_CONFIG_VALUE_0": "*",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


class Inputs:
    """`big` is a file, `small` a folder of files, `repository` a git work tree, `tar` its files packed."""

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        self.sizes = sizes
        self.folder = folder
        self.big = folder / "big"
        self.small = folder / "small"
        self.repository = folder / "repository"
        self.tar = folder / "repository.tar"
        self.big_data = b""

    def make(self) -> None:
        """Write all of them; some seconds."""
        seed = random.Random(7)
        self.big_data = b"".join(seed.randbytes(MIB) for _ in range(self.sizes.big_bytes // MIB))
        self.big.write_bytes(self.big_data)
        self.small.mkdir()
        for number in range(self.sizes.small_files):
            (self.small / f"f{number:04}").write_bytes(seed.randbytes(self.sizes.small_bytes))
        for number in range(self.sizes.repository_files):
            file = self.repository / f"d{number % 6}" / f"file {number:03}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            text = "".join(f"{seed.random()}\n" for _ in range(seed.randrange(1, 400)))
            file.write_text(text)
        self._run("tar", "-cf", str(self.tar), "--exclude=.git", "-C", str(self.folder), "repository")
        self._git("init", "--quiet")
        self._git("add", "--all")
        self._git("commit", "--quiet", "-m", "first")

    def small_contents(self) -> dict[str, bytes]:
        """Content by name of the small files, in the order of `cat *`."""
        return {file.name: file.read_bytes() for file in sorted(self.small.iterdir())}

    def entry_size(self, number: int) -> int:
        """Bytes of the object of this number in the listed folders: every other one is over 1 KiB."""
        return BIG_ENTRY if number % 2 else SMALL_ENTRY

    def many(self) -> dict[str, int]:
        """Size by name of one folder's entries."""
        return {f"entry-{number:05}": self.entry_size(number) for number in range(self.sizes.entries)}

    def tree(self) -> dict[str, int]:
        """Size by path of as many files, in folders."""
        return {
            f"d{number % self.sizes.folders:03}/file-{number:05}": self.entry_size(number)
            for number in range(self.sizes.entries)
        }

    def _git(self, *words: str) -> None:
        self._run("git", "-C", str(self.repository), *words)

    def _run(self, *words: str) -> None:
        subprocess.run(
            words,
            env=os.environ | GIT_ENV,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=120,
            check=True,
        )
