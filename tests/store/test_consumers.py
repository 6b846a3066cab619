"""Durable consumers: their position moves by acknowledgement, forwards, and by a reset alone backwards."""

from __future__ import annotations

import asyncio
import random

import pytest

from eventstore import keys
from eventstore.consumers import IDLE_S, Consumer, Consumers, OtherFilter
from eventstore.schema import ORIGIN, OrgId, Position
from tests.support.store import ACME, Store, delta, fact

ALL = ""
REPLIES = '{"types":["reply.*"]}'


@pytest.fixture
def consumers(store: Store) -> Consumers:
    return Consumers(store.pipe)


def is_consumer(answer: object) -> Consumer:
    assert isinstance(answer, Consumer), answer
    return answer


async def written(store: Store, count: int) -> list[Position]:
    return (await store.write(*[fact() for _ in range(count)])).positions


async def test_a_new_consumer_begins_where_it_is_opened_and_a_known_one_where_it_was(
    store: Store, consumers: Consumers
) -> None:
    at = await written(store, 5)
    first = is_consumer(await consumers.open(ACME, "crm", ALL, at[1]))
    assert (first.name, first.filter, first.position, first.lag) == ("crm", "{}", at[1], 3)
    again = is_consumer(await consumers.open(ACME, "crm", ALL, at[4]))
    assert (again.position, again.lag) == (at[1], 3)
    assert again.token > first.token
    assert await consumers.get(OrgId("other"), "crm") is None, "an organization's own"


async def test_an_acknowledgement_moves_forwards_only(store: Store, consumers: Consumers) -> None:
    at = await written(store, 12)
    await consumers.open(ACME, "crm", ALL, ORIGIN)
    for acknowledged, expected in ((3, 3), (2, 3), (10, 10), (9, 10), (11, 11)):
        consumer = is_consumer(await consumers.acknowledge(ACME, "crm", at[acknowledged]))
        assert (consumer.position, consumer.lag) == (at[expected], 11 - expected)
    assert await consumers.acknowledge(ACME, "nobody", at[0]) == "unknown"


async def test_whoever_acknowledges_was_heard_of(store: Store, consumers: Consumers) -> None:
    at = await written(store, 1)
    await consumers.open(ACME, "crm", ALL, ORIGIN)
    await store.pipe.call("HSET", store.keys.consumer("crm"), "at", 0)
    assert is_consumer(await consumers.acknowledge(ACME, "crm", at[0])).seen_ms > 0


async def test_to_return_with_a_position_acknowledges_it(store: Store, consumers: Consumers) -> None:
    at = await written(store, 3)
    await consumers.open(ACME, "crm", ALL, at[0])
    assert is_consumer(await consumers.open(ACME, "crm", ALL, at[2], acknowledges=True)).position == at[2]
    assert is_consumer(await consumers.open(ACME, "crm", ALL, at[1], acknowledges=True)).position == at[2]


async def test_a_delta_can_be_acknowledged(store: Store, consumers: Consumers) -> None:
    [run] = await written(store, 1)
    [token] = (await store.write(delta(run))).positions
    await written(store, 1)
    await consumers.open(ACME, "crm", ALL, ORIGIN)
    consumer = is_consumer(await consumers.acknowledge(ACME, "crm", token))
    assert (consumer.position, consumer.lag) == (token, 1)


async def test_lag_counts_what_was_trimmed_unread_as_gone(store: Store, consumers: Consumers) -> None:
    at = await written(store, 10)
    assert is_consumer(await consumers.open(ACME, "late", ALL, at[1])).lag == 8
    await store.log.trim(ACME, at[6])
    assert is_consumer(await consumers.acknowledge(ACME, "late", at[3])).lag == 4, "what is left to read"
    await store.log.trim(ACME, Position(at[9].ms + 1, 0))
    assert is_consumer(await consumers.acknowledge(ACME, "late", at[9])).lag == 0


async def test_another_filter_is_refused_and_none_is_the_stored_one(store: Store, consumers: Consumers) -> None:
    made = is_consumer(await consumers.open(ACME, "crm", REPLIES, ORIGIN))
    assert await consumers.open(ACME, "crm", '{"deltas":false}', ORIGIN) == OtherFilter(REPLIES)
    assert is_consumer(await consumers.get(ACME, "crm")).token == made.token, "who was refused replaces nobody"
    assert is_consumer(await consumers.open(ACME, "crm", ALL, ORIGIN)).filter == REPLIES


async def test_an_older_connection_acknowledges_no_more(store: Store, consumers: Consumers) -> None:
    at = await written(store, 2)
    older = is_consumer(await consumers.open(ACME, "crm", ALL, ORIGIN))
    newer = is_consumer(await consumers.open(ACME, "crm", ALL, ORIGIN))
    assert await consumers.acknowledge(ACME, "crm", at[1], token=older.token) == "replaced"
    assert is_consumer(await consumers.acknowledge(ACME, "crm", at[0], token=newer.token)).position == at[0]
    assert await consumers.tokens(ACME, ["crm", "nobody"]) == {"crm": newer.token}


async def test_of_two_that_open_at_once_one_is_the_newest(store: Store, consumers: Consumers) -> None:
    opened = await asyncio.gather(*(consumers.open(ACME, "crm", ALL, ORIGIN) for _ in range(8)))
    tokens = [is_consumer(consumer).token for consumer in opened]
    assert len(set(tokens)) == 8
    assert await consumers.tokens(ACME, ["crm"]) == {"crm": max(tokens)}


async def test_a_reset_moves_anywhere_and_ends_the_connection(store: Store, consumers: Consumers) -> None:
    at = await written(store, 4)
    opened = is_consumer(await consumers.open(ACME, "crm", ALL, at[3]))
    reset = is_consumer(await consumers.reset(ACME, "crm", at[0]))
    assert (reset.position, reset.lag) == (at[0], 3)
    assert await consumers.acknowledge(ACME, "crm", at[3], token=opened.token) == "replaced"
    assert await consumers.reset(ACME, "nobody", at[0]) is None


async def test_a_deleted_consumer_is_forgotten_and_its_connection_is_no_more(
    store: Store, consumers: Consumers
) -> None:
    [at] = await written(store, 1)
    old = is_consumer(await consumers.open(ACME, "crm", REPLIES, ORIGIN))
    assert await consumers.delete(ACME, "crm")
    assert not await consumers.delete(ACME, "crm")
    assert await consumers.tokens(ACME, ["crm"]) == {}
    assert await consumers.all(ACME) == []
    new = is_consumer(await consumers.open(ACME, "crm", ALL, at))
    assert (new.filter, new.position) == ("{}", at)
    assert new.token > old.token, "the older connection must not take itself for the new one"


async def test_a_consumer_that_is_idle_expires_and_one_in_use_does_not(store: Store, consumers: Consumers) -> None:
    [at] = await written(store, 1)
    name = keys.of(ACME).consumer("crm")

    async def left_ms() -> int:
        return int(await store.pipe.call("PTTL", name))

    await consumers.open(ACME, "crm", ALL, ORIGIN)
    for use in (
        lambda: consumers.open(ACME, "crm", ALL, ORIGIN),
        lambda: consumers.acknowledge(ACME, "crm", at),
        lambda: consumers.keep(ACME, "crm"),
        lambda: consumers.reset(ACME, "crm", ORIGIN),
    ):
        await store.pipe.call("PEXPIRE", name, 50_000)
        await use()
        assert 50_000 < await left_ms() <= IDLE_S * 1_000


async def test_there_are_so_many_and_an_expired_one_makes_room(store: Store) -> None:
    consumers = Consumers(store.pipe, most=2)
    for name in ("b", "a"):
        await consumers.open(ACME, name, ALL, ORIGIN)
    assert await consumers.open(ACME, "c", ALL, ORIGIN) == "full"
    assert [consumer.name for consumer in await consumers.all(ACME)] == ["a", "b"]
    is_consumer(await consumers.open(ACME, "a", ALL, ORIGIN))
    await store.pipe.call("DEL", keys.of(ACME).consumer("b"))
    is_consumer(await consumers.open(ACME, "c", ALL, ORIGIN))
    assert [consumer.name for consumer in await consumers.all(ACME)] == ["a", "c"]


async def test_a_position_that_the_log_has_lost_holds_nobody_back(store: Store, consumers: Consumers) -> None:
    """A log that came back shorter than its consumers remember it."""
    at = await written(store, 2)
    await consumers.open(ACME, "crm", ALL, Position(at[1].ms + 60_000, 0))
    assert is_consumer(await consumers.acknowledge(ACME, "crm", at[0])).position == at[0]


@pytest.mark.parametrize("seed", range(5))
async def test_a_consumer_that_crashes_at_any_moment_handles_every_fact(
    store: Store, consumers: Consumers, seed: int
) -> None:
    """It handles, then acknowledges (sometimes late, sometimes not, in either way), and crashes in between."""
    dice, handled, written_facts = random.Random(seed), list[Position](), list[Position]()
    consumer, seen = is_consumer(await consumers.open(ACME, "crm", ALL, ORIGIN)), ORIGIN
    for _ in range(60):
        match dice.randrange(6):
            case 0:
                written_facts += await written(store, dice.randrange(1, 6))
            case 1 | 2:
                page = [event.position for event in await store.log.read(ACME, seen, count=dice.randrange(1, 5))]
                handled += page
                seen = page[-1] if page else seen
            case 3:
                acknowledged = dice.choice([*handled, ORIGIN])
                if acknowledged <= seen:
                    await consumers.acknowledge(ACME, "crm", acknowledged, token=consumer.token)
            case 4:  # crashed: all it knows is its name
                before = consumer
                consumer = is_consumer(await consumers.open(ACME, "crm", ALL, store_end(written_facts)))
                assert consumer.position <= max([ORIGIN, *handled])
                assert await consumers.acknowledge(ACME, "crm", seen, token=before.token) == "replaced"
                seen = consumer.position
            case 5:  # lost the connection, and says where it was
                consumer = is_consumer(await consumers.open(ACME, "crm", ALL, seen, acknowledges=True))
        assert set(handled) >= {fact for fact in written_facts if fact <= consumer.position}
    handled += [event.position for event in await store.log.read(ACME, seen)]
    assert set(handled) == set(written_facts)


def store_end(positions: list[Position]) -> Position:
    return positions[-1] if positions else ORIGIN
