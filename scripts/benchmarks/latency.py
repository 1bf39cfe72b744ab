"""A TCP proxy that holds every byte back for a while: `python latency.py HOST PORT MS_EACH_WAY`.

It prints its port and runs until it is ended. Bandwidth is not limited: what arrived together leaves
together, later. A connection holds at most `IN_FLIGHT` chunks each way.
"""

from __future__ import annotations

import socket
import sys

import trio

CHUNK_BYTES = 1 << 20
IN_FLIGHT = 256
BUFFER_BYTES = 4 << 20  # of a socket, so that this process is woken seldom


async def _receive(
    source: trio.SocketStream, queue: trio.MemorySendChannel[tuple[float, bytes | bytearray]], delay_s: float
) -> None:
    async with queue:
        try:
            while data := await source.receive_some(CHUNK_BYTES):
                await queue.send((trio.current_time() + delay_s, data))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


async def _send(
    target: trio.SocketStream, queue: trio.MemoryReceiveChannel[tuple[float, bytes | bytearray]]
) -> None:
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
        for stream in (client, server):
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                stream.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        async with client, server, trio.open_nursery() as nursery:
            for source, target in ((client, server), (server, client)):
                fill, take = trio.open_memory_channel[tuple[float, bytes | bytearray]](IN_FLIGHT)
                nursery.start_soon(_receive, source, fill, delay_s)
                nursery.start_soon(_send, target, take)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=512)
    print(listeners[0].socket.getsockname()[1], flush=True)
    await trio.serve_listeners(handle, listeners)


if __name__ == "__main__":
    trio.run(serve, sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) / 1000)
