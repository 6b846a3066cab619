"""Parked work: lanes that stopped at an item which could not be done, and wait for a person to decide."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from eventstore import codec, keys
from eventstore.append import Append, Appended, Disposal, Fenced, Held
from eventstore.errors import StoreError
from eventstore.events.work import WorkDropped, WorkParked, WorkRedriven
from eventstore.log import Log
from eventstore.schema import Event, OrgId, Position, Recorded

Decision = Literal["redrive", "drop"]


class ParkedLane(NamedTuple):
    """A lane as it stands. `event` is None if the log no longer holds the item; `behind` counts what waits after it."""

    lane: str
    item: Position
    since_ms: int
    attempts: int
    behind: int
    event: Recorded | None
    error: str


class ParkedWork:
    def __init__(self, log: Log) -> None:
        self._log = log
        self._pipe = log.pipe

    async def page(self, org: OrgId, after: str | None, count: int) -> list[ParkedLane] | None:
        """Lanes by how long they have been waiting, from the oldest, or behind one; None if that is not parked."""
        parked, first = keys.of(org).parked, 0
        if after is not None:
            if (rank := await self._pipe.call("ZRANK", parked, after)) is None:
                return None
            first = int(rank) + 1
        lanes = await self._pipe.call("ZRANGE", parked, first, first + count - 1)
        found = await asyncio.gather(*(self.find(org, lane.decode()) for lane in lanes))
        return [lane for lane in found if lane is not None]

    async def find(self, org: OrgId, lane: str) -> ParkedLane | None:
        """The lane, if it is parked."""
        own = keys.of(org)
        record, queue = own.lane(lane)
        since, (attempts, told), head, length = await asyncio.gather(
            self._pipe.call("ZSCORE", own.parked, lane),
            self._pipe.call("HMGET", record, "a", "p"),
            self._pipe.call("LINDEX", queue, 0),
            self._pipe.call("LLEN", queue),
        )
        if since is None or head is None:
            return None
        item = Position.parse(head)
        event, error = await asyncio.gather(self._log.at(org, item), self._error(org, told))
        return ParkedLane(lane, item, int(float(since)), int(attempts or 0), int(length) - 1, event, error)

    async def behind(self, org: OrgId, lane: str, count: int) -> Sequence[Recorded]:
        """The first items that wait behind the one at which the lane stopped; without those that were trimmed."""
        ids = await self._pipe.call("LRANGE", keys.of(org).lane(lane)[1], 1, count)
        found = await asyncio.gather(*(self._log.at(org, Position.parse(entry)) for entry in ids))
        return [event for event in found if event is not None]

    async def decide(self, org: OrgId, found: ParkedLane, decision: Decision, actor: str) -> Fenced | None:
        """Sets the lane going again, from the item or from the next one: then a worker ends the item's run first.

        Recorded in the same step, and only if the lane still stands at that item.
        """
        body_of = WorkRedriven if decision == "redrive" else WorkDropped
        event = Event(
            body_of(lane=found.lane, item=str(found.item)),
            actor,
            found.event.conversation if found.event else None,
            run=found.event.run if found.event else None,
            cause=found.item,
        )
        stopped = Held(found.lane, "", "", found.item)
        outcome = await self._log.append(org, Append(events=[event], held=stopped, disposal=Disposal(decision)))
        if isinstance(outcome, Appended):
            return None
        if isinstance(outcome, Fenced):
            return outcome
        raise StoreError(f"unexpected answer to {decision}: {outcome!r}")

    async def _error(self, org: OrgId, told: Any) -> str:
        """What the event says that parked the lane."""
        event = await self._log.at(org, Position.parse(told)) if told else None
        body = codec.decode(event) if event else None
        return body.error if isinstance(body, WorkParked) else ""
