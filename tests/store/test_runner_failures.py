"""Work that cannot be done: it stops its own lane at most, and never in silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from eventstore import keys
from eventstore.events.custom import Custom
from eventstore.events.work import WorkFailed, WorkParked
from eventstore.schema import Event
from tests.support.small_handlers import AT_ONCE, did, done, echo, handler, text_of
from tests.support.workshop import ACME, ANN, BEN, Workshop, workshop
from workers.errors import TryAgain
from workers.retry import Policy
from workers.work import Done, Work


@pytest.fixture
async def shop(redis_url: str) -> AsyncIterator[Workshop]:
    async with workshop(redis_url) as shop:
        yield shop


async def test_poison_on_one_lane_does_not_hold_up_another(shop: Workshop) -> None:
    async def choke(work: Work) -> Done:
        if text_of(work) == "poison":
            raise RuntimeError("choked on a secret")
        return Done([did(text_of(work))])

    policy = Policy(2, "park", AT_ONCE)
    await shop.say("poison", ANN)
    await shop.say("after the poison", ANN)
    await shop.say("fine", BEN)
    async with shop.worker(shop.services(), handlers=handler(choke, policy)):
        await shop.seen.until(lambda events: done(events, BEN) == ["fine"])
        await shop.seen.until_type("work.parked")
    [parked] = shop.seen.bodies(WorkParked)
    assert (parked.lane, parked.attempts) == (ANN, 2)
    assert parked.error.startswith("RuntimeError at test_runner_failures.py:")
    assert "secret" not in parked.error
    assert done(shop.seen.events, ANN) == []


async def test_parked_work_goes_on_in_order_once_redriven(shop: Workshop) -> None:
    cured = False

    async def choke(work: Work) -> Done:
        if not cured:
            raise RuntimeError
        return Done([did(text_of(work))])

    await shop.say("one")
    async with shop.worker(shop.services(), handlers=handler(choke, Policy(1, "park", AT_ONCE))):
        await shop.seen.until_type("work.parked")
        await shop.say("two")
        assert list(await shop.lanes().parked(ACME)) == [ANN]
        cured = True
        assert await shop.lanes().redrive(ACME, ANN)
        await shop.seen.until(lambda events: done(events) == ["one", "two"])


async def test_work_that_fails_for_good_is_recorded_and_the_lane_goes_on(shop: Workshop) -> None:
    async def choke(work: Work) -> Done:
        if text_of(work) == "poison":
            raise TryAgain("not today")
        return Done([did(text_of(work))])

    await shop.say("poison")
    await shop.say("next")
    async with shop.worker(shop.services(), handlers=handler(choke)):
        await shop.seen.until(lambda events: done(events) == ["next"])
    assert shop.seen.types[2:] == ["custom.gave_up", "work.failed", "custom.did"]
    [failed] = shop.seen.bodies(WorkFailed)
    assert (failed.attempts, failed.error) == (3, "TryAgain: not today")


async def test_an_item_that_kills_its_workers_is_given_up(shop: Workshop) -> None:
    """Crashes count as attempts, because an attempt counts when it begins."""
    policy = Policy(2, "fail", AT_ONCE)

    async def kill(work: Work) -> Done:
        await work.append(Event(Custom(name="custom.began"), "system:test"))
        await asyncio.Event().wait()
        return Done()

    await shop.say("deadly")
    for crash in (1, 2):
        async with shop.worker(shop.services(), handlers=handler(kill, policy)) as worker:
            await shop.seen.until_type("custom.began", crash)
            await worker.crash()
    async with shop.worker(shop.services(), handlers=handler(kill, policy)):
        await shop.seen.until_type("work.failed")
    assert shop.seen.types.count("custom.began") == 2


async def test_an_item_that_nothing_handles_is_recorded_and_the_lane_goes_on(shop: Workshop) -> None:
    await shop.put(Event(Custom(name="custom.mystery"), "customer", ANN, lane=ANN))
    await shop.say("next")
    async with shop.worker(shop.services(), handlers=handler(echo)):
        await shop.seen.until(lambda events: done(events) == ["next"])
    assert "custom.mystery" in shop.seen.bodies(WorkFailed)[0].error


async def test_an_item_that_the_log_no_longer_holds_is_given_up(shop: Workshop) -> None:
    at = await shop.say("trimmed away")
    await shop.say("next")
    await _trim(shop, str(at))
    async with shop.worker(shop.services(), handlers=handler(echo)):
        await shop.seen.until(lambda events: done(events) == ["next"])
    assert shop.seen.bodies(WorkFailed)[0].item == str(at)


async def _trim(shop: Workshop, position: str) -> None:
    await shop.pipe.call("XDEL", keys.of(ACME).log, position)
