"""Real REST servers for the tests: `mountstore serve` and that of borgstore, on free loopback ports."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from tests import services
from tests.services import Service

PROJECT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def mountstore_server(store: str, *options: str) -> Iterator[Service]:
    """`mountstore serve STORE`."""

    def command(port: int, folder: Path) -> list[str]:
        (folder / "start.py").write_text(
            f"import sys; sys.path.insert(0, {str(PROJECT)!r})\n"
            "from mountstore.cli.main import main\nsys.exit(main())\n"
        )
        return [sys.executable, str(folder / "start.py"), "serve", store, "--port", str(port), *options]

    with services.running("mountstore-serve", command) as service:
        yield service


@contextlib.contextmanager
def borgstore_server(folder: Path, *options: str) -> Iterator[Service]:
    """`borgstore-server-rest` of a folder."""

    def command(port: int, _: Path) -> list[str]:
        program = str(Path(sys.executable).parent / "borgstore-server-rest")
        where = ["--host", "127.0.0.1", "--port", str(port), "--backend", folder.as_uri()]
        return [sys.executable, program, *where, *options]

    with services.running("borgstore-server-rest", command) as service:
        yield service
