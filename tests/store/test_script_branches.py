"""Branches of the scripts that histories seldom reach: a cap on work, a lane without its queue, who may speak next."""

from __future__ import annotations

from eventstore.append import Backlog, Control
from eventstore.collect import Scope
from eventstore.lanes import NothingToTake
from tests.support.store import ACME, ANN, BEN, Store, delta, fact, taken, written


async def test_work_is_refused_at_its_cap_and_nothing_else_is(store: Store) -> None:
    await store.write(fact(lane="a"), fact(lane="b"), max_pending=2)
    before = await store.state()
    for batch in ([fact(lane="a")], [fact(lane="c")], [fact(), fact(lane="a")]):
        assert await store.append(*batch, max_pending=2) == Backlog(2)
    assert await store.state() == before
    await store.write(fact(), fact(ANN), max_pending=2)
    held = taken(await store.lanes().take(ACME, "a")).held
    await store.write(fact(lane="c"), held=held, max_pending=2)
    assert await store.append(fact(lane="d"), max_pending=3) == Backlog(3)
    await store.write(fact(lane="d"), max_pending=4)


async def test_work_below_its_cap_is_taken_and_so_is_any_without_a_cap(store: Store) -> None:
    for _ in range(3):
        await store.write(fact(lane="a"), max_pending=3)
    assert await store.append(fact(lane="a"), max_pending=3) == Backlog(3)
    await store.write(fact(lane="a"))


async def test_finished_work_makes_room_for_more(store: Store) -> None:
    await store.write(fact(lane="a"), max_pending=1)
    assert await store.append(fact(lane="a"), max_pending=1) == Backlog(1)
    await store.end(taken(await store.lanes().take(ACME, "a")).held, "finish")
    await store.write(fact(lane="a"), max_pending=1)


async def test_a_lane_whose_queue_is_gone_leaves_no_doorbell_and_no_record(store: Store) -> None:
    store.broken_on_purpose = True
    await store.write(fact(lane="l"))
    record, queue = store.keys.lane("l")
    await store.pipe.call("DEL", queue)
    assert await store.lanes().take(ACME, "l") == NothingToTake("empty")
    assert await store.doorbells() == []
    assert not await store.pipe.call("EXISTS", record)


async def test_the_next_item_says_that_nobody_has_ever_spoken_instead(store: Store) -> None:
    for conversation in (ANN, None):
        await store.write(fact(conversation, lane="l"), fact(conversation, lane="l"))
        item = taken(await store.lanes().take(ACME, "l"))
        assert (item.epoch, item.holder) == (0, "")
        following = written(await store.end(item.held, "finish")).next_item
        assert following is not None
        assert (following.epoch, following.holder) == (0, "")
        await store.end(item.held._replace(head=following.position), "finish")


async def test_the_next_item_says_who_speaks_now(store: Store) -> None:
    await store.write(fact(ANN, lane="l"), fact(BEN, lane="l"))
    await store.write(fact(BEN), control=Control("take", "7"))
    item = taken(await store.lanes().take(ACME, "l"))
    assert (item.epoch, item.holder) == (0, "")
    following = written(await store.end(item.held, "finish")).next_item
    assert following is not None
    assert (following.epoch, following.holder) == (1, "7")


async def test_the_last_deltas_of_a_conversation_are_found_before_their_run_has_another_fact(store: Store) -> None:
    """The script notes whose they are; the conversation's index lists facts only."""
    run = (await store.write(fact(ANN))).positions[0]
    other = (await store.write(fact(BEN))).positions[0]
    [piece] = (await store.write(delta(run))).positions
    await store.write(delta(other, conversation=BEN))
    page = await store.log.page_of(Scope(ACME, "c", ANN, True), run)
    assert [event.position for event in page.events] == [piece]
