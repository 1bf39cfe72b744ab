"""Build what tests run and do not bring: S3 servers and suites. `python -m tests.build`, minutes at first.

Before the tests, not in them: each test has its time, and a compiler beside others takes all of it.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from tests import servers
from tests.posix import suites


def main() -> int:
    # The Go servers one after another, as each build takes all cores; the suites beside them.
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(lambda: [servers.binary(name) for name in servers.MODULES]),
            pool.submit(lambda: [suites.suite(name) for name in suites.VERSIONS]),
        ]
        for job in jobs:
            job.result()
    return 0


if __name__ == "__main__":
    sys.exit(main())
