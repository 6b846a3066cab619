"""A Redis without room takes no inputs and serves everything else; a restored backup is told to whoever saw more."""

from __future__ import annotations

import asyncio
import resource
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import httpx
import pytest

from edges.app_keys import Quota
from eventstore import keys
from eventstore.connection import Pipe, pool_for
from eventstore.log import Log
from eventstore.presence import Presence
from eventstore.schema import ORIGIN
from tests.support.invariants import assert_invariants
from tests.support.redis_servers import RedisServer, bundled_binary, system_binary
from tests.support.stack import ACME, DEMO, Stack, stacked
from tests.support.stream_client import Frame, StreamClient

LIMIT_S = 10.0
UNLIMITED = resource.RLIM_INFINITY


@pytest.fixture(params=["bundled", "system"])
async def redis(request: pytest.FixtureRequest) -> AsyncIterator[RedisServer]:
    """Both word their refusals differently inside scripts."""
    binary = {"bundled": bundled_binary, "system": system_binary}[request.param]()
    if binary is None:
        pytest.skip(f"no {request.param} redis-server")
    server = RedisServer(binary, "--appendfsync", "everysec", appendonly=True).start()
    yield server
    server.stop()


@pytest.fixture
async def stack(redis: RedisServer) -> AsyncIterator[Stack]:
    """With rate limits, which are writes too."""
    async with stacked(redis.url, work=False, development=False, quota=Quota(1_000, 1_000, 900)) as stack:
        yield stack


async def test_a_full_disk_refuses_inputs_until_there_is_room_again(redis: RedisServer, stack: Stack) -> None:
    async def no_more() -> None:
        files = [file for file in redis.directory.rglob("*aof*") if file.is_file()]
        size = max(file.stat().st_size for file in files)
        resource.prlimit(redis.pid, resource.RLIMIT_FSIZE, (size, UNLIMITED))

    async def room_again() -> None:
        resource.prlimit(redis.pid, resource.RLIMIT_FSIZE, (UNLIMITED, UNLIMITED))

    await refuses_and_recovers(stack, no_more, room_again)
    accepted = [event.position for event in await stack.log.read(ACME, ORIGIN)]
    redis.restart()
    await stack.reconnected()
    assert [event.position for event in await stack.log.read(ACME, ORIGIN)] == accepted


async def test_a_full_memory_refuses_inputs_until_there_is_room_again(redis: RedisServer, stack: Stack) -> None:
    admin = Pipe(pool_for(redis.url))

    async def maxmemory(size: str) -> None:
        await admin.call("CONFIG", "SET", "maxmemory", size)

    await refuses_and_recovers(stack, lambda: maxmemory("1"), lambda: maxmemory("0"))
    await admin.close()


async def refuses_and_recovers(
    stack: Stack, no_more: Callable[[], Awaitable[None]], room_again: Callable[[], Awaitable[None]]
) -> None:
    key = await stack.key()
    async with stack.http(key) as http, stack.open("/v1/events/stream?after=0", key) as live:
        before = await until(http, 201)
        assert (await custom(live)).id == before.json()["positions"][0]
        assert await health(http) == (200, 503, "ok", "none")
        await no_more()
        refused = await until(http, 503)
        assert refused.headers["Retry-After"] == "1"
        assert await health(http) == (503, 503, "read-only", "unknown")
        listed = await http.get("/v1/events")
        assert listed.status_code == 200
        async with stack.open("/v1/events/stream?after=0", key) as late:
            assert [(await custom(late)).id for _ in listed.json()["events"]] == ids(listed)
        await room_again()
        after = await until(http, 201)
        while (await custom(live)).id != after.json()["positions"][0]:
            pass
        await Presence(stack.pipe).beat("worker", {})
        assert await health(http) == (200, 200, "ok", "ok")
    await assert_invariants(stack.pipe, ACME)


async def until(http: httpx.AsyncClient, status: int) -> httpx.Response:
    """Sends events until the answer has that status; Redis looks at its disk once a second."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            posted = await say(http)
            if posted.status_code == status:
                return posted
            assert posted.status_code in (201, 503), posted.text
            await asyncio.sleep(0.02)


async def health(http: httpx.AsyncClient) -> tuple[int, int, str, str]:
    """The statuses of both health checks, and the states of Redis and of the workers."""
    whole, ready = await http.get("/api/health"), await http.get("/health/ready")
    states = [ready.json()["dependencies"][name]["state"] for name in ("redis", "workers")]
    return whole.status_code, ready.status_code, states[0], states[1]


async def custom(client: StreamClient) -> Frame:
    """The next event that a client is shown."""
    while True:
        frame = await client.next()
        assert frame is not None, "the stream has ended"
        if frame.type not in ("position", "heartbeat"):
            return frame


def ids(listed: httpx.Response) -> list[str]:
    return [event["id"] for event in listed.json()["events"]]


@pytest.mark.parametrize("behind_s", [0, 3_600])
async def test_a_backup_restored_under_live_subscribers_is_told_and_gone_on_from(
    redis: RedisServer, behind_s: int
) -> None:
    """Also by a server whose clock has been set back: the log's stands then, and goes on from where it was."""
    async with AsyncExitStack() as owned:
        stack = await owned.enter_async_context(stacked(redis.url, work=False))
        first = await stack.say(1)
        await stack.pipe.call("HINCRBY", keys.of(DEMO).meta, "ms", behind_s * 1_000)
        kept = [*first, *await stack.say(2)]
        redis.kill()
        backup = redis.directory.with_name(redis.directory.name + "-backup")
        shutil.copytree(redis.directory, backup, ignore=shutil.ignore_patterns("*.sock"))
        owned.callback(shutil.rmtree, backup)
        redis.start()
        await stack.reconnected()
        client = await owned.enter_async_context(stack.open("/v1/events/stream?after=0"))
        lost = await stack.say(2)
        assert [(await custom(client)).id for _ in (*kept, *lost)] == [*kept, *lost]
        redis.kill()
        shutil.rmtree(redis.directory)
        shutil.copytree(backup, redis.directory)
        redis.start()
        gap = await custom(client)
        assert (gap.data["reason"], gap.data["requested"]) == ("ahead", lost[-1])
        assert [(await custom(client)).id for _ in kept] == kept
        await stack.reconnected()
        later = await stack.say(1)
        assert (await custom(client)).id == later[0]
        for last in lost:
            async with stack.open("/v1/events/stream", last=last) as returning:
                assert (await custom(returning)).type == "gap"
                assert [(await custom(returning)).id for _ in (*kept, *later)] == [*kept, *later]
        await assert_invariants(stack.pipe, DEMO)


async def test_a_log_at_its_cap_refuses_inputs_and_keeps_what_nobody_has_read(redis: RedisServer) -> None:
    async with stacked(redis.url, work=False, max_facts=3) as stack, stack.http() as http:
        taken = [(await http.post("/v1/events", json={"events": [{"type": "custom.said"}]})) for _ in range(5)]
        assert [answer.status_code for answer in taken] == [201, 201, 201, 503, 503]
        assert taken[-1].headers["Retry-After"] == "5"
        async with stack.open("/v1/events/stream?after=0") as client:
            assert [(await custom(client)).id for _ in range(3)] == [
                answer.json()["positions"][0] for answer in taken[:3]
            ]
        assert len(await Log(stack.pipe).read(DEMO, ORIGIN)) == 3


@pytest.mark.parametrize("find", [bundled_binary, system_binary])
async def test_a_full_disk_ends_a_redis_that_fsyncs_every_write_and_loses_nothing_it_acknowledged(
    find: Callable[[], str | None],
) -> None:
    """It ends itself in the middle of a write. Whoever starts it again mends its file, as `trunkline up` does."""
    if (binary := find()) is None:
        pytest.skip("no such redis-server")
    redis = RedisServer(binary, appendonly=True).start()
    async with stacked(redis.url, work=False) as stack, stack.http() as http:
        async with stack.open("/v1/events/stream?after=0") as live:
            taken = [(await until(http, 201)).json()["positions"][0]]
            [file] = [file for file in redis.directory.rglob("*.aof") if "base" not in file.name]
            resource.prlimit(redis.pid, resource.RLIMIT_FSIZE, (file.stat().st_size + 5_000, UNLIMITED))
            while (posted := await say(http)).status_code == 201:
                taken.append(posted.json()["positions"][0])
            assert (posted.status_code, posted.headers["Retry-After"]) == (503, "1")
            assert (await say(http)).status_code == 503
            redis.cut_power(0)
            redis.start()
            taken.append((await until(http, 201)).json()["positions"][0])
            assert [(await custom(live)).id for _ in taken] == taken
        assert [str(event.position) for event in await stack.log.read(DEMO, ORIGIN)] == taken
        await assert_invariants(stack.pipe, DEMO)
    redis.stop()


async def say(http: httpx.AsyncClient) -> httpx.Response:
    return await http.post("/v1/events", json={"events": [{"type": "custom.said", "data": {"x": "x" * 999}}]})
