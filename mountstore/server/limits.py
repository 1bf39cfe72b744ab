"""How much of everything a client may have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client, or all of them, may take of the server.

    A body, in either direction, may pause for `pause_s` at most, and once `pause_s` have gone by it has to
    have moved at `slowest_bytes_per_s` on the average. The head of a request has `head_s` in all.
    """

    connections: int = 256
    head_bytes: int = 16 << 10
    target_bytes: int = 4 << 10
    body_bytes: int = 16 << 30
    document_bytes: int = 16 << 20  # a body that is a list of pieces
    pieces: int = 100_000
    head_s: float = 15.0
    pause_s: float = 30.0
    slowest_bytes_per_s: int = 1 << 10
    idle_s: float = 120.0  # between two requests of a connection
    drain_s: float = 30.0  # for what is under way, when the server ends
    skipped_bytes: int = 1 << 20  # read of a body that nobody wants, to keep its connection
    linger_s: float = 2.0  # how long a client that still sends such a body may pause before it is cut off
    memory_bytes: int = 1 << 20  # of one body held in memory; larger ones are streamed, or wait in a file
