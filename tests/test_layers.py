"""An import points up the list of layers of the package, never down: the order is the architecture."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import mountstore

# Top first; a module may import from its own layer and from those above. Parts that do not exist yet
# have their place already.
LAYERS = [
    "errors",
    "store",
    "backends",
    "stores",
    "aio",
    "registry",
    "transfer",
    "aliases",
    "namespaces",
    "server",
    "vfs",
    "fsck",
    "fuse",
    "daemon",
    "cli",
]
# What stands beside a layer, each needing the other: `config:NAME` is a URL, and a configuration has URLs.
BESIDE = {"config": "registry"}
ROOT = Path(mountstore.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, full name) of all that is imported, inside functions and for type checking too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, base] if base else parts)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def layer(name: str) -> str | None:
    """The layer of a full name; None outside the package and for names of its top module."""
    parts = name.split(".")
    if parts[0] != "mountstore" or len(parts) == 1:
        return None
    name = BESIDE.get(parts[1], parts[1])
    return name if name in LAYERS else None


def downward(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What `module` imports from layers below its own."""
    own = layer(module)
    if own is None:
        return []
    return [
        f"line {line}: {name}"
        for line, name in imports(source, module, is_package=is_package)
        if (other := layer(name)) is not None and LAYERS.index(other) > LAYERS.index(own)
    ]


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_point_up(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert downward(source, dotted(path), is_package=path.name == "__init__.py") == []


def test_every_module_has_a_layer() -> None:
    tops = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in MODULES}
    assert tops - {"__init__", "__main__"} <= {*LAYERS, *BESIDE}


def test_backends_do_not_import_each_other() -> None:
    for path in (ROOT / "backends").rglob("*.py"):
        own = path.relative_to(ROOT / "backends").parts[0].removesuffix(".py")
        for line, name in imports(path.read_text(encoding="utf-8"), dotted(path), is_package=False):
            if name.startswith("mountstore.backends."):
                other = name.split(".")[2]
                shared = other.startswith("_") or own == "__init__"
                assert other == own or shared, f"{dotted(path)}:{line} imports {name}"


@pytest.mark.parametrize(
    "source",
    [
        "import mountstore.cli.main",
        "from mountstore import fuse",
        "from mountstore.daemon import run",
        "from . import cli",
        "from .cli import main",
        "def later():\n    from mountstore.vfs import tree",
    ],
)
def test_a_downward_import_is_found(source: str) -> None:
    assert downward(source, "mountstore.store")


def test_upward_and_foreign_imports_are_allowed() -> None:
    source = "import os, fuse\nfrom mountstore.store import Page\nfrom mountstore import errors, __version__"
    assert downward(source, "mountstore.vfs.tree") == []
    assert downward("from .cli import x", "mountstore.vfs", is_package=True) == []
