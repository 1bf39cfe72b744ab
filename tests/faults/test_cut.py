"""The network is cut, that is, packets vanish; or it is slow. Work goes on, and nothing is lost by it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from ipaddress import ip_network

import pytest

from tests.faults.conftest import SEED, Bench, Benches
from tests.faults.fault_proxy import Fault, Rule
from tests.faults.workload import SMALL, Reader, Work
from tests.mount.waiting import wait_until

NETWORK = ip_network("198.18.0.0/15")
"""Of RFC 2544, for tests of this kind: no real network has it."""
HARDWARE = "02:00:00:00:00:02"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=30)


class Namespace:
    """A network namespace that is joined to ours by a veth pair."""

    def __init__(self) -> None:
        self.name = f"mountstore-{os.getpid()}"
        self.ours, self.theirs = f"mso{os.getpid()}", f"mst{os.getpid()}"
        # Four addresses of our own: other processes test, too.
        first = NETWORK[4 * (os.getpid() % (NETWORK.num_addresses // 4))]
        self.ours_at, self.address = str(first + 1), str(first + 2)

    def socket(self) -> socket.socket:
        """A socket that listens inside, made by a thread that has moved there for this alone."""
        made: list[socket.socket] = []

        def inside() -> None:
            import ctypes

            libc = ctypes.CDLL(None, use_errno=True)
            with open(f"/run/netns/{self.name}") as there:
                if libc.setns(there.fileno(), 0x40000000):
                    raise OSError(ctypes.get_errno(), "setns")
            listening = socket.socket()
            listening.bind((self.address, 0))
            listening.listen(128)
            made.append(listening)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        return made[0]

    def cut(self) -> None:
        """Let packets vanish: what arrives inside is for an address that is not there any more."""
        ip("-n", self.name, "addr", "del", f"{self.address}/30", "dev", self.theirs)

    def restore(self) -> None:
        ip("-n", self.name, "addr", "add", f"{self.address}/30", "dev", self.theirs)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """Needs root. The other end's hardware address is fixed, so that nobody finds out that it is away."""
    made = Namespace()
    with contextlib.ExitStack() as stack:
        ip("netns", "add", made.name)
        stack.callback(ip, "netns", "del", made.name)
        ip("link", "add", made.ours, "type", "veth", "peer", "name", made.theirs, "netns", made.name)
        stack.callback(ip, "link", "del", made.ours)
        ip("addr", "add", f"{made.ours_at}/30", "dev", made.ours)
        ip("link", "set", made.ours, "up")
        ip("-n", made.name, "link", "set", "lo", "up")
        ip("-n", made.name, "link", "set", made.theirs, "address", HARDWARE, "up")
        made.restore()
        there = ["lladdr", HARDWARE, "dev", made.ours, "nud", "permanent"]
        ip("neigh", "replace", made.address, *there)
        yield made


Way = tuple[Bench, Callable[[], None], Callable[[], None]]
WAYS = ["proxy", "namespace"] if os.geteuid() == 0 else ["proxy"]


@pytest.fixture(params=WAYS)
def cuttable(request: pytest.FixtureRequest, benches: Benches) -> Way:
    """A bench, and what cuts its network and brings it back."""
    if request.param == "proxy":
        bench = benches("versitygw")
        return bench, bench.proxy.cut, bench.proxy.restore
    namespace = request.getfixturevalue("namespace")
    return benches("versitygw", make_socket=namespace.socket), namespace.cut, namespace.restore


def test_work_goes_on_while_the_network_is_cut(cuttable: Way) -> None:
    """Changes, and reading what is here, need no network, though each listing has run out of time long ago;
    what is only there fails with an error after the deadline, and is right when the network is back."""
    bench, cut, restore = cuttable
    work = Work(bench, SEED, stored=0)
    remote = work.put_remote(SMALL, 1)
    mount = bench.mount("--ttl", "0.5", impatient=True)
    for _ in range(60):
        work.step(mount.root)
    work.check_names(mount.root, "remote0")
    cut()
    try:
        reader = Reader(mount.root, {name: work.remote[name] for name in remote})
        reader.start()
        for _ in range(12):
            work.step(mount.root)
        reader.join(timeout=120)
        assert reader.wrong == []
        assert reader.read == 0, "what is only in the store was read though the network is cut"
        assert mount.status()["pending_count"] > 0
    finally:
        restore()
    wait_until("all is in the store", lambda: mount.status()["pending_count"] == 0, timeout_s=120)
    mount.sync()
    assert mount.status()["conflicts"] == []
    work.check_store()
    work.check_mount(mount.root)
    print(f"longest step {work.longest_s:.1f} s; read while it was cut: {reader.errors}")


def test_killed_while_the_network_is_cut(cuttable: Way) -> None:
    """Uploads under way when packets vanish, then SIGKILL, then the network is back and so is the mount."""
    bench, cut, restore = cuttable
    work = Work(bench, SEED + 1, stored=0)
    work.put_remote(SMALL, 1)
    mount = bench.mount(impatient=True)
    for _ in range(40):
        work.step(mount.root)
    work.write_in_parts(mount.root, "parts")
    wait_until("parts go up", lambda: bench.proxy.seen["PART"] > 0)
    cut()
    try:
        for _ in range(40):
            work.step(mount.root)
        assert mount.status()["pending_count"] > 0, "nothing was pending: this shows nothing"
        mount.kill()
    finally:
        restore()
    mount.start()
    work.check_mount(mount.root)
    mount.sync()
    assert mount.status()["conflicts"] == []
    work.check_store()


def test_a_mount_at_a_server_that_is_cut_off_says_so(cuttable: Way) -> None:
    """One line, no mount; and when the network is back, it works."""
    bench, cut, restore = cuttable
    mount = bench.mount(impatient=True, start=False)
    cut()
    try:
        with pytest.raises(AssertionError, match=r"exit [1-9]\d*\n.*cannot reach"):
            mount.start()
    finally:
        restore()
    mount.start()
    (mount.root / "file").write_bytes(b"content")
    mount.umount()
    assert bench.files() == {"file": b"content"}


def test_everything_is_slow(bench: Bench) -> None:
    """Every answer comes in small pieces: it takes longer, and that is all."""
    work = Work(bench, SEED)
    remote = work.put_remote(SMALL, 6)
    mount = bench.mount("--ttl", "1")
    bench.proxy.fail(Rule(Fault.SLOW))
    reader = Reader(mount.root, {name: work.remote[name] for name in remote})
    reader.start()
    for _ in range(60):
        work.step(mount.root)
    reader.join(timeout=60)
    assert (reader.wrong, reader.errors, reader.read) == ([], [], len(remote))
    mount.sync()
    assert bench.proxy.fired[Fault.SLOW] > 0
    work.check_store()
