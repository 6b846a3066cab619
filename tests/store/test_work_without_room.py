"""Work that meets a full Redis waits for room: it is neither failed nor done twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from eventstore.connection import Pipe, pool_for
from eventstore.errors import WritesRefused
from tests.store.conftest import PRESENT, binary_of
from tests.support.invariants import assert_invariants
from tests.support.redis_servers import RedisServer
from tests.support.small_handlers import did, done, handler, text_of
from tests.support.workshop import ACME, workshop
from workers.work import Done, Work


@pytest.fixture(params=PRESENT)
def own_url(request: pytest.FixtureRequest) -> Iterator[str]:
    server = RedisServer(binary_of(request.param)).start()
    yield server.url
    server.stop()


async def test_a_result_that_redis_has_no_room_for_is_written_when_it_has(own_url: str) -> None:
    admin, full, attempts = Pipe(pool_for(own_url)), asyncio.Event(), list[int]()

    async def fill(work: Work) -> Done:
        attempts.append(work.attempts)
        if work.attempts == 1:
            await admin.call("CONFIG", "SET", "maxmemory", "1")
            with pytest.raises(WritesRefused):
                await work.append(did("too early"))
            full.set()
        return Done([did(text_of(work))])

    async with workshop(own_url) as shop:
        await shop.say("one")
        async with shop.worker(shop.services(), handlers=handler(fill)):
            await full.wait()
            await refused_more_often(admin, 5)
            await admin.call("CONFIG", "SET", "maxmemory", "0")
            await shop.seen.until(lambda events: len(done(events)) == 1)
        assert attempts == [1, 2]
        assert "work.failed" not in shop.seen.types
        await assert_invariants(shop.pipe, ACME)
    await admin.close()


async def refused_more_often(admin: Pipe, times: int) -> None:
    """Returns when the worker has been refused so many times more: it has tried to take the lane up again."""

    async def refused() -> int:
        lines = (await admin.call("INFO", "stats")).decode().splitlines()
        return int(next(line for line in lines if line.startswith("total_error_replies:")).partition(":")[2])

    first = await refused()
    async with asyncio.timeout(10):
        while await refused() < first + times:  # noqa: ASYNC110 - the server only counts
            await asyncio.sleep(0.02)
