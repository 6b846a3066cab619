"""Where the master is, as Sentinels say: asked at every new connection, so that a failover is followed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import redis.asyncio as redis
from redis.asyncio.sentinel import SentinelConnectionPool

from eventstore.connection import CONNECT_OPTIONS

Address = tuple[str, int]

ASK_TIMEOUT_S = 0.2
"""For each Sentinel and for the master it names; a Sentinel that is down must not use up the time to connect."""


class Sentinels:
    """What redis-py's pool asks for an address. (Its own class believes one Sentinel without asking the master.)"""

    def __init__(self, addresses: Sequence[Address], own: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        self._addresses = list(addresses)
        self._own = own
        self._options = options

    async def discover_master(self, service: str) -> Address:
        """The server that a Sentinel takes for the master, and that takes itself for one. Raises ConnectionError."""
        for place in self._addresses:
            try:
                named = await _asked(place, self._own, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
                if named is None:
                    continue
                master = named[0].decode(), int(named[1])
                if (await _asked(master, self._options, "ROLE"))[0] == b"master":
                    return master
            except (redis.RedisError, OSError):
                continue
        raise redis.ConnectionError(f"none of {len(self._addresses)} Sentinels names a living master {service!r}")


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
