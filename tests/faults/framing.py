"""HTTP/1.1 messages on a stream, read whole: as much of RFC 9112 as S3 clients and servers use."""

from __future__ import annotations

from dataclasses import dataclass, replace

import trio

MAX_HEAD_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Message:
    """A request or an answer. `encoded` gives back what was read, but for the chunks of its body."""

    start: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.start.split(" ", 2)[1])

    def header(self, name: str, default: str = "") -> str:
        return next((value for own, value in self.headers if own.lower() == name), default)

    def with_header(self, name: str, value: str) -> Message:
        """With this header instead of those of the same name (lower case)."""
        kept = tuple(one for one in self.headers if one[0].lower() != name)
        return replace(self, headers=(*kept, (name, value)))

    def with_body(self, body: bytes) -> Message:
        """With another body, and the Content-Length of that."""
        return replace(self.with_header("content-length", str(len(body))), body=body)

    def encoded(self) -> bytes:
        lines = [self.start, *(f"{name}: {value}" for name, value in self.headers)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


class Wire:
    """One connection, read message by message; for one task at a time."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._held = b""

    async def request(self) -> Message | None:
        """The next request with its body; None when the client has gone."""
        head = await self._head()
        if head is None:
            return None
        if head.header("expect").lower() == "100-continue":
            await self.stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not head.header("content-length") and not head.header("transfer-encoding"):
            return head
        return await self._with_body(head)

    async def answer(self, method: str) -> Message:
        """The answer to a request of this method, with its body."""
        while True:
            head = await self._head()
            if head is None:
                raise ConnectionError("the server has gone")
            if head.status >= 200:
                break
        if method == "HEAD" or head.status in (204, 304):
            return head
        return await self._with_body(head)

    async def _more(self) -> bool:
        data = await self.stream.receive_some(1 << 18)
        self._held += data
        return bool(data)

    async def _head(self) -> Message | None:
        while (end := self._held.find(b"\r\n\r\n")) < 0:
            if len(self._held) > MAX_HEAD_BYTES:
                raise ConnectionError("a head without an end")
            if not await self._more():
                return None
        lines = self._held[:end].decode("latin-1").split("\r\n")
        self._held = self._held[end + 4 :]
        pairs = (line.partition(":") for line in lines[1:])
        return Message(lines[0], tuple((name, value.strip()) for name, _, value in pairs))

    async def _exactly(self, size: int) -> bytes:
        parts, have = [self._held], len(self._held)
        while have < size:
            data = await self.stream.receive_some(1 << 18)
            if not data:
                raise ConnectionError("a body without an end")
            parts.append(data)
            have += len(data)
        whole = b"".join(parts)
        self._held = whole[size:]
        return whole[:size]

    async def _with_body(self, head: Message) -> Message:
        if "chunked" in head.header("transfer-encoding").lower():
            kept = tuple(one for one in head.headers if one[0].lower() != "transfer-encoding")
            return replace(head, headers=kept).with_body(await self._chunks())
        if length := head.header("content-length"):
            return replace(head, body=await self._exactly(int(length)))
        while await self._more():
            pass
        body, self._held = self._held, b""
        return head.with_body(body)

    async def _line(self) -> bytes:
        while (end := self._held.find(b"\r\n")) < 0:
            if not await self._more():
                raise ConnectionError("a chunk without an end")
        line, self._held = self._held[:end], self._held[end + 2 :]
        return line

    async def _chunks(self) -> bytes:
        parts = []
        while size := int((await self._line()).partition(b";")[0], 16):
            parts.append(await self._exactly(size))
            await self._line()
        while await self._line():  # trailers
            pass
        return b"".join(parts)
