"""One reader of the log per process: waits at the bells of the shards it serves and reads what has grown.

Bells carry no data, so losing some costs nothing: after a reconnect, or when too many rang at once, every served
organization is read from the position that was reached.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

import structlog
from aiohttp import web

from edges.audience import Audience, End
from edges.channels import Subscriber
from edges.pace import Pace
from edges.resume import survives
from edges.ring import Entry, Window, next_count, pieces
from eventstore import keys
from eventstore.connection import Pipe
from eventstore.errors import StoreError
from eventstore.log import Log
from eventstore.schema import ORIGIN, OrgId, Position, Recorded
from eventstore.telemetry import RELOADS

logger = structlog.get_logger(__name__)

BELL_BLOCK_MS = 1_000
BELL_COUNT = 1_000
READ_COUNT = 1_000
READ_BYTES = 2 * 1024 * 1024
"""What is read of one organization at once, by the size of what was read before."""
MIN_RECONNECT_PAUSE_S = 0.05
MAX_RECONNECT_PAUSE_S = 0.5
PUBLISH_BYTES = 256 * 1024
"""What a subscriber's socket is given at once: who has not read the last piece leaves before the next."""
IDLE_AUDIENCE_S = 60.0


class Tailer:
    """`blocking` is a pipe of its own, whose timeout is longer than the time a bell may stay silent."""

    def __init__(self, log: Log, blocking: Pipe, pace: Pace, window: Window) -> None:
        self._log = log
        self._blocking = blocking
        self._pace = pace
        self._window = window
        self._audiences: dict[OrgId, Audience] = {}
        self._bells: dict[str, str] = {}
        """Where each bell that is listened to was heard last."""
        self._idle_since: dict[OrgId, float] = {}
        self._dirty: set[OrgId] = set()
        self._blocked = False
        self._resubscribing = False
        self._serving = asyncio.Event()
        self._opening: dict[OrgId, _Opening] = {}
        self._tasks: asyncio.TaskGroup | None = None

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
            await self._listen(keys.of(org).bell)
            opening.rung = False  # what rang before this is on the log by now
            audience = Audience(org, await self._end(org), self._window)
            self._audiences[org] = audience
            self._idle_since[org] = time.monotonic()
            del self._opening[org]
            if opening.rung:  # for what may have come after that look
                self._dirty.add(org)
                await self._resubscribe()
            return audience

    async def _listen(self, bell: str) -> None:
        if bell not in self._bells:
            end = await self._bell_end(bell)
            if bell not in self._bells:  # else somebody else was first, and that position may be the earlier one
                self._bells[bell] = end
                self._serving.set()
                await self._resubscribe()

    async def _resubscribe(self) -> None:
        """Ends the blocking read, if there is one: it goes on with a new bell too, and after a look at who is dirty."""
        if self._blocked:
            self._resubscribing = True
            await self._blocking.reset()

    async def _pump(self) -> None:
        pause, lost = MIN_RECONNECT_PAUSE_S, False
        while True:
            try:
                if lost:  # until it has succeeded: what was being read when Redis went away is not read again else
                    await self._reload()
                    lost = False
                dirty = await self._wait()
                self._resubscribing = False  # the read that it was meant for is over, by itself or not
                await self._read(dirty)
                pause = MIN_RECONNECT_PAUSE_S
            except StoreError as error:  # also what Redis says while it loads its files or fails over
                if self._resubscribing:
                    self._resubscribing = False
                    continue
                logger.warning("the tailer lost Redis", error=str(error))
                lost = True
                await asyncio.sleep(pause)
                pause = min(pause * 2, MAX_RECONNECT_PAUSE_S)
            except Exception:
                logger.exception("the tailer failed", organizations=len(self._audiences))
                lost = True
                await asyncio.sleep(MAX_RECONNECT_PAUSE_S)

    async def _wait(self) -> set[OrgId]:
        await self._serving.wait()
        reply = None
        if not self._dirty:
            self._blocked = True
            try:
                reply = await self._blocking.call(
                    "XREAD", "COUNT", BELL_COUNT, "BLOCK", BELL_BLOCK_MS, "STREAMS",
                    *self._bells, *self._bells.values(),
                )  # fmt: skip
            finally:
                self._blocked = False
        for name, entries in reply or ():
            bell = name.decode()
            self._bells[bell] = entries[-1][0].decode()
            if len(entries) >= BELL_COUNT:  # some may have been trimmed unseen
                self._ring(org for org in (*self._audiences, *self._opening) if keys.of(org).bell == bell)
            else:
                self._ring(OrgId(fields[1].decode()) for _, fields in entries)
        dirty, self._dirty = self._dirty, set()
        return dirty

    def _ring(self, orgs: Iterable[OrgId]) -> None:
        for org in orgs:
            if org in self._audiences:
                self._dirty.add(org)
            elif org in self._opening:
                self._opening[org].rung = True

    async def _read(self, dirty: set[OrgId]) -> None:
        while dirty:
            audiences = [audience for org in dirty if (audience := self._audiences.get(org)) is not None]
            reads = [self._log.read(audience.org, audience.ring.head, count=audience.page) for audience in audiences]
            # Mostly there is one, and a task for it would cost as much as the read.
            pages = [await reads[0]] if len(reads) == 1 else await asyncio.gather(*reads)
            dirty = set()
            for audience, events in zip(audiences, pages, strict=True):
                if not events:
                    continue
                if _has_hole(audience, events):
                    await self._restart(audience)
                    continue
                if len(events) >= audience.page:
                    dirty.add(audience.org)
                entries = [Entry(event) for event in events]
                audience.page = next_count(audience.page, sum(entry.size for entry in entries), READ_BYTES, READ_COUNT)
                first, *more = pieces(entries, PUBLISH_BYTES)
                audience.publish(first)
                for piece in more:
                    await asyncio.sleep(0)  # lets sockets take what they were given
                    audience.publish(piece)

    async def _reload(self) -> None:
        """After Redis was away: bells may be new, and logs shorter than what was shown."""
        for bell in tuple(self._bells):
            self._bells[bell] = await self._bell_end(bell)
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

    async def _bell_end(self, bell: str) -> str:
        reply = await self._log.pipe.call("XREVRANGE", bell, "+", "-", "COUNT", 1)
        return reply[0][0].decode() if reply else "0-0"

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
