"""The proxy itself adds no fault that nobody asked for."""

from __future__ import annotations

import pytest

from mountstore.backends.s3 import BucketStore
from mountstore.errors import PreconditionFailed
from tests.faults.conftest import SEED
from tests.faults.fault_proxy import fault_proxy
from tests.servers import S3Server

SIZE = 600_000
TIMES = 20


def test_a_refusal_before_the_body_was_read_is_passed_on(versitygw: S3Server) -> None:
    """A server refuses a large PUT at its headers and closes: who sends on still hears why."""
    with fault_proxy(versitygw.endpoint, SEED) as proxy:
        bucket, client = versitygw.new_bucket(), versitygw.client()
        with BucketStore(bucket, client=client, endpoint=proxy.endpoint, retry_deadline_s=0) as store:
            store.put("key", b"another")
            for _ in range(TIMES):
                with pytest.raises(PreconditionFailed):
                    store.put("key", bytes(SIZE), if_match='"00000000000000000000000000000000"')
