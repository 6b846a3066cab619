"""The log: append in one atomic step, and read by position.

Positions of both streams of an organization come from one clock, so a merged read is totally ordered.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal, NamedTuple

from eventstore import codec, collect, keys
from eventstore.append import APPEND, Append, HeldBy, Idempotency, Outcome, arguments, outcome
from eventstore.collect import Page, Scope
from eventstore.connection import Pipe, load_script
from eventstore.durability import Barrier
from eventstore.resp import Argument
from eventstore.schema import END, ORIGIN, ConversationId, OrgId, Position, Recorded
from eventstore.telemetry import APPEND_SECONDS

TRIM = load_script("trim.lua")

CONFIRMED = Append(idempotency=Idempotency("confirmed", "confirmed"))
"""Writes no event, and yet something, each time: else there is nothing that WAIT waits for."""

PAGE = 500
"""Entries per read: larger pages are slower per entry."""


Kind = Literal["fact", "delta"]


class Bounds(NamedTuple):
    """`first` is None for an empty log; `clock` is the latest position of either stream.

    `trimmed` is the last fact that was removed, if any: who has seen it has missed nothing.
    """

    first: Position | None
    last: Position | None
    clock: Position
    first_number: int | None
    trimmed: Position | None = None


class Reading(NamedTuple):
    """Events after a position, in order, at most about `most`; an empty list means there are no more now."""

    org: OrgId
    after: Position
    most: int = PAGE
    deltas: bool = True

    @property
    def command(self) -> tuple[Argument, ...]:
        own = keys.of(self.org)
        streams = (own.log, own.tok) if self.deltas else (own.log,)
        return "XREAD", "COUNT", self.most, "STREAMS", *streams, *[str(self.after)] * len(streams)

    def events(self, reply: Any) -> list[Recorded]:
        return merge_streams(self.org, reply, self.most)


class Log:
    """Append to and read from every organization's streams.

    A call that ends in StoreUnavailable may or may not have been written: repeat it only with an idempotency key or
    a held lane, which make the repetition harmless.
    """

    def __init__(
        self,
        pipe: Pipe,
        *,
        max_facts: int = 0,
        now_ms: Callable[[], int] | None = None,
    ) -> None:
        self.pipe = pipe
        self._max_facts = max_facts
        self._barrier: Barrier | None = None
        self._now_ms = now_ms

    def wait_for(self, barrier: Barrier | None) -> None:
        """From now on an append has succeeded only once the barrier is passed."""
        self._barrier = barrier

    async def stop_waiting(self) -> None:
        """For a process that ends: whoever waits at the barrier gets StoreUnavailable, and nobody else will wait."""
        barrier, self._barrier = self._barrier, None
        if barrier is not None:
            await barrier.give_up()

    async def append(self, org: OrgId, request: Append) -> Outcome:
        """One atomic step; typed replies, never an exception, for everything a caller must react to."""
        now_ms = self._now_ms() if self._now_ms else None
        key, values = arguments(org, request, max_facts=self._max_facts, now_ms=now_ms)
        started = time.perf_counter()
        reply = await (self._barrier or self.pipe).run(APPEND, (key,), values)
        answer = outcome(org, reply)
        APPEND_SECONDS.observe(type(answer).__name__, time.perf_counter() - started)
        return answer

    async def confirm(self, org: OrgId) -> None:
        """Returns once all that is on the log is as durable as an append: for who answers that it is there already."""
        if self._barrier is not None:
            await self.append(org, CONFIRMED)

    async def read(self, org: OrgId, after: Position, *, count: int = PAGE, deltas: bool = True) -> list[Recorded]:
        """One reading."""
        reading = Reading(org, after, count, deltas)
        return reading.events(await self.pipe.call(*reading.command))

    async def tail(
        self, org: OrgId, after: Position, blocking: Pipe, *, block_ms: int = 1_000
    ) -> AsyncIterator[list[Recorded]]:
        """Pages of events after a position, for ever; `blocking` is a pipe that nothing else uses."""
        own = keys.of(org)
        while True:
            streams = dict.fromkeys((own.log, own.tok), str(after))
            [reply] = await blocking.read_streams(streams, count=PAGE, block_ms=block_ms)
            if events := merge_streams(org, reply, PAGE):
                after = events[-1].position
                yield events

    async def read_back(self, org: OrgId, before: Position | None, *, count: int = PAGE) -> list[Recorded]:
        """The last facts before a position, oldest first."""
        until = f"({before}" if before is not None else "+"
        reply = await self.pipe.call("XREVRANGE", keys.of(org).log, until, "-", "COUNT", count)
        return [codec.recorded(org, entry_id, fields) for entry_id, fields in reversed(reply)]

    async def at(self, org: OrgId, position: Position) -> Recorded | None:
        """The fact at exactly this position."""
        reply = await self.pipe.call("XRANGE", keys.of(org).log, str(position), str(position))
        return codec.recorded(org, *reply[0]) if reply else None

    async def read_conversation(
        self, org: OrgId, conversation: ConversationId, after: Position = ORIGIN
    ) -> list[Recorded]:
        """Facts of one conversation after a position: costs what the conversation holds, not the organization."""
        return await collect.rest(self.pipe, Scope(org, "c", conversation), after, PAGE)

    async def read_conversation_back(
        self, org: OrgId, conversation: ConversationId, before: Position | None, *, count: int = PAGE
    ) -> list[Recorded]:
        """The last facts of one conversation before a position, oldest first."""
        scope, found = Scope(org, "c", conversation), list[Recorded]()
        while len(found) < count:
            events, before = await collect.before(self.pipe, scope, before or END, min(PAGE, count - len(found)))
            found = events + found
            if before is None:
                break
        return found

    async def read_run(
        self, org: OrgId, run: Position, after: Position = ORIGIN, *, deltas: bool = True
    ) -> list[Recorded]:
        """The input, facts and deltas of one run after a position, in order."""
        return await collect.rest(self.pipe, Scope(org, "r", str(run), deltas), after, PAGE)

    async def page_of(self, scope: Scope, after: Position, *, count: int = PAGE) -> Page:
        """The next events of one conversation or run, at most `count`."""
        return await collect.after(self.pipe, scope, after, min(count, PAGE))

    async def run_length(self, org: OrgId, run: Position) -> int:
        """How many facts besides the input the run has so far."""
        return int(await self.pipe.call("LLEN", keys.of(org).run_facts(run)))

    async def version(self, org: OrgId, conversation: ConversationId) -> int:
        reply = await self.pipe.call("HGET", keys.of(org).conversation(conversation)[0], "v")
        return int(reply or 0)

    async def control(self, org: OrgId, conversation: ConversationId) -> HeldBy:
        """Who holds the conversation now, and the epoch that fences everybody else's writes."""
        reply = await self.pipe.call("HMGET", keys.of(org).conversation(conversation)[0], "ch", "ce")
        return HeldBy((reply[0] or b"").decode(), int(reply[1] or 0))

    async def address(self, org: OrgId, conversation: ConversationId) -> str | None:
        """The address that a conversation's id stands for; None once it was erased."""
        reply = await self.pipe.call("HGET", keys.of(org).alias, conversation)
        return reply.decode() if reply else None

    async def bounds(self, org: OrgId) -> Bounds:
        return _bounds(org, *await self.pipe.calls(*_ends(org)))

    async def trim(self, org: OrgId, first: Position) -> int:
        """Removes the facts before this one; how many. Deltas go by their age, when others are appended."""
        own = keys.of(org)
        return int(await self.pipe.run(TRIM, (own.log, own.meta), (str(first),)))

    async def look_at(self, org: OrgId, position: Position) -> tuple[Bounds, Kind | None]:
        """The bounds of the log, and what stands at exactly this position."""
        own, at = keys.of(org), str(position)
        look = await self.pipe.calls(*_ends(org, ("XRANGE", own.log, at, at), ("XRANGE", own.tok, at, at)))
        return _seen(org, *look)

    async def look_ahead(self, scope: Scope, position: Position) -> tuple[Bounds | None, Kind | None, Page]:
        """`look_at`, and what the scope has after the position, as of one moment: up to the page's `cut`, which is the
        clock where the page was not cut before it. There are no bounds for a fact, which lies within them."""
        page, (clock, *look) = await collect.after_with_look(self.pipe, scope, position, PAGE)
        if not look:
            return None, "fact", page._replace(cut=page.cut or _position(clock))
        bounds, kind = _seen(scope.org, clock, *look)
        return bounds, kind, page._replace(cut=page.cut or bounds.clock)


def merge_streams(org: OrgId, reply: Any, count: int) -> list[Recorded]:
    """An XREAD of log and token stream as one ordered list.

    Where COUNT cut one of the two, nothing beyond its last entry may go out yet: the other would run ahead of it.
    """
    streams = [entries for _, entries in reply or ()]
    events = [codec.recorded(org, entry_id, fields) for entries in streams for entry_id, fields in entries]
    if len(streams) > 1:
        events.sort(key=lambda event: event.position)
        cuts = [Position.parse(entries[-1][0]) for entries in streams if len(entries) >= count]
        if cuts:
            limit = min(cuts)
            events = [event for event in events if event.position <= limit]
    return events


def _ends(org: OrgId, *looks: tuple[Argument, ...]) -> tuple[tuple[Argument, ...], ...]:
    """In this order, as others write in between: nothing that is not found was counted by the clock, unless it was
    trimmed, which is asked after it was looked for."""
    own = keys.of(org)
    return (
        ("HMGET", own.meta, "ms", "sq"),
        ("XREVRANGE", own.log, "+", "-", "COUNT", 1),
        ("XRANGE", own.log, "-", "+", "COUNT", 1),
        *looks,
        ("HGET", own.meta, "tp"),
    )


def _seen(
    org: OrgId, clock: Any, last: Any, first: Any, fact: Any, delta: Any, trimmed: Any
) -> tuple[Bounds, Kind | None]:
    return _bounds(org, clock, last, first, trimmed), "fact" if fact else "delta" if delta else None


def _position(clock: Any) -> Position:
    ms, seq = clock
    return Position(int(ms), int(seq))


def _bounds(org: OrgId, clock: Any, last: Any, first: Any, trimmed: Any) -> Bounds:
    first_event = codec.recorded(org, *first[0]) if first else None
    last_position = Position.parse(last[0][0]) if last else None
    now = _position(clock) if clock[0] else (last_position or ORIGIN)
    return Bounds(
        first_event.position if first_event else None,
        last_position,
        now,
        first_event.number if first_event else None,
        Position.of(trimmed) if trimmed else None,
    )
