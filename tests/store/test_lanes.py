"""Lanes: work in order, one worker at a time, nothing lost and nothing done twice.

Every test takes only `store`, so that `test_mutants.py` can run it against a damaged script.
"""

from __future__ import annotations

import asyncio

from eventstore.append import (
    FINISH,
    Append,
    Appended,
    Control,
    Disposal,
    Duplicate,
    Fenced,
    Held,
    NextItem,
    Outcome,
)
from eventstore.errors import CommandFailed
from eventstore.keys import SHARDS, shard_of
from eventstore.lanes import (
    LEASE_MS,
    MAX_TOGETHER,
    Busy,
    Doorbell,
    Lanes,
    Lost,
    NothingToTake,
    Parked,
    Renewed,
    Taken,
    in_calls,
)
from eventstore.log import Log
from eventstore.schema import Event, OrgId, Position
from tests.support.store import ACME, ANN, BEN, Store, delta, fact, taken, written

NEIGHBOUR = next(OrgId(f"org-{n}") for n in range(10_000) if shard_of(OrgId(f"org-{n}")) == shard_of(ACME))
"""An organization of the same shard."""


async def take(store: Store, lane: str = "l", owner: str = "worker-1", doorbell: str = "") -> Taken:
    return taken(await store.lanes(owner).take(ACME, lane, doorbell))


async def ring(store: Store, owner: str = "worker-1") -> Doorbell:
    """The one doorbell that is ringing now."""
    lanes = store.lanes(owner)
    await lanes.join()
    [bell] = await lanes.wait(store.pipe, count=10, block_ms=None)
    return bell


async def silent(store: Store, owner: str = "worker-1") -> bool:
    lanes = store.lanes(owner)
    await lanes.join()
    return not await lanes.wait(store.pipe, count=10, block_ms=None)


def next_item(outcome: Outcome) -> NextItem:
    item = written(outcome).next_item
    assert item is not None
    return item


async def finish(store: Store, lane: Taken, *events: Event) -> Outcome:
    return await store.append(*events, held=lane.held, disposal=FINISH)


async def is_gone(store: Store, lane: str) -> None:
    record, queue = store.keys.lane(lane)
    state = await store.state()
    assert record not in state
    assert queue not in state
    assert state[store.keys.work] == []
    assert state[store.keys.work + " pending"] == []


# Doorbells


async def test_a_doorbell_rings_when_a_lane_wakes_and_not_while_it_has_work(store: Store) -> None:
    await store.write(fact(lane="l"))
    assert await store.doorbells() == ["l"]
    await store.write(fact(lane="l"), fact(lane="l"))
    assert await store.doorbells() == ["l"]
    lane = await take(store)
    await store.write(fact(lane="l"))
    assert await store.doorbells() == ["l"]
    for _ in range(3):
        item = next_item(await finish(store, lane))
        lane = lane._replace(held=lane.held._replace(head=item.position))
    await finish(store, lane)
    assert await store.doorbells() == []
    await store.write(fact(lane="l"))
    assert await store.doorbells() == ["l"]


async def test_a_lane_is_not_its_conversation(store: Store) -> None:
    await store.write(fact(ANN, lane="a"), fact(ANN, lane="b"), fact(ANN), fact(None, lane="c"), fact(BEN, lane="a"))
    assert await store.doorbells() == ["a", "b", "c"]
    assert [len(await store.queue(lane)) for lane in "abc"] == [2, 1, 1]


async def test_a_doorbell_reaches_one_worker_even_if_it_rang_before_the_group_existed(store: Store) -> None:
    await store.write(fact(lane="l"))
    bell = await ring(store, "worker-1")
    assert (bell.org, bell.lane) == (ACME, "l")
    assert await silent(store, "worker-2")
    await store.lanes().join()
    assert await silent(store, "worker-1"), "joining again must not start over"


async def test_a_batch_may_fill_the_lane_that_is_held(store: Store) -> None:
    await store.write(fact(lane="l"))
    lane = await take(store)
    await store.write(fact(lane="l"), fact(lane="other"), held=lane.held)
    assert await store.doorbells() == ["l", "other"]
    item = next_item(await finish(store, lane))
    assert [item.position] == await store.queue("l")


async def test_an_answered_old_doorbell_is_silenced_and_takes_nothing(store: Store) -> None:
    await store.write(fact(lane="l"))
    old = await ring(store)
    lane = await take(store, doorbell=old.entry)
    written(await store.end(lane.held, "release"))
    assert await store.doorbells() == ["l"], "handing back rings anew"
    assert await store.lanes("worker-2").take(ACME, "l", old.entry) == NothingToTake("stale")
    assert await store.doorbells() == ["l"]
    new = await ring(store, "worker-2")
    await take(store, owner="worker-2", doorbell=new.entry)


async def test_a_doorbell_of_a_finished_lane_is_silenced(store: Store) -> None:
    await store.write(fact(lane="l"))
    bell = await ring(store)
    await finish(store, await take(store))
    assert await store.lanes().take(ACME, "l", bell.entry) == NothingToTake("empty")
    assert await store.lanes().take(ACME, "l") == NothingToTake("empty")
    assert await store.doorbells() == []


async def test_a_lost_doorbell_is_replaced_by_taking_the_lane(store: Store) -> None:
    await store.write(fact(lane="l"))
    await store.pipe.call("DEL", store.keys.lane("l")[0])
    bell = await ring(store)
    lane = await take(store, doorbell=bell.entry)
    assert await store.doorbells() == ["l"]
    await finish(store, lane)
    assert await store.doorbells() == []


async def test_a_busy_shard_gives_what_the_others_leave(store: Store) -> None:
    here = shard_of(ACME)
    there = (here + 1) % SHARDS
    elsewhere = next(OrgId(f"org-{n}") for n in range(10_000) if shard_of(OrgId(f"org-{n}")) == there)
    await store.write(*[fact(lane=str(number)) for number in range(12)])
    await store.log.append(elsewhere, Append(events=[fact(lane="l")]))
    lanes = Lanes(store.pipe, "worker-1", shards=[(here + offset) % SHARDS for offset in range(4)], now_ms=store.clock)
    await lanes.join()
    found = [bell.org for bell in await lanes.wait(store.pipe, count=8, block_ms=None)]
    assert (found.count(ACME), found.count(elsewhere)) == (7, 1)
    assert [bell.lane for bell in await lanes.wait(store.pipe, count=8, block_ms=None)] == ["7", "8", "9", "10", "11"]


# Taking and finishing


async def test_taking_gives_the_oldest_item_and_who_speaks_in_its_conversation(store: Store) -> None:
    appended = await store.write(fact(ANN, text="one", lane="l"), fact(ANN, text="two", lane="l"))
    await store.write(conversation=ANN, control=Control("take", "7"))
    lane = await take(store)
    assert lane.position == lane.held.head == appended.positions[0]
    assert (lane.attempts, lane.epoch, lane.holder) == (1, 1, "7")
    assert lane.event is not None
    assert (lane.event.data, lane.event.number, lane.event.conversation) == (b'{"text":"one"}', 1, ANN)


async def test_an_item_without_conversation_has_no_holder(store: Store) -> None:
    await store.write(fact(None, lane="l"))
    lane = await take(store)
    assert (lane.epoch, lane.holder) == (0, "")


async def test_results_acknowledgement_and_next_item_are_one_step(store: Store) -> None:
    await store.write(fact(ANN, text="one", lane="l"), fact(BEN, text="two", lane="l"), conversation=ANN)
    await store.write(conversation=BEN, control=Control("take", "7"))
    lane = await take(store)
    outcome = written(await finish(store, lane, fact(ANN, text="answer")))
    item = next_item(outcome)
    assert outcome.versions == [2]
    assert await store.queue("l") == [item.position]
    assert (item.epoch, item.holder) == (1, "7")
    assert item.event is not None
    assert (item.event.data, item.event.conversation) == (b'{"text":"two"}', BEN)
    assert item.event.position == item.position
    last = await store.append(held=lane.held._replace(head=item.position), disposal=FINISH)
    assert isinstance(last, Appended)
    assert last.next_item is None


async def test_a_finished_lane_leaves_no_keys(store: Store) -> None:
    await store.write(fact(lane="l"))
    await ring(store)
    await finish(store, await take(store))
    await is_gone(store, "l")


async def test_what_a_handler_puts_on_its_own_lane_comes_next(store: Store) -> None:
    await store.write(fact(lane="l"))
    lane = await take(store)
    outcome = written(await finish(store, lane, fact(text="follow-up", lane="l")))
    assert next_item(outcome).position == outcome.positions[0]


async def test_items_are_handled_in_the_order_of_the_log(store: Store) -> None:
    appended = await store.write(*[fact(text=str(index), lane="l") for index in range(5)])
    lane = await take(store)
    seen = [lane.position]
    while (item := written(await finish(store, lane)).next_item) is not None:
        lane = lane._replace(held=lane.held._replace(head=item.position))
        seen.append(item.position)
    assert seen == appended.positions


async def test_an_item_the_log_no_longer_holds_can_still_be_finished(store: Store) -> None:
    await store.write(fact(lane="l"), fact(lane="l"))
    await store.pipe.call("XTRIM", store.keys.log, "MAXLEN", 0)
    lane = await take(store)
    assert lane.event is None
    assert next_item(await finish(store, lane)).event is None


# Finishing what leaves nothing


async def test_an_item_that_leaves_nothing_ends_in_one_step_with_the_next(store: Store) -> None:
    await store.write(fact(ANN, text="one", lane="l"), fact(BEN, text="two", lane="l"))
    await store.write(conversation=BEN, control=Control("take", "7"))
    lane = await take(store)
    await store.write(delta(lane.position), held=lane.held._replace(sequence=5))
    store.clock.advance(LEASE_MS - 1)
    item = await store.lanes().finish(ACME, lane.held)
    assert isinstance(item, NextItem)
    assert await store.queue("l") == [item.position]
    assert (item.epoch, item.holder) == (1, "7")
    assert item.event is not None
    assert (item.event.data, item.event.position) == (b'{"text":"two"}', item.position)
    assert await store.lanes("worker-2").take(ACME, "l") == Busy("worker-1", LEASE_MS)
    held = lane.held._replace(head=item.position)
    assert isinstance(await store.append(delta(item.position), held=held._replace(sequence=1)), Appended)
    store.clock.advance(LEASE_MS)
    assert (await take(store, owner="worker-2")).attempts == 2


async def test_a_lane_whose_last_item_leaves_nothing_leaves_no_keys(store: Store) -> None:
    await store.write(fact(lane="l"))
    bell = await ring(store)
    assert await store.lanes().finish(ACME, (await take(store, doorbell=bell.entry)).held) is None
    await is_gone(store, "l")


async def test_nothing_is_finished_without_the_lane_and_its_item(store: Store) -> None:
    await store.write(*[fact(lane="l")] * 6)
    zombie = (await take(store)).held
    store.clock.advance(LEASE_MS)
    held = (await take(store, owner="worker-2")).held
    later = held._replace(head=(await store.queue("l"))[4])  # never handed out
    before = await store.state()
    assert await store.lanes().finish(ACME, zombie) == Fenced("lane", "worker-2")
    assert await store.lanes().finish(ACME, held) == Fenced("lane", "worker-2")
    assert await store.lanes("worker-2").finish(ACME, zombie) == Fenced("lane", "worker-2")
    assert await store.lanes("worker-2").finish(ACME, later) == Fenced("head", str(later.head))
    assert await store.append(fact(), held=later) == Fenced("head", str(later.head))
    assert await store.state() == before
    assert isinstance(await store.lanes("worker-2").finish(ACME, held), NextItem)
    assert await store.lanes("worker-2").finish(ACME, held) == Fenced("head", str(held.head))


async def test_an_item_the_log_no_longer_holds_is_handed_on_as_such(store: Store) -> None:
    lost = (await store.write(fact(lane="l"), fact(lane="l"), fact(lane="l"))).positions[1]
    lane = await take(store)
    await store.pipe.call("XDEL", store.keys.log, str(lost))
    store.broken_on_purpose = True
    item = await store.lanes().finish(ACME, lane.held)
    assert isinstance(item, NextItem)
    assert (item.position, item.event) == (lost, None)


# Items that leave nothing, several at once


def positions_of(item: NextItem | Fenced | None) -> list[Position]:
    """Of the items that were handed out together."""
    if item is None:
        return []
    assert isinstance(item, NextItem)
    assert item.event is None or item.event.position == item.position
    return [item.position, *positions_of(item.following)]


async def handed_out(store: Store, items: int = 10) -> tuple[Held, list[Position]]:
    """A held lane with items whose first has been ended, and those that were handed out then."""
    await store.write(*[fact(lane="l")] * items)
    held = (await take(store)).held
    upcoming = positions_of(await store.lanes().finish(ACME, held))
    return held, upcoming


async def test_a_few_items_are_handed_out_together(store: Store) -> None:
    _, upcoming = await handed_out(store)
    assert upcoming == (await store.queue("l"))[:4]


async def test_whoever_ends_an_item_has_ended_those_before_it(store: Store) -> None:
    held, upcoming = await handed_out(store)
    again = positions_of(await store.lanes().finish(ACME, held._replace(head=upcoming[2])))
    assert again[0] == upcoming[3]
    assert again == (await store.queue("l"))[:4]
    assert await store.lanes().finish(ACME, held._replace(head=upcoming[1])) == Fenced("head", str(upcoming[1]))
    last = positions_of(await store.lanes().finish(ACME, held._replace(head=again[3])))
    assert last == await store.queue("l")
    assert await store.lanes().finish(ACME, held._replace(head=last[-1])) is None


async def test_whoever_appends_for_an_item_has_ended_those_before_it(store: Store) -> None:
    held, upcoming = await handed_out(store)
    first, second = held._replace(head=upcoming[0], sequence=1), held._replace(head=upcoming[2], sequence=1)
    await store.write(delta(upcoming[0]), held=first)
    await store.write(delta(upcoming[2]), held=second)
    assert (await store.queue("l"))[0] == upcoming[2]
    assert isinstance(await store.append(delta(upcoming[2]), held=second), Duplicate)
    assert await store.append(delta(upcoming[0], 2), held=first) == Fenced("head", str(upcoming[0]))


async def test_the_last_item_that_was_handed_out_can_be_appended_for(store: Store) -> None:
    held, upcoming = await handed_out(store)
    await store.write(fact(), held=held._replace(head=upcoming[-1]))
    assert (await store.queue("l"))[0] == upcoming[-1]


async def test_going_on_with_a_later_item_forgets_the_deltas_of_the_one_before(store: Store) -> None:
    held, upcoming = await handed_out(store)
    await store.write(delta(upcoming[0]), held=held._replace(head=upcoming[0], sequence=5))
    await store.write(fact(), held=held._replace(head=upcoming[1]))
    await store.write(delta(upcoming[1]), held=held._replace(head=upcoming[1], sequence=1))


async def test_a_lane_is_handed_back_from_the_item_that_was_not_begun(store: Store) -> None:
    held, upcoming = await handed_out(store)
    await store.end(held._replace(head=upcoming[1]), "release")
    again = await take(store)
    assert (again.position, again.attempts) == (upcoming[1], 1)


async def test_what_is_refused_ends_nothing(store: Store) -> None:
    held, upcoming = await handed_out(store)
    before = await store.state()
    assert isinstance(await store.append(fact(ANN), held=held._replace(head=upcoming[1]), epoch=7), Fenced)
    assert await store.state() == before


async def test_large_items_are_handed_out_one_by_one(store: Store) -> None:
    await store.write(*[fact(text="x" * 40_000, lane="l")] * 3)
    item = await store.lanes().finish(ACME, (await take(store)).held)
    assert len(positions_of(item)) == 1


async def test_an_item_of_any_size_is_handed_out(store: Store) -> None:
    await store.write(fact(lane="l"), fact(text="x" * 100_000, lane="l"))
    item = await store.lanes().finish(ACME, (await take(store)).held)
    assert positions_of(item) == await store.queue("l")


async def test_renewing_tells_who_speaks_where_the_item_in_hand_belongs(store: Store) -> None:
    await store.write(*[fact(conversation, lane="l") for conversation in (ANN, ANN, BEN)])
    held = (await take(store)).held
    upcoming = positions_of(await store.lanes().finish(ACME, held))
    await store.write(fact(BEN), control=Control("take", "7"))
    assert await store.lanes().renew(ACME, held._replace(head=upcoming[0])) == Renewed(0, "")
    assert await store.lanes().renew(ACME, held._replace(head=upcoming[1])) == Renewed(1, "7")


# Many lanes at once


async def test_lanes_of_one_tick_are_each_taken_and_finished_by_themselves(store: Store) -> None:
    """Of two organizations of one shard, and more than go into one call."""
    names = [str(number) for number in range(MAX_TOGETHER + 6)]
    await store.write(*[fact(text=name, lane=name) for name in names], *[fact(lane="0")] * 2)
    for name in names:
        await store.log.append(NEIGHBOUR, Append(events=[fact(text=name, lane=name)]))
    lanes = store.lanes()
    await lanes.join()
    bells = {bell[:2]: bell.entry for bell in await lanes.wait(store.pipe, count=1_000, block_ms=None)}
    asked = [(org, name) for name in names for org in (ACME, NEIGHBOUR)]
    found = [taken(reply) for reply in await asyncio.gather(*(lanes.take(*each, bells[each]) for each in asked))]
    assert [lane.event.data.decode() for lane in found if lane.event] == [f'{{"text":"{name}"}}' for _, name in asked]
    for org in (ACME, NEIGHBOUR):
        tokens = [int(lane.held.token) for lane, (of, _) in zip(found, asked, strict=True) if of == org]
        assert tokens == sorted(set(tokens))
    helds = [lane.held for lane in found]
    helds[2] = helds[2]._replace(token="0")
    ended = await asyncio.gather(*(lanes.finish(org, held) for (org, _), held in zip(asked, helds, strict=True)))
    assert isinstance(ended[0], NextItem)
    assert ended[1:4] == [None, Fenced("lane", "worker-1"), None]
    assert set(ended[4:]) == {None}
    left = await lanes.finish(ACME, found[2].held), await lanes.take(NEIGHBOUR, "0")
    assert left == (None, NothingToTake("empty"))
    assert await store.doorbells() == ["0"]
    assert len((await store.state())[store.keys.work + " pending"]) == 1


async def test_tokens_of_one_call_are_new_when_the_counter_was_lost(store: Store) -> None:
    await store.write(*[fact(lane=name) for name in "abc"])
    lanes = store.lanes()
    tokens = []
    for _ in range(3):
        found = await asyncio.gather(*(lanes.take(ACME, name) for name in "abc"))
        tokens += [int(taken(lane).held.token) for lane in found]
        store.clock.advance(1)
        await store.pipe.call("HDEL", store.keys.meta, "tk")
    assert tokens == sorted(set(tokens))


async def test_lanes_of_one_call_get_their_own_items_wherever_these_stand(store: Store) -> None:
    """Beside each other, one before the other, apart from each other, and no longer there."""
    names = [str(number) for number in range(MAX_TOGETHER)]
    for name in names[:20]:
        await store.write(fact(BEN, text=name, lane=name))
    for name in names[20:]:
        await store.write(fact(text=name, lane=name), fact(), fact())
    await store.write(conversation=ANN, control=Control("take", "7"))
    await store.pipe.call("XDEL", store.keys.log, str((await store.queue("5"))[0]))
    store.broken_on_purpose = True
    asked = [*names[:10], *reversed(names[10:20]), *names[20:]]
    [bells] = in_calls(Doorbell(ACME, name, "") for name in asked)
    lanes = store.lanes()
    found = [taken(lanes.outcome(*each)) for each in zip(bells, await lanes.take_all(bells), strict=True)]
    texts = [lane.event and lane.event.data.decode() for lane in found]
    assert texts == [f'{{"text":"{name}"}}' if name != "5" else None for name in asked]
    assert [lane.holder for lane in found] == [""] * 20 + ["7"] * (MAX_TOGETHER - 20)


async def test_a_call_is_about_one_shard_and_not_too_many_lanes(store: Store) -> None:
    elsewhere = next(OrgId(f"org-{n}") for n in range(100) if shard_of(OrgId(f"org-{n}")) != shard_of(ACME))
    orgs = [ACME] * MAX_TOGETHER + [NEIGHBOUR, elsewhere]
    calls = list(in_calls(Doorbell(org, "l", "") for org in orgs))
    assert [len(call) for call in calls] == [MAX_TOGETHER, 1, 1]


async def test_who_is_cancelled_while_asking_takes_no_other_lane_along_for_good(store: Store) -> None:
    await store.write(fact(lane="a"), fact(lane="b"), fact(lane="c"))
    lanes = store.lanes()
    first, second = (asyncio.create_task(lanes.take(ACME, name)) for name in "ab")
    await asyncio.sleep(0)
    first.cancel()
    third = asyncio.create_task(lanes.take(ACME, "c"))
    replies = await asyncio.gather(first, second, third, return_exceptions=True)
    assert [type(reply) for reply in replies] == [asyncio.CancelledError, Taken, Taken]


async def test_who_has_joined_a_call_may_be_cancelled(store: Store) -> None:
    await store.write(fact(lane="a"), fact(lane="b"), fact(lane="c"))
    lanes = store.lanes()
    asking = [asyncio.create_task(lanes.take(ACME, name)) for name in "abc"]
    await asyncio.sleep(0)
    asking[1].cancel()
    replies = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(reply) for reply in replies] == [Taken, asyncio.CancelledError, Taken]


async def test_a_call_that_fails_fails_for_all_who_asked(store: Store) -> None:
    store.broken_on_purpose = True
    await store.write(fact(lane="a"), fact(lane="b"))
    await store.pipe.call("SET", store.keys.lane("c")[0], "no record")
    lanes = store.lanes()
    replies = await asyncio.gather(*(lanes.take(ACME, name) for name in "cab"), return_exceptions=True)
    assert [type(reply) for reply in replies] == [CommandFailed] * 3


# Leases and fences


async def test_a_leased_lane_is_busy_for_others_until_its_lease_ends(store: Store) -> None:
    await store.write(fact(lane="l"))
    await take(store)
    store.clock.advance(LEASE_MS - 1)
    assert await store.lanes("worker-2").take(ACME, "l") == Busy("worker-1", 1)
    store.clock.advance(1)
    lane = await take(store, owner="worker-2")
    assert lane.attempts == 2


async def test_renewing_keeps_the_lane_and_tells_who_speaks(store: Store) -> None:
    await store.write(fact(lane="l"))
    lane = await take(store)
    store.clock.advance(LEASE_MS - 1)
    assert await store.lanes().renew(ACME, lane.held) == Renewed(0, "")
    await store.write(conversation=ANN, control=Control("take", "7"))
    store.clock.advance(LEASE_MS - 1)
    assert await store.lanes("worker-2").take(ACME, "l") == Busy("worker-1", 1)
    assert await store.lanes().renew(ACME, lane.held) == Renewed(1, "7")


async def test_a_zombie_can_do_nothing_after_its_lane_was_taken_over(store: Store) -> None:
    await store.write(fact(lane="l"), fact(lane="l"))
    zombie = await take(store)
    store.clock.advance(LEASE_MS)
    await take(store, owner="worker-2")
    before = await store.state()
    fenced = Fenced("lane", "worker-2")
    assert await store.append(fact(), held=zombie.held) == fenced
    assert await store.append(delta(zombie.position), held=zombie.held._replace(sequence=1)) == fenced
    for disposal in (FINISH, Disposal("retry", 10), Disposal("park"), Disposal("release")):
        assert await store.append(fact(), held=zombie.held, disposal=disposal) == fenced
    assert await store.lanes().renew(ACME, zombie.held) == Lost("worker-2")
    assert await store.state() == before


async def test_a_zombie_stays_fenced_when_its_lane_was_deleted_and_made_again(store: Store) -> None:
    await store.write(fact(lane="l"))
    zombie = await take(store)
    await finish(store, await take(store))
    await store.write(fact(lane="l"))
    again = await take(store)
    assert again.held.owner == zombie.held.owner
    assert again.held.token != zombie.held.token
    stale = zombie.held._replace(head=again.position)
    assert await store.append(held=stale, disposal=FINISH) == Fenced("lane", "worker-1")
    assert await store.lanes().renew(ACME, stale) == Lost("worker-1")
    written(await finish(store, again))


async def test_no_token_is_used_twice_in_an_organization(store: Store) -> None:
    tokens = []
    for _ in range(3):
        await store.write(fact(lane="l"), fact(lane="m"))
        for name in "lm":
            lane = await take(store, name)
            tokens.append(lane.held.token)
            await finish(store, lane)
    assert len(set(tokens)) == 6


async def test_a_worker_that_takes_its_own_lane_again_fences_its_older_self(store: Store) -> None:
    await store.write(fact(lane="l"))
    older = await take(store)
    newer = await take(store)
    assert await store.append(fact(), held=older.held) == Fenced("lane", "worker-1")
    written(await finish(store, newer))


async def test_a_lane_handed_back_fences_its_former_holder(store: Store) -> None:
    await store.write(fact(lane="l"))
    lane = await take(store)
    written(await store.end(lane.held, "release"))
    before = await store.state()
    assert await store.append(fact(), held=lane.held) == Fenced("lane", "")
    assert await store.lanes().renew(ACME, lane.held) == Lost("")
    assert await store.lanes().finish(ACME, lane.held) == Fenced("lane", "")
    assert await store.lanes().postpone(ACME, lane.held, 10_000) == Lost("")
    assert await store.state() == before


async def test_releasing_does_not_count_as_an_attempt(store: Store) -> None:
    await store.write(fact(lane="l"))
    for _ in range(3):
        lane = await take(store)
        assert lane.attempts == 1
        written(await store.end(lane.held, "release"))
    assert (await take(store, owner="worker-2")).attempts == 1


async def test_a_person_who_takes_over_stops_the_run_but_not_its_cancellation(store: Store) -> None:
    await store.write(fact(lane="l"))
    lane = await take(store)
    await store.write(fact(), epoch=lane.epoch, held=lane.held)
    await store.write(fact(), control=Control("take", "7"))
    before = await store.state()
    request = Append(events=[fact(text="answer")], epoch=lane.epoch, held=lane.held, disposal=FINISH)
    assert await store.log.append(ACME, request) == Fenced("control", "7")
    assert await store.state() == before
    written(await finish(store, lane, fact(text="cancelled")))
    assert await store.queue("l") == []


# Deltas


async def test_delta_sequences_start_over_with_each_item_and_each_holder(store: Store) -> None:
    await store.write(fact(lane="l"), fact(lane="l"))
    first = await take(store)
    await store.write(delta(first.position, 0), held=first.held._replace(sequence=5))
    store.clock.advance(LEASE_MS)
    second = await take(store, owner="worker-2")
    await store.write(delta(second.position, 0), held=second.held._replace(sequence=1))
    item = next_item(await finish(store, second))
    held = second.held._replace(head=item.position)
    await store.write(delta(item.position, 0), held=held._replace(sequence=1))
    repeated = await store.append(delta(item.position, 0), held=held._replace(sequence=1))
    assert isinstance(repeated, Duplicate)


async def test_a_late_delta_of_a_finished_item_is_fenced(store: Store) -> None:
    await store.write(fact(lane="l"), fact(lane="l"))
    lane = await take(store)
    await finish(store, lane)
    late = await store.append(delta(lane.position), held=lane.held._replace(sequence=1))
    assert late == Fenced("head", str(lane.position))


# Retry


async def test_a_retry_waits_for_its_time_and_counts(store: Store) -> None:
    await store.write(fact(lane="l"), fact(lane="l"))
    lane = await take(store, doorbell=(await ring(store)).entry)
    written(await store.end(lane.held, "retry", fact(text="failed"), delay_ms=1_000))
    assert await store.doorbells() == []
    lanes = store.lanes()
    assert await lanes.wake_due(store.clock() + 999) == 0
    await store.write(fact(lane="l"))
    assert await store.doorbells() == [], "new work does not wake a lane that waits"
    assert await lanes.wake_due(store.clock() + 1_000) == 1
    assert await store.doorbells() == ["l"]
    assert await lanes.wake_due(store.clock() + 1_000) == 0
    again = await take(store, doorbell=(await ring(store)).entry)
    assert (again.position, again.attempts) == (lane.position, 2)


async def test_nobody_holds_a_lane_that_waits_for_its_retry(store: Store) -> None:
    await store.write(fact(lane="l"))
    lane = await take(store)
    written(await store.end(lane.held, "retry", delay_ms=1_000))
    before = await store.state()
    assert await store.append(fact(), held=lane.held) == Fenced("lane", "")
    assert await store.lanes().renew(ACME, lane.held) == Lost("")
    assert await store.state() == before


async def test_an_old_doorbell_does_not_cut_the_wait_short(store: Store) -> None:
    await store.write(fact(lane="l"))
    bell = await ring(store)
    lane = await take(store, doorbell=bell.entry)
    written(await store.end(lane.held, "retry", delay_ms=1_000))
    before = await store.state()
    assert await store.lanes("worker-2").take(ACME, "l", bell.entry) == NothingToTake("stale")
    assert await store.state() == before


async def test_attempts_count_for_each_item_from_one(store: Store) -> None:
    await store.write(fact(lane="l"), fact(lane="l"))
    for attempt in (1, 2, 3):
        lane = await take(store)
        assert lane.attempts == attempt
        written(await store.end(lane.held, "retry", delay_ms=10))
        await store.lanes().wake_due(store.clock() + 10)
    item = next_item(await finish(store, await take(store)))
    store.clock.advance(LEASE_MS)
    after_crash = await take(store, owner="worker-2")
    assert (after_crash.position, after_crash.attempts) == (item.position, 2)


async def test_retries_of_several_lanes_wake_each_at_its_time(store: Store) -> None:
    await store.write(*[fact(lane=name) for name in "abc"])
    for delay_ms, name in enumerate("abc", start=1):
        written(await store.end((await take(store, name)).held, "retry", delay_ms=delay_ms * 100))
    assert await store.lanes().wake_due(store.clock() + 200) == 2
    assert await store.doorbells() == ["a", "b"]


async def test_two_workers_that_look_for_due_retries_ring_once(store: Store) -> None:
    await store.write(fact(lane="l"))
    written(await store.end((await take(store)).held, "retry", delay_ms=100))
    due = store.clock() + 100
    woken = await asyncio.gather(store.lanes("worker-1").wake_due(due), store.lanes("worker-2").wake_due(due))
    assert sorted(woken) == [0, 1]
    assert await store.doorbells() == ["l"]


# Park and redrive


async def test_a_parked_lane_is_listed_and_nothing_overtakes_its_item(store: Store) -> None:
    first = (await store.write(fact(lane="l"))).positions[0]
    bell = await ring(store)
    lane = await take(store, doorbell=bell.entry)
    told = written(await store.end(lane.held, "park", fact(), fact(text="gave up"))).positions[-1]
    assert await store.pipe.call("HMGET", store.keys.lane("l")[0], "a", "p") == [b"1", told.encode()]
    assert await store.parked() == ["l"]
    assert await store.lanes().parked() == Parked(1, store.clock())
    assert await store.doorbells() == []
    await store.write(fact(lane="l"))
    assert await store.doorbells() == []
    assert await store.lanes().take(ACME, "l", bell.entry) == NothingToTake("parked")
    assert await store.lanes().take(ACME, "l") == NothingToTake("parked")
    assert await store.append(fact(), held=lane.held) == Fenced("lane", "")
    assert (await store.queue("l"))[0] == first
    assert len(await store.queue("l")) == 2


async def test_redriving_starts_again_at_the_parked_item_with_a_fresh_count(store: Store) -> None:
    first = (await store.write(fact(lane="l"), fact(lane="l"))).positions[0]
    store.clock.advance(1)
    await take(store)
    store.clock.advance(LEASE_MS)
    lane = await take(store, owner="worker-2")
    assert lane.attempts == 2
    written(await store.end(lane.held, "park"))
    written(await store.unpark("redrive", first, fact(text="again")))
    assert await store.parked() == []
    assert await store.lanes().parked() == Parked(0, None)
    assert await store.doorbells() == ["l"]
    again = await take(store)
    assert (again.position, again.attempts, again.is_dropped) == (first, 1, False)


async def test_a_dropped_item_is_handed_out_to_be_given_up_and_no_later_one_is(store: Store) -> None:
    first, second = (await store.write(fact(lane="l"), fact(lane="l"))).positions
    written(await store.end((await take(store)).held, "park"))
    written(await store.unpark("drop", first))
    assert await store.parked() == []
    assert await store.doorbells() == ["l"]
    lane = await take(store)
    assert (lane.position, lane.is_dropped) == (first, True)
    written(await store.end(lane.held, "release"))
    lane = await take(store, owner="worker-2")
    assert (lane.position, lane.is_dropped) == (first, True), "it stays dropped until it is given up"
    item = next_item(await finish(store, lane))
    written(await store.end(lane.held._replace(head=item.position), "release"))
    lane = await take(store)
    assert (lane.position, lane.is_dropped) == (second, False)


async def test_only_a_lane_parked_at_that_item_is_set_going_again(store: Store) -> None:
    first, second = (await store.write(fact(lane="l"), fact(lane="l"))).positions
    before = await store.state()
    for kind in ("redrive", "drop"):
        assert await store.unpark(kind, first) == Fenced("parked", "")
        assert await store.unpark(kind, first, lane="never-used") == Fenced("parked", "")
    assert await store.state() == before
    written(await store.end((await take(store)).held, "park"))
    before = await store.state()
    for kind in ("redrive", "drop"):
        assert await store.unpark(kind, second) == Fenced("parked", str(first))
    assert await store.state() == before


async def test_deciding_about_parked_work_is_not_held_back_at_the_cap(store: Store) -> None:
    first = (await store.write(fact(lane="l"))).positions[0]
    written(await store.end((await take(store)).held, "park"))
    full = Log(store.pipe, max_facts=1, now_ms=store.clock)
    redriven = Append(events=[fact()], held=Held("l", "", "", first), disposal=Disposal("redrive"))
    assert isinstance(await full.append(ACME, redriven), Appended)


# What was lost


async def test_no_token_is_given_out_twice_when_the_counter_was_lost(store: Store) -> None:
    await store.write(fact(lane="l"), fact(lane="m"))
    tokens = [int((await take(store, lane)).held.token) for lane in ("l", "m")]
    for step_ms in (1, -2, 1):  # the server's clock may step back, too
        store.clock.advance(2)
        await store.write(fact())
        await store.pipe.call("DEL", store.keys.meta)
        store.clock.advance(step_ms)
        tokens += [int((await take(store, lane)).held.token) for lane in ("l", "m")]
    assert tokens == sorted(set(tokens))
    lane = await take(store)
    assert await store.append(fact(), held=lane.held._replace(token=str(tokens[0]))) == Fenced("lane", "worker-1")
    await finish(store, lane, fact())
    await finish(store, await take(store, "m"))


async def test_the_count_of_unfinished_work_finds_its_way_back_after_a_loss(store: Store) -> None:
    await store.write(fact(lane="l"), fact(lane="l"), fact(lane="m"))
    await store.pipe.call("DEL", store.keys.meta)
    lane = await take(store)
    item = next_item(await finish(store, lane))
    await finish(store, lane._replace(held=lane.held._replace(head=item.position)))
    assert await store.pipe.call("HGET", store.keys.meta, "q") == b"0"
    await store.write(fact(lane="l"))
    await finish(store, await take(store))
    await finish(store, await take(store, "m"))  # now the count fits again, and so do the doorbells

    await store.write(fact(lane="l"))
    await store.pipe.call("HDEL", store.keys.meta, "q")
    assert await store.lanes().finish(ACME, (await take(store)).held) is None
    assert await store.pipe.call("HGET", store.keys.meta, "q") == b"0"


# The group


async def test_a_worker_that_is_long_dead_is_forgotten_unless_something_is_left_in_its_name(store: Store) -> None:
    await store.write(fact(lane="l"))
    await ring(store, "holds-a-doorbell")
    await store.write(fact(lane="m"))
    bell = await ring(store, "dead")
    await finish(store, await take(store, "m", "dead", bell.entry))
    assert await store.lanes("alive").forget_dead(silent_ms=60_000) == 0
    assert await store.lanes("alive").forget_dead(silent_ms=0) == 1
    [left] = await store.pipe.call("XINFO", "CONSUMERS", store.keys.work, "workers")
    assert left[1] == b"holds-a-doorbell"
    await store.write(fact(lane="m"))
    bell = await ring(store, "dead")
    assert bell.lane == "m", "who was only asleep joins again by reading"


# Workers that die


async def test_the_doorbell_of_a_silent_worker_is_reclaimed(store: Store) -> None:
    await store.write(fact(lane="l"))
    bell = await ring(store, "worker-1")
    await take(store, owner="worker-1", doorbell=bell.entry)
    patient, eager = store.lanes("worker-2", lease_ms=60_000), store.lanes("worker-2", lease_ms=0)
    assert await patient.reclaim() == []
    assert await eager.reclaim() == [bell]
    assert isinstance(await eager.take(ACME, "l", bell.entry), Busy), "silent is not dead while the lease runs"
    store.clock.advance(LEASE_MS)
    assert await eager.reclaim() == [bell]
    lane = taken(await eager.take(ACME, "l", bell.entry))
    await finish(store, lane)
    assert await eager.reclaim() == []


async def test_a_worker_that_died_before_taking_loses_nothing(store: Store) -> None:
    await store.write(*[fact(lane=name) for name in "abc"])
    dead = store.lanes("worker-1")
    await dead.join()
    assert len(await dead.wait(store.pipe, count=10, block_ms=None)) == 3
    heir = store.lanes("worker-2", lease_ms=0)
    assert [bell.lane for bell in await heir.reclaim()] == ["a", "b", "c"]


async def test_a_dead_workers_finished_doorbells_are_not_reclaimed(store: Store) -> None:
    await store.write(fact(lane="a"), fact(lane="b"))
    worker = store.lanes("worker-1")
    await worker.join()
    await worker.wait(store.pipe, count=10, block_ms=None)
    await finish(store, await take(store, "a"))
    entries = await store.pipe.call("XRANGE", store.keys.work, "-", "+")
    await store.pipe.call("XDEL", store.keys.work, entries[0][0])  # acknowledged by nobody, and gone
    store.broken_on_purpose = True
    assert await store.lanes("worker-2", lease_ms=0).reclaim() == []


async def test_the_delta_sequence_of_a_new_holder_ignores_a_dead_ones(store: Store) -> None:
    await store.write(fact(lane="l"))
    dead = await take(store)
    await store.write(delta(dead.position), held=dead.held._replace(sequence=40))
    store.clock.advance(LEASE_MS)
    heir = await take(store, owner="worker-2")
    assert isinstance(await store.append(delta(heir.position), held=heir.held._replace(sequence=1)), Appended)


async def test_a_lease_lasts_no_longer_than_its_length_when_the_clock_is_set_back(store: Store) -> None:
    """Its own length, not that of whoever asks, and from when somebody asks: its holder may be alive."""
    await store.write(fact(lane="l"))
    await take(store)
    store.clock.advance(-60_000)
    rival = store.lanes("worker-2", lease_ms=600_000)
    assert await rival.take(ACME, "l") == Busy("worker-1", LEASE_MS)
    store.clock.advance(LEASE_MS - 1)
    assert await rival.take(ACME, "l") == Busy("worker-1", 1)
    store.clock.advance(1)
    assert taken(await rival.take(ACME, "l")).attempts == 2


async def test_a_retry_comes_in_time_when_the_clock_was_set_back(store: Store) -> None:
    await store.write(fact(lane="l"))
    store.clock.advance(-3_600_000)
    written(await store.end((await take(store)).held, "retry", fact(), delay_ms=1_000))
    assert await store.lanes().wake_due(store.clock() + 1_000) == 1


async def test_a_lease_lasts_from_now_by_the_servers_clock_when_none_is_given(store: Store) -> None:
    await store.write(fact(lane="l"))
    lanes = Lanes(store.pipe, "worker-1", shards=[shard_of(ACME)])
    before = await lanes.now_ms()
    taken(await lanes.take(ACME, "l"))
    expires = int(await store.pipe.call("HGET", store.keys.lane("l")[0], "x"))
    assert before <= expires - LEASE_MS <= await lanes.now_ms()


async def test_the_length_of_a_lease_is_that_of_its_last_renewal(store: Store) -> None:
    await store.write(fact(lane="l"), fact(lane="l"), fact(lane="l"))
    held, rival = (await take(store)).held, store.lanes("worker-2")

    assert isinstance(await store.lanes(lease_ms=7_000).renew(ACME, held), Renewed)
    store.clock.advance(-60_000)
    assert await rival.take(ACME, "l") == Busy("worker-1", 7_000)

    ended = await store.append(held=held, disposal=Disposal("finish", lease_ms=8_000))
    store.clock.advance(-60_000)
    assert await rival.take(ACME, "l") == Busy("worker-1", 8_000)

    held = held._replace(head=next_item(ended).position)
    assert isinstance(await store.lanes(lease_ms=9_000).finish(ACME, held), NextItem)
    store.clock.advance(-60_000)
    assert await rival.take(ACME, "l") == Busy("worker-1", 9_000)


async def test_a_holder_that_is_alive_keeps_its_lane_when_the_clock_is_set_back(store: Store) -> None:
    await store.write(fact(lane="l"))
    lane = await take(store)
    store.clock.advance(-60_000)
    assert isinstance(await store.lanes("worker-2").take(ACME, "l"), Busy)
    store.clock.advance(LEASE_MS - 1)
    assert isinstance(await store.lanes().renew(ACME, lane.held), Renewed)
    assert await store.lanes("worker-2").take(ACME, "l") == Busy("worker-1", LEASE_MS)
    await finish(store, lane)


async def test_finishing_gives_the_next_item_a_whole_lease(store: Store) -> None:
    await store.write(fact(lane="l"), fact(lane="l"))
    lane = await take(store)
    store.clock.advance(LEASE_MS - 1)
    written(await store.append(held=lane.held, disposal=Disposal("finish", lease_ms=700)))
    assert await store.lanes("worker-2").take(ACME, "l") == Busy("worker-1", 700)


async def test_a_lane_may_share_its_name_with_a_conversation(store: Store) -> None:
    await store.write(fact(ANN, lane=ANN))
    assert (await take(store, ANN)).position == Position(store.clock(), 0)
    assert await store.log.version(ACME, ANN) == 1


async def test_a_lane_that_was_too_early_waits_and_its_attempt_does_not_count(store: Store) -> None:
    lanes = store.lanes()
    await lanes.join()
    await store.write(fact(lane=ANN))
    bell = await ring(store)
    held = taken(await lanes.take(ACME, ANN, bell.entry)).held
    assert await lanes.postpone(ACME, held, 10_000) is None
    assert await store.doorbells() == []
    assert await lanes.take(ACME, ANN, bell.entry) == NothingToTake("stale")
    assert await lanes.wake_due(store.clock() + 9_999) == 0
    assert await lanes.wake_due(store.clock() + 10_000) == 1
    other = store.lanes("worker-2")
    assert taken(await other.take(ACME, ANN)).attempts == 1
    again = taken(await other.take(ACME, ANN))
    assert again.attempts == 2
    assert await other.postpone(ACME, held, 10_000) == Lost(other.owner)
    assert await other.postpone(ACME, again.held, 10_000) is None
    assert await lanes.hasten(ACME, ANN)
    assert not await lanes.hasten(ACME, ANN)
    assert taken(await other.take(ACME, ANN)).attempts == 2, "one that began and ended without a word counts"
