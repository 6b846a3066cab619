"""WebSockets: a client asks as often as it likes, and gets each question's run in the order of its questions.

Delivery is that of every other stream (`respond.deliver`): shared bytes, and a position for a client that is slow.
Errors are frames without an id; the socket lives on. It is closed with 1001 when this process stops, and with 1013
when nobody works on the question or the log is away: the client comes back with `?last_event_id=`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

from aiohttp import WSMsgType, web

from edges import resume
from edges.app_keys import LOG, ORGANIZATIONS
from edges.audience import Audience
from edges.auth import Caller
from edges.bodies import MAX_BODY_BYTES, json_object
from edges.channels import Subscriber
from edges.errors import ApiError, of_store
from edges.limits import charge_open
from edges.open_streams import STREAMS
from edges.pace import PACE
from edges.respond import WRITE_BUFFER_BYTES, StreamCut, counted, deliver, gap_bytes, send
from edges.resume import Start
from edges.ring import Dialect
from edges.runs import RunRequest, begin, ends_run, event_at, plan_for
from edges.subscriptions import Format
from edges.tail import TAILER
from edges.wire import WEBSOCKET, Frame, websocket_close
from eventstore.errors import StoreError
from eventstore.organizations import conversation_id
from eventstore.schema import ORIGIN, Position

MAX_WAITING = 32
"""Questions that wait behind the one being answered; then no more is read from the socket."""
GOING_AWAY, TRY_AGAIN_LATER = 1001, 1013


class Surface(NamedTuple):
    """What is one surface's own. `ask` turns a client's object into the work that it asks for (ApiError: refused);
    `refusal` shows an error. All questions belong to the conversation `address`."""

    dialect: Dialect
    address: str
    ask: Callable[[dict[str, Any]], RunRequest]
    refusal: Callable[[ApiError], Frame]


class Turn(NamedTuple):
    """A run to show, and from where."""

    run: Position
    start: Start


async def converse(request: web.Request, caller: Caller, surface: Surface) -> web.StreamResponse:
    """Serves the socket until the client leaves or it has to be closed. With `?last_event_id=` first what the client
    has missed: the rest of the run of that position, and what was asked in the conversation since."""
    socket = web.WebSocketResponse(autoping=False, compress=False, max_msg_size=MAX_BODY_BYTES)
    if not socket.can_prepare(request):
        raise ApiError(426, "UPGRADE_REQUIRED", f"{request.path} is a WebSocket", {"Upgrade": "websocket"})
    seen = resume.last_seen(request)
    start = await resume.start(request.app[LOG], caller.org, seen) if seen is not None else None
    missed = await _missed(request, caller, surface, start) if start is not None else []
    await charge_open(request, caller, free=start is not None and start.returns)
    async with request.app[TAILER].audience(caller.org) as audience:
        await socket.prepare(request)
        connection = _Connection(request, caller, surface, socket, audience)
        with request.app[STREAMS].opened(caller, connection), counted(connection.format):
            try:
                await connection.serve(start, missed)
            except* (StreamCut, ConnectionError, StoreError):
                connection.end(TRY_AGAIN_LATER)
        await socket.close()
    return socket


async def _missed(request: web.Request, caller: Caller, surface: Surface, start: Start) -> list[Turn]:
    """Runs are answered one after the other, so a position inside one of them says what was seen of all."""
    log = request.app[LOG]
    organization = await request.app[ORGANIZATIONS].require(caller.org)
    conversation = conversation_id(organization.pepper, surface.address)
    event, turns, since = await event_at(log, caller.org, start.position), [], start.position
    if event is not None and event.conversation == conversation:
        since = event.run
        facts = await log.read_run(caller.org, since, deltas=False)
        if not any(ends_run(fact) and fact.position <= start.position for fact in facts):
            turns.append(Turn(since, start._replace(gap=None)))
    asked = await log.read_conversation(caller.org, conversation, since)
    return turns + [
        Turn(event.position, Start(event.position.before())) for event in asked if event.type == "message.received"
    ]


class _Connection:
    """One open socket: a task that listens, and one that shows runs."""

    def __init__(
        self,
        request: web.Request,
        caller: Caller,
        surface: Surface,
        socket: web.WebSocketResponse,
        audience: Audience,
    ) -> None:
        self.format = Format(surface.dialect, WEBSOCKET, chunked=False, ends=ends_run)
        self._request = request
        self._caller = caller
        self._surface = surface
        self._socket = socket
        self._audience = audience
        self._own = Subscriber(request, ORIGIN, audience.restarts)
        self._own.transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._asked: asyncio.Queue[Turn] = asyncio.Queue(MAX_WAITING)

    async def serve(self, start: Start | None, missed: list[Turn]) -> None:
        """Until the client leaves."""
        if start is not None and start.gap is not None:
            await self._send(gap_bytes(self.format, start.gap))
        async with asyncio.TaskGroup() as tasks:
            showing = tasks.create_task(self._show(missed))
            await self._listen()
            showing.cancel()

    def close(self) -> None:
        """This process stops."""
        self.end(GOING_AWAY)

    def abort(self) -> None:
        self._own.transport.abort()

    def end(self, code: int) -> None:
        if not self._own.transport.is_closing():
            self._own.transport.write(websocket_close(code))
            self._own.transport.close()

    async def _show(self, missed: list[Turn]) -> None:
        for turn in missed:
            await self._show_run(turn)
        while True:
            await self._show_run(await self._asked.get())

    async def _show_run(self, turn: Turn) -> None:
        subscriber = Subscriber(self._request, turn.start.position, self._audience.restarts)
        plan = plan_for(self._request, self._caller, turn.run, turn.start, self.format)
        await deliver(self._request, self._audience, subscriber, plan)

    async def _listen(self) -> None:
        async for text in self._texts():
            try:
                await self._hear(json_object(text.encode()))
            except ApiError as error:
                await self._refuse(error)
            except StoreError as error:
                await self._refuse(of_store(error))

    async def _hear(self, said: dict[str, Any]) -> None:
        """A question, or the acknowledgement of what was received so far."""
        if said.get("type") == "ack":
            resume.parse_position("id", str(said.get("id", "")))
            return
        accepted = await begin(self._request, self._caller, self._surface.ask(said))
        run = accepted.positions[0]
        await self._asked.put(Turn(run, Start(run.before())))

    async def _texts(self) -> AsyncIterator[str]:
        """What the client sends, until it leaves, or for too long not even answers a ping."""
        pace, silent_s = self._request.app[PACE], 0.0
        while silent_s < pace.stall_s:
            try:
                message = await self._socket.receive(timeout=pace.heartbeat_s)
            except TimeoutError:
                silent_s += pace.heartbeat_s
                await self._send(WEBSOCKET.heartbeat)
                continue
            silent_s = 0.0
            match message.type:
                case WSMsgType.TEXT:
                    yield message.data
                case WSMsgType.BINARY:
                    await self._refuse(ApiError(422, "INVALID_BODY", "expected a text message, got a binary one"))
                case WSMsgType.PING:
                    await self._socket.pong(message.data)
                case WSMsgType.PONG:
                    pass
                case _:
                    return
        self.abort()

    async def _refuse(self, error: ApiError) -> None:
        await self._send(self.format.wire.encode([self._surface.refusal(error)], None))

    async def _send(self, payload: bytes) -> None:
        await send(self._request, self._own, self.format, payload)
