"""Blocking reads of several slots of a Redis Cluster as one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from eventstore.errors import StoreError, StoreUnavailable
from eventstore.resp import Argument

Read = Callable[[int, Sequence[Argument]], Coroutine[Any, Any, Any]]


class SlotReads:
    """Owns the reads that are under way, one for each slot at most.

    The first answer is the call's. The other reads stay under way, and the next call finds what they bring, so that no
    entry is handed out to nobody. Each ends by itself within its pipe's time, and all of them with `cancel`.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._under_way: dict[int, asyncio.Task[Any]] = {}

    async def first_of(self, parts: dict[int, list[Argument]]) -> Any:
        """What was brought first. A part that is under way already is not sent again, even if it now asks for later
        entries: the earlier ones come once more, which is harmless with bells and cannot be with `>`."""
        for slot, command in parts.items():
            if slot not in self._under_way:
                self._under_way[slot] = asyncio.create_task(self._read(slot, command), name=f"redis-slot-{slot}")
        slots = {self._under_way[slot]: slot for slot in parts}
        blocks = "BLOCK" in next(iter(parts.values()))
        done, _ = await asyncio.wait(slots, return_when=asyncio.FIRST_COMPLETED if blocks else asyncio.ALL_COMPLETED)
        entries, problem = list[Any](), None
        for read in done:
            if self._under_way.get(slots[read]) is read:
                del self._under_way[slots[read]]
            try:
                entries += read.result() or ()
            except (StoreError, asyncio.CancelledError) as error:
                problem = error
        if problem is not None and not entries:
            was_reset = StoreUnavailable("the connections to Redis were reset")
            raise problem if isinstance(problem, StoreError) else was_reset
        return entries or None

    async def cancel(self) -> None:
        """Returns when none is under way; callers that wait for one get StoreUnavailable."""
        reads, self._under_way = self._under_way, {}
        for read in reads.values():
            read.cancel()
        await asyncio.gather(*reads.values(), return_exceptions=True)
