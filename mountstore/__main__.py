"""`python -m mountstore` is the command `mountstore`."""

from __future__ import annotations

from mountstore.cli.main import main

if __name__ == "__main__":
    main()
