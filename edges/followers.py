"""A native stream on a WebSocket: events out, acknowledgements in."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from edges import resume
from edges.app_keys import CONSUMERS, LOG
from edges.auth import Caller
from edges.consumers import Subscription, newest, opening
from edges.errors import ApiError
from edges.respond import Plan, deliver, gap_bytes
from edges.ring import Dialect
from edges.subscriptions import Format
from edges.websocket import Socket, opened
from edges.wire import WEBSOCKET, Frame
from eventstore.consumers import Consumer
from eventstore.schema import ORIGIN, Position

REPLACED = 4409
"""The code a connection is closed with when a newer one of its consumer was opened: coming back replaces that one."""


async def follow(request: web.Request, caller: Caller, begun: Subscription, dialect: Dialect) -> web.StreamResponse:
    """Serves the socket until the client leaves or it has to be closed."""
    format = Format(dialect, WEBSOCKET, chunked=False, tells_position=True)
    gap, first = begun.start.gap, await opening(request, caller, begun.start, format)
    plan = Plan(caller, begun.filter, format, begun.start, gap_bytes(format, gap) if gap is not None else first)
    async with opened(request, caller, format, _refusal, endless=True) as socket:
        with newest(request, caller, begun.consumer, partial(socket.end, REPLACED)):
            async with asyncio.TaskGroup() as tasks:
                acknowledgements = Acknowledgements(request, caller, begun.consumer, socket)
                subscriber = socket.subscriber(plan.start.position)
                subscriber.prefix = plan.opening
                working = [
                    tasks.create_task(deliver(request, socket.audience, subscriber, plan)),
                    tasks.create_task(acknowledgements.run()),
                ]
                await socket.listen(acknowledgements.hear)
                for task in working:
                    task.cancel()
    return socket.response


class Acknowledgements:
    """What the client says that it has handled: the latest is what counts, however many come in a burst."""

    def __init__(self, request: web.Request, caller: Caller, consumer: Consumer | None, socket: Socket) -> None:
        self._log = request.app[LOG]
        self._consumers = request.app[CONSUMERS]
        self._org = caller.org
        self._consumer = consumer
        self._socket = socket
        self._latest = ORIGIN
        self._arrived = asyncio.Event()

    async def hear(self, said: dict[str, Any]) -> None:
        if said.get("type") != "ack":
            raise ApiError(422, "INVALID_BODY", f"type: expected 'ack', got {str(said.get('type'))[:80]!r}")
        self._latest = max(self._latest, resume.parse_position("id", str(said.get("id", ""))))
        self._arrived.set()

    async def run(self) -> None:
        """Until cancelled, or another connection is the newest."""
        while self._consumer is not None:
            await self._arrived.wait()
            self._arrived.clear()
            latest, self._latest = self._latest, ORIGIN
            await self._acknowledge(self._consumer, latest)

    async def _acknowledge(self, consumer: Consumer, position: Position) -> None:
        if not await resume.survives(self._log, self._org, position):
            await self._socket.refuse(resume.unknown("id", position))
            return
        answer = await self._consumers.acknowledge(self._org, consumer.name, position, token=consumer.token)
        if not isinstance(answer, Consumer):
            self._socket.end(REPLACED)


def _refusal(error: ApiError) -> Frame:
    return Frame(msgspec.json.encode({"type": "error", "error": error.message, "code": error.code}))
