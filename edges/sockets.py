"""WebSockets: a client asks as often as it likes, and gets each question's run in the order of its questions.

Delivery is that of every other stream (`respond.deliver`): shared bytes, and a position for a client that is slow. When
nobody works on the question the socket is closed with 1013.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from aiohttp import web

from edges import resume
from edges.app_keys import LOG, ORGANIZATIONS
from edges.auth import Caller
from edges.errors import ApiError
from edges.limits import charge_open
from edges.open_streams import STREAMS
from edges.respond import deliver, gap_bytes
from edges.resume import Start
from edges.ring import Dialect
from edges.runs import RunRequest, begin, ends_run, event_at, plan_for
from edges.subscriptions import Format
from edges.websocket import Socket, opened, upgrades
from edges.wire import WEBSOCKET, Frame
from eventstore.schema import Position

MAX_WAITING = 32
"""Questions that wait behind the one being answered; then no more is read from the socket."""


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
    if not upgrades(request):
        raise ApiError(426, "UPGRADE_REQUIRED", f"{request.path} is a WebSocket", {"Upgrade": "websocket"})
    seen = resume.last_seen(request)
    start = await resume.start(request.app[LOG], caller.org, seen) if seen is not None else None
    missed = await _missed(request, caller, surface, start) if start is not None else []
    await charge_open(request, caller, free=start is not None and start.returns)
    format = Format(surface.dialect, WEBSOCKET, chunked=False, ends=ends_run)
    async with opened(request, caller, format, surface.refusal) as socket:
        await _Conversation(request, caller, surface, socket).serve(start, missed)
    return socket.response


async def _missed(request: web.Request, caller: Caller, surface: Surface, start: Start) -> list[Turn]:
    """Runs are answered one after the other, so a position inside one of them says what was seen of all."""
    log = request.app[LOG]
    conversation = await request.app[ORGANIZATIONS].conversation(caller.org, surface.address)
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


class _Conversation:
    """One open socket: a task that listens, and one that shows runs."""

    def __init__(self, request: web.Request, caller: Caller, surface: Surface, socket: Socket) -> None:
        self._request = request
        self._caller = caller
        self._surface = surface
        self._socket = socket
        self._asked: asyncio.Queue[Turn] = asyncio.Queue(MAX_WAITING)

    async def serve(self, start: Start | None, missed: list[Turn]) -> None:
        """Until the client leaves."""
        if start is not None and start.gap is not None:
            await self._socket.send(gap_bytes(self._socket.format, start.gap))
        async with asyncio.TaskGroup() as tasks:
            showing = tasks.create_task(self._show(missed))
            await self._socket.listen(self._hear)
            showing.cancel()

    async def _show(self, missed: list[Turn]) -> None:
        for turn in missed:
            await self._show_run(turn)
        streams = self._request.app[STREAMS]
        while True:
            with streams.idle(self._socket):
                turn = await self._asked.get()
            await self._show_run(turn)

    async def _show_run(self, turn: Turn) -> None:
        socket = self._socket
        plan = plan_for(self._request, self._caller, turn.run, turn.start, socket.format)
        await deliver(self._request, socket.audience, socket.subscriber(turn.start.position), plan)

    async def _hear(self, said: dict[str, Any]) -> None:
        """A question, or the acknowledgement of what was received so far."""
        if said.get("type") == "ack":
            resume.parse_position("id", str(said.get("id", "")))
            return
        accepted = await begin(self._request, self._caller, self._surface.ask(said))
        run = accepted.positions[0]
        await self._asked.put(Turn(run, Start(run.before())))
