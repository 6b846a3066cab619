"""Where the master is, as Sentinels say: asked at every new connection and now and then, to follow a failover."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections import Counter
from collections.abc import Sequence
from typing import Any

import redis.asyncio as redis
from redis.asyncio.connection import RedisSSLContext
from redis.asyncio.sentinel import SentinelConnectionPool

from eventstore.connection import Pipe

Address = tuple[str, int]

ASK_TIMEOUT_S = 0.2
"""For the Sentinels and for each master they name; a Sentinel that is down must not use up the time to connect."""
LOOK_S = 2.0


class Sentinels:
    """What redis-py's pool asks for an address. (Its own class believes one Sentinel without asking the master.)"""

    _certificates: RedisSSLContext | None = None
    """Takes tens of milliseconds to read, so it is kept until no master is found: the files may have been renewed."""

    def __init__(self, addresses: Sequence[Address], own: redis.ConnectionPool, master: redis.ConnectionPool) -> None:
        self._addresses = list(addresses)
        self._own = own
        self._master = master

    async def discover_master(self, service: str) -> Address:
        """The server that most Sentinels take for the master, of those that take themselves for one. Raises
        ConnectionError, which says what each of them has answered."""
        answers = await asyncio.gather(*(self._named(place, service) for place in self._addresses))
        named = Counter(answer for answer in answers if not isinstance(answer, str))
        refusals: dict[Address, str] = {}
        for master, _ in named.most_common():  # one that was cut off still names an old one
            refusal = await self._refusal(master)
            if refusal is None:
                return master
            refusals[master] = f"names {_shown(master)}, {refusal}"
        self._certificates = None
        why = [
            f"{_shown(place)} {answer if isinstance(answer, str) else refusals[answer]}"
            for place, answer in zip(self._addresses, answers, strict=True)
        ]
        raise redis.ConnectionError(f"none of {len(why)} Sentinels names a living master {service!r}: {'; '.join(why)}")

    async def _named(self, place: Address, service: str) -> Address | str:
        """Else why it names none."""
        try:
            named = await self._asked(self._own, place, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
        except (redis.RedisError, OSError) as error:
            return f"does not answer {_how(self._own)} ({_reason(error)})"
        return (named[0].decode(), int(named[1])) if named else "does not know it"

    async def _refusal(self, master: Address) -> str | None:
        """Why it is none."""
        try:
            role = (await self._asked(self._master, master, "ROLE"))[0]
        except (redis.RedisError, OSError) as error:
            return f"which does not answer {_how(self._master)} ({_reason(error)})"
        return None if role == b"master" else "which is a replica"

    async def _asked(self, like: redis.ConnectionPool, address: Address, *command: str) -> Any:
        """Over a connection of its own, which has what the others of that pool have, but for the time."""
        timeouts = {"socket_timeout": ASK_TIMEOUT_S, "socket_connect_timeout": ASK_TIMEOUT_S}
        where = {"host": address[0], "port": address[1]}
        connection = like.connection_class(**{**like.connection_kwargs, **timeouts, **where})
        if isinstance(connection, redis.SSLConnection):
            self._certificates = connection.ssl_context = self._certificates or connection.ssl_context
            connection.ssl_context.get()
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            await connection.send_command(*command)
            return await connection.read_response()
        finally:
            await connection.disconnect(nowait=True)


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
    addresses: Sequence[Address], own: redis.ConnectionPool, service: str, master: redis.ConnectionPool
) -> redis.ConnectionPool:
    """Connections to whoever is the master at that time. Those to Sentinels are like `own`, those to masters like
    `master`; if both are TLS, with the same certificates."""
    pool: redis.ConnectionPool = SentinelConnectionPool(  # type: ignore[no-untyped-call]
        service,
        Sentinels(addresses, own, master),
        ssl=_is_by_tls(master),
        **master.connection_kwargs,
    )
    return pool


def _is_by_tls(pool: redis.ConnectionPool) -> bool:
    return issubclass(pool.connection_class, redis.SSLConnection)


def _how(pool: redis.ConnectionPool) -> str:
    """Servers that expect the other just end the connection, or wait."""
    return "by TLS" if _is_by_tls(pool) else "without TLS"


def _shown(address: Address) -> str:
    return f"{address[0]}:{address[1]}"


def _reason(error: Exception) -> str:
    """Shortly, and without what was sent: Redis repeats the arguments of a command that it does not know."""
    cause = error.__context__ or error  # redis-py tells of a socket's errors in its own
    match cause:
        case ssl.SSLCertVerificationError():
            return f"certificate verify failed: {cause.verify_message}"
        case TimeoutError() | redis.TimeoutError():
            return "timed out"
        case FileNotFoundError():
            return "there is no such file of certificates"
        case OSError(errno=int(number)) if number > 0 and not isinstance(cause, ssl.SSLError):
            return os.strerror(number).lower()
    return str(error).partition(", with args")[0]
