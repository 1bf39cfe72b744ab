from __future__ import annotations

import sys

from scripts.benchmarks import cli
from scripts.benchmarks.stores import cli as stores

if __name__ == "__main__":
    sys.exit(stores.main(sys.argv[2:]) if sys.argv[1:2] == ["stores"] else cli.main())
