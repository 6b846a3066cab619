"""Reading the log: by position, by conversation, by run."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from redis.asyncio import ConnectionPool

from eventstore import codec, keys
from eventstore.append import APPEND, Append, Control, HeldBy
from eventstore.collect import Page, Scope
from eventstore.connection import Pipe
from eventstore.lanes import LANES
from eventstore.log import PAGE, Bounds, Log
from eventstore.schema import ORIGIN, Body, ConversationId, Event, OrgId, Position, Recorded, UnknownEvent
from tests.support.store import ACME, ANN, BEN, Store, delta, fact


def positions(events: list[Recorded]) -> list[Position]:
    return [event.position for event in events]


async def written_positions(store: Store, *events: Event) -> list[Position]:
    return (await store.write(*events)).positions


async def test_reading_after_a_position_gives_what_follows_in_order(store: Store) -> None:
    at = await written_positions(store, *[fact() for _ in range(5)])
    assert positions(await store.log.read(ACME, ORIGIN)) == at
    assert positions(await store.log.read(ACME, at[1])) == at[2:]
    assert positions(await store.log.read(ACME, at[1], count=2)) == at[2:4]
    assert await store.log.read(ACME, at[-1]) == []
    assert await store.log.read(OrgId("nobody"), ORIGIN) == []


async def test_positions_are_compared_as_numbers(store: Store) -> None:
    at = await written_positions(store, *[fact() for _ in range(12)])
    assert positions(await store.log.read(ACME, at[8])) == at[9:]
    assert positions(await store.log.read_conversation(ACME, ANN, at[8])) == at[9:]


async def test_a_conversation_is_read_back_page_by_page(store: Store) -> None:
    await store.write(*[fact(ANN if i % 2 else BEN) for i in range(200)])
    await store.write(*[fact() for _ in range(PAGE)])
    own = positions(await store.log.read_conversation(ACME, ANN))
    assert len(own) == PAGE + 100
    assert positions(await store.log.read_conversation_back(ACME, ANN, None, count=PAGE + 1)) == own[-PAGE - 1 :]
    before, seen = None, list[Position]()
    while page := positions(await store.log.read_conversation_back(ACME, ANN, before, count=170)):
        assert len(page) <= 170
        seen, before = page + seen, page[0]
    assert seen == own


async def test_a_page_that_cut_one_stream_does_not_run_ahead_of_it(store: Store) -> None:
    run = (await store.write(fact())).positions[0]
    mixed = await written_positions(store, *[delta(run, 0), delta(run, 1), fact(run=run)] * 20)
    everything = [run, *mixed]
    for count in (1, 2, 3, 7, 19, 20, 21, 39, 40, 41, 500):
        seen: list[Position] = []
        while page := await store.log.read(ACME, seen[-1] if seen else ORIGIN, count=count):
            seen += positions(page)
        assert seen == everything, count


async def test_deltas_can_be_left_out(store: Store) -> None:
    run = (await store.write(fact())).positions[0]
    last = (await store.write(delta(run), fact())).positions[-1]
    assert positions(await store.log.read(ACME, ORIGIN, deltas=False)) == [run, last]


async def test_reading_back_gives_the_last_facts_oldest_first(store: Store) -> None:
    at = await written_positions(store, *[fact() for _ in range(5)])
    assert positions(await store.log.read_back(ACME, None, count=2)) == at[3:]
    assert positions(await store.log.read_back(ACME, at[3], count=2)) == at[1:3]
    assert await store.log.read_back(ACME, at[0]) == []


async def test_a_fact_is_found_at_its_exact_position_only(store: Store) -> None:
    run, other = await written_positions(store, fact(text="one"), fact(text="two"))
    token = (await store.write(delta(run))).positions[0]
    found = await store.log.at(ACME, other)
    assert found is not None
    assert found.data == b'{"text":"two"}'
    assert await store.log.at(ACME, token) is None
    assert await store.log.at(ACME, Position(other.ms, 99)) is None
    assert (await store.log.look_at(ACME, token))[1] == "delta"
    assert (await store.log.look_at(ACME, run))[1] == "fact"
    assert (await store.log.look_at(ACME, Position(other.ms, 99)))[1] is None


async def test_a_page_that_comes_with_a_look_is_complete_up_to_the_clock_or_its_cut(store: Store) -> None:
    run = (await store.write(fact())).positions[0]
    token, last = await written_positions(store, delta(run), fact(run=run))
    await store.write(fact(BEN))
    scope = Scope(ACME, "c", ANN, True)
    for position in (ORIGIN, run, token, last, Position(last.ms, 99)):
        bounds, kind, page = await store.log.look_ahead(scope, position)
        seen = await store.log.look_at(ACME, position)
        assert (bounds, kind) == (seen if seen[1] != "fact" else (None, "fact"))
        assert page == Page((await store.log.page_of(scope, position)).events, seen[0].clock)
    many = await written_positions(store, *[fact() for _ in range(PAGE + 1)])
    assert (await store.log.look_ahead(scope, last))[2].cut == many[PAGE - 1]


async def test_a_log_without_a_clock_ends_at_its_last_fact(store: Store) -> None:
    store.broken_on_purpose = True
    last = (await written_positions(store, fact(), fact()))[-1]
    await store.pipe.call("HDEL", store.keys.meta, "ms", "sq")
    seen = await store.log.look_at(ACME, last)
    assert (seen[0].clock, seen[1]) == (last, "fact")
    assert await store.log.look_ahead(Scope(ACME, "c", ANN), last) == (*seen, Page([], last))


async def test_a_conversation_reads_its_own_facts_after_a_position(store: Store) -> None:
    at = await written_positions(store, fact(ANN), fact(BEN), fact(None), fact(ANN), fact(BEN), fact(ANN))
    assert positions(await store.log.read_conversation(ACME, ANN)) == [at[0], at[3], at[5]]
    assert positions(await store.log.read_conversation(ACME, ANN, at[2])) == [at[3], at[5]]
    assert positions(await store.log.read_conversation(ACME, ANN, at[3])) == [at[5]]
    assert await store.log.read_conversation(ACME, ANN, at[5]) == []
    assert await store.log.read_conversation(ACME, ConversationId("conv_none")) == []


async def test_a_long_conversation_is_resumed_from_anywhere(store: Store) -> None:
    at = [p for _ in range(4) for p in await written_positions(store, *[fact() for _ in range(100)])]
    for seen in (0, 1, 62, 63, 64, 65, 190, 191, 192, 193, 335, 336, 337, 398, 399):
        assert positions(await store.log.read_conversation(ACME, ANN, at[seen])) == at[seen + 1 :], seen


async def answered(store: Store, rounds: int, seed: int) -> list[Position]:
    """Two conversations whose runs are answered one after the other, while more is asked than answered."""
    dice, waiting = random.Random(seed), {ANN: list[Position](), BEN: list[Position]()}
    for _ in range(rounds):
        conversation = dice.choice((ANN, BEN))
        asked = await store.write(*[fact(conversation) for _ in range(dice.randrange(1, 4))])
        waiting[conversation] += asked.positions
        if dice.random() < 0.6:
            run, other = waiting[conversation].pop(0), BEN if conversation == ANN else ANN
            await store.write(fact(conversation, run=run))
            for index in range(dice.randrange(8)):
                await store.write(delta(run, index, conversation=conversation))
                if dice.random() < 0.3:
                    waiting[conversation] += (await store.write(fact(conversation), fact(other, run=run))).positions
            await store.write(fact(conversation, run=run))
    return waiting[ANN]


async def paged(log: Log, scope: Scope, after: Position, count: int) -> list[Position]:
    seen = list[Position]()
    while True:
        events, cut = await log.page_of(scope, after, count=count)
        assert len(events) <= count
        seen += positions(events)
        if cut is None:
            return seen
        assert cut > after
        after = cut


@pytest.mark.parametrize("seed", range(3))
async def test_pages_of_an_index_hold_what_the_whole_log_holds_of_it(store: Store, seed: int) -> None:
    await answered(store, 20, seed)
    whole = await store.log.read(ACME, ORIGIN, count=5_000)
    dice = random.Random(seed)
    for conversation in (ANN, BEN):
        own = [event for event in whole if event.conversation == conversation]
        for count in (1, 2, 3, 7, 50):
            after = dice.choice(own).position
            for deltas in (True, False):
                scope = Scope(ACME, "c", conversation, deltas)
                wanted = [e.position for e in own if e.position > after and (deltas or e.is_fact)]
                assert await paged(store.log, scope, after, count) == wanted, (count, after)
    for run in {event.run for event in whole}:
        after = dice.choice(whole).position
        wanted = [event.position for event in whole if event.run == run and event.position > after]
        assert await paged(store.log, Scope(ACME, "r", str(run), True), after, 3) == wanted


@pytest.mark.parametrize("others", [(), (3, 4, 5, 70, 71), range(0, 140, 2)])
async def test_a_long_answer_is_read_whole_whatever_lies_between_its_tokens(
    store: Store, others: Sequence[int]
) -> None:
    own, other = await written_positions(store, fact(ANN), fact(BEN))
    for index in range(140):
        if index in others:
            await store.write(*[delta(other, index, conversation=BEN)] * 3)
        await store.write(delta(own, index))
    await store.write(fact(ANN, run=own))
    whole = await store.log.read(ACME, ORIGIN, count=2_000)
    wanted = [event.position for event in whole if event.conversation == ANN]
    for count in (64, 500):
        assert await paged(store.log, Scope(ACME, "c", ANN, True), ORIGIN, count) == wanted
    await store.pipe.call("XTRIM", store.keys.tok, "MINID", str(wanted[100]))
    assert await paged(store.log, Scope(ACME, "c", ANN, True), ORIGIN, 500) == [own, *wanted[100:]]
    assert await paged(store.log, Scope(ACME, "c", ANN, True), wanted[99], 500) == wanted[100:]
    assert await paged(store.log, Scope(ACME, "c", ANN, True), wanted[100], 500) == wanted[101:]


async def test_deltas_that_an_older_version_has_listed_by_their_ids_are_read(store: Store) -> None:
    store.broken_on_purpose = True
    run = (await store.write(fact())).positions[0]
    for index in range(6):
        await store.write(delta(run, index))
    listed = await store.pipe.call("LRANGE", store.keys.run_deltas(run), 0, -1)
    for older in range(6):
        await store.pipe.call("LSET", store.keys.run_deltas(run), older, listed[older].partition(b"\0")[0])
    await store.write(delta(run, 6), delta(run, 7), fact(run=run))
    whole = await store.log.read(ACME, ORIGIN)
    for at, seen in enumerate(whole):
        for scope in (Scope(ACME, "c", ANN, True), Scope(ACME, "r", str(run), True)):
            assert (await store.log.page_of(scope, seen.position)).events == whole[at + 1 :]


async def test_pages_go_on_behind_what_was_trimmed(store: Store) -> None:
    at = await written_positions(store, *[fact() for _ in range(20)])
    await store.log.trim(ACME, at[15])
    assert await paged(store.log, Scope(ACME, "c", ANN), ORIGIN, 4) == at[15:]
    assert positions(await store.log.read_conversation_back(ACME, ANN, at[17], count=9)) == at[15:17]


class AppendingPipe(Pipe):
    """Somebody else appends whenever a page of an index has been read, for a while."""

    writer: Log
    times = 20

    async def run(self, *arguments: Any, **named: Any) -> Any:
        reply = await super().run(*arguments, **named)
        if self.times:
            self.times -= 1
            await self.writer.append(ACME, Append(events=[fact()] * 200))
        return reply


async def test_a_conversation_that_grows_while_it_is_read_shows_nothing_twice(
    store: Store, backend: Callable[[], ConnectionPool]
) -> None:
    at = await written_positions(store, *[fact() for _ in range(300)])
    pipe = AppendingPipe(backend(), (APPEND, LANES))
    pipe.writer = store.log
    seen = positions(await Log(pipe).read_conversation(ACME, ANN, at[9]))
    await pipe.close()
    assert seen == sorted(set(seen))
    assert seen[: 300 - 10] == at[10:]


async def test_a_run_reads_its_input_facts_and_deltas_in_order(store: Store) -> None:
    run, other = await written_positions(store, fact(), fact())
    await store.write(delta(other))
    at = await written_positions(store, delta(run, 0), fact(run=run), delta(run, 1), fact(BEN, run=run))
    await store.write(fact(run=other))
    assert positions(await store.log.read_run(ACME, run)) == [run, *at]
    assert positions(await store.log.read_run(ACME, run, at[0])) == at[1:]
    assert positions(await store.log.read_run(ACME, run, deltas=False)) == [run, at[1], at[3]]
    assert await store.log.read_run(ACME, run, at[3]) == []
    assert await store.log.run_length(ACME, run) == 2
    assert await store.log.run_length(ACME, Position(1, 1)) == 0


async def test_a_run_whose_deltas_expired_still_has_its_facts(store: Store) -> None:
    run = (await store.write(fact())).positions[0]
    at = await written_positions(store, delta(run), fact(run=run))
    await store.pipe.call("XTRIM", store.keys.tok, "MAXLEN", 0)
    assert positions(await store.log.read_run(ACME, run)) == [run, at[1]]


async def test_bounds_of_an_empty_log(store: Store) -> None:
    assert await store.log.bounds(ACME) == Bounds(None, None, ORIGIN, None)


async def test_bounds_name_first_and_last_fact_and_the_clock(store: Store) -> None:
    first, last = await written_positions(store, fact(), fact())
    token = (await store.write(delta(first))).positions[0]
    assert await store.log.bounds(ACME) == Bounds(first, last, token, 1)


async def test_a_trimmed_log_begins_later_and_keeps_its_numbers(store: Store) -> None:
    at = await written_positions(store, *[fact() for _ in range(5)])
    assert await store.log.trim(ACME, at[2]) == 2
    assert await store.log.trim(ACME, at[1]) == 0
    assert await store.log.bounds(ACME) == Bounds(at[2], at[4], at[4], 3, at[1])
    assert positions(await store.log.read_conversation(ACME, ANN)) == at[2:]
    assert (await store.write(fact())).first_number == 6


async def test_who_holds_an_unknown_conversation_is_nobody(store: Store) -> None:
    assert await store.log.control(ACME, ANN) == HeldBy("", 0)
    assert await store.log.version(ACME, ANN) == 0
    assert await store.log.address(ACME, ANN) is None
    await store.write(conversation=ANN, control=Control("take", "7"))
    assert await store.log.version(ACME, ANN) == 0


class FutureHappened(Body, frozen=True, kw_only=True, tag="future.happened"):
    """A type that only a newer version of the product knows."""

    known: int
    nested: dict[str, Any]


async def test_an_event_of_an_unknown_type_survives(store: Store) -> None:
    nested = {"list": [1, "ü", None]}
    await store.write(Event(FutureHappened(known=1, nested=nested), "system:future", ANN, lane="l"))
    event = (await store.log.read_conversation(ACME, ANN))[0]
    assert codec.decode(event) == UnknownEvent("future.happened", {"known": 1, "nested": nested})
    assert (event.type, event.data) == ("future.happened", '{"known":1,"nested":{"list":[1,"ü",null]}}'.encode())


async def test_an_entry_with_missing_and_extra_fields_is_read_with_what_it_has(store: Store) -> None:
    store.broken_on_purpose = True
    await store.pipe.call("XADD", keys.of(ACME).log, "5-1", "t", "future.happened", "zz", "unheard of")
    event = (await store.log.read(ACME, ORIGIN))[0]
    assert (event.position, event.type, event.run) == (Position(5, 1), "future.happened", Position(5, 1))
    assert (event.number, event.version, event.conversation, event.data) == (None, None, None, b"{}")
    assert codec.decode(event) == UnknownEvent("future.happened", {})


async def test_a_stored_event_with_fields_of_a_newer_version_is_read_and_keeps_them(store: Store) -> None:
    store.broken_on_purpose = True
    data = b'{"tool":"search","new_field":[1,2]}'
    await store.pipe.call("XADD", keys.of(ACME).log, "5-1", "t", "tool.started", "n", "1", "d", data)
    event = (await store.log.read(ACME, ORIGIN))[0]
    assert event.data == data
    decoded = codec.decode(event)
    assert decoded.type == "tool.started"
    assert not isinstance(decoded, UnknownEvent)
