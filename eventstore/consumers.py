"""Durable subscriptions of an organization: a name, a filter, and a position that moves by acknowledgement only.

So a client that crashes is shown again what it has not acknowledged, and never skips anything. A consumer does not hold
back trimming, and is forgotten when nobody has opened it or acknowledged anything for `idle_s`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from eventstore import keys
from eventstore.connection import Pipe, load_script
from eventstore.resp import Argument
from eventstore.schema import OrgId, Position

CONSUMER = load_script("consumer.lua")

MAX_CONSUMERS = 1_000
"""Of one organization."""
IDLE_S = 30 * 24 * 3_600
FIELDS = ("f", "ms", "sq", "n", "at", "t")


class Consumer(NamedTuple):
    """`filter` is the canonical text of who opened it first. `lag` counts the facts after `position`, whatever the
    filter shows of them. `token` names the newest connection. `seen_ms`: when it was last opened or acknowledged."""

    name: str
    filter: str
    position: Position
    lag: int
    seen_ms: int
    token: int


class OtherFilter(NamedTuple):
    """The consumer was made with another filter."""

    stored: str


Refused = Literal["unknown", "replaced", "full"]


class Consumers:
    def __init__(self, pipe: Pipe, *, idle_s: float = IDLE_S, most: int = MAX_CONSUMERS) -> None:
        self._pipe = pipe
        self._idle_ms = int(idle_s * 1_000)
        self._most = most

    async def open(
        self, org: OrgId, name: str, filter: str, at: Position, *, acknowledges: bool = False
    ) -> Consumer | OtherFilter | Refused:
        """The newest connection from now on. A new consumer begins at `at`; a known one keeps its position, unless the
        client `acknowledges` what it was sent up to there. An empty `filter` is whatever is stored."""
        return await self._run(org, "open", name, at, filter, int(acknowledges), self._most)

    async def acknowledge(
        self, org: OrgId, name: str, position: Position, *, token: int | None = None
    ) -> Consumer | Refused:
        """Moves forward to a position of the log, never back. With a `token` only if that is the newest connection."""
        answer = await self._run(org, "ack", name, position, "" if token is None else token)
        assert not isinstance(answer, OtherFilter)
        return answer

    async def reset(self, org: OrgId, name: str, position: Position) -> Consumer | None:
        """Moves anywhere; the connection until now is replaced by none. None: there is no such consumer."""
        answer = await self._run(org, "reset", name, position)
        return answer if isinstance(answer, Consumer) else None

    async def get(self, org: OrgId, name: str) -> Consumer | None:
        own = keys.of(org)
        record, last = await asyncio.gather(
            self._pipe.call("HMGET", own.consumer(name), *FIELDS), self._pipe.call("HGET", own.meta, "n")
        )
        return _consumer(name, record, last or 0) if record[0] is not None else None

    async def all(self, org: OrgId) -> list[Consumer]:
        """By name."""
        names = sorted(name.decode() for name in await self._pipe.call("HKEYS", keys.of(org).consumers))
        found = await asyncio.gather(*(self.get(org, name) for name in names))
        return [consumer for consumer in found if consumer is not None]

    async def delete(self, org: OrgId, name: str) -> bool:
        """False: there was none."""
        own = keys.of(org)
        deleted = await self._pipe.call("DEL", own.consumer(name))
        await self._pipe.call("HDEL", own.consumers, name)
        return bool(deleted)

    async def tokens(self, org: OrgId, names: Sequence[str]) -> Mapping[str, int]:
        """The newest connection of each; a consumer that was deleted has none."""
        stored = await self._pipe.call("HMGET", keys.of(org).consumers, *names)
        return {name: int(token) for name, token in zip(names, stored, strict=True) if token is not None}

    async def keep(self, org: OrgId, name: str) -> None:
        """It is in use: it does not expire."""
        await self._pipe.call("PEXPIRE", keys.of(org).consumer(name), self._idle_ms)

    async def _run(
        self, org: OrgId, action: str, name: str, position: Position, *more: Argument
    ) -> Consumer | OtherFilter | Refused:
        own = keys.of(org)
        names = (own.consumer(name), own.consumers, own.log, own.meta)
        reply = await self._pipe.run(CONSUMER, names, (action, name, self._idle_ms, position.ms, position.seq, *more))
        match reply:
            case [b"OK", record, last]:
                return _consumer(name, record, last)
            case [b"FILTER", stored]:
                return OtherFilter(stored.decode())
        refused: Refused = reply[0].decode()
        return refused


def _consumer(name: str, record: Sequence[bytes], last: bytes | int) -> Consumer:
    filter, ms, seq, number, seen_ms, token = record
    position = Position(int(ms), int(seq))
    return Consumer(name, filter.decode(), position, max(0, int(last) - int(number)), int(seen_ms), int(token))
