"""A TCP proxy that loses what a test wants lost: requests before they arrive, replies on their way, connections."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

CHUNK = 64 * 1024

Fault = Literal["cut_request", "cut_reply", "swallow_reply"]


class TcpProxy:
    """Between a client and the server at `upstream` (a redis://, http:// or unix:// URL).

    `fail_next` arms one fault for the next request on any connection, or the next that holds certain bytes:
    `cut_request` closes before Redis sees it, `cut_reply` after Redis has answered, but before the client hears;
    `swallow_reply` loses the answer and all that follow, and leaves the connection open.
    `delay_s` holds back every request.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream)
        self.delay_s = 0.0
        self.faults_hit = 0
        self._fault: Fault | None = None
        self._holding = b""
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    @property
    def port(self) -> int:
        assert self._server is not None, "the proxy is not running"
        return int(self._server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        """Ends every connection that is open now."""
        for connection in self._connections:
            connection.cancel()

    def fail_next(self, fault: Fault, holding: bytes = b"") -> None:
        self._fault, self._holding = fault, holding

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # one side is gone, or the test is over
        finally:
            writer.close()
            self._connections.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._upstream.scheme == "unix":
            from_redis, to_redis = await asyncio.open_unix_connection(self._upstream.path)
        else:
            from_redis, to_redis = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        back = asyncio.create_task(_copy(from_redis, writer))
        try:
            while data := await reader.read(CHUNK):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if (fault := self._fault) is None or self._holding not in data:
                    to_redis.write(data)
                    continue
                self._fault = None
                self.faults_hit += 1
                if fault == "cut_request":
                    return
                back.cancel()
                await asyncio.gather(back, return_exceptions=True)
                to_redis.write(data)
                await from_redis.read(CHUNK)
                if fault == "cut_reply":
                    return
                back = asyncio.create_task(_discard(from_redis))
        finally:
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)
            to_redis.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    writer.close()


async def _discard(reader: asyncio.StreamReader) -> None:
    while await reader.read(CHUNK):
        pass
