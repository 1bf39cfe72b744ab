"""The machine of tests/vfs on a mount: the kernel between, and a daemon that is killed and started again.

`VFS_EXAMPLES` and `VFS_STEPS` in the environment make it look harder.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from tests.mount.cases import LONG, StoreCase, make_case
from tests.mount.mounting import Mount, Mounts
from tests.vfs.drivers import Directory
from tests.vfs.machine import Machine, machine_settings

FLAGS: list[list[str]] = [
    [],
    ["--ttl", "0"],
    ["--ttl", "0", "--fsync", "local"],
    ["--ttl", "600", "--checkpoint", "0.2"],
]
EXAMPLES, STEPS = (100, 60) if LONG else (2, 30)
_EXAMPLE_S = 300


class Mounted(Machine):
    """One mount for all examples; each has a directory of its own in it."""

    kernel = True

    def __init__(self, case: StoreCase, mount: Mount, number: int) -> None:
        super().__init__()
        self.case = case
        self.mount = mount
        self.name = f"example{number}"

    # -- life --------------------------------------------------------------------------------------

    @initialize(flags=st.sampled_from(FLAGS))
    def begin(self, flags: list[str]) -> None:
        if not self.mount.alive():
            self.mount.start(*flags)
        self.stack.enter_context(self.mount.limit(_EXAMPLE_S))
        self.next_flags = flags
        (self.mount.root / self.name).mkdir()
        self.ours = Directory(self.mount.root / self.name)
        self.up = True

    @rule(flags=st.sampled_from(FLAGS))
    def other_flags(self, flags: list[str]) -> None:
        """From the next start on."""
        self.next_flags = flags

    def stop(self) -> None:
        self.up = False

    def kill(self) -> None:
        self.mount.kill()
        self.mount.start(*self.next_flags)

    def forget_handle(self, handle: int) -> None:
        with contextlib.suppress(OSError):  # nobody is there to be told
            os.close(handle)

    def restart(self, *, keep: bool) -> None:
        self.mount.umount()
        self.mount.remount(*self.next_flags, fresh_state=not keep)

    # -- the store ---------------------------------------------------------------------------------

    def upload(self) -> None:
        self.mount.sync()

    def stored(self) -> dict[str, bytes]:
        inside = f"{self.name}/"
        keys = [key for key in self.case.keys() if key.startswith(inside) and key != inside]
        return {key.removeprefix(inside): self.case.read(key) for key in keys}

    def change_directly(self, key: str, data: bytes | None) -> None:
        whole = f"{self.name}/{key}"
        if data is not None:
            self.case.write(whole, data)
        elif whole in self.case.keys():
            self.case.delete(whole)

    def fsync_is_remote(self) -> bool:
        return "local" not in self.mount.flags

    def sees_others(self) -> bool:
        return self.up and self.mount.flags[:2] == ("--ttl", "0")


@pytest.mark.parametrize("kind", ["sqlite", "versitygw"])
def test_a_mount_and_a_directory_cannot_be_told_apart(
    kind: str, request: pytest.FixtureRequest, base: Path, mounts: Mounts
) -> None:
    case = make_case(kind, request, base)
    mount = mounts(case, start=False)
    numbers = itertools.count()

    class OnThisMount(Mounted):
        def __init__(self) -> None:
            super().__init__(case, mount, next(numbers))

    run_state_machine_as_test(OnThisMount, settings=machine_settings(EXAMPLES, STEPS, shrink=False))
    assert mount.status()["conflicts"] == []
    assert mount.starts > 2, "the daemon was hardly ever killed: this has shown nothing"
    mount.umount()
