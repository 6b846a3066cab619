"""The bells of the shards that this process serves, and the one read that waits at all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from eventstore.connection import Pipe
from eventstore.errors import StoreError
from eventstore.log import Reading
from eventstore.schema import OrgId, Recorded

BLOCK_MS = 1_000
COUNT = 1_000


class Rung(NamedTuple):
    """Who rang, and bells that rang too often to tell for whom."""

    organizations: list[OrgId]
    unclear: list[str]


class Listener:
    """`blocking` is a pipe of its own, whose timeout is longer than the time a bell may stay silent."""

    def __init__(self, pipe: Pipe, blocking: Pipe) -> None:
        self._pipe = pipe
        self._blocking = blocking
        self._bells: dict[str, str] = {}
        """Where each was heard last."""
        self._heard: list[tuple[bytes, Any]] = []
        """What they have rung for that nobody has asked for yet."""
        self._serving = asyncio.Event()
        self._waiting = False
        self._interrupted = False

    async def add(self, bell: str) -> None:
        """What it rings for from now on is heard."""
        if bell not in self._bells:
            end = await self._end(bell)
            if bell not in self._bells:  # else somebody else was first, and that position may be the earlier one
                self._bells[bell] = end
                self._serving.set()
                await self.interrupt()

    async def interrupt(self) -> None:
        """Whoever waits hears nothing, and should wait again: then at new bells too."""
        if self._waiting:
            self._interrupted = True
            await self._blocking.reset()

    async def start_over(self) -> None:
        """After Redis was away bells may be new: what they have rung for by now is not heard any more."""
        self._heard.clear()
        for bell in tuple(self._bells):
            self._bells[bell] = await self._end(bell)

    async def wait(self, readings: Sequence[Reading] = ()) -> list[list[Recorded]]:
        """Until a bell rings, at most for `BLOCK_MS`. What the readings bring is as new as what `rung` tells then, and
        nothing at all where the wait was interrupted."""
        await self._serving.wait()
        self._waiting = True
        try:
            return await self._read(self._blocking, BLOCK_MS, readings)
        except StoreError:
            if self._interrupted:
                return []
            raise
        finally:
            self._waiting = self._interrupted = False

    async def look(self, readings: Sequence[Reading]) -> list[list[Recorded]]:
        """The same without waiting: a bell that rang for what the readings bring need not wake anybody any more."""
        return await self._read(self._pipe, None, readings)

    def rung(self) -> Rung:
        """For whom, as far as it has been heard since this was last asked."""
        organizations, unclear = list[OrgId](), list[str]()
        for name, entries in self._heard:
            self._bells[name.decode()] = entries[-1][0].decode()
            organizations += [OrgId(fields[1].decode()) for _, fields in entries]
            if len(entries) >= COUNT:  # some may have been trimmed unseen
                unclear.append(name.decode())
        self._heard.clear()
        return Rung(organizations, unclear)

    async def _read(self, pipe: Pipe, block_ms: int | None, readings: Sequence[Reading]) -> list[list[Recorded]]:
        commands = (reading.command for reading in readings)
        rung, *replies = await pipe.read_streams(self._bells, *commands, count=COUNT, block_ms=block_ms)
        self._heard += rung or ()
        return [reading.events(reply) for reading, reply in zip(readings, replies, strict=True)]

    async def _end(self, bell: str) -> str:
        reply = await self._pipe.call("XREVRANGE", bell, "+", "-", "COUNT", 1)
        return reply[0][0].decode() if reply else "0-0"
