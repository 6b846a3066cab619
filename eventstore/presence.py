"""Who is alive: workers leave word every few seconds, edges and `doctor` read it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from eventstore import keys
from eventstore.connection import Pipe
from eventstore.errors import StoreUnavailable

TTL_S = 10.0
FORGET_MS = 3_600_000
CACHE_S = 1.0


class _Beat(msgspec.Struct, frozen=True):
    until_ms: int
    info: dict[str, str]


class Present(NamedTuple):
    """One living worker and what it said of itself (its model, its shards)."""

    owner: str
    info: dict[str, str]


class Presence:
    def __init__(
        self, pipe: Pipe, *, now_ms: Callable[[], int] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pipe = pipe
        self._now_ms = now_ms
        self._clock = clock
        self._any_alive = (True, float("-inf"))

    async def beat(self, owner: str, info: dict[str, str], ttl_s: float = TTL_S) -> None:
        """Counts as alive for `ttl_s` from now; to be called at least twice as often."""
        until_ms = await self._now() + int(ttl_s * 1_000)
        await self._pipe.call("HSET", keys.PRESENCE, owner, msgspec.json.encode(_Beat(until_ms, info)))

    async def leave(self, owner: str) -> None:
        """Says that the worker has stopped, instead of letting its word run out."""
        await self._pipe.call("HDEL", keys.PRESENCE, owner)

    async def alive(self) -> list[Present]:
        """By owner. Forgets those who have been silent for an hour."""
        stored = await self._pipe.call("HGETALL", keys.PRESENCE)
        now = await self._now()
        present, forgotten = [], []
        for owner, value in zip(stored[::2], stored[1::2], strict=True):
            beat = msgspec.json.decode(value, type=_Beat)
            if now < beat.until_ms <= now + TTL_S * 1_000:  # later: from before the clock was set back
                present.append(Present(owner.decode(), beat.info))
            elif beat.until_ms < now - FORGET_MS:
                forgotten.append(owner)
        if forgotten:
            await self._pipe.call("HDEL", keys.PRESENCE, *forgotten)
        return sorted(present)

    async def any_alive(self) -> bool:
        """Whether anybody works, as of at most `CACHE_S` ago: every waiting stream asks. True while nobody can know."""
        alive, asked = self._any_alive
        if self._clock() < asked + CACHE_S:
            return alive
        asked = self._clock()
        try:
            alive = bool(await self.alive())
        except StoreUnavailable:
            return True
        self._any_alive = (alive, asked)
        return alive

    async def _now(self) -> int:
        if self._now_ms is not None:
            return self._now_ms()
        seconds, micros = await self._pipe.call("TIME")
        return int(seconds) * 1_000 + int(micros) // 1_000
