"""A clock that is set back while work pauses: what was to come in a minute does not come an hour later."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from eventstore import keys
from eventstore.connection import Pipe, pool_for
from tests.support.small_handlers import did, done, handler
from tests.support.workshop import ACME, FAST, Worker, Workshop, workshop
from workers.errors import TryAgain
from workers.retry import Policy, Schedule
from workers.runner import Runner
from workers.work import Done, Work

HOUR_MS = 3_600_000


@pytest.fixture
async def shop(redis_url: str) -> AsyncIterator[Workshop]:
    async with workshop(redis_url) as shop:
        yield shop


async def fail_once(work: Work) -> Done:
    if work.attempts == 1:
        raise TryAgain("not now")
    return Done([did("it")])


async def delayed(shop: Workshop) -> None:
    """Returns when a lane pauses."""
    while not await shop.pipe.call("ZCARD", keys.delay(keys.shard_of(ACME))):  # noqa: ASYNC110 - the script tells nobody
        await asyncio.sleep(0.01)


@asynccontextmanager
async def worker(shop: Workshop, now_ms: Callable[[], int]) -> AsyncIterator[None]:
    blocking = Pipe(pool_for(shop.redis_url))
    handlers = handler(fail_once, Policy(3, "fail", Schedule((60.0,))))
    worker = Worker(Runner(shop.services(), shop.lanes(now_ms=now_ms), blocking, handlers=handlers, pace=FAST))
    yield
    await worker.stop()
    await blocking.close()


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


async def test_a_retry_does_not_wait_until_the_clock_is_where_it_was(shop: Workshop) -> None:
    behind_ms = 0
    async with asyncio.timeout(5), worker(shop, lambda: wall_ms() - behind_ms):
        await shop.say("one")
        await delayed(shop)
        behind_ms = HOUR_MS
        await shop.seen.until(lambda events: done(events) == ["it"])


async def test_a_worker_that_begins_after_the_step_finds_it_too(shop: Workshop) -> None:
    async with asyncio.timeout(5):
        async with worker(shop, wall_ms):
            await shop.say("one")
            await delayed(shop)
        async with worker(shop, lambda: wall_ms() - HOUR_MS):
            await shop.seen.until(lambda events: done(events) == ["it"])


async def test_a_pause_is_kept_where_nothing_was_set_back(shop: Workshop) -> None:
    async with asyncio.timeout(5), worker(shop, wall_ms), worker(shop, wall_ms):
        await shop.say("one")
        await delayed(shop)
        looks = 0

        def look() -> int:
            nonlocal looks
            looks += 1
            return wall_ms()

        async with worker(shop, look):
            while looks < 5:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert done(shop.seen.events) == []
