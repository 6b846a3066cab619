"""Branches of the scripts that histories seldom reach: a cap on work, a lane without its queue, who may speak next."""

from __future__ import annotations

from typing import cast

import msgspec

from eventstore.append import Backlog, Control, Duplicate, Idempotency
from eventstore.collect import PAGE_BYTES, Scope
from eventstore.errors import CommandFailed
from eventstore.events.replies import ReplyDelta
from eventstore.lanes import NothingToTake
from eventstore.log import PAGE
from eventstore.schema import ORIGIN, Event, Position, Recorded
from tests.support.store import ACME, ANN, BEN, Store, delta, fact, taken, written


async def test_work_is_refused_at_its_cap_and_nothing_else_is(store: Store) -> None:
    await store.write(fact(lane="a"), fact(lane="b"), max_pending=2)
    before = await store.state()
    for batch in ([fact(lane="a")], [fact(lane="c")], [fact(), fact(lane="a")]):
        assert await store.append(*batch, max_pending=2) == Backlog(2)
    assert await store.state() == before
    await store.write(fact(), fact(ANN), max_pending=2)
    await store.write(conversation=ANN, control=Control("take", "7"), max_pending=2)
    held = taken(await store.lanes().take(ACME, "a")).held
    await store.write(fact(lane="c"), held=held, max_pending=2)
    assert await store.append(fact(lane="d"), max_pending=3) == Backlog(3)
    await store.write(fact(lane="d"), max_pending=4)


async def test_a_repetition_is_a_write_and_keeps_no_key_for_longer(store: Store) -> None:
    """What waits for replicas waits for what its own connection wrote."""
    once, key = Idempotency("k", "body", ttl_ms=60_000), store.keys.idempotency("k")
    await store.write(fact(), idempotency=once)
    await store.pipe.call("PEXPIRE", key, 30_000)
    before = await _changes(store)
    assert isinstance(await store.append(fact(), idempotency=once), Duplicate)
    assert before is None or await _changes(store) == before + 1
    assert 20_000 < await store.pipe.call("PTTL", key) <= 30_000


async def _changes(store: Store) -> int | None:
    """That the server has counted; fakeredis counts none."""
    try:
        told = await store.pipe.call("INFO", "persistence")
    except CommandFailed:
        return None
    return int(told.partition(b"rdb_changes_since_last_save:")[2].split()[0])


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


async def test_a_page_says_of_a_delta_what_the_log_says(store: Store) -> None:
    """Also where a later one comes from elsewhere than the run's first, and at a page's beginning in mid-run."""
    run, other = (await store.write(fact(ANN), fact(BEN))).positions
    piece = delta(run)
    for event in (
        piece,
        piece,
        msgspec.structs.replace(piece, actor="assistant:other"),
        msgspec.structs.replace(piece, actor="assistant:test2", conversation=BEN),
        msgspec.structs.replace(piece, cause=other),
        msgspec.structs.replace(piece, conversation=None),
        delta(other, conversation=BEN),
        piece,
        fact(ANN, run=run),
    ):
        await store.write(event)
    whole = await store.log.read(ACME, ORIGIN)
    of_run = [event for event in whole if event.run == run]
    for at, seen in enumerate(of_run):
        assert (await store.log.page_of(Scope(ACME, "r", str(run), True), seen.position)).events == of_run[at + 1 :]
        own = [event for event in of_run[at + 1 :] if event.conversation == ANN]
        assert (await store.log.page_of(Scope(ACME, "c", ANN, True), seen.position)).events == own


async def test_pages_of_any_size_hold_runs_that_overlap(store: Store) -> None:
    first, second = (await store.write(fact(ANN), fact(ANN))).positions
    for index in range(3):
        await store.write(delta(first, index), delta(first, index + 3), fact(ANN), delta(second, index))
    await store.write(fact(ANN, run=second), fact(ANN), fact(ANN, run=first), delta(second, 3))
    await assert_whole_in_pages_of_any_size(store)


async def test_pages_of_any_size_hold_runs_that_follow_each_other(store: Store) -> None:
    for _ in range(3):
        run = (await store.write(fact(ANN))).positions[0]
        await store.write(*(delta(run, index) for index in range(3)), fact(ANN, run=run))
    await assert_whole_in_pages_of_any_size(store)


async def assert_whole_in_pages_of_any_size(store: Store) -> None:
    """One conversation has all that is on the log."""
    whole = await store.log.read(ACME, ORIGIN)
    for count in range(1, len(whole) + 1):
        pages = await in_pages(store, count)
        assert max(map(len, pages)) <= count
        assert [event for page in pages for event in page] == whole


async def in_pages(store: Store, count: int = PAGE) -> list[list[Recorded]]:
    pages, cut = list[list[Recorded]](), cast("Position | None", ORIGIN)
    while cut is not None:
        page, cut = await store.log.page_of(Scope(ACME, "c", ANN, True), cut, count=count)
        pages.append(page)
    return pages


async def test_a_page_ends_where_it_is_large_and_goes_on_there(store: Store) -> None:
    run = (await store.write(fact(ANN, text="x" * PAGE_BYTES))).positions[0]
    large = Event(ReplyDelta(attempt=1, index=0, text="x" * PAGE_BYTES), "assistant:test", ANN, run)
    at = [run, *(await store.write(large, delta(run))).positions]
    for beyond, position in zip(at, [ORIGIN, *at], strict=False):
        page = await store.log.page_of(Scope(ACME, "r", str(run), True), position)
        assert [event.position for event in page.events] == [beyond]
        assert page.cut == (beyond if beyond != at[-1] else None)


async def test_answers_that_would_each_fit_fill_a_page_together(store: Store) -> None:
    for _ in range(4):
        run = (await store.write(fact(ANN))).positions[0]
        large = Event(ReplyDelta(attempt=1, index=0, text="x" * (PAGE_BYTES // 3)), "assistant:test", ANN, run)
        await store.write(large, large, fact(ANN, run=run))
    pages = await in_pages(store)
    for page in pages:
        assert sum(len(event.data) + len(event.personal) for event in page[:-1]) < PAGE_BYTES
    assert [event for page in pages for event in page] == await store.log.read(ACME, ORIGIN)


async def test_a_page_shows_the_deltas_that_the_token_stream_still_has(store: Store) -> None:
    run = (await store.write(fact(ANN))).positions[0]
    at = (await store.write(*[delta(run, index) for index in range(4)])).positions
    await store.pipe.call("XTRIM", store.keys.tok, "MINID", str(at[2]))
    for seen, left in ((run, at[2:]), (at[0], at[2:]), (at[1], at[2:]), (at[2], at[3:]), (at[3], [])):
        page = await store.log.page_of(Scope(ACME, "c", ANN, True), seen)
        assert [event.position for event in page.events] == left
