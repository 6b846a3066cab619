"""Which organizations have been written to since the last look, by the bells that every append rings."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from eventstore import keys
from eventstore.connection import Pipe
from eventstore.schema import OrgId

NOTHING = b""


class Rung(NamedTuple):
    """`unheard` are shards of which bells may have been missed: any of their organizations may have been written to."""

    organizations: set[OrgId]
    unheard: set[int]


class Bells:
    """One reader's place at the bells of all shards; at its first look it has missed all of them."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._heard: dict[int, bytes] = {}

    async def rung(self) -> Rung:
        """Since the last look. What is read of the log afterwards is at least as new."""
        rung = Rung(set(), set())
        await asyncio.gather(*(self._listen(shard, rung) for shard in range(keys.SHARDS)))
        return rung

    async def _listen(self, shard: int, rung: Rung) -> None:
        """What was heard last is read once more: if it is gone, so may be what came after it."""
        bell, last = keys.bell(shard), self._heard.get(shard)
        if last:
            entries = await self._pipe.call("XRANGE", bell, last, "+")  # never long: the bell is trimmed as it rings
        else:
            entries = await self._pipe.call("XREVRANGE", bell, "+", "-", "COUNT", 1)
        if (entries[0][0] if entries else NOTHING) != last:
            rung.unheard.add(shard)
        rung.organizations.update(OrgId(fields[1].decode()) for _, fields in entries[1:])
        self._heard[shard] = entries[-1][0] if entries else NOTHING
