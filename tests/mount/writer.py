"""Random work in a directory; every step is noted before it begins and when it is acknowledged.

Run as a program (`python writer.py ROOT JOURNAL SEED [SHARE OF FSYNCS]`) it works until it is killed or ROOT
fails under it. The journal is a local file, one line of JSON a step, each on the disk before the next begins.
It is read back by `Model`, which knows what has to be in ROOT after a crash of what serves ROOT: everything
that was acknowledged, exactly; the one step that was under way, done or not done.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

FOLDERS = 6
FILES = 40
# Names are few: they come back soon, where the store may still have something of their last bearer.
FOLDER_NAMES = 12
FILE_NAMES = 90


def content(seed: int, size: int) -> bytes:
    """Bytes that are the same whenever they are asked for."""
    return random.Random(seed).randbytes(size)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Model:
    """What is acknowledged: content by file, and the directories; and the step under way, if any."""

    files: dict[str, bytes] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    under_way: dict[str, Any] | None = None
    steps: int = 0
    synced: dict[str, bytes] = field(default_factory=dict)
    """Files that nothing has happened to since their fsync returned, in this process."""

    def read(self, journal: Path) -> None:
        """Take in what a journal says. A torn last line never began anything."""
        self.synced = {}
        for line in journal.read_bytes().split(b"\n")[:-1]:
            step = json.loads(line)
            if step == "done":
                assert self.under_way is not None
                self.apply(self.under_way)
                if self.under_way.get("fsync") and self.under_way["do"] != "replace":
                    self.synced[self.under_way["path"]] = self.files[self.under_way["path"]]
                self.under_way = None
                self.steps += 1
            else:
                assert self.under_way is None
                self.under_way = step
                for touched in {step["path"], step.get("to", step["path"])}:
                    for name in [n for n in self.synced if n == touched or n.startswith(f"{touched}/")]:
                        del self.synced[name]

    def apply(self, step: dict[str, Any]) -> None:
        """The effect of one step."""
        do, path = step["do"], step["path"]
        if do in ("write", "replace"):
            self.files[path] = content(step["seed"], step["size"])
        elif do == "append":
            self.files[path] += content(step["seed"], step["size"])
        elif do == "patch":
            old, new = self.files[path], content(step["seed"], step["size"])
            old = old.ljust(step["at"], b"\0")
            self.files[path] = old[: step["at"]] + new + old[step["at"] + len(new) :]
        elif do == "unlink":
            del self.files[path]
        elif do == "mkdir":
            self.folders.add(path)
        elif do == "rmdir":
            self.folders.remove(path)
        elif do == "rename":
            self.files[step["to"]] = self.files.pop(path)
        elif do == "rename folder":
            self.folders.remove(path)
            self.folders.add(step["to"])
            for name in [name for name in self.files if name.startswith(f"{path}/")]:
                self.files[step["to"] + name[len(path) :]] = self.files.pop(name)

    def verify(self, root: Path) -> None:
        """AssertionError unless `root` is as acknowledged; what was under way is settled as it is found."""
        self.check(*look(root))

    def check(self, actual_files: dict[str, bytes], actual_folders: set[str]) -> None:
        """The same for what was found elsewhere."""
        step, self.under_way = self.under_way, None
        if step is None:
            self.compare(actual_files, actual_folders)
            return
        done = Model(dict(self.files), set(self.folders))
        done.apply(step)
        if step["do"] == "replace" and (temporary := temporary_name(step)) in actual_files:
            left = actual_files[temporary]
            assert done.files[step["path"]].startswith(left), f"{temporary!r} holds what was never written"
            self.files[temporary] = left
        if step["do"] in ("write", "append", "patch"):
            # Not closed, so not promised: but it is this file alone, and nothing else in it.
            path = step["path"]
            found = actual_files.get(path)
            old, new = self.files.get(path), done.files[path]
            if found is None:
                assert old is None, f"{path!r} was closed before {step}, and is gone"
            elif step["do"] == "write":
                assert found in (old, new) or new.startswith(found), f"{path!r} is of neither side of {step}"
            elif step["do"] == "append":
                assert new.startswith(found), f"{path!r} is of neither side of {step}"
                assert len(found) >= len(old or b""), f"{path!r} lost its end at {step}"
            else:
                was = (old or b"").ljust(len(found), b"\0")
                both = zip(found, was, new.ljust(len(found), b"\0"), strict=False)
                assert len(found) >= len(old or b""), f"{path!r} lost its end at {step}"
                assert all(byte in (a, b) for byte, a, b in both), f"{path!r} is of neither side of {step}"
            for model in (self, done):
                model.files.pop(path, None)
                if found is not None:
                    model.files[path] = found
        try:
            self.compare(actual_files, actual_folders)
        except AssertionError as undone:
            try:
                done.compare(actual_files, actual_folders)
            except AssertionError as error:
                raise AssertionError(f"neither before nor after {step}:\n{undone}\n{error}") from None
            self.files, self.folders = done.files, done.folders

    def compare(self, files: dict[str, bytes], folders: set[str]) -> None:
        """AssertionError that names what differs."""
        wrong = [f"folder {name!r} is missing" for name in sorted(self.folders - folders)]
        wrong += [f"folder {name!r} should not be" for name in sorted(folders - self.folders)]
        for name in sorted(self.files.keys() | files.keys()):
            old, new = self.files.get(name), files.get(name)
            if new is None or old is None:
                wrong.append(f"file {name!r} {'is missing' if new is None else 'should not be'}")
            elif old != new:
                wrong.append(
                    f"file {name!r}: {len(old)} bytes {digest(old)[:8]} were acknowledged, "
                    f"{len(new)} bytes {digest(new)[:8]} are there"
                )
        assert not wrong, f"{len(wrong)} wrong of {len(self.files)} files:\n  " + "\n  ".join(wrong[:20])


def look(root: Path) -> tuple[dict[str, bytes], set[str]]:
    """Content by path of every file under `root`, and every directory."""
    files, folders = {}, set()
    for folder, names, others in os.walk(root):
        for name in names:
            folders.add(str(Path(folder, name).relative_to(root)))
        for name in others:
            path = Path(folder, name)
            assert stat.S_ISREG(path.lstat().st_mode)
            files[str(path.relative_to(root))] = path.read_bytes()
    return files, folders


def choose(model: Model, chance: random.Random, fsyncs: float = 0.05) -> dict[str, Any]:
    """A next step that makes sense now; of those that write, this share ends with an fsync."""
    folders = ["", *sorted(f"{name}/" for name in model.folders)]
    files = sorted(model.files)
    seed = chance.randrange(1 << 40)
    size = chance.choice([0, 1, 100, 3000, 4096, 20_000, 70_000, 300_000])

    def new_name() -> str:
        while (name := f"{chance.choice(folders)}f{chance.randrange(FILE_NAMES):03d}") in model.files:
            pass
        return name

    kinds = ["mkdir", "write", "write", "write"] if len(files) < FILES else ["unlink", "unlink"]
    if files:
        kinds += ["write over", "write over", "append", "append", "patch", "replace", "replace", "unlink"]
        kinds += ["rename", "rename", "rename over"]
    if model.folders:
        kinds += ["rmdir", "rename folder"]
    while True:
        kind = chance.choice(kinds)
        if kind == "mkdir" and len(model.folders) < FOLDERS:
            name = f"{chance.choice(folders)}d{chance.randrange(FOLDER_NAMES):03d}"
            if name.count("/") < 3 and name not in model.folders:
                return {"do": "mkdir", "path": name}
        fsync = chance.random() < fsyncs
        if kind == "write":
            return {"do": "write", "path": new_name(), "seed": seed, "size": size, "fsync": fsync}
        if kind == "write over":
            return {"do": "write", "path": chance.choice(files), "seed": seed, "size": size, "fsync": fsync}
        if kind in ("append", "replace"):
            return {"do": kind, "path": chance.choice(files), "seed": seed, "size": size, "fsync": fsync}
        if kind == "patch":
            path = chance.choice(files)
            at = chance.randrange(len(model.files[path]) + 1)
            return {"do": "patch", "path": path, "seed": seed, "size": size, "at": at, "fsync": fsync}
        if kind == "unlink":
            return {"do": "unlink", "path": chance.choice(files)}
        if kind == "rename":
            return {"do": "rename", "path": chance.choice(files), "to": new_name()}
        if kind == "rename over" and len(files) > 1:
            source, target = chance.sample(files, 2)
            return {"do": "rename", "path": source, "to": target}
        folder = chance.choice(sorted(model.folders) or [""])
        if kind == "rmdir" and not any(name.startswith(f"{folder}/") for name in [*files, *model.folders]):
            return {"do": "rmdir", "path": folder}
        if kind == "rename folder" and not any(name.startswith(f"{folder}/") for name in model.folders):
            to = f"{folder.rpartition('/')[0]}/d{chance.randrange(FOLDER_NAMES):03d}".lstrip("/")
            if to not in model.folders:
                return {"do": "rename folder", "path": folder, "to": to}


def temporary_name(step: dict[str, Any]) -> str:
    """Where the step "replace" writes before it renames."""
    return f"{step['path']}.{step['seed']}"


def carry_out(root: Path, step: dict[str, Any]) -> None:
    """One step in the file system; it is acknowledged when this returns."""
    do, path = step["do"], root / step["path"]
    if do in ("write", "append", "replace", "patch"):
        data = content(step["seed"], step["size"])
        target = root / temporary_name(step) if do == "replace" else path
        if do == "patch":
            with open(target, "r+b") as file:
                file.seek(step["at"])
                file.write(data)
                _fsync_if(step, file)
        else:
            with open(target, "ab" if do == "append" else "wb") as file:
                file.write(data)
                _fsync_if(step, file)
        if do == "replace":
            os.rename(target, path)
    elif do == "unlink":
        os.unlink(path)
    elif do == "mkdir":
        os.mkdir(path)
    elif do == "rmdir":
        os.rmdir(path)
    else:
        os.rename(path, root / step["to"])


def _fsync_if(step: dict[str, Any], file: IO[bytes]) -> None:
    if step["fsync"]:
        file.flush()
        os.fsync(file.fileno())


def work(root: Path, journal: Path, seed: int, fsyncs: float = 0.05) -> None:
    """Work for ever on what is in `root`; OSError when it fails."""
    chance = random.Random(seed)
    model = Model(*look(root))
    with open(journal, "xb", buffering=0) as out:

        def note(what: object) -> None:
            out.write(json.dumps(what).encode() + b"\n")
            os.fdatasync(out.fileno())

        while True:
            step = choose(model, chance, fsyncs)
            note(step)
            carry_out(root, step)
            note("done")
            model.apply(step)


if __name__ == "__main__":
    try:
        work(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), *map(float, sys.argv[4:]))
    except OSError as failed:
        print(failed, file=sys.stderr)
        sys.exit(3)
