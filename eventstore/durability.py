"""How far a write must have come before it counts: this server's memory, its disk, or a replica."""

from __future__ import annotations

import asyncio
from typing import Literal

import structlog

from eventstore.connection import Argument, Pipe
from eventstore.errors import CommandFailed, StoreError, StoreMisconfigured, StoreUnavailable

Durability = Literal["local", "aof", "replica"]

WAIT_MS = 700
OLDEST_WITH_WAITAOF = (7, 2)
OLDEST = (6, 2)

logger = structlog.get_logger(__name__)


class Barrier:
    """Passed when everything written before on the same pipe is as durable as was asked for.

    Calls of one event-loop tick share one WAIT: it covers all that the connection has written.
    """

    def __init__(self, pipe: Pipe, wait: tuple[Argument, ...]) -> None:
        self._pipe = pipe
        self._wait = wait
        self._shared: asyncio.Future[None] | None = None

    async def passed(self) -> None:
        """Raises StoreUnavailable when it was not in time: the write stands, but may be lost in a failover."""
        if self._shared is not None:
            return await asyncio.shield(self._shared)
        shared = self._shared = asyncio.get_running_loop().create_future()
        try:
            await asyncio.sleep(0)
            self._shared = None
            await self._confirmed()
            shared.set_result(None)
        except BaseException as error:
            self._shared = None
            shared.set_exception(error if isinstance(error, StoreError) else StoreUnavailable("the wait was given up"))
            shared.exception()  # nobody else may be waiting
            raise

    async def _confirmed(self) -> None:
        reply = await self._pipe.call(*self._wait)
        confirmations = reply[0] if isinstance(reply, list) else reply
        if int(confirmations) < 1:
            raise StoreUnavailable(f"{self._wait[0]!r} was not confirmed within {WAIT_MS} ms")


async def barrier_for(pipe: Pipe, durability: Durability) -> Barrier | None:
    """What appends have to wait for, after a look at how this server is set up. Raises StoreMisconfigured."""
    version = await _version(pipe)
    if version < OLDEST:
        raise StoreMisconfigured(f"Redis {_dotted(version)} is too old: {_dotted(OLDEST)} is the oldest that fits")
    policy = await _setting(pipe, "maxmemory-policy")
    if policy not in ("", "noeviction"):
        raise StoreMisconfigured(f"Redis would evict events (maxmemory-policy {policy}): it must be noeviction")
    if await _setting(pipe, "appendonly") == "no":
        logger.warning("Redis keeps no append-only file: what it holds is lost when it ends")
    match durability:
        case "local":
            return None
        case "replica":
            return Barrier(pipe, ("WAIT", 1, WAIT_MS))
    if await _setting(pipe, "appendfsync") == "always":
        return None
    if version >= OLDEST_WITH_WAITAOF:
        return Barrier(pipe, ("WAITAOF", 1, 0, WAIT_MS))
    raise StoreMisconfigured("durability `aof` needs Redis 7.2, or appendfsync always")


async def _version(pipe: Pipe) -> tuple[int, int]:
    info = await pipe.call("INFO", "server")
    line = next(line for line in info.decode().splitlines() if line.startswith("redis_version:"))
    major, minor = line.partition(":")[2].split(".")[:2]
    return int(major), int(minor)


async def _setting(pipe: Pipe, name: str) -> str:
    """Empty where the server does not tell (managed ones forbid CONFIG)."""
    try:
        reply = await pipe.call("CONFIG", "GET", name)
    except CommandFailed:
        return ""
    return str(reply[1].decode()) if reply else ""


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
