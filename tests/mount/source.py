"""A source tree for the tools to copy: made the same from the same seed, on a local disk."""

from __future__ import annotations

import os
import random
from pathlib import Path

FILES = 1000
EPOCH_NS = 1_500_000_000_000_000_000

ODD_NAMES = [
    "with space",
    " leading and trailing ",
    "two  blanks",
    ".hidden",
    "..twodots",
    "...",
    "trailing.",
    "100%",
    "%2F%41%zz",
    "a+b&c=d?e#f",
    "semi;colon:comma,",
    "quote'\"`",
    "$(echo no)",
    "star*[x]{y}~",
    "-rf",
    "back\\slash",
    "<tag>&amp;",
    "@at!bang^caret|pipe",
    "Grüße",
    "Gru\u0308ße",  # the same to a reader, another name to a file system
    "日本語のファイル",
    "🗂 emoji 👩‍👩‍👧",
    "ελληνικά.txt",
    "عربى",
    "UPPER",
    "upper",
    "n" * 200,
    "é" * 100,
    "x.conflict-host-20200101T000000Z",
]


def build_source(root: Path, *, files: int = FILES, seed: int = 3) -> Path:
    """Make `root` a tree of exactly `files` files, with directories, links, modes and times of all sorts."""
    chance = random.Random(seed)
    root.mkdir(parents=True)
    folders = [root]
    for number in range(60):
        folder = chance.choice(folders[-12:]) / f"dir {number:02d}"
        folder.mkdir()
        folders.append(folder)
    odd = root / "odd ünïcode %41"
    odd.mkdir()
    for name in ["empty", "empty with space", "énpty", "nest/of/empty/dirs"]:
        (odd / name).mkdir(parents=True)
    paths = [odd / name for name in ODD_NAMES]
    paths += [chance.choice(folders) / f"file-{number:04d}.dat" for number in range(files - len(paths))]
    for path in paths:
        path.write_bytes(chance.randbytes(chance.choice([0, 1, 17, 100, 1000, 4096, 4097, 20_000])))
        os.chmod(path, chance.choice([0o644, 0o644, 0o600, 0o755, 0o400, 0o444, 0o664, 0o4755, 0o640]))
    links = root / "links"
    links.mkdir()
    (links / "relative").symlink_to(os.path.relpath(paths[-1], links))
    (links / "absolute").symlink_to("/usr/bin/env")
    (links / "dangling").symlink_to("nowhere/at all")
    (links / "directory").symlink_to("../dir 00", target_is_directory=True)
    (links / "ünïcode").symlink_to("zi€l")
    (links / "long").symlink_to("t/" * 400 + "end")
    (links / "self").symlink_to("self")
    os.chmod(folders[3], 0o700)
    os.chmod(folders[4], 0o1777)
    os.chmod(folders[5], 0o2775)
    if os.geteuid() == 0:
        os.lchown(paths[5], 1234, 5678)
        os.lchown(links / "dangling", 1234, 5678)
        os.lchown(folders[6], 65534, 4321)
    everything = [*paths, *links.iterdir()]
    everything += [Path(folder) for folder, _, _ in os.walk(root, topdown=False)]
    for path in everything:
        time_ns = EPOCH_NS + chance.randrange(10**17)
        os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)
    return root
