"""The life of one open stream: headers, opening, catch-up from the log, live delivery, end.

A subscriber is a position. While it is behind, it reads pages at its own pace; once it has reached the end of what
the tailer has seen, it joins its channel in the same step (nothing is awaited in between), so there is no seam.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, suppress
from typing import NamedTuple

from aiohttp import web

from edges.app_keys import LOG
from edges.audience import Audience
from edges.auth import Caller
from edges.channels import WRITE_BUFFER_BYTES, Subscriber
from edges.open_streams import STREAMS
from edges.pace import PACE, Pace
from edges.resume import Gap, Start, gap_from_start, survives
from edges.ring import Entry, Passing, next_count
from edges.subscriptions import Filter, Format
from edges.tail import TAILER
from edges.wire import SSE, retry
from eventstore.errors import StoreUnavailable
from eventstore.log import PAGE, Log
from eventstore.schema import ORIGIN, Position, Recorded
from eventstore.telemetry import CATCH_UP_PAGES, GAPS, RING_HITS, SLOW_CUTS, SUBSCRIBERS

CATCH_UP_BYTES = 64 * 1024
"""What a client is sent at once, or little more: who has four times as much unread is shown no more."""
PAGE_BYTES = 128 * 1024
"""What a page should hold, by the size of the last one: a slow client must not keep much of the log in memory."""


class Plan(NamedTuple):
    """What one stream shows.

    `opening` goes out before anything from the log, in one write with the first of it; `begins` is an event that must
    be in that write. `alive` is asked while nothing comes: when nobody will ever answer, the stream breaks off.
    """

    caller: Caller
    filter: Filter
    format: Format
    start: Start
    opening: bytes = b""
    begins: Position = ORIGIN
    alive: Callable[[], Awaitable[bool]] | None = None
    headers: dict[str, str] = {}  # noqa: RUF012 - never written to


class StreamCut(Exception):
    """The stream must break off without a clean end, so that every client reconnects."""


async def respond(request: web.Request, plan: Plan) -> web.StreamResponse:
    """Serves the stream until it is over, the client leaves, or it has to be cut."""
    async with request.app[TAILER].audience(plan.caller.org) as audience:
        response = web.StreamResponse(headers=_headers(plan))
        if request.version >= (1, 1):
            response.headers["Connection"] = "keep-alive"
        await response.prepare(request)
        subscriber = Subscriber(request, plan.start.position, audience.restarts)
        subscriber.transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        with (
            request.app[STREAMS].opened(plan.caller, subscriber.transport, endless=plan.format.ends is None),
            counted(plan.format),
        ):
            try:
                request.protocol.keep_alive(False)  # no timer for what comes after it
                request.writer.send_headers()
                response.headers.clear()  # as much as a KiB, for as long as the stream is open
                opening = retry() if plan.format.wire is SSE else b""
                if plan.start.gap is not None:
                    opening += gap_bytes(plan.format, plan.start.gap)
                subscriber.prefix = opening + plan.opening
                await deliver(request, audience, subscriber, plan)
                await response.write_eof()
            except StreamCut:
                subscriber.transport.close()
    return response


async def deliver(request: web.Request, audience: Audience, subscriber: Subscriber, plan: Plan) -> None:
    """Sends what the plan shows until that is over. Raises StreamCut where the connection has to break off."""
    log, loop = request.app[LOG], asyncio.get_running_loop()
    await _reach(request, log, audience, subscriber, plan, plan.begins)
    while True:
        if subscriber.restarts != audience.restarts:
            await _announce_gap(request, log, audience, subscriber, plan)
        if await _catch_up(request, log, audience, subscriber, plan):
            return
        if subscriber.restarts != audience.restarts or subscriber.position != audience.ring.head:
            await _reach(request, log, audience, subscriber, plan)
            continue
        subscriber.wake = loop.create_future()
        channel = audience.join(subscriber, plan.filter, plan.format)
        try:
            await (subscriber.wake if plan.alive is None else _woken(subscriber.wake, plan.alive, request.app[PACE]))
        finally:
            audience.part(subscriber, channel)
            subscriber.wake = None
        if subscriber.transport.is_closing():
            raise StreamCut
        await _drained(request, subscriber)
        if subscriber.ended:
            return


def counted(format: Format) -> AbstractContextManager[object]:
    """While a stream is open."""
    name = format.dialect.name.partition(":")[0]  # what follows would be a label for every session
    return SUBSCRIBERS.labels(name, format.wire.name).track_inprogress()


async def _reach(
    request: web.Request, log: Log, audience: Audience, subscriber: Subscriber, plan: Plan, begins: Position = ORIGIN
) -> None:
    """A client may have been shown more by another process, or have appended more, than this tailer has seen yet.

    Until it has there is nothing to send but signs of life. A position that has left the log meanwhile is not waited
    for: the client is told.
    """
    while audience.ring.head < (wanted := max(subscriber.position, begins)):
        try:
            async with asyncio.timeout(request.app[PACE].reach_s):
                await audience.reach(wanted)
        except TimeoutError:
            with suppress(StoreUnavailable):
                if not await survives(log, audience.org, wanted):
                    await _announce_gap(request, log, audience, subscriber, plan)
                    return
            await send(request, subscriber, plan.format, plan.format.wire.heartbeat)
        if subscriber.restarts != audience.restarts:
            return


async def _woken(wake: asyncio.Future[None], alive: Callable[[], Awaitable[bool]], pace: Pace) -> None:
    while not (await asyncio.wait((wake,), timeout=pace.heartbeat_s))[0]:
        with suppress(StoreUnavailable):  # nobody can say who is alive; the tailer waits for the log too
            if not await alive():
                raise StreamCut


async def _catch_up(request: web.Request, log: Log, audience: Audience, subscriber: Subscriber, plan: Plan) -> bool:
    """Sends everything up to the tailer's head; True if the stream is over with it."""
    while subscriber.restarts == audience.restarts:
        ring = audience.ring
        if not plan.start.pages and ring.covers(subscriber.position):
            RING_HITS.inc()
            reached = ring.head
            covered = [entry for entry in ring.after(subscriber.position) if plan.filter.covers(entry.event)]
            left: Iterator[Entry | Passing] = iter(covered)
        else:
            CATCH_UP_PAGES.inc()
            events, reached = await _page(log, plan, subscriber, ring.head)
            left = map(Passing, events)
        more = True
        while more:
            shown = plan.format.shown(left, plan.filter.accepts, CATCH_UP_BYTES)
            await send(request, subscriber, plan.format, shown.payload)
            subscriber.told = shown.last or subscriber.told
            if shown.over:
                return True
            more = shown.more
        subscriber.position = max(subscriber.position, reached)
        if subscriber.position >= audience.ring.head:
            return False
    return False


async def _page(log: Log, plan: Plan, subscriber: Subscriber, head: Position) -> tuple[list[Recorded], Position]:
    """The next events of the plan's scope, none beyond the head, and the position that is reached with them."""
    org, count = plan.caller.org, subscriber.page
    if plan.start.pages:
        events, cut = plan.start.pages.pop()
    elif (scope := plan.filter.indexed(org)) is not None:
        events, cut = await log.page_of(scope, subscriber.position)
    else:
        events = await log.read(org, subscriber.position, count=count, deltas=plan.filter.deltas)
        cut = events[-1].position if len(events) >= count else None
        size = sum(len(event.data) + len(event.personal) for event in events)
        subscriber.page = next_count(count, size, PAGE_BYTES, PAGE)
    if events and events[-1].position > head:
        events = [event for event in events if event.position <= head]
    return events, min(cut, head) if cut is not None else head


async def send(request: web.Request, subscriber: Subscriber, format: Format, payload: bytes) -> None:
    """One write; returns when the client has read most of what it was sent."""
    if subscriber.transport.is_closing():
        raise ConnectionResetError("the client is gone")
    prefix, subscriber.prefix = subscriber.prefix, b""
    if prefix or payload:
        subscriber.transport.write(format.packed(prefix + payload))
    await _drained(request, subscriber)


async def _drained(request: web.Request, subscriber: Subscriber) -> None:
    """Until the client has read most of what was written; one that reads nothing for long is cut."""
    stall_s = request.app[PACE].stall_s
    while subscriber.protocol.writing_paused:
        left = subscriber.transport.get_write_buffer_size()
        try:
            async with asyncio.timeout(stall_s):
                await request.writer.drain()
        except TimeoutError:
            if subscriber.transport.get_write_buffer_size() >= left:
                SLOW_CUTS.inc()
                subscriber.transport.abort()
                raise StreamCut from None


async def _announce_gap(request: web.Request, log: Log, audience: Audience, subscriber: Subscriber, plan: Plan) -> None:
    """The log came back shorter than what this client was shown."""
    subscriber.restarts = audience.restarts
    plan.start.pages.clear()
    gap = await gap_from_start(log, plan.caller.org, str(subscriber.position), "ahead")
    GAPS.labels("ahead").inc()
    subscriber.position = subscriber.told = gap.resume
    await send(request, subscriber, plan.format, gap_bytes(plan.format, gap))


def gap_bytes(format: Format, gap: Gap) -> bytes:
    return format.notice(gap.data(), "gap", gap.resume)


def _headers(plan: Plan) -> dict[str, str]:
    return {
        "Content-Type": plan.format.wire.content_type,
        "Cache-Control": "no-cache, no-transform",
        "X-Accel-Buffering": "no",
        **plan.headers,
    }
