"""One stream as a client gets it from the socket: status, headers, frames, writes, and how it ended."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import quote, urlsplit

LIMIT_S = 10.0
READ_AHEAD = 16 * 1024
"""Small, so that a client that stops reading is one: what the kernel and asyncio read ahead counts as read."""

Data = dict[str, Any]


class Frame(NamedTuple):
    """`id` and `event` are None where the frame has none."""

    data: Data
    id: str | None = None
    event: str | None = None

    @property
    def type(self) -> str:
        return str(self.data.get("type"))


class Cut(Exception):
    """The body broke off without its end."""


class StreamClient:
    """`writes` are the chunks as they arrived; `comments` and `retry_ms` what SSE says between its frames.

    Reads nothing that is not asked for, so a client that asks for nothing is one that has stopped reading.
    """

    def __init__(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, version: str) -> None:
        self._method, self._url, self._sent, self._body, self._version = method, urlsplit(url), headers, body, version
        self.status = 0
        self.headers: dict[str, str] = {}
        self.writes: list[bytes] = []
        self.comments: list[str] = []
        self.retry_ms: int | None = None
        self.ended = False
        self._rest = b""
        self._frames: list[Frame] = []

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await reading_little(self._url.geturl())
        target = self._url.path + (f"?{self._url.query}" if self._url.query else "")
        lines = [f"{self._method} {target} HTTP/{self._version}", f"Host: {self._url.netloc}"]
        lines += [f"{name}: {value}" for name, value in self._sent.items()]
        if self._body is not None:
            lines.append(f"Content-Length: {len(self._body)}")
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + (self._body or b""))
        try:
            async with asyncio.timeout(LIMIT_S):
                await self._read_head()
        except BaseException:
            self._writer.transport.abort()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.transport.abort()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def _read_head(self) -> None:
        status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
        self.status = int(status.split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

    async def next(self) -> Frame | None:
        """The next frame; None at a clean end. Raises Cut where the body breaks off."""
        async with asyncio.timeout(LIMIT_S):
            while not self._frames:
                if self.ended:
                    return None
                self._parse(await self._piece())
        return self._frames.pop(0)

    async def take(self, count: int) -> list[Frame]:
        return [await self._must() for _ in range(count)]

    async def until(self, holds: str | Callable[[Frame], bool]) -> list[Frame]:
        """Frames up to the first one of that type, or that satisfies the condition."""
        seen: list[Frame] = []
        while True:
            seen.append(await self._must())
            if seen[-1].type == holds if isinstance(holds, str) else holds(seen[-1]):
                return seen

    async def rest(self) -> list[Frame]:
        """Frames up to the clean end."""
        seen: list[Frame] = []
        while (frame := await self.next()) is not None:
            seen.append(frame)
        return seen

    async def until_cut(self) -> list[Frame]:
        """Frames up to where the body breaks off."""
        seen: list[Frame] = []
        try:
            while (frame := await self.next()) is not None:
                seen.append(frame)
        except Cut:
            return seen
        raise AssertionError(f"the stream ended cleanly after {seen}")

    async def silence(self) -> None:
        """Returns after the next comment or heartbeat; anything else is an error."""
        async with asyncio.timeout(LIMIT_S):
            while not self.comments:
                assert not self._frames, self._frames
                self._parse(await self._piece())
        self.comments.clear()

    async def body(self) -> bytes:
        """Everything up to the clean end, unparsed."""
        async with asyncio.timeout(LIMIT_S):
            while not self.ended:
                await self._piece()
        return b"".join(self.writes)

    async def _must(self) -> Frame:
        frame = await self.next()
        assert frame is not None, "the stream has ended"
        return frame

    async def _piece(self) -> bytes:
        """What the server wrote at once, as far as chunks show it."""
        try:
            piece = await self._read_piece()
        except (asyncio.IncompleteReadError, ConnectionResetError) as error:
            raise Cut from error
        if piece:
            self.writes.append(piece)
        else:
            self.ended = True
        return piece

    async def _read_piece(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            size = int(await self._reader.readuntil(b"\r\n"), 16)
            return (await self._reader.readexactly(size + 2))[:-2]
        if (length := self.headers.get("content-length")) is not None:
            return await self._reader.readexactly(int(length)) if not self.writes else b""
        if self.status == 204:
            return b""
        return await self._reader.read(64 * 1024)

    def _parse(self, piece: bytes) -> None:
        self._rest += piece
        if self.headers.get("content-type") == "application/x-ndjson":
            *lines, self._rest = self._rest.split(b"\n")
            self._frames += [_line(json.loads(line)) for line in lines]
            return
        while b"\n" in self._rest:
            head, separator, rest = self._rest.partition(b"\n\n")
            if separator:
                self._rest = rest
                self._event(head.decode().split("\n"))
                continue
            first, _, rest = self._rest.partition(b"\n")
            if not first.startswith((b":", b"retry:")):
                return
            self._rest = rest
            self._event([first.decode()])

    def _event(self, lines: list[str]) -> None:
        fields: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            if name == "":
                self.comments.append(value)
            elif line.startswith(":"):
                self.comments.append(line[1:].strip())
            elif name == "retry":
                self.retry_ms = int(value)
            else:
                assert name in ("id", "event", "data"), line
                assert name not in fields, f"{name} twice in {lines}"
                fields[name] = value
        if fields:
            self._frames.append(Frame(json.loads(fields["data"]), fields.get("id"), fields.get("event")))


async def reading_little(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the server at the URL of which neither this process nor its kernel reads much ahead."""
    address = urlsplit(url)
    assert address.hostname is not None
    own = socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_AHEAD)
    own.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(own, (address.hostname, address.port))
    except BaseException:
        own.close()
        raise
    return await asyncio.open_connection(sock=own, limit=READ_AHEAD)


def _line(data: Data) -> Frame:
    return Frame(data, data.get("id"))


def query(**parameters: str) -> str:
    """`?a=b&…`, every value quoted."""
    return "?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items())
