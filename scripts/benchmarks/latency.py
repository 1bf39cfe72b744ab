"""A TCP proxy that holds every byte back for a while: `python latency.py HOST PORT MS_EACH_WAY`.

It prints its port and runs until it is ended. Bandwidth is not limited: what arrived together leaves
together, later. A connection holds at most `IN_FLIGHT` chunks each way.
"""

from __future__ import annotations

import sys

import trio

CHUNK_BYTES = 1 << 18
IN_FLIGHT = 256


async def _receive(
    source: trio.SocketStream, queue: trio.MemorySendChannel[tuple[float, bytes]], delay_s: float
) -> None:
    async with queue:
        try:
            async for data in source:
                await queue.send((trio.current_time() + delay_s, bytes(data)))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


async def _send(target: trio.SocketStream, queue: trio.MemoryReceiveChannel[tuple[float, bytes]]) -> None:
    async with queue:
        try:
            async for due, data in queue:
                await trio.sleep_until(due)
                await target.send_all(data)
            await target.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


async def serve(host: str, port: int, delay_s: float) -> None:
    """Listen on a free loopback port, print it, and pass everything on to host:port."""

    async def handle(client: trio.SocketStream) -> None:
        try:
            server = await trio.open_tcp_stream(host, port)
        except OSError:
            return  # the client sees its connection closed, as it would without us
        async with client, server, trio.open_nursery() as nursery:
            for source, target in ((client, server), (server, client)):
                fill, take = trio.open_memory_channel[tuple[float, bytes]](IN_FLIGHT)
                nursery.start_soon(_receive, source, fill, delay_s)
                nursery.start_soon(_send, target, take)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=512)
    print(listeners[0].socket.getsockname()[1], flush=True)
    await trio.serve_listeners(handle, listeners)


if __name__ == "__main__":
    trio.run(serve, sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) / 1000)
