from __future__ import annotations

import sys

from scripts.benchmarks import cli, plot, rest
from scripts.benchmarks.stores import cli as stores

OTHERS = {"stores": stores.main, "rest": rest.main, "plot": plot.main}

if __name__ == "__main__":
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    sys.exit(OTHERS[word](sys.argv[2:]) if word in OTHERS else cli.main())
