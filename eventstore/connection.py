"""Connections to Redis that fit an event log: nothing is ever sent twice behind the caller's back.

redis-py does the connecting (TLS, ACL, sockets); the conversation itself is ours, because its client
repeats unanswered commands (a lost reply would append twice) and costs more per call than the server does.
Calls of one event-loop tick leave together, a few at a time, and replies are matched in order.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, NamedTuple

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from eventstore.errors import CommandFailed, StoreError, StoreUnavailable, WritesRefused
from eventstore.replies import Replies
from eventstore.resp import Argument, Framed, evalsha, pack

CONNECT_TIMEOUT_S = 0.7
CONNECT_OPTIONS: dict[str, Any] = {
    "protocol": 2,
    "retry": Retry(NoBackoff(), 0),
    "socket_timeout": None,  # the Pipe sees to it that nothing takes too long
    "driver_info": None,
}
LOOKS = 4
"""At whether Redis answers, in the time that it may take."""
MAX_IN_FLIGHT = 100_000
FLUSH_AT, FLUSH_BYTES = 8, 2_048
"""So many commands, or one as long, leave before the tick is over: Redis works while this process prepares the next."""


REFUSES_WRITES = frozenset({"OOM", "MISCONF", "NOREPLICAS", "READONLY"})
UNAVAILABLE = frozenset({"LOADING", "MASTERDOWN", "BUSY"})
_IN_A_SCRIPT = re.compile(r"ERR Error running script .*?-([A-Z]+ .*)", re.DOTALL)
"""How Redis 6.2 wraps what a command inside a script was refused with."""


class Script(NamedTuple):
    """A Lua script by its text; sent as its SHA-1 once a connection has loaded it."""

    name: str
    text: str
    sha: str


def load_script(name: str) -> Script:
    text = (files("eventstore") / name).read_text()
    return Script(name, text, hashlib.sha1(text.encode()).hexdigest())  # noqa: S324 - Redis names scripts by SHA-1


class Pipe:
    """One multiplexed connection. Any number of tasks may call it; a call fails with StoreUnavailable when the
    connection breaks or nothing is heard for `timeout_s`, and is never repeated here.

    A blocking command (XREAD BLOCK) wants a Pipe of its own with a longer `timeout_s`.
    """

    def __init__(self, pool: redis.ConnectionPool, scripts: Sequence[Script] = (), *, timeout_s: float = 2.0) -> None:
        self._pool = pool
        self._scripts = scripts
        self._timeout_s = timeout_s
        self._besides: list[Pipe] = []
        self._confirming: asyncio.Future[Any] | None = None
        self._connection: Any = None
        self._replies: Replies | None = None
        """None as well over a connection without a socket (fakeredis)."""
        self._watchdog: asyncio.TimerHandle | None = None
        self._connecting: asyncio.Lock | None = None
        self._failures, self._why = 0, ""
        """Attempts to connect that failed, and how the last one did."""
        self._outgoing: list[bytes] = []
        self._flush_scheduled = False
        self._closed = False

    async def call(self, *arguments: Argument) -> Any:
        """One command, one raw reply (RESP2 shapes, bytes). Raises CommandFailed, WritesRefused, StoreUnavailable."""
        if self._connection is None:
            await self._connect()
        if self._replies is None:
            return await self._call_in_turn(arguments)
        reply = await self._sent(pack(arguments))
        if isinstance(reply, CommandFailed):
            raise self._refused(reply)
        return reply

    async def calls(self, *commands: Sequence[Argument]) -> list[Any]:
        """The replies to commands that leave in one write: a task for each would cost more than the command."""
        if self._connection is None:
            await self._connect()
        if self._replies is None:
            return [await self.call(*command) for command in commands]
        sent = [self._sent(pack(command)) for command in commands]
        replies = [await reply for reply in sent]  # one after the other, as they come: gather costs more
        for reply in replies:
            if isinstance(reply, CommandFailed):
                raise self._refused(reply)
        return replies

    async def read_streams(
        self, streams: Mapping[str, str], *others: Sequence[Argument], count: int, block_ms: int | None = None
    ) -> list[Any]:
        """What streams have after these positions (None: nothing), and the replies to the others, which are executed
        after that and come with it, all in one write. With `block_ms`: once a stream has something, or none had for
        so long.

        A read that blocks ends with the first entry. That its writer wrote another, or others wrote too in the same
        turn of Redis, would be found by the next one only.
        """
        names: tuple[Argument, ...] = (*streams, *streams.values())
        read = "XREAD", "COUNT", count, "STREAMS", *names
        if block_ms is None:
            return await self.calls(read, *others)
        wait = "XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", *names
        _, *replies = await self.calls(wait, read, *others)
        return replies

    async def everywhere(self, *arguments: Argument) -> list[Any]:
        """What every server answers that holds a part of the store."""
        return [await self.call(*arguments)]

    def beside(self) -> Pipe:
        """Another connection to the same place, closed together with this one."""
        other = Pipe(self._pool, self._scripts, timeout_s=self._timeout_s)
        self._besides.append(other)
        return other

    def _sent(self, command: bytes) -> asyncio.Future[Any]:
        """The reply to come, to a packed command that leaves with this tick's others."""
        replies = self._replies
        assert replies is not None
        if len(replies.waiting) >= MAX_IN_FLIGHT:
            raise StoreUnavailable(f"{MAX_IN_FLIGHT} calls are waiting for Redis")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        if not replies.waiting:
            replies.heard_at = loop.time()
        replies.waiting.append(future)
        self._outgoing.append(command)
        if len(self._outgoing) >= FLUSH_AT or len(command) >= FLUSH_BYTES:
            self._flush()
        elif not self._flush_scheduled:
            self._flush_scheduled = True
            loop.call_soon(self._end_of_tick)
        return future

    async def run(
        self, script: Script, keys: Sequence[str], arguments: Sequence[Argument] | Framed, wait: Sequence[Argument] = ()
    ) -> Any:
        """Runs a script, loading it again where the server has forgotten it (it changed nothing then).

        `wait` is WAIT or WAITAOF with its arguments: repeated, together for all callers, until it confirms what the
        script wrote. StoreUnavailable if the connection breaks meanwhile.
        """
        if self._connection is None:
            await self._connect()
        connection = self._connection
        if self._replies is None:
            try:
                reply = await self.call("EVALSHA", script.sha, len(keys), *keys, *_values(arguments))
            except CommandFailed as error:
                reply = error
        else:
            reply = await self._sent(evalsha(script.sha, tuple(keys), arguments))
        if isinstance(reply, CommandFailed):
            if not str(reply).startswith("NOSCRIPT"):
                raise self._refused(reply)
            reply = await self.call("EVAL", script.text, len(keys), *keys, *_values(arguments))
        if wait:
            await self._confirmed(wait, connection)
        return reply

    async def _confirmed(self, wait: Sequence[Argument], connection: Any) -> None:
        """Of this connection only: on a new one WAIT would confirm what another server holds.

        Callers share a WAIT that is under way. Their replies came before its own, so their commands did too.
        """
        confirmations = 0
        while confirmations < int(wait[1]):
            if self._connection is not connection or self._replies is None:
                raise StoreUnavailable("the connection to Redis broke before the write was confirmed")
            if self._confirming is None or self._confirming.done():
                self._confirming = self._sent(pack(wait))
            reply = await asyncio.shield(self._confirming)
            if isinstance(reply, CommandFailed):  # UNBLOCKED: the server became a replica. What was written may be gone
                raise StoreUnavailable(f"the write was not confirmed: {reply}")
            confirmations = int(reply[0] if isinstance(reply, list) else reply)

    def _refused(self, reply: CommandFailed) -> StoreError:
        """What a refusal means for a caller. READONLY: the master is elsewhere now, so the next call connects anew."""
        text = str(reply)
        if (inner := _IN_A_SCRIPT.match(text)) is not None:
            text = inner[1]
        code = text.partition(" ")[0]
        if code == "READONLY" and self._replies is not None:
            self._connection._writer.close()
        if code in REFUSES_WRITES:
            return WritesRefused(text)
        return StoreUnavailable(text) if code in UNAVAILABLE else reply

    async def reset(self) -> None:
        """Gives up whatever is being waited for; the next call connects again."""
        self._drop("the connection to Redis was reset")

    async def close(self) -> None:
        self._closed = True
        for other in self._besides:
            await other.close()
        self._drop("the connection to Redis was closed")

    async def _connect(self) -> None:
        if self._connecting is None:
            self._connecting = asyncio.Lock()
        failures = self._failures
        async with self._connecting:
            if self._connection is not None:
                return
            if self._failures > failures:  # what this caller waited for: else each would try, one after the other
                raise StoreUnavailable(self._why)
            self._check_open()
            connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
            try:
                async with _timeout(CONNECT_TIMEOUT_S):
                    await connection.connect()
                    for script in self._scripts:
                        await connection.send_command("SCRIPT", "LOAD", script.text)
                        await connection.read_response()
                self._check_open()
            except BaseException as error:
                await connection.disconnect(nowait=True)
                if not isinstance(error, RedisError | OSError | TimeoutError):
                    raise
                self._failures, self._why = self._failures + 1, f"Redis does not answer: {error}"
                raise StoreUnavailable(self._why) from error
            self._connection = connection
            if isinstance(getattr(connection, "_reader", None), asyncio.StreamReader):
                self._take_over(connection._writer.transport)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the connection to Redis was closed")

    async def _call_in_turn(self, arguments: Sequence[Argument]) -> Any:
        """Without a socket (fakeredis): one command at a time through the connection's own methods."""
        assert self._connecting is not None
        async with self._connecting:
            connection = self._connection
            if connection is None:
                raise StoreUnavailable("the connection to Redis broke")
            try:
                await connection.send_command(*arguments)
                return await connection.read_response(timeout=self._timeout_s)
            except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                self._connection = None
                await connection.disconnect(nowait=True)
                raise StoreUnavailable(f"Redis does not answer: {error}") from error
            except NoScriptError as error:  # redis-py takes the code off errors that it has a class for
                raise CommandFailed(f"NOSCRIPT {error}") from error
            except RedisError as error:
                raise CommandFailed(str(error)) from error

    def _end_of_tick(self) -> None:
        self._flush_scheduled = False
        self._flush()

    def _flush(self) -> None:
        data, self._outgoing = b"".join(self._outgoing), []
        if self._connection is not None and data:
            self._connection._writer.transport.write(data)

    def _take_over(self, transport: asyncio.Transport) -> None:
        """From redis-py, which has made the connection and heard all it asked for."""
        transport.set_write_buffer_limits(high=0)  # uvloop else writes after the tick
        self._replies = Replies(self._lost)
        transport.set_protocol(self._replies)
        self._watch()

    def _watch(self, due: float | None = None) -> None:
        """By how much a look comes too late this process stood still: it neither sent nor read, so Redis was not silent
        for as long."""
        assert self._replies is not None
        loop = asyncio.get_running_loop()
        now = loop.time()
        if due is not None:
            self._replies.heard_at = min(now, self._replies.heard_at + now - due)
        if self._replies.waiting and now - self._replies.heard_at > self._timeout_s:
            self._drop(f"Redis has not answered for {self._timeout_s} s")
        else:
            due = now + self._timeout_s / LOOKS
            self._watchdog = loop.call_at(due, self._watch, due)

    def _lost(self, replies: Replies, reason: str) -> None:
        if self._replies is replies:
            self._drop(reason)

    def _drop(self, reason: str) -> None:
        """Forgets the connection, if there is one; who waits for a reply on it gets none."""
        connection, self._connection = self._connection, None
        replies, self._replies = self._replies, None
        self._outgoing.clear()
        if self._watchdog is not None:
            self._watchdog.cancel()
        if connection is not None:
            connection._close()
        for future in replies.waiting if replies is not None else ():
            if not future.done():
                future.set_exception(StoreUnavailable(reason))
                future.exception()  # known: of several calls that leave together only the first is heard


@asynccontextmanager
async def _timeout(seconds: float) -> AsyncIterator[None]:
    """A process that stood still in the first half has the other one left: what has come meanwhile is not read yet."""
    loop, half = asyncio.get_running_loop(), seconds / 2
    async with asyncio.timeout(None) as limit:
        halfway = loop.call_later(half, lambda: limit.reschedule(loop.time() + half))
        try:
            yield
        finally:
            halfway.cancel()


def _values(arguments: Sequence[Argument] | Framed) -> Sequence[Argument]:
    return arguments.values() if isinstance(arguments, Framed) else arguments


def pool_for(url: str) -> redis.ConnectionPool:
    """Connections as the log needs them: no silent retries, RESP2, and a short time to connect. ValueError if the
    address has a parameter that they do not take."""
    pool = redis.ConnectionPool.from_url(url, **CONNECT_OPTIONS)
    try:
        pool.make_connection()  # type: ignore[no-untyped-call]
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(.+?)'", str(error))
        raise ValueError(f"{url.partition(':')[0]}:// has no parameter {unknown[1] if unknown else error}") from error
    except RedisError as error:
        raise ValueError(str(error)) from error
    return pool
