"""How far a write must have come before it counts: this server's memory, its disk, or a replica."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

import structlog

from eventstore.connection import Pipe, Script
from eventstore.errors import CommandFailed, StoreMisconfigured, StoreUnavailable
from eventstore.resp import Argument, Framed

Durability = Literal["local", "aof", "replica"]

WAIT_MS = 500
LIMIT_S = 0.8
"""A producer is answered within a second."""
PATIENCE_S = 60.0
"""Of a worker, which nobody waits for: what it has begun and gives up may be an effect whose fate is then unknown."""
OLDEST_WITH_WAITAOF = (7, 2)
OLDEST = (6, 2)

logger = structlog.get_logger(__name__)


class Barrier:
    """Runs scripts whose effects count only once they are as durable as was asked for.

    It has a connection of its own: WAIT holds back whatever is sent behind it, and reads must go on.
    """

    def __init__(self, pipe: Pipe, wait: Sequence[Argument], limit_s: float = LIMIT_S) -> None:
        self._pipe = pipe.beside()
        self._wait = wait
        self._limit_s = limit_s

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument] | Framed) -> Any:
        """Raises StoreUnavailable when it was not in time: the write stands, but may be lost in a failover."""
        try:
            async with asyncio.timeout(self._limit_s):
                return await self._pipe.run(script, keys, arguments, self._wait)
        except TimeoutError:
            raise StoreUnavailable(f"the write was not confirmed within {self._limit_s:g} s") from None

    async def give_up(self) -> None:
        """Whoever waits gets StoreUnavailable."""
        await self._pipe.reset()


async def barrier_for(
    pipe: Pipe, durability: Durability, replicas: int = 1, limit_s: float = LIMIT_S
) -> Barrier | None:
    """What appends have to wait for, after a look at how the servers are set up. Raises StoreMisconfigured.

    Sentinels may promote one of several replicas that has not got what another confirmed: then `replicas` is all.
    """
    version = min(_version(info) for info in await pipe.everywhere("INFO", "server"))
    if version < OLDEST:
        raise StoreMisconfigured(f"Redis {_dotted(version)} is too old: {_dotted(OLDEST)} is the oldest that fits")
    for policy in await _settings(pipe, "maxmemory-policy") - {"noeviction"}:
        raise StoreMisconfigured(f"Redis would evict events (maxmemory-policy {policy}): it must be noeviction")
    if "no" in await _settings(pipe, "appendonly"):
        if durability == "aof":
            raise StoreMisconfigured("durability `aof` needs a Redis with an append-only file (appendonly yes)")
        logger.warning("Redis keeps no append-only file: what it holds is lost when it ends")
    match durability:
        case "local":
            return None
        case "replica":
            following = max(
                int(_told(info, "connected_slaves")) for info in await pipe.everywhere("INFO", "replication")
            )
            if following > replicas:
                logger.warning("a failover may promote a replica that need not confirm", following=following)
            return Barrier(pipe, ("WAIT", replicas, WAIT_MS), limit_s)
    if await _settings(pipe, "appendfsync") == {"always"}:
        return None
    if version >= OLDEST_WITH_WAITAOF:
        return Barrier(pipe, ("WAITAOF", 1, 0, WAIT_MS), limit_s)
    raise StoreMisconfigured("durability `aof` needs Redis 7.2, or appendfsync always")


def _version(info: bytes) -> tuple[int, int]:
    major, minor = _told(info, "redis_version").split(".")[:2]
    return int(major), int(minor)


def _told(info: bytes, name: str) -> str:
    line = next(line for line in info.decode().splitlines() if line.startswith(f"{name}:"))
    return line.partition(":")[2]


async def _settings(pipe: Pipe, name: str) -> set[str]:
    """What the servers are set to; empty where they do not tell (managed ones forbid CONFIG)."""
    try:
        replies = await pipe.everywhere("CONFIG", "GET", name)
    except CommandFailed:
        return set()
    return {reply[1].decode() for reply in replies if reply}


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
