"""The public names, pinned: adding one is a decision, losing one breaks users."""

from __future__ import annotations

import inspect
import subprocess
import sys

import mountstore
from mountstore import errors

PUBLIC = {
    "AccessDenied",
    "AsyncBucketStore",
    "AsyncCachingStore",
    "AsyncDictStore",
    "AsyncFanoutStore",
    "AsyncFilesystemStore",
    "AsyncHashdirStore",
    "AsyncSqliteStore",
    "AsyncStore",
    "BackendAlreadyExists",
    "BackendDoesNotExist",
    "BackendMustBeOpen",
    "BackendMustNotBeOpen",
    "BadUrl",
    "CachingStore",
    "Capabilities",
    "Corrupted",
    "Data",
    "FanoutStore",
    "InvalidKey",
    "InvalidName",
    "InvalidRange",
    "MountError",
    "MountstoreError",
    "NotFound",
    "ObjectInfo",
    "ObjectStore",
    "Page",
    "PartialFailure",
    "PreconditionFailed",
    "QuotaExceeded",
    "RangeNotSatisfiable",
    "StoreError",
    "StoreFull",
    "Unavailable",
    "Unsupported",
    "UsageError",
    "__version__",
    "async_clear_store",
    "async_copy_store",
    "async_sync_stores",
    "clear_store",
    "copy_store",
    "open_config",
    "open_store",
    "sync_stores",
}


def test_public_names_are_these() -> None:
    assert set(mountstore.__all__) == PUBLIC
    assert sorted(mountstore.__all__, key=lambda name: (not name[0].isupper(), name)) == mountstore.__all__


def test_each_public_name_is_there() -> None:
    for name in mountstore.__all__:
        assert getattr(mountstore, name) is not None
    assert set(dir(mountstore)) >= PUBLIC


def test_every_error_is_public() -> None:
    classes = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert classes <= PUBLIC


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(mountstore, "no_such_name")


def imported_by(code: str) -> set[str]:
    script = f"{code}\nimport sys; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return set(run.stdout.split())


def test_importing_the_package_loads_nothing_else() -> None:
    assert not {name for name in imported_by("import mountstore") if name.startswith("mountstore.")}


def test_the_command_loads_only_what_its_subcommand_needs() -> None:
    slow = {"boto3", "botocore", "obstore", "trio", "pyfuse3", "rich", "anyio", "sqlite3"}
    assert not slow & imported_by("import mountstore.cli.main")
    assert not slow & imported_by("from mountstore.cli.main import run\nassert run(['--version']) == 0")
    assert not slow & imported_by("import mountstore.cli.objects")
    used = imported_by("import mountstore\nmountstore.open_store('memory:').close()")
    assert not used & {"boto3", "obstore", "trio"}
