"""Who gets what: subscribers with the same filter and format share one channel, and its bytes.

A live subscriber has been given everything up to the tailer's head, so it needs no queue and no position of its own.
One whose socket is full leaves the channel with the position it has reached, and catches up at its own pace.
"""

from __future__ import annotations

import asyncio
import time

import structlog
from aiohttp import web

from edges.ring import FIRST_COUNT, Entry
from edges.subscriptions import Filter, Format
from eventstore.schema import Position
from eventstore.telemetry import DELIVERY_SECONDS, FRAME_BYTES, FRAMES

logger = structlog.get_logger(__name__)

WRITE_BUFFER_BYTES = 256 * 1024
"""Who has more than this unsent is full."""


class Subscriber:
    """One open stream. `wake` is done when its handler has something to do; `position` counts only when not live.

    `prefix` waits for the first bytes from the log, and leaves in one write with them. `told` is the last position
    that the client was sent. `restarts` is how often it has been told that the log became shorter, `page` how many
    events it is worth reading at once.
    """

    __slots__ = ("ended", "page", "position", "prefix", "protocol", "restarts", "told", "transport", "wake")

    def __init__(self, request: web.Request, position: Position, restarts: int) -> None:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        self.transport = transport
        self.protocol = request.protocol
        self.position = position
        self.told = position
        self.page = FIRST_COUNT
        self.prefix = b""
        self.ended = False
        self.restarts = restarts
        self.wake: asyncio.Future[None] | None = None

    def notify(self) -> None:
        if self.wake is not None and not self.wake.done():
            self.wake.set_result(None)


class Channel:
    """Live subscribers that share filter and format."""

    __slots__ = ("filter", "format", "last_write", "live", "pending", "told")

    def __init__(self, filter: Filter, format: Format, told: Position) -> None:
        self.filter = filter
        self.format = format
        self.live: dict[Subscriber, None] = {}  # in the order of their sockets, which memory likes better than a set's
        self.pending: list[Entry] = []
        self.last_write = time.monotonic()
        self.told = told

    def flush(self, before: Position) -> None:
        """Writes what is pending; who cannot take it now leaves with the position before it."""
        pending, self.pending = self.pending, []
        shown = self.format.shown(pending, self.filter.accepts)
        if shown.last is not None:
            delivered = self.write(shown.payload, before)
            FRAMES.inc(delivered * shown.events)
            self.told = shown.last
            DELIVERY_SECONDS.observe(max(0.0, time.time() - pending[-1].event.position.ms / 1000))
        if shown.over:
            for subscriber in tuple(self.live):
                subscriber.ended = True
                self.leave(subscriber, before)

    def write(self, payload: bytes, before: Position) -> int:
        data = self.format.packed(payload)
        full: list[Subscriber] = []
        for subscriber in self.live:
            transport = subscriber.transport
            if transport.get_write_buffer_size() > WRITE_BUFFER_BYTES or transport.is_closing():
                full.append(subscriber)
            else:
                transport.write(data)
        for subscriber in full:
            self.leave(subscriber, before)
        self.last_write = time.monotonic()
        delivered = len(self.live)
        FRAME_BYTES.inc(delivered * len(data))
        return delivered

    def leave(self, subscriber: Subscriber, position: Position) -> None:
        self.live.pop(subscriber, None)
        subscriber.position = position
        subscriber.told = max(subscriber.told, self.told)
        subscriber.notify()

    def dissolve(self, position: Position) -> None:
        """Everybody leaves with what they had, and goes on alone."""
        self.pending = []
        for subscriber in tuple(self.live):
            self.leave(subscriber, position)

    def beat(self, last_fact: Position, head: Position) -> None:
        """After a silence: where the client stands if the log moved on without it, else a sign of life."""
        if self.format.tells_position and last_fact > self.told:
            self.told = last_fact
            self.write(self.format.position(last_fact), head)
        else:
            self.write(self.format.wire.heartbeat, head)
