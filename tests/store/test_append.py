"""The append script: the order of its checks, what it writes, and that a refusal leaves no trace.

Every test takes only `store`, so that `test_mutants.py` can run it against a damaged script.
"""

from __future__ import annotations

import pytest

from eventstore import codec, keys
from eventstore.append import (
    DELTA_RETENTION_MS,
    FINISH,
    IDEMPOTENCY_TTL_MS,
    MAX_BATCH,
    Append,
    Appended,
    Backlog,
    Control,
    Disposal,
    Duplicate,
    Fenced,
    Held,
    HeldBy,
    Idempotency,
    KeyReused,
    NextItem,
    VersionConflict,
)
from eventstore.events.replies import ReplyCompleted
from eventstore.lanes import Lanes
from eventstore.log import Log
from eventstore.schema import ConversationId, Event, OrgId, Position, Sibling
from tests.support.store import ACME, ANN, BEN, Store, delta, fact, taken, written

KEY = Idempotency("key-1", "body-1")


async def test_numbers_are_dense_and_positions_grow(store: Store) -> None:
    first = await store.write(fact(), fact(None), fact(BEN))
    second = await store.write(fact())
    assert (first.first_number, second.first_number) == (1, 4)
    positions = [*first.positions, *second.positions]
    assert positions == sorted(set(positions))
    assert [event.number for event in await store.log.read(ACME, Position(0, 0))] == [1, 2, 3, 4]


async def test_events_of_one_millisecond_differ_in_sequence(store: Store) -> None:
    appended = await store.write(fact(), fact())
    later = await store.write(fact())
    ms = store.clock()
    assert [*appended.positions, *later.positions] == [Position(ms, 0), Position(ms, 1), Position(ms, 2)]
    store.clock.advance(1)
    assert (await store.write(fact())).positions == [Position(ms + 1, 0)]


async def test_each_conversation_has_its_own_versions_in_a_mixed_batch(store: Store) -> None:
    await store.write(fact(BEN))
    appended = await store.write(fact(ANN), fact(BEN), fact(None), fact(ANN))
    assert appended.versions == [1, 2, None, 2]
    assert [event.version for event in await store.log.read_conversation(ACME, BEN)] == [1, 2]
    assert await store.log.version(ACME, ANN) == 2


async def test_an_event_can_point_at_its_siblings(store: Store) -> None:
    appended = await store.write(fact(), fact(run=Sibling(0), cause=Sibling(0)), fact(run=Sibling(0), cause=Sibling(1)))
    first, second, third = await store.log.read(ACME, Position(0, 0))
    assert [event.run for event in (first, second, third)] == [appended.positions[0]] * 3
    assert [event.cause for event in (first, second, third)] == [None, *appended.positions[:2]]


async def test_run_and_cause_are_stored_as_given(store: Store) -> None:
    run = (await store.write(fact())).positions[0]
    cause = (await store.write(fact(run=run))).positions[0]
    await store.write(fact(run=run, cause=cause))
    last = (await store.log.read_back(ACME, None, count=1))[0]
    assert (last.run, last.cause) == (run, cause)


async def test_a_sibling_that_comes_later_is_refused_before_anything_is_written(store: Store) -> None:
    before = await store.state()
    with pytest.raises(ValueError, match="sibling 1"):
        await store.append(fact(run=Sibling(1)), fact())
    with pytest.raises(ValueError, match="sibling -1"):
        await store.append(fact(cause=Sibling(-1)))
    assert await store.state() == before


async def test_control_needs_a_conversation(store: Store) -> None:
    with pytest.raises(ValueError, match="conversation"):
        await store.append(fact(None, lane="l"), control=Control("take", "7"))
    with pytest.raises(ValueError, match="conversation"):
        await store.append(fact(None), expected=0)
    assert await store.state() == {}


async def test_only_a_held_lane_can_be_disposed_of(store: Store) -> None:
    with pytest.raises(ValueError, match="held"):
        await store.append(fact(lane="l"), disposal=FINISH)
    assert await store.state() == {}


async def test_a_key_must_be_kept_for_some_time(store: Store) -> None:
    for ttl_ms in (0, -1):
        with pytest.raises(ValueError, match=f"not {ttl_ms} ms"):
            await store.append(fact(), idempotency=Idempotency(KEY.key, KEY.fingerprint, ttl_ms))
    assert await store.state() == {}


async def test_a_batch_has_a_limit(store: Store) -> None:
    with pytest.raises(ValueError, match=f"{MAX_BATCH + 1}"):
        await store.append(*[fact()] * (MAX_BATCH + 1))
    assert len((await store.write(*[fact()] * MAX_BATCH)).positions) == MAX_BATCH


async def test_organizations_do_not_share_numbers_versions_or_keys(store: Store) -> None:
    other = OrgId("umbrella")
    await store.write(fact(), fact(), idempotency=KEY)
    appended = written(await store.log.append(other, Append(events=[fact()], idempotency=KEY)))
    assert (appended.first_number, appended.versions) == (1, [1])
    assert len(await store.log.read(other, Position(0, 0))) == 1


# Idempotency


async def test_the_same_input_again_gets_the_original_answer_and_writes_nothing(store: Store) -> None:
    original = await store.write(fact(), fact(None), fact(BEN, lane="l"), idempotency=KEY)
    await store.write(fact())
    before = await store.state()
    store.clock.advance(60_000)
    again = await store.append(fact(), fact(None), fact(BEN, lane="l"), idempotency=KEY)
    assert again == Duplicate(original.positions, original.first_number, original.versions)
    assert await store.state() == before


async def test_a_key_with_another_body_is_refused(store: Store) -> None:
    await store.write(fact(), idempotency=KEY)
    before = await store.state()
    assert await store.append(fact(), idempotency=Idempotency(KEY.key, "body-2")) == KeyReused()
    assert await store.state() == before


async def test_other_keys_are_other_inputs(store: Store) -> None:
    await store.write(fact(), idempotency=KEY)
    await store.write(fact(), idempotency=Idempotency("key-2", KEY.fingerprint))
    assert await store.log.version(ACME, ANN) == 2


async def test_a_known_key_is_answered_before_any_other_check(store: Store) -> None:
    original = await store.write(fact(), idempotency=KEY, expected="absent", epoch=0)
    await store.write(conversation=ANN, control=Control("take", "7"))
    full = Log(store.pipe, max_facts=1, now_ms=store.clock)
    stranger = Held("l", "nobody", "99", Position(1, 1), 1)
    request = Append(
        events=[fact()], idempotency=KEY, held=stranger, epoch=0, control=Control("take", "8"), expected="absent"
    )
    assert await full.append(ACME, request) == Duplicate(original.positions, 1, [1])


async def test_a_refused_input_may_come_again_with_its_key(store: Store) -> None:
    assert isinstance(await store.append(fact(), idempotency=KEY, expected="exists"), VersionConflict)
    await store.write(fact(), idempotency=KEY)


async def test_a_key_is_kept_for_a_day(store: Store) -> None:
    await store.write(fact(), idempotency=KEY)
    left = await store.pipe.call("PTTL", store.keys.idempotency(KEY.key))
    assert IDEMPOTENCY_TTL_MS - 60_000 < left <= IDEMPOTENCY_TTL_MS
    await store.write(fact(), idempotency=Idempotency("key-2", "body", 7_000))
    assert 0 < await store.pipe.call("PTTL", store.keys.idempotency("key-2")) <= 7_000


# Fences


async def held_lane(store: Store, *, lane: str = "l") -> Held:
    await store.write(fact(lane=lane), fact(lane=lane))
    return taken(await store.lanes().take(ACME, lane)).held


async def test_a_lane_fence_wants_token_and_owner(store: Store) -> None:
    held = await held_lane(store)
    before = await store.state()
    assert await store.append(fact(), held=held._replace(token="77")) == Fenced("lane", held.owner)
    assert await store.append(fact(), held=held._replace(owner="thief")) == Fenced("lane", held.owner)
    assert await store.append(fact(), held=held._replace(lane="never-used")) == Fenced("lane", "")
    assert await store.state() == before


async def test_a_finished_item_cannot_be_appended_for(store: Store) -> None:
    held = await held_lane(store)
    finished = written(await store.end(held, "finish"))
    assert isinstance(finished.next_item, NextItem)
    before = await store.state()
    assert await store.append(fact(), held=held) == Fenced("head", str(held.head))
    assert await store.end(held, "finish") == Fenced("head", str(held.head))
    assert await store.state() == before


async def test_a_delta_is_written_once_per_sequence(store: Store) -> None:
    held = await held_lane(store)
    assert held.head is not None
    first = await store.write(delta(held.head, 0), delta(held.head, 1), held=held._replace(sequence=1))
    assert first.versions == [None, None]
    before = await store.state()
    repeated = await store.append(delta(held.head, 0), delta(held.head, 1), held=held._replace(sequence=1))
    assert repeated == Duplicate([], 0, [])
    assert await store.state() == before
    await store.write(delta(held.head, 2), held=held._replace(sequence=2))
    for sequence in (1, 2):
        assert isinstance(await store.append(delta(held.head, 1), held=held._replace(sequence=sequence)), Duplicate)
    for sequence in range(3, 12):
        await store.write(delta(held.head, sequence), held=held._replace(sequence=sequence))
    assert isinstance(await store.append(delta(held.head, 9), held=held._replace(sequence=9)), Duplicate)
    assert len(await store.log.read_run(ACME, held.head)) == 1 + 3 + 9


async def test_fences_are_checked_lane_then_head_then_sequence_then_epoch(store: Store) -> None:
    held = await held_lane(store)
    assert held.head is not None
    await store.write(delta(held.head), held=held._replace(sequence=1))
    await store.write(conversation=ANN, control=Control("take", "7"))
    wrong = held._replace(sequence=1, head=Position(1, 1), token="77")
    assert isinstance(fenced := await store.append(delta(held.head), held=wrong, epoch=0), Fenced)
    assert fenced.why == "lane"
    wrong = wrong._replace(token=held.token)
    assert await store.append(delta(held.head), held=wrong, epoch=0) == Fenced("head", "1-1")
    wrong = wrong._replace(head=held.head)
    assert await store.append(delta(held.head), held=wrong, epoch=0) == Duplicate([], 0, [])
    wrong = wrong._replace(sequence=2)
    assert await store.append(delta(held.head), held=wrong, epoch=0) == Fenced("control", "7")


# Control and expected version


async def test_taking_and_releasing_a_conversation_count_epochs(store: Store) -> None:
    took = await store.write(fact(), control=Control("take", "7"))
    assert took.epoch == 1
    assert await store.log.control(ACME, ANN) == HeldBy("7", 1)
    released = await store.write(fact(), control=Control("release", "7"))
    assert released.epoch == 2
    assert await store.log.control(ACME, ANN) == HeldBy("", 2)
    assert (await store.write(fact(), control=Control("take", "8"))).epoch == 3


async def test_an_append_without_control_answers_with_the_epoch_and_leaves_it(store: Store) -> None:
    await store.write(fact(), control=Control("take", "7"))
    assert (await store.write(fact(), epoch=1)).epoch == 1
    assert (await store.write(fact(), epoch=1, control=Control("holds", "7"))).epoch == 1
    assert await store.log.control(ACME, ANN) == HeldBy("7", 1)


async def test_second_agent_cannot_take_a_held_conversation(store: Store) -> None:
    await store.write(fact(), control=Control("take", "7"))
    before = await store.state()
    assert await store.append(fact(), control=Control("take", "8")) == HeldBy("7", 1)
    assert await store.append(fact(), control=Control("take", "7")) == HeldBy("7", 1)
    assert await store.append(fact(), control=Control("release", "8")) == HeldBy("7", 1)
    assert await store.append(fact(), control=Control("holds", "8")) == HeldBy("7", 1)
    assert await store.state() == before


async def test_a_conversation_nobody_holds_can_be_neither_released_nor_spoken_in_as_holder(store: Store) -> None:
    await store.write(fact())
    before = await store.state()
    assert await store.append(fact(), control=Control("release", "7")) == HeldBy("", 0)
    assert await store.append(fact(), control=Control("holds", "7")) == HeldBy("", 0)
    assert await store.state() == before


async def test_control_moves_without_an_event_too(store: Store) -> None:
    take = Append(conversation=ANN, control=Control("take", "7"), idempotency=KEY)
    assert await store.log.append(ACME, take) == Appended([], 1, [], None, 1)
    assert await store.log.append(ACME, take) == Duplicate([], 1, [])
    assert await store.log.control(ACME, ANN) == HeldBy("7", 1)
    assert await store.log.read(ACME, Position(0, 0)) == []


async def test_a_writer_of_an_older_epoch_is_fenced(store: Store) -> None:
    await store.write(fact(), epoch=0)
    await store.write(fact(), control=Control("take", "7"))
    before = await store.state()
    assert await store.append(fact(), epoch=0) == Fenced("control", "7")
    assert await store.append(fact(), epoch=2) == Fenced("control", "7")
    assert await store.state() == before
    await store.write(fact(), control=Control("release", "7"))
    assert await store.append(fact(), epoch=0) == Fenced("control", "")
    assert await store.append(fact(), epoch=1) == Fenced("control", "")
    await store.write(fact(), epoch=2)


async def test_control_of_one_conversation_leaves_others_alone(store: Store) -> None:
    await store.write(fact(ANN), fact(BEN), control=Control("take", "7"))
    await store.write(fact(BEN), epoch=0)
    assert await store.log.control(ACME, BEN) == HeldBy("", 0)


async def test_guards_concern_the_named_or_else_the_first_conversation(store: Store) -> None:
    await store.write(fact(ANN), fact(ANN), fact(BEN))
    await store.write(fact(ANN), fact(BEN), expected=2)
    await store.write(fact(ANN), conversation=BEN, expected=2)
    assert await store.append(fact(BEN), fact(ANN), expected=4) == VersionConflict(
        2, (await store.log.read_conversation(ACME, BEN))[-1].position
    )


async def test_expected_version_is_exact(store: Store) -> None:
    assert await store.append(fact(), expected=1) == VersionConflict(0, None)
    await store.write(fact(), expected=0)
    position = (await store.write(fact(), expected=1)).positions[0]
    before = await store.state()
    for wrong in (0, 1, 3, 10):
        assert await store.append(fact(), expected=wrong) == VersionConflict(2, position)
    assert await store.state() == before


async def test_expected_exists_and_absent(store: Store) -> None:
    assert await store.append(fact(), expected="exists") == VersionConflict(0, None)
    position = (await store.write(fact(), expected="absent")).positions[0]
    assert await store.append(fact(), expected="absent") == VersionConflict(1, position)
    await store.write(fact(), expected="exists")


async def test_a_delta_does_not_count_as_a_version(store: Store) -> None:
    run = (await store.write(fact())).positions[0]
    await store.write(delta(run))
    await store.write(fact(run=run), expected=1)


async def test_control_is_checked_after_the_fence_and_before_the_version(store: Store) -> None:
    await store.write(fact(), control=Control("take", "7"))
    take = Control("take", "8")
    assert await store.append(fact(), epoch=0, control=take, expected=9) == Fenced("control", "7")
    assert await store.append(fact(), epoch=1, control=take, expected=9) == HeldBy("7", 1)
    assert isinstance(await store.append(fact(), epoch=1, control=Control("holds", "7"), expected=9), VersionConflict)


# Back-pressure


async def test_a_full_log_holds_back_inputs_but_not_results_of_accepted_work(store: Store) -> None:
    held = await held_lane(store)
    full = Log(store.pipe, max_facts=2, now_ms=store.clock)
    before = await store.state()
    assert await full.append(ACME, Append(events=[fact()])) == Backlog(2)
    assert await full.append(ACME, Append(events=[fact()], idempotency=KEY)) == Backlog(2)
    assert await store.state() == before
    written(await full.append(ACME, Append(events=[fact()], held=held, disposal=FINISH)))
    roomy = Log(store.pipe, max_facts=4, now_ms=store.clock)
    written(await roomy.append(ACME, Append(events=[fact()], idempotency=KEY)))


async def test_a_conflict_is_told_even_when_the_log_is_full(store: Store) -> None:
    await store.write(fact())
    full = Log(store.pipe, max_facts=1, now_ms=store.clock)
    assert isinstance(await full.append(ACME, Append(events=[fact()], expected=7)), VersionConflict)


async def test_a_full_log_lets_an_agent_take_over(store: Store) -> None:
    await store.write(fact())
    full = Log(store.pipe, max_facts=1, now_ms=store.clock)
    written(await full.append(ACME, Append(conversation=ANN, control=Control("take", "7"))))


# The clock


async def test_facts_and_deltas_share_one_clock(store: Store) -> None:
    run = (await store.write(fact())).positions[0]
    mixed = await store.write(delta(run, 0), fact(run=run), delta(run, 1))
    assert mixed.first_number == 2
    assert mixed.versions == [None, 2, None]
    positions = [run, *mixed.positions]
    assert positions == sorted(set(positions))
    assert [event.position for event in await store.log.read(ACME, Position(0, 0))] == positions
    assert [event.is_fact for event in await store.log.read(ACME, Position(0, 0))] == [True, False, True, False]


async def test_positions_never_run_backwards_when_the_servers_clock_does(store: Store) -> None:
    before = (await store.write(fact())).positions[0]
    store.clock.advance(-3_600_000)
    after = (await store.write(fact(), delta(before))).positions
    assert after == [Position(before.ms, 1), Position(before.ms, 2)]
    store.clock.advance(3_600_001)
    assert (await store.write(fact())).positions == [Position(before.ms + 1, 0)]


async def test_a_lost_record_is_read_off_the_streams(store: Store) -> None:
    run = (await store.write(fact())).positions[0]
    last = (await store.write(fact(), delta(run), delta(run))).positions[-1]
    await store.pipe.call("DEL", store.keys.meta)
    store.clock.advance(-1_000)
    appended = await store.write(fact())
    assert appended.first_number == 3
    assert appended.positions == [Position(last.ms, last.seq + 1)]
    await store.pipe.call("DEL", store.keys.meta)
    appended = await store.write(fact())
    assert appended.first_number == 4
    assert appended.positions == [Position(last.ms, last.seq + 2)]


async def test_a_lost_record_of_a_log_without_facts_is_read_off_its_deltas(store: Store) -> None:
    last = (await store.write(delta(Position(1, 0)))).positions[0]
    await store.pipe.call("DEL", store.keys.meta)
    store.clock.advance(-1_000)
    assert (await store.write(fact())).positions == [Position(last.ms, last.seq + 1)]


# What is written


async def test_what_is_written_behind_the_logs_clock_has_ids_that_no_lost_event_had(store: Store) -> None:
    """Two organizations stand for the life that was lost and the one that goes on from the backup."""
    log, future = Log(store.pipe), await Lanes(store.pipe, "").now_ms() + 3_600_000
    lives = []
    for org in (ACME, OrgId("acme-restored")):
        await store.pipe.call("HSET", keys.of(org).meta, "ms", future, "sq", 7)
        life = [
            at for _ in range(3) for at in written(await log.append(org, Append(events=[fact(), fact()]))).positions
        ]
        assert life == sorted(set(life))
        assert {at.ms for at in life} == {future}
        assert life[0].seq > 7
        lives.append(set(life))
    assert not lives[0] & lives[1]


async def test_the_servers_own_clock_is_used_when_none_is_given(store: Store) -> None:
    lanes = Lanes(store.pipe, "")
    before = await lanes.now_ms()
    appended = written(await Log(store.pipe).append(ACME, Append(events=[fact()])))
    assert before <= appended.positions[0].ms <= await lanes.now_ms()


async def test_public_and_personal_parts_are_stored_apart_with_their_digest(store: Store) -> None:
    body = ReplyCompleted(message_id="m1", attempt=1, model="offline", text="Dear Ann")
    await store.write(Event(body, "assistant:test", ANN))
    event = (await store.log.read(ACME, Position(0, 0)))[0]
    assert b"Dear Ann" not in event.data
    assert event.personal == b'{"text":"Dear Ann"}'
    assert event.digest == codec.digest(b"reply.completed", ANN, "assistant:test", event.data, event.personal)
    assert codec.decode(event) == body


async def test_a_conversations_address_is_written_with_its_first_fact_only(store: Store) -> None:
    run = (await store.write(fact(BEN))).positions[0]
    await store.write(delta(run), addresses={ANN: "too early"})
    await store.write(fact(ANN), fact(BEN), addresses={ANN: "+4930123", BEN: "too late"})
    assert await store.log.address(ACME, ANN) == "+4930123"
    assert await store.log.address(ACME, BEN) is None
    await store.pipe.call("HDEL", store.keys.alias, ANN)
    await store.write(fact(ANN), addresses={ANN: "+4930123"})
    assert await store.log.address(ACME, ANN) is None, "an erased address must not come back"


async def test_every_append_rings_the_bell_once_and_a_refusal_does_not(store: Store) -> None:
    async def rung() -> list[list[bytes]]:
        return [fields for _, fields in await store.pipe.call("XRANGE", store.keys.bell, "-", "+")]

    run = (await store.write(fact(), fact())).positions[0]
    await store.write(delta(run))
    assert await rung() == [[b"o", b"acme"]] * 2
    await store.append(fact(), expected=7)
    await store.write(conversation=ANN, control=Control("take", "7"))
    assert len(await rung()) == 2


async def write_for_a_while(store: Store) -> None:
    """What can go is looked for now and then."""
    for _ in range(32):
        store.clock.advance(1)
        await store.write(fact())


async def test_a_bell_that_nobody_hears_does_not_grow_for_ever(store: Store) -> None:
    ring_often = "for _ = 1, 5000 do redis.call('XADD', KEYS[1], '*', 'o', 'acme') end"
    await store.pipe.call("EVAL", ring_often, 1, store.keys.bell)
    await write_for_a_while(store)
    assert await store.pipe.call("XLEN", store.keys.bell) < 4_200


async def test_a_bell_is_kept_short_also_while_the_clock_stands_because_the_servers_was_set_back(store: Store) -> None:
    ring_often = "for _ = 1, 5000 do redis.call('XADD', KEYS[1], '*', 'o', 'acme') end"
    store.clock.advance(1)
    stands = (await store.write(fact())).positions[0].ms
    store.clock.advance(-3_600_000)
    await store.pipe.call("EVAL", ring_often, 1, store.keys.bell)
    await write_for_a_while(store)
    assert (await store.write(fact())).positions[0].ms == stands
    assert await store.pipe.call("XLEN", store.keys.bell) < 4_200


async def test_old_deltas_are_trimmed_as_new_ones_arrive_and_facts_are_not(store: Store) -> None:
    run = (await store.write(fact())).positions[0]
    for start in range(0, 500, 50):
        await store.write(*[delta(run, index) for index in range(start, start + 50)])
    store.clock.advance(DELTA_RETENTION_MS + 1)
    await write_for_a_while(store)
    fresh = (await store.write(fact(), delta(run, 500))).positions[-1]
    length = await store.pipe.call("XLEN", store.keys.tok)
    assert length <= 101, "trimming by whole nodes of 100 entries may leave one node, not the stream"
    events = await store.log.read(ACME, Position(0, 0))
    assert [event.position for event in events][-1] == fresh
    assert [event.number for event in events if event.is_fact] == [*range(1, 35)]


async def test_young_deltas_are_kept(store: Store) -> None:
    run = (await store.write(fact())).positions[0]
    for start in range(0, 500, 50):
        await store.write(*[delta(run, index) for index in range(start, start + 50)])
    store.clock.advance(DELTA_RETENTION_MS - 100)
    await write_for_a_while(store)
    await store.write(delta(run, 500))
    assert await store.pipe.call("XLEN", store.keys.tok) == 501


async def test_a_clock_that_stands_near_zero_does_not_stop_deltas(store: Store) -> None:
    store.clock.ms = 5
    run = (await store.write(fact())).positions[0]
    assert (await store.write(delta(run))).positions == [Position(5, 1)]


async def test_a_runs_delta_index_expires_within_an_hour_after_its_last_delta_may(store: Store) -> None:
    hour_ms, run = 3_600_000, (await store.write(fact())).positions[0]
    index = store.keys.run_deltas(run)
    for passed_ms in (0, hour_ms - 1_000, 2_000, hour_ms):
        store.clock.advance(passed_ms)
        if passed_ms < hour_ms - 1_000:  # as it is when an hour has passed since it was listed first
            await store.pipe.call("PEXPIRE", index, DELTA_RETENTION_MS)
        await store.write(delta(run))
        left = await store.pipe.call("PTTL", index)
        assert DELTA_RETENTION_MS + hour_ms - 60_000 < left <= DELTA_RETENTION_MS + hour_ms
    await store.write(fact(run=run))
    assert await store.pipe.call("PTTL", store.keys.run_facts(run)) == -1


# A refusal leaves no trace


async def test_nothing_at_all_changes_when_an_append_is_refused(store: Store) -> None:
    """Each refusal asks for everything an append can do: events, lanes, deltas, addresses, a key, a disposal."""
    await store.write(fact(ANN, lane="l"), fact(ANN, lane="l"), idempotency=KEY)
    held = taken(await store.lanes().take(ACME, "l")).held
    assert held.head is not None
    await store.write(delta(held.head), held=held._replace(sequence=1))
    await store.write(fact(), control=Control("take", "7"))
    carol = ConversationId("conv_carol")
    events = [fact(ANN, lane="l"), fact(carol, lane="fresh"), delta(held.head, 2), fact(ANN, run=held.head)]
    everything = Append(
        events=events,
        held=held,
        disposal=FINISH,
        idempotency=Idempotency("key-2", "body-2"),
        addresses={carol: "+49"},
    )
    replace = {"held": None, "disposal": None}
    refusals = [
        (everything, {"idempotency": KEY}, Duplicate),
        (everything, {"idempotency": Idempotency(KEY.key, "other")}, KeyReused),
        (everything, {"held": held._replace(token="0")}, Fenced),
        (everything, {"held": held._replace(head=Position(1, 1))}, Fenced),
        (everything, {"held": held._replace(sequence=1)}, Duplicate),
        (everything, {"epoch": 0}, Fenced),
        (everything, {"control": Control("take", "8")}, HeldBy),
        (everything, {"control": Control("release", "8")}, HeldBy),
        (everything, {"expected": 1}, VersionConflict),
        (everything, {"expected": "absent"}, VersionConflict),
        (everything, {"disposal": Disposal("park"), "epoch": 7}, Fenced),
        (everything, {"disposal": Disposal("retry", 100), "expected": 0}, VersionConflict),
        (everything, {"disposal": Disposal("release"), "control": Control("holds", "8")}, HeldBy),
        (everything, replace, Backlog),
    ]
    full = Log(store.pipe, max_facts=1, now_ms=store.clock)
    before = await store.state()
    store.clock.advance(1_000)
    for request, change, refusal in refusals:
        outcome = await full.append(ACME, _changed(request, change))
        assert isinstance(outcome, refusal), (change, outcome)
        assert await store.state() == before, change
    written(await full.append(ACME, everything))


def _changed(request: Append, change: object) -> Append:
    fields = {name: getattr(request, name) for name in request.__struct_fields__}
    assert isinstance(change, dict)
    return Append(**{**fields, **change})
