"""Sentinel's failover: what a replica had confirmed is kept, and whoever was shown more than was kept is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress

import pytest

from eventstore.append import APPEND, Append, Idempotency
from eventstore.connection import Pipe, pool_for
from eventstore.durability import barrier_for
from eventstore.errors import StoreUnavailable
from eventstore.log import Log
from eventstore.resp import Argument
from eventstore.schema import ORIGIN, Position
from eventstore.servers import pipe_to
from tests.store.conftest import RECENT, binary_of
from tests.support.invariants import assert_invariants
from tests.support.redis_servers import RedisServer
from tests.support.sentinels import SERVICE, Watched, sentinel_of, watched
from tests.support.stack import DEMO, Stack, stacked
from tests.support.store import ACME, fact
from tests.support.stream_client import Frame, StreamClient

LIMIT_S = 15.0


@pytest.fixture(params=RECENT)
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Watched]:
    async with watched(binary_of(request.param)) as pair:
        yield pair


@pytest.fixture
async def pipe(pair: Watched) -> AsyncIterator[Pipe]:
    pipe = pipe_to(pair.url, [APPEND], timeout_s=0.8)
    yield pipe
    await pipe.close()


async def test_what_a_replica_confirmed_outlives_the_master(pair: Watched, pipe: Pipe) -> None:
    """Producers append on while the replica is cut off and the master is killed, and repeat what was not confirmed."""
    log = Log(pipe)
    log.wait_for(await barrier_for(pipe, "replica"))
    acknowledged: set[Position] = set()
    refused = 0

    async def produce(producer: int) -> None:
        nonlocal refused
        for number in range(40):
            key = Idempotency(f"{producer}-{number}", "body")
            while True:
                try:
                    outcome = await log.append(ACME, Append(events=[fact(text=key.key)], idempotency=key))
                except StoreUnavailable:
                    refused += 1
                    continue
                acknowledged.update(outcome.positions)  # type: ignore[union-attr]
                break

    async def fail_over() -> None:
        while len(acknowledged) < 100:  # noqa: ASYNC110 - producers are not told of each other
            await asyncio.sleep(0.001)
        await pair.cut()
        while not refused:  # noqa: ASYNC110 - until the master has what the replica does not have
            await asyncio.sleep(0.01)
        pair.master.kill()
        pair.replica.resume()
        await pair.promoted()
        log.wait_for(None)  # nobody is left to confirm

    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as producers:
        for number in range(8):
            producers.create_task(produce(number))
        await fail_over()
    stored = [event.position for event in await log.read(ACME, ORIGIN, count=1_000)]
    assert not acknowledged - set(stored)
    assert len(stored) == 8 * 40
    await assert_invariants(pipe, ACME)


async def test_subscribers_are_told_of_what_an_unconfirmed_failover_lost(pair: Watched) -> None:
    async with stacked(pair.url, work=False) as stack:
        kept = await stack.say(3)
        await pair.settled()
        async with stack.open("/v1/events/stream?after=0") as client:
            assert [(await frame_of(client, "custom.said")).id for _ in kept] == kept
            await pair.cut()
            lost = await stack.say(2)
            assert [(await frame_of(client, "custom.said")).id for _ in lost] == lost
            pair.master.kill()
            pair.replica.resume()
            await pair.promoted()
            gap = await frame_of(client, "gap")
            assert gap.data["reason"] == "ahead"
            assert gap.data["requested"] == lost[-1]
            async with asyncio.timeout(LIMIT_S):
                again = await say_when_it_is_back(stack)
            shown = [await frame_of(client, "custom.said") for _ in (*kept, again)]
            assert [frame.id for frame in shown] == [*kept, again]
        assert [str(event.position) for event in await stack.log.read(DEMO, ORIGIN)] == [*kept, again]
        await assert_invariants(stack.pipe, DEMO)


@pytest.mark.parametrize("name", RECENT)
async def test_the_master_is_whom_most_sentinels_name_also_once_they_name_another(name: str) -> None:
    """One Sentinel was cut off, and the master that it goes on to name is alive: nothing ends a connection to it."""
    binary = binary_of(name)
    servers = [RedisServer(binary, tcp=True).start() for _ in range(2)]
    old, new = servers
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.stop)
        ports = [stack.enter_context(sentinel_of(binary, server)) for server in (old, new, new)]
        for port in ports:
            await told(port, "PING")
        url = f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in ports)}/{SERVICE}"
        pipe = pipe_to(url, timeout_s=2 * LIMIT_S)
        assert await port_of(pipe) == new.port
        for port in ports[1:]:
            await told(port, "SENTINEL", "REMOVE", SERVICE)
            await told(port, "SENTINEL", "MONITOR", SERVICE, "127.0.0.1", old.port, 1)
        with suppress(StoreUnavailable):  # given up
            async with asyncio.timeout(LIMIT_S):
                await pipe.call("XREAD", "BLOCK", 0, "STREAMS", "nothing", "0")
        assert await port_of(pipe) == old.port
        await pipe.close()


async def told(sentinel: int, *command: Argument) -> None:
    pipe = Pipe(pool_for(f"redis://127.0.0.1:{sentinel}"))
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                await pipe.call(*command)
                break
            except StoreUnavailable:  # it is still starting
                await asyncio.sleep(0.02)
    await pipe.close()


async def port_of(pipe: Pipe) -> int:
    return int((await pipe.call("CONFIG", "GET", "port"))[1])


async def frame_of(client: StreamClient, kind: str) -> Frame:
    """The next frame that is no sign of life; it must be of that kind."""
    while True:
        frame = await client.next()
        assert frame is not None, "the stream has ended"
        if frame.type not in ("position", "heartbeat"):
            assert frame.type == kind, frame
            return frame


async def say_when_it_is_back(stack: Stack) -> str:
    while True:
        try:
            return (await stack.say())[0]
        except StoreUnavailable:
            await asyncio.sleep(0.02)
