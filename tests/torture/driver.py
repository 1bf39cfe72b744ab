"""A process that works on a Vfs without FUSE until it dies: `python driver.py URL STATE JOURNAL SEED ...`.

Every step is noted in the journal, on another disk, before it begins and when it is acknowledged (see
tests/mount/writer.py), so that whoever ended this process knows what has to be there.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from mountstore.registry import open_store
from tests.mount.writer import Model, choose, content, temporary_name
from tests.vfs.faulty import FaultyStore
from tests.vfs.mounted import Mounted, running, until

Note = Callable[[object], None]
THEIRS = b"what somebody else has put"


async def carry_out(m: Mounted, step: dict[str, Any]) -> None:
    """One step of the writer, by the verbs of the Vfs; it is acknowledged when this returns."""
    do, path = step["do"], step["path"]
    if do in ("write", "append", "replace", "patch"):
        data = content(step["seed"], step["size"])
        target = temporary_name(step) if do == "replace" else path
        flags = os.O_WRONLY if do == "patch" else os.O_WRONLY | os.O_CREAT
        handle = await m.open(target, flags | (os.O_TRUNC if do in ("write", "replace") else 0))
        at = {"patch": step.get("at", 0), "append": m.vfs.node_of(handle).size}.get(do, 0)
        for start in range(0, len(data), 1 << 16):
            await m.pwrite(handle, data[start : start + (1 << 16)], at + start)
        if step["fsync"]:
            await m.vfs.fsync(handle)
        await m.close(handle)
        if do == "replace":
            await m.rename(target, path)
    elif do == "unlink":
        await m.unlink(path)
    elif do == "mkdir":
        await m.mkdir(path)
    elif do == "rmdir":
        await m.rmdir(path)
    else:
        await m.rename(path, step["to"])


async def look(m: Mounted) -> tuple[dict[str, bytes], set[str]]:
    """Content by path of every file, and every directory."""
    tree = await m.tree()
    files = {path: data for path, data in tree.items() if isinstance(data, bytes)}
    return files, {path for path, data in tree.items() if data is None}


async def fail_uploads(m: Mounted, model: Model, note: Note) -> None:
    """Have uploads of a file fail that is written meanwhile, until its layers are merged."""
    assert isinstance(m.store.inner, FaultyStore)
    begin = {"do": "write", "path": "merged", "seed": 1, "size": 1000, "fsync": False}
    await _noted(m, model, note, begin)
    for number in range(3):
        gate = m.store.add("gate", "put", "merged")
        failing = m.store.inner.add("fail", "put", "merged")
        await _noted(m, model, note, begin | {"do": "append", "seed": 10 + number})
        await until(gate.arrived.is_set)
        await _noted(m, model, note, begin | {"do": "append", "seed": 20 + number})
        gate.open()
        await until(lambda fault=failing: fault.fired)  # type: ignore[misc]


async def meet_others(m: Mounted, model: Model, note: Note) -> None:
    """Have an upload find that somebody else has changed the object."""
    begin = {"do": "write", "path": "ours", "seed": 1, "size": 1000, "fsync": False}
    await _noted(m, model, note, begin)
    await m.drain()
    m.store.inner.put("ours", THEIRS)
    await _noted(m, model, note, begin | {"seed": 2})
    await m.drain()


async def _noted(m: Mounted, model: Model, note: Note, step: dict[str, Any]) -> None:
    note(step)
    await carry_out(m, step)
    note("done")
    model.apply(step)


async def work(args: argparse.Namespace) -> None:
    chance = random.Random(args.seed)
    store = FaultyStore(FaultyStore(open_store(args.url)))
    with store, args.journal.open("xb", buffering=0) as out:

        def note(what: object) -> None:
            out.write(json.dumps(what).encode() + b"\n")
            os.fdatasync(out.fileno())

        async with running(store, args.state, fsync=args.fsync) as m:
            model = Model(*await look(m))
            if args.meet_others:
                await meet_others(m, model, note)
            if args.fail_uploads:
                await fail_uploads(m, model, note)
            for _ in range(args.steps):
                await _noted(m, model, note, choose(model, chance, args.fsyncs))
                if chance.random() < args.drains:
                    await m.drain()
                else:
                    await trio.lowlevel.checkpoint()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("state", type=Path)
    parser.add_argument("journal", type=Path)
    parser.add_argument("seed", type=int)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--fsync", choices=["local", "remote"], default="remote")
    parser.add_argument("--fsyncs", type=float, default=0.1, help="share of writes that end with an fsync")
    parser.add_argument(
        "--drains", type=float, default=0.15, help="share of steps after which all is uploaded"
    )
    parser.add_argument("--fail-uploads", action="store_true")
    parser.add_argument("--meet-others", action="store_true")
    trio.run(work, parser.parse_args())


if __name__ == "__main__":
    main()
