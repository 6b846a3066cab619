"""One reader of the log per process: waits at the bells of the shards it serves and reads what has grown.

Bells carry no data, so losing some costs nothing: after a reconnect, or when too many rang at once, every served
organization is read from the position that was reached.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable

import structlog
from aiohttp import web

from edges.audience import Audience, End
from edges.channels import Subscriber
from edges.listener import Listener
from edges.pace import Pace
from edges.resume import survives
from edges.ring import Entry, Window, next_count, pieces
from eventstore import keys
from eventstore.connection import Pipe
from eventstore.errors import StoreError
from eventstore.log import Log, Reading
from eventstore.schema import ORIGIN, OrgId, Position, Recorded
from eventstore.telemetry import RELOADS

logger = structlog.get_logger(__name__)

Pages = dict[Audience, list[Recorded]]

AHEAD_COUNT = 8
"""Organizations whose events are asked for together with the bells."""
READ_COUNT = 1_000
READ_BYTES = 2 * 1024 * 1024
"""What is read of one organization at once, by the size of what was read before."""
MIN_RECONNECT_PAUSE_S = 0.05
MAX_RECONNECT_PAUSE_S = 0.5
PUBLISH_BYTES = 256 * 1024
"""What a subscriber's socket is given at once: who has not read the last piece leaves before the next."""
IDLE_AUDIENCE_S = 60.0


class Tailer:
    """`blocking`: see `Listener`."""

    def __init__(self, log: Log, blocking: Pipe, pace: Pace, window: Window) -> None:
        self._log = log
        self._listener = Listener(log.pipe, blocking)
        self._pace = pace
        self._window = window
        self._audiences: dict[OrgId, Audience] = {}
        self._idle_since: dict[OrgId, float] = {}
        self._dirty: set[OrgId] = set()
        self._came: dict[Audience, int] = {}
        """Who rang the last time, and how many events that brought."""
        self._ahead: list[Audience] = []
        self._opening: dict[OrgId, _Opening] = {}

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._pump(), name="tailer")
            tasks.create_task(self._beat(), name="heartbeat")

    def audience(self, org: OrgId) -> Attendance:
        """Use as `async with`: the organization's live window; it is tailed from now on until nobody has needed it for
        a minute."""
        return Attendance(self, org)

    async def enter(self, org: OrgId) -> Audience:
        audience = self._audiences.get(org) or await self._open(org)
        audience.streams += 1
        self._idle_since.pop(org, None)
        return audience

    def leave(self, audience: Audience) -> None:
        audience.streams -= 1
        if audience.streams == 0:
            self._idle_since[audience.org] = time.monotonic()

    def subscribers(self) -> Iterable[Subscriber]:
        for audience in self._audiences.values():
            yield from audience.subscribers()

    async def _open(self, org: OrgId) -> Audience:
        """Many organizations open side by side, and without a word to the blocking read: after a restart all come."""
        opening = self._opening.setdefault(org, _Opening())
        async with opening.alone:
            if (existing := self._audiences.get(org)) is not None:
                return existing
            await self._listener.add(keys.of(org).bell)
            opening.rung = False  # what rang before this is on the log by now
            audience = Audience(org, await self._end(org), self._window)
            self._audiences[org] = audience
            self._idle_since[org] = time.monotonic()
            del self._opening[org]
            if opening.rung:  # for what may have come after that look
                self._dirty.add(org)
                await self._listener.interrupt()
            return audience

    async def _pump(self) -> None:
        pause, lost = MIN_RECONNECT_PAUSE_S, False
        while True:
            try:
                if lost:  # until it has succeeded: what was being read when Redis went away is not read again else
                    await self._reload()
                    lost = False
                pages = await self._hear() if not self._dirty else {}
                await self._read(pages)
                pause = MIN_RECONNECT_PAUSE_S
            except StoreError as error:  # also what Redis says while it loads its files or fails over
                logger.warning("the tailer lost Redis", error=str(error))
                lost = True
                await asyncio.sleep(pause)
                pause = min(pause * 2, MAX_RECONNECT_PAUSE_S)
            except Exception:
                logger.exception("the tailer failed", organizations=len(self._audiences))
                lost = True
                await asyncio.sleep(MAX_RECONNECT_PAUSE_S)

    async def _hear(self) -> Pages:
        """Waits for bells; brings what was read ahead."""
        pages = await self._listener.wait([_next(audience) for audience in self._ahead])
        return dict(zip(self._ahead, pages, strict=False))  # none, where the wait was interrupted

    def _take_in(self, but: Collection[OrgId] = ()) -> None:
        organizations, unclear = self._listener.rung()
        self._ring(org for org in organizations if org not in but)
        for bell in unclear:  # none, mostly: all organizations are looked at
            self._ring(org for org in (*self._audiences, *self._opening) if keys.of(org).bell == bell)

    def _ring(self, orgs: Iterable[OrgId]) -> None:
        for org in orgs:
            if org in self._audiences:
                self._dirty.add(org)
            elif org in self._opening:
                self._opening[org].rung = True

    async def _read(self, ahead: Pages) -> None:
        """Shows what was read ahead, before anything else is looked at, and then what the other dirty ones have. Where
        less was read ahead than the last time, more is on its way: a second look costs less than a second write to
        every subscriber. Who rang twice in a row will ring again."""
        pages = {audience: events for audience, events in ahead.items() if not 0 < len(events) < self._came[audience]}
        unfinished = [audience.org for audience, events in pages.items() if await self._take(audience, events)]
        self._ring(audience.org for audience, events in ahead.items() if events)
        self._take_in()
        dirty, self._dirty = self._dirty, set(unfinished)
        audiences = [audience for org in dirty if (audience := self._audiences.get(org)) is not None]
        late = [audience for audience in audiences if audience not in pages]
        if late:
            pages |= zip(late, await self._listener.look([_next(audience) for audience in late]), strict=True)
            self._take_in(but={audience.org for audience in late})
        before = self._came
        self._came = {audience: len(pages[audience]) or before.get(audience, 0) for audience in audiences}
        self._ahead = [audience for audience in audiences if audience in before][:AHEAD_COUNT]
        self._dirty.update([audience.org for audience in late if await self._take(audience, pages[audience])])

    async def _take(self, audience: Audience, events: list[Recorded]) -> bool:
        """Whether there may be more after them."""
        if not events:
            return False
        if _has_hole(audience, events):
            await self._restart(audience)
            return False
        asked = audience.page
        entries = [Entry(event) for event in events]
        size = sum([entry.size for entry in entries])
        if size <= PUBLISH_BYTES:
            audience.publish(entries)
        else:
            first, *more = pieces(entries, PUBLISH_BYTES)
            audience.publish(first)
            for piece in more:
                await asyncio.sleep(0)  # lets sockets take what they were given
                audience.publish(piece)
        audience.page = next_count(asked, size, READ_BYTES, READ_COUNT)
        return len(events) >= asked

    async def _reload(self) -> None:
        """After Redis was away: bells may be new, and logs shorter than what was shown."""
        await self._listener.start_over()
        for audience in list(self._audiences.values()):
            if not await survives(self._log, audience.org, audience.ring.head):
                await self._restart(audience)
        self._ring((*self._audiences, *self._opening))
        RELOADS.inc()

    async def _restart(self, audience: Audience) -> None:
        end = await self._end(audience.org)
        logger.error("the log is not what was shown", organization=audience.org, clock=str(end.clock))
        audience.shortened(end)

    async def _end(self, org: OrgId) -> End:
        """The fact belongs to the clock: one that is appended in between must not count as seen."""
        clock = (await self._log.bounds(org)).clock
        last = await self._log.read_back(org, Position(clock.ms, clock.seq + 1), count=1)
        if last:
            return End(clock, last[0].position, last[0].number)
        return End(clock, ORIGIN, None if clock > ORIGIN else 0)  # None: all facts were trimmed away

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._pace.beat_s)
            now = time.monotonic()
            for audience in self._audiences.values():
                audience.beat(now - self._pace.heartbeat_s)
            for org, since in list(self._idle_since.items()):
                if now - since > IDLE_AUDIENCE_S:
                    del self._idle_since[org]
                    self._audiences.pop(org, None)


class _Opening:
    """An organization that is about to be tailed; `rung` says that its bell was heard since its end was asked for."""

    __slots__ = ("alone", "rung")

    def __init__(self) -> None:
        self.alone = asyncio.Lock()
        self.rung = False


class Attendance:
    """A generator in its place would cost every open stream half a KiB more."""

    __slots__ = ("_audience", "_org", "_tailer")

    def __init__(self, tailer: Tailer, org: OrgId) -> None:
        self._tailer = tailer
        self._org = org
        self._audience: Audience | None = None

    async def __aenter__(self) -> Audience:
        self._audience = await self._tailer.enter(self._org)
        return self._audience

    async def __aexit__(self, *_: object) -> None:
        assert self._audience is not None
        self._tailer.leave(self._audience)


def _next(audience: Audience) -> Reading:
    return Reading(audience.org, audience.ring.head, audience.page)


TAILER = web.AppKey("tailer", Tailer)


def _has_hole(audience: Audience, events: list[Recorded]) -> bool:
    """Facts are numbered without holes: a jump means that the log was trimmed unread, or replaced."""
    expected = audience.last_number
    for event in events:
        if event.number is not None:
            if expected is not None and event.number != expected + 1:
                return True
            expected = event.number
    return False
