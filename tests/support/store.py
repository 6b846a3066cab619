"""A log with the test's hand on its clock, and the few events that tests of the log append."""

from __future__ import annotations

import asyncio
from typing import Any

from eventstore import keys
from eventstore.append import Append, Appended, Disposal, Held, Outcome
from eventstore.connection import Pipe
from eventstore.events.custom import Custom
from eventstore.events.replies import ReplyDelta
from eventstore.lanes import LEASE_MS, Lanes, Taken
from eventstore.log import Log
from eventstore.schema import ConversationId, Event, OrgId, Position, Sibling
from tests.support.clock import Clock
from tests.support.snapshots import Snapshot, snapshot

ACME = OrgId("acme")
ANN = ConversationId("conv_ann")
BEN = ConversationId("conv_ben")
SHARDS = (keys.shard_of(ACME),)


class Store:
    """What a test of the log works with. `broken_on_purpose` skips the check of invariants that ends every test."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.clock = Clock()
        self.log = Log(pipe, now_ms=self.clock)
        self.keys = keys.of(ACME)
        self.broken_on_purpose = False

    def lanes(self, owner: str = "worker-1", *, lease_ms: int = LEASE_MS) -> Lanes:
        return Lanes(self.pipe, owner, lease_ms=lease_ms, shards=SHARDS, now_ms=self.clock)

    async def append(self, *events: Event, **options: Any) -> Outcome:
        return await self.log.append(ACME, Append(events=events, **options))

    async def write(self, *events: Event, **options: Any) -> Appended:
        """An append that must succeed."""
        return written(await self.append(*events, **options))

    async def end(self, held: Held, kind: str, *events: Event, delay_ms: int = 0) -> Outcome:
        """Disposes of a held lane."""
        disposal = Disposal(kind, delay_ms)  # type: ignore[arg-type]
        return await self.append(*events, held=held, disposal=disposal)

    async def unpark(self, kind: str, item: Position, *events: Event, lane: str = "l") -> Outcome:
        """Redrives a parked lane, or drops the item at which it stopped."""
        return await self.end(Held(lane, "", "", item), kind, *events)

    async def parked(self) -> list[str]:
        """Lanes as they are listed, from the one that has been waiting longest."""
        return [lane.decode() for lane in await self.pipe.call("ZRANGE", self.keys.parked, 0, -1)]

    async def state(self) -> Snapshot:
        return await snapshot(self.pipe)

    async def doorbells(self) -> list[str]:
        """Lanes whose doorbell is in the work stream, acknowledged or not."""
        entries = await self.pipe.call("XRANGE", self.keys.work, "-", "+")
        return [fields[3].decode() for _, fields in entries]

    async def queue(self, lane: str) -> list[Position]:
        return [Position.parse(item) for item in await self.pipe.call("LRANGE", self.keys.lane(lane)[1], 0, -1)]


def fact(
    conversation: ConversationId | None = ANN,
    *,
    text: str = "hello",
    lane: str | None = None,
    run: Position | Sibling | None = None,
    cause: Position | Sibling | None = None,
) -> Event:
    return Event(Custom(name="custom.said", data={"text": text}), "customer", conversation, run, cause, lane)


def delta(run: Position | Sibling, index: int = 0, *, conversation: ConversationId = ANN) -> Event:
    return Event(ReplyDelta(attempt=1, index=index, text=f"piece {index}"), "assistant:test", conversation, run)


def written(outcome: Outcome) -> Appended:
    assert isinstance(outcome, Appended), outcome
    return outcome


def taken(reply: object) -> Taken:
    assert isinstance(reply, Taken), reply
    return reply


async def blocked_client(pipe: Pipe) -> int:
    """The id of the client that waits on this server, as soon as there is one."""
    async with asyncio.timeout(5):
        while True:
            for client in (await pipe.call("CLIENT", "LIST")).decode().splitlines():
                facts = dict(fact.split("=", 1) for fact in client.split())
                if "b" in facts["flags"]:
                    return int(facts["id"])
