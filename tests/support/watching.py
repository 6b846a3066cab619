"""Waiting for events by reading the log, so that no test has to guess how long something takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from eventstore import codec
from eventstore.connection import Pipe, pool_for
from eventstore.log import Log
from eventstore.schema import ORIGIN, Body, OrgId, Position, Recorded

B = TypeVar("B", bound=Body)

LIMIT_S = 10.0
PAGE = 1_000


class Watcher:
    """Everything an organization's log has held since the watcher was made, deltas included, as far as it was read."""

    def __init__(self, redis_url: str, org: OrgId) -> None:
        self.events: list[Recorded] = []
        self._org = org
        self._pipe = Pipe(pool_for(redis_url), timeout_s=LIMIT_S)
        self._log = Log(self._pipe)

    async def until(self, holds: Callable[[list[Recorded]], object]) -> None:
        """Reads on until the events so far satisfy the condition."""
        try:
            async with asyncio.timeout(LIMIT_S):
                if holds(self.events):
                    return
                async for page in self._log.tail(self._org, self._at, self._pipe):
                    self.events += page
                    if holds(self.events):
                        return
        except TimeoutError:
            raise AssertionError(f"waited {LIMIT_S} s; the log holds {[e.type for e in self.events]}") from None

    async def read_all(self) -> None:
        """Reads what is on the log now."""
        self.events += await self._log.read(self._org, self._at, count=PAGE)

    @property
    def _at(self) -> Position:
        return self.events[-1].position if self.events else ORIGIN

    async def until_type(self, event_type: str, count: int = 1) -> Recorded:
        """The last of the first `count` events of a type."""
        await self.until(lambda events: len([event for event in events if event.type == event_type]) >= count)
        return [event for event in self.events if event.type == event_type][count - 1]

    def bodies(self, kind: type[B]) -> list[B]:
        """Decoded events of one type, of all that was read."""
        return [body for event in self.events if isinstance(body := codec.decode(event), kind)]

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events]

    async def close(self) -> None:
        await self._pipe.close()
