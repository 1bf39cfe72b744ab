"""What lies in a folder of objects, and what this process holds open: for the tests of stores of files."""

from __future__ import annotations

import os
from pathlib import Path

from mountstore.backends._filesystem_names import PRIVATE


def paths(root: Path) -> list[str]:
    """All files and folders below the root, but for the private folder."""
    return sorted(
        os.path.relpath(os.path.join(folder, name), root)
        for folder, folders, names in os.walk(root)
        for name in folders + names
        if PRIVATE not in os.path.join(folder, name)
    )


def files(root: Path) -> list[str]:
    """The same without the folders."""
    return [path for path in paths(root) if not (root / path).is_dir()]


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
