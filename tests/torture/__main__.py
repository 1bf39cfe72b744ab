"""scripts/torture: kill a mount at random moments for as long as one likes."""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
from pathlib import Path

from tests import servers
from tests.mount.cases import LASTING, StoreCase, local_case, s3_case
from tests.mount.mounting import Mount, need_fuse, temporary_base
from tests.torture.kills import Torture


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/torture",
        description="Kill a mount's daemon at random moments under a writer, mount again, compare with what"
        " was acknowledged; at the end compare with the store alone. Exits with 0 if nothing was lost.",
    )
    parser.add_argument("--kills", type=int, default=40, metavar="N", help="how often [default: 40]")
    parser.add_argument("--seed", type=int, metavar="S", help="repeats a run [default: a random one]")
    parser.add_argument("--store", choices=LASTING, default="sqlite", help="[default: sqlite]")
    args = parser.parse_args()
    if args.kills < 1:
        parser.error("--kills is at least 1")
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(1_000_000)
    need_fuse()
    print(f"seed {seed}, {args.kills} kills, {args.store}", flush=True)
    with contextlib.ExitStack() as stack:
        base = stack.enter_context(temporary_base())
        case = _case(args.store, base, stack)
        mount = Mount(case.url, base, env=case.env, limit_s=300)
        stack.callback(mount.clean_up)
        torture = Torture(case, mount, seed, tell=lambda line: print(line, flush=True))
        try:
            for _ in range(args.kills):
                torture.kill()
            torture.finish()
        except AssertionError as error:
            print(f"LOST (seed {seed}, kill {torture.kills}): {error}\n{mount.log()}", file=sys.stderr)
            return 1
    return 0


def _case(kind: str, base: Path, stack: contextlib.ExitStack) -> StoreCase:
    if kind == "versitygw":
        return s3_case(stack.enter_context(servers.versitygw()))
    if kind == "minio":
        return s3_case(stack.enter_context(servers.minio()))
    return local_case(kind, base)


if __name__ == "__main__":
    sys.exit(main())
