"""Where the master is, as Sentinels say: asked at every new connection and now and then, to follow a failover."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import redis.asyncio as redis
from redis.asyncio.sentinel import SentinelConnectionPool

from eventstore.connection import CONNECT_OPTIONS, Pipe

Address = tuple[str, int]

ASK_TIMEOUT_S = 0.2
"""For the Sentinels and for each master they name; a Sentinel that is down must not use up the time to connect."""
LOOK_S = 2.0


class Sentinels:
    """What redis-py's pool asks for an address. (Its own class believes one Sentinel without asking the master.)"""

    def __init__(self, addresses: Sequence[Address], own: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        self._addresses = list(addresses)
        self._own = own
        self._options = options

    async def discover_master(self, service: str) -> Address:
        """The server that most Sentinels take for the master, of those that take themselves for one. Raises
        ConnectionError."""
        named = await asyncio.gather(*(self._named(place, service) for place in self._addresses))
        for master, _ in Counter(filter(None, named)).most_common():  # one that was cut off still names an old one
            try:
                if (await _asked(master, self._options, "ROLE"))[0] == b"master":
                    return master
            except (redis.RedisError, OSError):
                continue
        raise redis.ConnectionError(f"none of {len(self._addresses)} Sentinels names a living master {service!r}")

    async def _named(self, place: Address, service: str) -> Address | None:
        try:
            named = await _asked(place, self._own, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
        except (redis.RedisError, OSError):
            return None
        return (named[0].decode(), int(named[1])) if named else None


class MasterPipe(Pipe):
    """Gives up a master once the Sentinels name another: one that they cannot reach may go on as if it were one, and
    end no connection."""

    _pool: SentinelConnectionPool
    _looking: asyncio.Task[None] | None = None

    def beside(self) -> Pipe:
        other = MasterPipe(self._pool, self._scripts, timeout_s=self._timeout_s)
        self._besides.append(other)
        return other

    async def close(self) -> None:
        await super().close()
        if self._looking is not None:
            await asyncio.wait([self._looking])

    def _take_over(self, transport: asyncio.Transport) -> None:
        super()._take_over(transport)
        self._looking = asyncio.create_task(self._look_again())

    async def _look_again(self) -> None:
        pool, own = self._pool, (self._connection.host, self._connection.port)
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                master = await pool.sentinel_manager.discover_master(pool.service_name)
            except redis.ConnectionError:  # as long as none is named, this one may be it
                continue
            if master != own:
                self._drop("Sentinels name another master")

    def _drop(self, reason: str) -> None:
        if self._looking is not None:
            self._looking.cancel()
        super()._drop(reason)


def master_pool(
    addresses: Sequence[Address], own: Mapping[str, Any], service: str, options: Mapping[str, Any]
) -> redis.ConnectionPool:
    """Connections to whoever is the master at that time. `own` (user, password) are the Sentinels', `options` (besides
    TLS and db) the master's."""
    pool: redis.ConnectionPool = SentinelConnectionPool(  # type: ignore[no-untyped-call]
        service, Sentinels(addresses, own, options), **CONNECT_OPTIONS, **options
    )
    return pool


async def _asked(address: Address, options: Mapping[str, Any], *command: str) -> Any:
    own = {**CONNECT_OPTIONS, "socket_timeout": ASK_TIMEOUT_S, "socket_connect_timeout": ASK_TIMEOUT_S, **options}
    kind = redis.SSLConnection if own.pop("ssl", False) else redis.Connection
    connection = kind(host=address[0], port=address[1], **own)
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
        await connection.send_command(*command)
        return await connection.read_response()
    finally:
        await connection.disconnect(nowait=True)
