"""Whatever the store answers, for a while: no application notices, nothing is lost, doubled or wrong."""

from __future__ import annotations

import time

import pytest

from tests.faults.conftest import SEED, Bench, Benches
from tests.faults.fault_proxy import Fault, Rule
from tests.faults.workload import LARGE, SMALL, Reader, Work, for_a_while

RATES = {0.1: 1.2, 0.5: 1.2, 1.0: 1.2}
"""For how many seconds at which rate."""
PARTS_EVERY_S = 1.0
ONCE_FOR_ALL = frozenset({Fault.KEEP_REPLY})
LISTED_OFTEN = frozenset({Fault.STALE_LISTING, Fault.RETRY_AFTER, Fault.RESET_AFTER, Fault.SLOW})
"""With these, each directory is listed all the time; with others a step could not go on at 100 %."""
FAULTS = [fault for fault in Fault if fault not in ONCE_FOR_ALL]
CASES = [("versitygw", fault) for fault in FAULTS]
CASES += [("minio", fault) for fault in (Fault.ERROR_503, Fault.LOSE_REPLY, Fault.WRONG_ETAG)]


@pytest.mark.parametrize(("kind", "fault"), CASES, ids=[f"{kind}-{fault.name}" for kind, fault in CASES])
def test_no_application_notices(kind: str, fault: Fault, benches: Benches) -> None:
    """Reads of what only the store has may fail at 100 %, if that lasts; with anything else, nothing fails.

    Nothing that was read, then or afterwards, is wrong.
    """
    bench: Bench = benches(kind)
    work = Work(bench, SEED)
    unread = {rate: work.put_remote(SMALL + LARGE, 12) for rate in RATES}
    mount = bench.mount(*(["--ttl", "0.5"] if fault in LISTED_OFTEN else []))
    for folder in ["", "old", *sorted(work.remote_folders)]:
        work.check_names(mount.root, folder)
    for rate, seconds in RATES.items():
        names = unread[rate]
        work.fsyncs = 0.03 if rate < 1 and fault is not Fault.EXPIRED else 0.0
        reader = Reader(mount.root, {name: work.remote[name] for name in names})
        with for_a_while(bench, Rule(fault, rate), seconds) as healed:
            reader.start()
            written = 0
            began = time.monotonic()
            while not healed.is_set():
                # In parts: what befalls no small file, of which most are replaced before they are uploaded.
                if time.monotonic() >= began + written * PARTS_EVERY_S and not bench.proxy.fired[fault]:
                    work.write_in_parts(mount.root, f"parts-{rate}-{written}")
                    written += 1
                work.step(mount.root)
        reader.join(timeout=120)
        assert not reader.is_alive()
        assert bench.proxy.fired[fault] > 0, "the fault has not fired"
        print(
            f"{rate:.0%}: {work.steps} steps, {bench.proxy.fired[fault]} faults, {reader.read} read, "
            f"longest step {work.longest_s:.1f} s, errors {reader.errors}"
        )
        assert reader.wrong == []
        if fault is Fault.EXPIRED:
            # Credentials are asked for anew once; if those are refused, too, a reader is told at once.
            assert all(error.endswith("EACCES") for error in reader.errors)
        elif rate < 1:
            assert reader.errors == []
    mount.sync()
    status = mount.status()
    assert status["conflicts"] == []
    assert status["pending_count"] == 0
    work.check_store()
    work.check_mount(mount.root)
    mount.umount()
