"""The loop: order, fences, takeover, and a clean end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from eventstore import keys
from eventstore.append import FINISH, Append, Fenced
from eventstore.durability import PATIENCE_S, barrier_for
from eventstore.errors import StoreUnavailable
from eventstore.events.custom import Custom
from eventstore.lanes import Lanes, Taken
from eventstore.schema import ConversationId, Event
from tests.support.redis_servers import RedisServer, fastest_binary
from tests.support.small_handlers import did, done, echo, handler, text_of
from tests.support.workshop import ACME, ANN, BEN, Workshop, workshop
from workers.handlers import HANDLERS
from workers.work import FRESH_S, Done, Work

LATER = Event(Custom(name="custom.late"), "system:test")


async def test_results_belong_to_the_run_of_their_input(shop: Workshop) -> None:
    run = await shop.say("one")
    async with shop.worker(shop.services(), handlers=handler(echo)):
        event = await shop.seen.until_type("custom.did")
    assert (event.run, event.cause, event.conversation) == (run, run, ANN)


async def test_order_is_kept_per_lane_while_lanes_run_side_by_side(shop: Workshop) -> None:
    """More items than a lane may have in a row, so that it also goes to the back of the queue once."""
    expected = [str(number) for number in range(60)]
    for text in expected:
        await shop.say(text, ANN)
        await shop.say(text, BEN)
    async with (
        shop.worker(shop.services(), handlers=handler(echo)),
        shop.worker(shop.services(), handlers=handler(echo)),
    ):
        await shop.seen.until(lambda events: len(done(events)) >= 120)
    assert done(shop.seen.events, ANN) == expected
    assert done(shop.seen.events, BEN) == expected


async def test_twenty_lanes_are_worked_at_once(shop: Workshop) -> None:
    together = asyncio.Barrier(20)

    async def meet(work: Work) -> Done:
        await together.wait()
        return Done([did(text_of(work))])

    for number in range(20):
        await shop.say("met", ConversationId(f"conv_{number}"))
    async with shop.worker(shop.services(), handlers=handler(meet)):
        await shop.seen.until(lambda events: len(done(events)) == 20)


async def test_no_more_lanes_are_taken_than_there_are_places(shop: Workshop) -> None:
    inside, most = 0, 0

    async def count(work: Work) -> Done:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await work.append(Event(Custom(name="custom.began"), "system:test"))
        inside -= 1
        return Done([did(text_of(work))])

    for number in range(12):
        await shop.say("x", ConversationId(f"conv_{number}"))
    async with shop.worker(shop.services(), handlers=handler(count), places=3):
        await shop.seen.until(lambda events: len(done(events)) == 12)
    assert most <= 3


async def test_a_dead_workers_lane_is_taken_up_by_another(shop: Workshop) -> None:
    attempts: list[int] = []
    hangs = asyncio.Event()

    async def hang(work: Work) -> Done:
        attempts.append(work.attempts)
        await work.append(Event(Custom(name="custom.began"), "system:test"))
        await hangs.wait()
        return Done()

    async def finish(work: Work) -> Done:
        attempts.append(work.attempts)
        return Done([did(text_of(work))])

    await shop.say("one")
    async with shop.worker(shop.services(), handlers=handler(hang)) as first:
        await shop.seen.until_type("custom.began")
        await first.crash()
    async with shop.worker(shop.services(), handlers=handler(finish)):
        await shop.seen.until(lambda events: done(events) == ["one"])
    assert attempts == [1, 2]


async def test_items_that_leave_nothing_end_with_the_next_that_leaves_something(shop: Workshop) -> None:
    """Five items on, the worker dies before it has said anything: what nobody was told of is done again, in order."""
    texts: list[str] = []
    attempts: list[int] = []
    reached, hangs = asyncio.Event(), asyncio.Event()

    async def silent(work: Work) -> Done:
        texts.append(text_of(work))
        attempts.append(work.attempts)
        if len(texts) == 5:
            reached.set()
            await hangs.wait()
        return Done([did(text_of(work))] if text_of(work) in ("4", "7") else ())

    for number in range(8):
        await shop.say(str(number))
    async with shop.worker(shop.services(), handlers=handler(silent), lease_ms=200) as first:
        await reached.wait()
        await first.crash()
    async with shop.worker(shop.services(), handlers=handler(silent), lease_ms=200):
        await shop.seen.until(lambda events: done(events) == ["4", "7"])
    again = texts[5:]
    assert texts[:5] == ["0", "1", "2", "3", "4"]
    assert again == [str(number) for number in range(int(again[0]), 8)]
    assert int(again[0]) >= 1, "the first was ended before others were handed out"
    assert attempts == [1] * 5 + [2] + [1] * (7 - int(again[0]))


def test_every_item_may_count_an_attempt_that_was_anothers() -> None:
    assert all(each.policy.max_attempts > 1 for each in HANDLERS)


@pytest.mark.parametrize("looked_anew_after", ["time", "a fact"])
async def test_who_speaks_is_looked_at_anew_after_an_item_that_took_long_or_wrote(
    shop: Workshop, looked_anew_after: str
) -> None:
    holders: dict[str, str] = {}

    async def look(work: Work) -> Done:
        holders[text_of(work)] = work.holder
        if text_of(work) == "1":
            await shop.take_control(ANN)
            if looked_anew_after == "time":
                await asyncio.sleep(FRESH_S)  # longer than what was handed out with it stays fresh
            else:
                await work.append(LATER)
        return Done([did("3")] if text_of(work) == "3" else ())

    for number in range(4):
        await shop.say(str(number))
    async with shop.worker(shop.services(), handlers=handler(look)):
        await shop.seen.until(lambda events: done(events) == ["3"])
    assert holders == {"0": "", "1": "", "2": "7", "3": "7"}


async def test_a_zombie_that_wakes_up_leaves_no_trace(shop: Workshop) -> None:
    """A worker that lost its lane while it slept: neither its facts nor its deltas nor its end are written."""
    await shop.say("one")
    zombie = shop.lanes(lease_ms=1)
    await zombie.join()
    [bell] = await zombie.wait(shop.pipe, count=1, block_ms=None)
    taken = await zombie.take(ACME, bell.lane, bell.entry)
    assert isinstance(taken, Taken)
    async with shop.worker(shop.services(), handlers=handler(echo)):
        await shop.seen.until(lambda events: done(events) == ["one"])
    before = shop.seen.types
    for held in (taken.held, taken.held._replace(sequence=1)):
        late = await shop.log.append(ACME, Append(events=[LATER], held=held, disposal=FINISH))
        assert isinstance(late, Fenced)
    await shop.seen.read_all()
    assert shop.seen.types == before


async def test_a_worker_whose_lane_was_taken_is_broken_off(shop: Workshop) -> None:
    broken_off = asyncio.Event()

    async def hang(work: Work) -> Done:
        try:
            await work.append(Event(Custom(name="custom.began"), "system:test"))
            await asyncio.Event().wait()
        finally:
            broken_off.set()
        return Done([LATER])

    await shop.say("one")
    async with shop.worker(shop.services(), handlers=handler(hang)):
        await shop.seen.until_type("custom.began")
        thief = Lanes(shop.pipe, "thief", lease_ms=60_000)
        await _steal(shop, thief)
        async with asyncio.timeout(5):
            await broken_off.wait()
    await shop.seen.read_all()
    assert "custom.late" not in shop.seen.types


async def test_work_that_leaves_nothing_is_done_once_and_in_order(shop: Workshop) -> None:
    seen: dict[ConversationId, list[str]] = {}

    async def note(work: Work) -> Done:
        assert work.item.conversation is not None
        seen.setdefault(work.item.conversation, []).append(text_of(work))
        return Done()

    conversations = [ConversationId(f"conv_{number}") for number in range(100)]
    for text in ("one", "two", "three"):
        for conversation in conversations:
            await shop.say(text, conversation)
    async with (
        shop.worker(shop.services(), handlers=handler(note), lease_ms=60_000),
        shop.worker(shop.services(), handlers=handler(note), lease_ms=60_000),
        asyncio.timeout(10),
    ):
        while await shop.pipe.call("HGET", keys.of(ACME).meta, "q") != b"0":  # noqa: ASYNC110 - leaves no event
            await asyncio.sleep(0.01)
    assert seen == {conversation: ["one", "two", "three"] for conversation in conversations}


async def test_who_has_lost_the_lane_finishes_nothing_even_if_it_would_leave_nothing(shop: Workshop) -> None:
    thief, let_go = Lanes(shop.pipe, "thief", lease_ms=60_000), asyncio.Event()

    async def lose(work: Work) -> Done:
        await _steal(shop, thief)
        let_go.set()
        return Done()

    one = await shop.say("one")
    async with shop.worker(shop.services(), handlers=handler(lose)), asyncio.timeout(5):
        await let_go.wait()
    assert await shop.pipe.call("LRANGE", keys.of(ACME).lane(ANN)[1], 0, -1) == [str(one).encode()]


async def test_a_stopping_worker_hands_its_lanes_to_the_next_at_once(shop: Workshop) -> None:
    """Long before a lease of a minute is over, and without counting an attempt."""
    attempts: list[int] = []

    async def hang(work: Work) -> Done:
        await work.append(Event(Custom(name="custom.began"), "system:test"))
        await asyncio.Event().wait()
        return Done()

    async def finish(work: Work) -> Done:
        attempts.append(work.attempts)
        return Done([did(text_of(work))])

    await shop.say("one")
    async with shop.worker(shop.services(), handlers=handler(hang), lease_ms=60_000) as first:
        await shop.seen.until_type("custom.began")
        await first.stop()
    async with shop.worker(shop.services(), handlers=handler(finish)):
        await shop.seen.until(lambda events: done(events) == ["one"])
    assert attempts == [1]


async def test_a_stopping_worker_lets_a_handler_finish(shop: Workshop) -> None:
    gate = asyncio.Event()

    async def slow(work: Work) -> Done:
        await work.append(Event(Custom(name="custom.began"), "system:test"))
        await gate.wait()
        return Done([did(text_of(work))])

    await shop.say("one")
    await shop.say("two")
    async with shop.worker(shop.services(), handlers=handler(slow)) as worker:
        await shop.seen.until_type("custom.began")
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(0)
        gate.set()
        await stopping
    await shop.seen.read_all()
    assert done(shop.seen.events) == ["one"]


async def test_a_stopping_worker_does_not_wait_for_a_replica_that_is_gone(shop: Workshop) -> None:
    async def finish(work: Work) -> Done:
        return Done([did(text_of(work))])

    await shop.say("one")
    shop.log.wait_for(await barrier_for(shop.pipe, "replica", limit_s=PATIENCE_S))
    async with shop.worker(shop.services(), handlers=handler(finish)) as worker:
        await shop.seen.until(lambda events: done(events) == ["one"])
        async with asyncio.timeout(PATIENCE_S / 4):
            await worker.stop()


@pytest.fixture
def fragile_server() -> Iterator[RedisServer]:
    binary = fastest_binary()
    if binary is None:
        pytest.skip("no redis-server on this machine")
    server = RedisServer(binary, appendonly=True).start()
    yield server
    server.stop()


async def test_losing_redis_costs_time_only(fragile_server: RedisServer) -> None:
    async with workshop(fragile_server.url) as shop:
        gate = asyncio.Event()

        async def slow(work: Work) -> Done:
            await work.append(Event(Custom(name="custom.began"), "system:test"))
            await gate.wait()
            return Done([did(text_of(work))])

        await shop.say("one")
        async with shop.worker(shop.services(), handlers=handler(slow)):
            await shop.seen.until_type("custom.began")
            fragile_server.restart()
            gate.set()
            await _persist(lambda: shop.say("two"))
            await _persist(lambda: shop.seen.until(lambda events: done(events) == ["one", "two"]))


async def _persist(attempt: Callable[[], Awaitable[object]]) -> None:
    for _ in range(100):
        try:
            await attempt()
            return
        except StoreUnavailable:
            continue
    raise AssertionError("Redis did not come back")


async def _steal(shop: Workshop, thief: Lanes) -> None:
    """Takes a lane as if its lease had run out."""
    await shop.pipe.call("HSET", keys.of(ACME).lane(ANN)[0], "x", 0)
    assert isinstance(await thief.take(ACME, ANN), Taken)
