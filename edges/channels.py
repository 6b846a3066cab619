"""Who gets what: subscribers with the same filter and format share one channel, and its bytes.

A live subscriber has been given everything up to the tailer's head, so it needs no queue and no position of its own.
One whose socket is full leaves the channel with the position it has reached, and catches up at its own pace.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import NamedTuple

import structlog
from aiohttp import web

from edges.ring import Dialect, Entry, Ring, Window
from edges.wire import Frame, Wire, http_chunk
from eventstore.events import DELTA_TYPES
from eventstore.schema import OrgId, Position, Recorded
from eventstore.telemetry import DELIVERY_SECONDS, FRAME_BYTES, FRAMES

logger = structlog.get_logger(__name__)


FIRST_PAGE = 64


class Filter(NamedTuple):
    """What a subscriber wants. `scope` is "" (the organization), a conversation id, or "run:<position>"."""

    scope: str = ""
    types: tuple[str, ...] = ()
    deltas: bool = True
    run: str = ""

    def accepts(self, event: Recorded) -> bool:
        if not self.deltas and event.type in DELTA_TYPES:
            return False
        if self.run and str(event.run) != self.run:
            return False
        if self.types:
            return any(fnmatchcase(event.type, pattern) for pattern in self.types)
        return not event.type.startswith("log.")

    def covers(self, event: Recorded) -> bool:
        """Whether the event lies in the scope at all; `accepts` is asked only then."""
        if not self.scope:
            return True
        if self.scope.startswith("run:"):
            return str(event.run) == self.scope[4:]
        return event.conversation == self.scope


class Shown(NamedTuple):
    """Bytes for some events: how many there are of them, the last id that is sent, whether the stream is over."""

    payload: bytes
    events: int
    last: Position | None
    over: bool


class Format(NamedTuple):
    """How it is shown. `ends` says after which event the stream is over (None: never)."""

    dialect: Dialect
    wire: Wire
    chunked: bool
    ends: Callable[[Recorded], bool] | None = None
    tells_position: bool = False

    def shown(self, entries: Iterable[Entry], accepts: Callable[[Recorded], bool]) -> Shown:
        parts: list[bytes] = []
        last: Position | None = None
        for entry in entries:
            if not accepts(entry.event):
                continue
            encoded = entry.bytes_for(self.dialect, self.wire)
            parts.append(encoded)
            if encoded:
                last = entry.event.position
            if self.ends is not None and self.ends(entry.event):
                return Shown(b"".join(parts), len(parts), last, True)
        return Shown(b"".join(parts), len(parts), last, False)

    def packed(self, payload: bytes) -> bytes:
        return http_chunk(payload) if self.chunked and payload else payload

    def position(self, position: Position) -> bytes:
        return self.wire.encode(
            [Frame(b'{"type":"position"}', "position" if self.dialect.named else None)], str(position)
        )


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
        self.page = FIRST_PAGE
        self.prefix = b""
        self.ended = False
        self.restarts = restarts
        self.wake: asyncio.Future[None] | None = None

    def notify(self) -> None:
        if self.wake is not None and not self.wake.done():
            self.wake.set_result(None)


class Watch:
    """Events of one scope for code in this process, instead of for a socket."""

    __slots__ = ("_arrived", "events")

    def __init__(self) -> None:
        self.events: list[Recorded] = []
        self._arrived = asyncio.Event()

    def put(self, event: Recorded) -> None:
        self.events.append(event)
        self._arrived.set()

    async def take(self) -> list[Recorded]:
        """Waits for events and hands over all there are."""
        await self._arrived.wait()
        self._arrived.clear()
        events, self.events = self.events, []
        return events


class Channel:
    """Live subscribers that share filter and format."""

    __slots__ = ("filter", "format", "last_write", "live", "pending", "told")

    def __init__(self, filter: Filter, format: Format, told: Position) -> None:
        self.filter = filter
        self.format = format
        self.live: set[Subscriber] = set()
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
            if subscriber.protocol.writing_paused or subscriber.transport.is_closing():
                full.append(subscriber)
            else:
                subscriber.transport.write(data)
        for subscriber in full:
            self.leave(subscriber, before)
        self.last_write = time.monotonic()
        delivered = len(self.live)
        FRAME_BYTES.inc(delivered * len(data))
        return delivered

    def leave(self, subscriber: Subscriber, position: Position) -> None:
        self.live.discard(subscriber)
        subscriber.position = subscriber.told = position
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


class End(NamedTuple):
    """Where a log ends: its latest event, and its latest fact with that fact's number (None: it is not known)."""

    clock: Position
    last_fact: Position
    last_number: int | None


class Audience:
    """All channels of one organization, found by what an event names: itself, its conversation, its run."""

    def __init__(self, org: OrgId, end: End, window: Window) -> None:
        head, last_fact, last_number = end
        self.org = org
        self.ring = Ring(head, window)
        self._window = window
        self.last_fact = last_fact
        self.streams = 0
        self.restarts = 0
        self.last_number = last_number
        self._channels: dict[str, dict[tuple[Filter, Format], Channel]] = {}
        self._watches: dict[str, list[Watch]] = {}
        self._arrivals: list[tuple[Position, asyncio.Future[None]]] = []

    def join(self, subscriber: Subscriber, filter: Filter, format: Format) -> Channel:
        """Makes a subscriber live. Its position must be the ring's head, with no await in between."""
        scope = self._channels.setdefault(filter.scope, {})
        channel = scope.get((filter, format))
        if channel is None:
            channel = scope[filter, format] = Channel(filter, format, self.last_fact)
        channel.live.add(subscriber)
        return channel

    def part(self, subscriber: Subscriber, channel: Channel) -> None:
        channel.live.discard(subscriber)
        if not channel.live:
            scope = self._channels.get(channel.filter.scope, {})
            if scope.get((channel.filter, channel.format)) is channel:
                del scope[channel.filter, channel.format]
                if not scope:
                    del self._channels[channel.filter.scope]

    async def reach(self, position: Position) -> None:
        """Waits until the tailer has seen a position that is on the log already, or the log became shorter."""
        if self.ring.head < position:
            arrival = asyncio.get_running_loop().create_future()
            self._arrivals.append((position, arrival))
            await arrival

    @contextmanager
    def watch(self, scope: str) -> Iterator[Watch]:
        """Collects the scope's events from now on."""
        watch = Watch()
        self._watches.setdefault(scope, []).append(watch)
        try:
            yield watch
        finally:
            self._watches[scope].remove(watch)
            if not self._watches[scope]:
                del self._watches[scope]

    def publish(self, entries: Sequence[Entry]) -> None:
        """Takes new events in and writes them to everybody concerned: one write per channel and subscriber."""
        before = self.ring.head
        self.ring.extend(entries)
        touched: dict[int, Channel] = {}
        for entry in entries:
            event = entry.event
            if event.number is not None:
                self.last_fact = event.position
                self.last_number = event.number
            for scope in ("", event.conversation, f"run:{event.run}"):
                if scope is None:
                    continue
                for channel in self._channels.get(scope, {}).values():
                    channel.pending.append(entry)
                    touched[id(channel)] = channel
                for watch in self._watches.get(scope, ()):
                    watch.put(event)
        for channel in touched.values():
            try:
                channel.flush(before)
            except Exception:  # an event that one dialect cannot show must not cost anybody else a frame
                logger.exception("a channel failed", organization=self.org, position=str(self.ring.head))
                channel.dissolve(before)
        if self._arrivals:
            self._arrived()

    def _arrived(self) -> None:
        head = self.ring.head
        for position, arrival in self._arrivals:
            if position <= head and not arrival.done():
                arrival.set_result(None)
        self._arrivals = [(position, arrival) for position, arrival in self._arrivals if not arrival.done()]

    def beat(self, silent_since: float) -> None:
        for channel in self.channels():
            if channel.last_write <= silent_since:
                channel.beat(self.last_fact, self.ring.head)

    def shortened(self, end: End) -> None:
        """The log came back shorter than what was shown: everybody starts again, and is told so.

        Those who are not live notice by the number of restarts: they catch up, or wait for a position.
        """
        shown = self.ring.head
        self.ring = Ring(end.clock, self._window)
        self.last_fact, self.last_number = end.last_fact, end.last_number
        self.restarts += 1
        for channel in self.channels():
            channel.dissolve(shown)
        arrivals, self._arrivals = self._arrivals, []
        for _, arrival in arrivals:
            if not arrival.done():
                arrival.set_result(None)

    def channels(self) -> list[Channel]:
        return [channel for scope in self._channels.values() for channel in scope.values()]

    def subscribers(self) -> list[Subscriber]:
        return [subscriber for channel in self.channels() for subscriber in channel.live]
