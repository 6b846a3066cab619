"""The pipe: replies find their callers, a broken connection fails fast, and nothing is sent twice."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvloop

from eventstore.append import APPEND, FINISH, Append
from eventstore.connection import CONNECT_TIMEOUT_S, Pipe, pool_for
from eventstore.errors import CommandFailed, StoreUnavailable
from eventstore.lanes import LANES, Lanes
from eventstore.log import Log
from eventstore.schema import ORIGIN, Sibling
from tests.support.invariants import assert_invariants
from tests.support.redis_servers import RedisServer
from tests.support.store import ACME, SHARDS, Store, blocked_client, delta, fact, taken, written
from tests.support.tcp_proxy import TcpProxy

FAST_S = 1.5


@asynccontextmanager
async def pipe_to(url: str, *, timeout_s: float = 2.0) -> AsyncIterator[Pipe]:
    pipe = Pipe(pool_for(url), (APPEND, LANES), timeout_s=timeout_s)
    try:
        yield pipe
    finally:
        await pipe.close()


# Replies and callers


async def test_replies_reach_their_callers_among_many(pipe: Pipe) -> None:
    async def caller(number: int) -> bool:
        await asyncio.sleep(0)
        return bool(await pipe.call("ECHO", f"message {number}") == b"message %d" % number)

    assert all(await asyncio.gather(*[caller(number) for number in range(2_000)]))


async def test_an_error_reaches_the_call_that_caused_it_only(pipe: Pipe) -> None:
    await pipe.call("SET", "text", "not a list")
    calls = (("ECHO", "a"), ("LPUSH", "text", "x"), ("ECHO", "b"))
    replies = await asyncio.gather(*[pipe.call(*arguments) for arguments in calls], return_exceptions=True)
    assert replies[::2] == [b"a", b"b"]
    assert isinstance(replies[1], CommandFailed)
    assert "WRONGTYPE" in str(replies[1])


async def test_a_cancelled_call_does_not_shift_the_replies_of_others(redis_url: str) -> None:
    async with pipe_to(redis_url) as pipe:
        await pipe.call("PING")
        calls = [asyncio.create_task(pipe.call("ECHO", str(number))) for number in range(100)]
        await asyncio.sleep(0)
        for call in calls[::3]:
            call.cancel()
        replies = await asyncio.gather(*calls, return_exceptions=True)
        kept = [(number, reply) for number, reply in enumerate(replies) if number % 3]
        assert kept == [(number, str(number).encode()) for number, _ in kept]
        assert await pipe.call("ECHO", "after") == b"after"


async def test_large_values_pass_whole(pipe: Pipe) -> None:
    value = b"\x00\r\n" * 400_000
    await pipe.call("SET", "large", value)
    assert await pipe.call("GET", "large") == value


async def test_many_first_callers_share_one_connection(redis_url: str) -> None:
    async with pipe_to(redis_url) as pipe:
        ids = await asyncio.gather(*[pipe.call("CLIENT", "ID") for _ in range(50)])
        assert len(set(ids)) == 1


async def test_a_caller_cancelled_while_connecting_leaves_a_working_pipe(own_server: RedisServer) -> None:
    async with TcpProxy(own_server.url) as proxy, pipe_to(proxy.url) as pipe:
        proxy.delay_s = 0.2
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await pipe.call("PING")
        proxy.delay_s = 0.0
        assert await pipe.call("PING") == b"PONG"
        async with asyncio.timeout(FAST_S):
            while proxy.open_connections > 1:  # noqa: ASYNC110 - another process closes it
                await asyncio.sleep(0)


async def test_a_closed_pipe_stays_closed(pipe: Pipe) -> None:
    await pipe.call("PING")
    await pipe.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await pipe.call("PING")


async def test_a_pipe_that_is_closed_while_it_connects_stays_closed(own_server: RedisServer) -> None:
    async with TcpProxy(own_server.url) as proxy, pipe_to(proxy.url) as pipe:
        proxy.delay_s = 0.1
        connecting = asyncio.create_task(pipe.call("PING"))
        async with asyncio.timeout(FAST_S):
            while not proxy.open_connections:  # noqa: ASYNC110 - nothing tells when
                await asyncio.sleep(0)
            await pipe.close()
            with pytest.raises(StoreUnavailable, match="closed"):
                await connecting
            while proxy.open_connections:  # noqa: ASYNC110 - nothing tells when
                await asyncio.sleep(0)


async def test_closing_fails_the_calls_that_wait(own_server: RedisServer) -> None:
    async with pipe_to(own_server.url) as pipe:
        waiting = asyncio.create_task(pipe.call("BLPOP", "never", 0))
        async with pipe_to(own_server.url) as observer:
            while b"blocked_clients:1" not in await observer.call("INFO", "clients"):
                pass
        await pipe.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await waiting


async def test_an_answer_nobody_asked_for_ends_the_connection_and_not_the_pipe(redis_url: str) -> None:
    async with pipe_to(redis_url) as pipe, pipe_to(redis_url) as other:
        await pipe.call("SUBSCRIBE", "news")
        await other.call("PUBLISH", "news", "unexpected")
        async with asyncio.timeout(FAST_S):
            while (await other.call("PUBSUB", "NUMSUB", "news"))[1]:
                pass
        assert await pipe.call("ECHO", "on we go") == b"on we go"


# Scripts


async def test_scripts_forgotten_by_the_server_are_loaded_again(store: Store) -> None:
    await store.write(fact(lane="l"), fact(lane="l"))
    lane = taken(await store.lanes().take(ACME, "l"))
    await store.pipe.call("SCRIPT", "FLUSH")
    assert (await store.write(fact(), held=lane.held)).versions == [3]
    await store.pipe.call("SCRIPT", "FLUSH")
    await store.lanes().renew(ACME, lane.held)
    await store.pipe.call("SCRIPT", "FLUSH")
    replies = await asyncio.gather(*[store.append(fact()) for _ in range(20)])
    assert sorted(written(reply).first_number for reply in replies) == list(range(4, 24))
    written(await store.append(held=lane.held, disposal=FINISH))


# Servers that die, hang and come back


async def test_calls_fail_fast_while_the_server_is_dead_and_work_after_its_restart(own_server: RedisServer) -> None:
    async with pipe_to(own_server.url) as pipe:
        log, lanes = Log(pipe), Lanes(pipe, "worker-1", shards=SHARDS)
        await lanes.join()
        written(await log.append(ACME, Append(events=[fact(lane="l"), fact(lane="l")])))
        lane = taken(await lanes.take(ACME, "l"))
        own_server.kill()
        for _ in range(3):
            async with asyncio.timeout(FAST_S):
                with pytest.raises(StoreUnavailable):
                    await log.append(ACME, Append(events=[fact()]))
        own_server.restart()
        assert written(await log.append(ACME, Append(events=[fact()]))).first_number == 3
        request = Append(events=[fact()], held=lane.held, disposal=FINISH)
        assert written(await log.append(ACME, request)).next_item is not None
        await assert_invariants(pipe)


async def test_all_who_wait_for_a_connection_fail_with_it(own_server: RedisServer) -> None:
    async with pipe_to(own_server.url) as pipe:
        own_server.pause()
        async with asyncio.timeout(FAST_S):
            replies = await asyncio.gather(*[pipe.call("PING") for _ in range(16)], return_exceptions=True)
        assert all(isinstance(reply, StoreUnavailable) for reply in replies), replies
        own_server.resume()
        assert await asyncio.gather(*[pipe.call("PING") for _ in range(16)]) == [b"PONG"] * 16


async def test_who_waits_for_another_one_that_is_cancelled_connects_itself(own_server: RedisServer) -> None:
    async with pipe_to(own_server.url) as pipe:
        own_server.pause()
        first, second = [asyncio.create_task(pipe.call("PING")) for _ in range(2)]
        await asyncio.sleep(0.05)
        first.cancel()
        own_server.resume()
        assert await second == b"PONG"


async def test_calls_in_flight_fail_when_the_server_dies(own_server: RedisServer) -> None:
    async with pipe_to(own_server.url) as pipe:
        await pipe.call("PING")
        own_server.pause()
        calls = [asyncio.create_task(pipe.call("PING")) for _ in range(10)]
        await asyncio.sleep(0)
        own_server.kill()
        async with asyncio.timeout(FAST_S):
            replies = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(reply, StoreUnavailable) for reply in replies), replies


async def test_several_calls_that_fail_together_are_told_of_once(own_server: RedisServer) -> None:
    said = list[str]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context["message"]))
    async with pipe_to(own_server.url) as pipe:
        await pipe.call("PING")
        calls = asyncio.create_task(pipe.calls(*[("BLPOP", "nothing", "1")] * 3))
        await asyncio.sleep(0)
        await pipe.close()
        with pytest.raises(StoreUnavailable):
            await calls
    del calls
    await asyncio.sleep(0)
    gc.collect()
    assert said == []


async def test_a_server_that_hangs_is_given_up_after_the_timeout(own_server: RedisServer) -> None:
    async with pipe_to(own_server.url, timeout_s=0.4) as pipe:
        await pipe.call("PING")
        own_server.pause()
        async with asyncio.timeout(FAST_S):
            with pytest.raises(StoreUnavailable, match="not answered"):
                await pipe.call("PING")
        async with asyncio.timeout(FAST_S):
            with pytest.raises(StoreUnavailable):  # a new connection is not answered either
                await pipe.call("PING")
        own_server.resume()
        assert await pipe.call("PING") == b"PONG"


def test_a_process_that_stood_still_does_not_blame_the_server(redis_url: str) -> None:
    """uvloop looks at its timers before it reads."""

    async def stand_still() -> None:
        async with pipe_to(redis_url, timeout_s=0.1) as pipe:
            await pipe.call("PING")
            call = asyncio.ensure_future(pipe.call("ECHO", "read later"))
            await asyncio.sleep(0)
            time.sleep(0.3)  # noqa: ASYNC251 - as a thousand requests at once do
            assert await call == b"read later"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(stand_still())


def test_nor_does_one_that_stood_still_while_it_connected(redis_url: str) -> None:
    async def stand_still() -> None:
        async with pipe_to(redis_url) as pipe:
            call = asyncio.ensure_future(pipe.call("ECHO", "read later"))
            await asyncio.sleep(0)
            time.sleep(CONNECT_TIMEOUT_S + 0.1)  # noqa: ASYNC251
            assert await call == b"read later"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(stand_still())


async def test_acknowledged_appends_survive_kill_9(own_server: RedisServer) -> None:
    async with pipe_to(own_server.url) as pipe:
        log = Log(pipe)
        acknowledged = []

        async def writer() -> None:
            while True:
                acknowledged.append(written(await log.append(ACME, Append(events=[fact(lane="l")]))).positions[0])
                if len(acknowledged) == 60:
                    own_server.kill()

        results = await asyncio.gather(*[writer() for _ in range(4)], return_exceptions=True)
        assert all(isinstance(result, StoreUnavailable) for result in results), results
        own_server.restart()
        stored = {event.position for event in await log.read(ACME, ORIGIN)}
        assert stored >= set(acknowledged)
        await assert_invariants(pipe)


async def test_a_connection_cut_between_calls_is_made_again(own_server: RedisServer) -> None:
    async with TcpProxy(own_server.url) as proxy, pipe_to(proxy.url) as pipe:
        await pipe.call("PING")
        proxy.fail_next("cut_request")
        with pytest.raises(StoreUnavailable):
            await pipe.call("SET", "k", "v")
        assert await pipe.call("GET", "k") is None
        proxy.fail_next("cut_reply")
        with pytest.raises(StoreUnavailable):
            await pipe.call("INCR", "count")
        assert await pipe.call("GET", "count") == b"1", "a lost reply must not repeat the command"


async def test_a_late_reply_is_not_taken_for_that_of_a_later_call(own_server: RedisServer) -> None:
    async with TcpProxy(own_server.url) as proxy, pipe_to(proxy.url, timeout_s=0.2) as pipe:
        await pipe.call("PING")
        proxy.fail_next("swallow_reply")
        with pytest.raises(StoreUnavailable):
            await pipe.call("ECHO", "lost")
        assert await pipe.call("ECHO", "next") == b"next"


async def test_a_slow_answer_is_waited_for(own_server: RedisServer) -> None:
    async with TcpProxy(own_server.url) as proxy, pipe_to(proxy.url, timeout_s=1.0) as pipe:
        await pipe.call("PING")
        proxy.delay_s = 0.3
        assert await pipe.call("ECHO", "slow") == b"slow"


async def test_no_server_at_all_is_said_so_at_once(own_server: RedisServer) -> None:
    own_server.kill()
    async with pipe_to(own_server.url) as pipe:
        async with asyncio.timeout(FAST_S):
            with pytest.raises(StoreUnavailable, match="does not answer"):
                await pipe.call("PING")


async def test_deltas_and_facts_from_many_tasks_keep_one_clock(pipe: Pipe) -> None:
    log = Log(pipe)
    run = written(await log.append(ACME, Append(events=[fact()]))).positions[0]
    replies = await asyncio.gather(
        *[log.append(ACME, Append(events=[fact(run=run), delta(run, index)])) for index in range(50)]
    )
    positions = [position for reply in replies for position in written(reply).positions]
    assert len(set(positions)) == 100
    assert [event.position for event in await log.read_run(ACME, run)] == [run, *sorted(positions)]
    await assert_invariants(pipe)


# Behind a command that blocks


async def test_what_stands_behind_a_read_that_blocks_is_as_new_as_its_reply(own_server: RedisServer) -> None:
    async with pipe_to(own_server.url) as writing, pipe_to(own_server.url, timeout_s=5) as blocking:
        reading = blocking.read_streams({"bell": "0-0"}, ("GET", "latest"), count=10, block_ms=4_000)
        waiting = asyncio.create_task(reading)
        await blocked_client(writing)
        await writing.calls(("SET", "latest", "1"), ("XADD", "bell", "*", "k", "v"))
        heard, latest = await waiting
        assert (len(heard), latest) == (1, b"1")


async def test_who_waits_gets_all_that_was_written_in_the_same_turn(own_server: RedisServer) -> None:
    async with pipe_to(own_server.url) as writing, pipe_to(own_server.url, timeout_s=5) as blocking:
        streams = {"bell-1": "0-0", "bell-2": "0-0"}
        waiting = asyncio.create_task(blocking.read_streams(streams, count=10, block_ms=4_000))
        await blocked_client(writing)
        ring = [("XADD", bell, "*", "k", "v") for bell in ("bell-1", "bell-2", "bell-1")]
        await writing.calls(*ring)
        [heard] = await waiting
        assert {name: len(entries) for name, entries in heard} == {b"bell-1": 2, b"bell-2": 1}


async def test_who_follows_a_log_gets_both_streams_of_one_append_in_order(own_server: RedisServer) -> None:
    """A wait that an append ends brings one of its streams only."""
    async with pipe_to(own_server.url) as writing, pipe_to(own_server.url, timeout_s=5) as blocking:
        log = Log(writing)
        following = asyncio.ensure_future(anext(log.tail(ACME, ORIGIN, blocking, block_ms=4_000)))
        await blocked_client(writing)
        positions = written(await log.append(ACME, Append(events=[fact(), delta(Sibling(0)), fact()]))).positions
        assert [event.position for event in await following] == positions
