"""One open WebSocket: what its client says, what it is sent besides a stream, and how it ends.

Errors are frames without an id; the socket lives on. It is closed with 1001 when this process stops, and with 1013 when
the stream on it has to be cut: the client comes back with `?last_event_id=`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import WSMsgType, web

from edges.audience import Audience
from edges.auth import Caller
from edges.bodies import MAX_BODY_BYTES, json_object
from edges.channels import WRITE_BUFFER_BYTES, Subscriber
from edges.errors import ApiError, of_store
from edges.open_streams import STREAMS
from edges.pace import PACE
from edges.respond import StreamCut, counted, send
from edges.subscriptions import Format
from edges.tail import TAILER
from edges.wire import WEBSOCKET, Frame, websocket_close
from eventstore.errors import StoreError
from eventstore.schema import ORIGIN, Position

GOING_AWAY, TRY_AGAIN_LATER = 1001, 1013


def upgrades(request: web.Request) -> bool:
    """Whether the request asks for a WebSocket."""
    return "Upgrade" in request.headers and bool(web.WebSocketResponse().can_prepare(request))


class Socket:
    """`refusal` shows an error in the surface's way."""

    def __init__(
        self,
        request: web.Request,
        response: web.WebSocketResponse,
        audience: Audience,
        format: Format,
        refusal: Callable[[ApiError], Frame],
    ) -> None:
        self.response = response
        self.audience = audience
        self.format = format
        self._request = request
        self._refusal = refusal
        self._own = self.subscriber(ORIGIN)
        self._own.transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)

    def subscriber(self, position: Position) -> Subscriber:
        """For a stream on this socket."""
        return Subscriber(self._request, position, self.audience.restarts)

    async def listen(self, hear: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        """Until the client leaves. What it says and cannot be heard is refused."""
        async for text in self._texts():
            try:
                await hear(json_object(text.encode()))
            except ApiError as error:
                await self.refuse(error)
            except StoreError as error:
                await self.refuse(of_store(error))

    async def refuse(self, error: ApiError) -> None:
        await self.send(self.format.wire.encode([self._refusal(error)], None))

    async def send(self, payload: bytes) -> None:
        await send(self._request, self._own, self.format, payload)

    def close(self) -> None:
        """This process stops."""
        self.end(GOING_AWAY)

    def abort(self) -> None:
        self._own.transport.abort()

    def end(self, code: int) -> None:
        if not self._own.transport.is_closing():
            self._own.transport.write(websocket_close(code))
            self._own.transport.close()

    async def _texts(self) -> AsyncIterator[str]:
        """What the client sends, until it leaves, or for too long not even answers a ping."""
        pace, silent_s = self._request.app[PACE], 0.0
        while silent_s < pace.stall_s:
            try:
                message = await self.response.receive(timeout=pace.heartbeat_s)
            except TimeoutError:
                silent_s += pace.heartbeat_s
                await self.send(WEBSOCKET.heartbeat)
                continue
            silent_s = 0.0
            match message.type:
                case WSMsgType.TEXT:
                    yield message.data
                case WSMsgType.BINARY:
                    await self.refuse(ApiError(422, "INVALID_BODY", "expected a text message, got a binary one"))
                case WSMsgType.PING:
                    await self.response.pong(message.data)
                case WSMsgType.PONG:
                    pass
                case _:
                    return
        self.abort()


@asynccontextmanager
async def opened(
    request: web.Request, caller: Caller, format: Format, refusal: Callable[[ApiError], Frame], *, endless: bool = False
) -> AsyncIterator[Socket]:
    """The socket that the request asks for, open until the block is left."""
    response = web.WebSocketResponse(autoping=False, compress=False, max_msg_size=MAX_BODY_BYTES)
    async with request.app[TAILER].audience(caller.org) as audience:
        await response.prepare(request)
        socket = Socket(request, response, audience, format, refusal)
        with request.app[STREAMS].opened(caller, socket, endless=endless), counted(format):
            try:
                yield socket
            except* (StreamCut, ConnectionError, StoreError):
                socket.end(TRY_AGAIN_LATER)
        await response.close()
