"""Work that cannot be done: it stops its own lane at most, and never in silence."""

from __future__ import annotations

import asyncio

from prometheus_client import REGISTRY

from eventstore import codec, keys
from eventstore.append import Fenced
from eventstore.events.custom import Custom
from eventstore.events.messages import MessageReceived
from eventstore.events.work import WorkFailed, WorkParked
from eventstore.parked import ParkedWork
from eventstore.schema import Event, Recorded
from tests.support.small_handlers import AT_ONCE, did, done, echo, handler, text_of
from tests.support.workshop import ACME, ANN, BEN, Workshop
from workers.errors import TryAgain
from workers.retry import Policy
from workers.work import Done, Handler, Work


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

    first = await shop.say("one")
    async with shop.worker(shop.services(), handlers=handler(choke, Policy(1, "park", AT_ONCE))):
        await shop.seen.until_type("work.parked")
        await shop.say("two")
        work = ParkedWork(shop.log)
        parked = await work.find(ACME, ANN)
        assert parked is not None
        assert (parked.item, parked.attempts, parked.behind) == (first, 1, 1)
        assert parked.error.startswith("RuntimeError at ")
        assert [text_of_item(item) for item in await work.behind(ACME, ANN, 10)] == ["two"]
        cured = True
        assert await work.decide(ACME, parked, "redrive", "client:test") is None
        await shop.seen.until(lambda events: done(events) == ["one", "two"])


async def test_dropped_work_ends_its_own_run_and_the_lane_goes_on(shop: Workshop) -> None:
    async def choke(work: Work) -> Done:
        if text_of(work) == "poison":
            raise RuntimeError
        return Done([did(text_of(work))])

    poison = await shop.say("poison")
    async with shop.worker(shop.services(), handlers=handler(choke, Policy(1, "park", AT_ONCE))):
        await shop.seen.until_type("work.parked")
        await shop.say("next")
        await give_up(shop)
        await shop.seen.until(lambda events: done(events) == ["next"])
    run = await shop.log.read_run(ACME, poison)
    assert [event.type for event in run] == ["message.received", "work.parked", "work.dropped", "custom.gave_up"]
    assert run[2].actor == "client:test"


async def test_an_item_ends_even_if_its_handler_chokes_on_its_failure(shop: Workshop) -> None:
    async def choke(work: Work) -> Done:
        if text_of(work) == "poison":
            raise RuntimeError
        return Done([did(text_of(work))])

    async def choke_again(work: Work, error: str) -> list[Event]:
        raise RuntimeError

    poison = await shop.say("poison")
    await shop.say("next")
    handlers = [Handler(MessageReceived, choke, Policy(1, "fail", AT_ONCE), choke_again)]
    async with shop.worker(shop.services(), handlers=handlers):
        await shop.seen.until(lambda events: done(events) == ["next"])
    run = await shop.log.read_run(ACME, poison)
    assert [event.type for event in run] == ["message.received", "reply.failed", "work.failed"]


async def test_a_dropped_item_ends_even_if_its_handler_chokes_on_giving_it_up(shop: Workshop) -> None:
    async def choke(work: Work) -> Done:
        raise RuntimeError

    async def choke_again(work: Work, error: str) -> list[Event]:
        raise RuntimeError

    poison = await shop.say("poison")
    handlers = [Handler(MessageReceived, choke, Policy(1, "park", AT_ONCE), choke_again)]
    async with shop.worker(shop.services(), handlers=handlers):
        await shop.seen.until_type("work.parked")
        await give_up(shop)
        await shop.seen.until_type("reply.failed")
    assert (await shop.log.read_run(ACME, poison))[-1].type == "reply.failed"


async def test_parked_lanes_show_on_the_gauge_until_somebody_decides(shop: Workshop) -> None:
    await shop.put(Event(Custom(name="custom.mystery"), "customer", ANN, lane=ANN))
    async with shop.worker(shop.services(), handlers=handler(echo)):
        await gauge_shows(1)
        await give_up(shop)
        await gauge_shows(0)


async def gauge_shows(lanes: int) -> None:
    async with asyncio.timeout(10):
        while REGISTRY.get_sample_value("trunkline_parked_lanes") != lanes:  # noqa: ASYNC110 - nothing tells when
            await asyncio.sleep(0.02)


async def give_up(shop: Workshop) -> None:
    work = ParkedWork(shop.log)
    found = await work.find(ACME, ANN)
    assert found is not None
    assert await work.decide(ACME, found, "drop", "client:test") is None
    assert await work.decide(ACME, found, "drop", "client:test") == Fenced("parked", "")


def text_of_item(item: Recorded) -> str:
    body = codec.decode(item)
    assert isinstance(body, MessageReceived)
    return body.text


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


async def test_an_item_that_this_version_cannot_read_parks_its_lane_for_one_that_can(shop: Workshop) -> None:
    mystery = await shop.put(Event(Custom(name="custom.mystery"), "customer", ANN, lane=ANN))
    await shop.say("behind it")
    await shop.say("elsewhere", BEN)
    async with shop.worker(shop.services(), handlers=handler(echo)):
        await shop.seen.until(lambda events: done(events, BEN) == ["elsewhere"])
        await shop.seen.until_type("work.parked")
        assert "custom.mystery" in shop.seen.bodies(WorkParked)[0].error
        assert done(shop.seen.events, ANN) == []
        await give_up(shop)
        await shop.seen.until(lambda events: done(events, ANN) == ["behind it"])
    assert (await shop.log.read_run(ACME, mystery))[-1].type == "reply.failed"


async def test_an_item_that_the_log_no_longer_holds_is_given_up(shop: Workshop) -> None:
    at = await shop.say("trimmed away")
    await shop.say("next")
    await _trim(shop, str(at))
    async with shop.worker(shop.services(), handlers=handler(echo)):
        await shop.seen.until(lambda events: done(events) == ["next"])
    assert shop.seen.bodies(WorkFailed)[0].item == str(at)


async def _trim(shop: Workshop, position: str) -> None:
    await shop.pipe.call("XDEL", keys.of(ACME).log, position)
