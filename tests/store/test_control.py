"""The append script decides who speaks exactly as the pure decider does."""

from __future__ import annotations

import asyncio
import itertools

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore.append import Duplicate, HeldBy, Idempotency, VersionConflict
from eventstore.schema import ConversationId
from projections import control, conversations
from projections.control import INITIAL, AlreadyTheirs, Release, Released, Take, Taken
from projections.projection import fact as decoded
from tests.support.store import ACME, ANN, Store, fact

AGENTS = st.sampled_from(["7", "8", "9"])
COMMANDS = st.lists(st.builds(Take, AGENTS) | st.builds(Release, AGENTS), max_size=15)

_conversations = itertools.count(1)


async def carry_out(store: Store, conversation: ConversationId, command: Take | Release) -> object:
    if isinstance(command, Take):
        return await control.take(store.log, ACME, conversation, command)
    return await control.release(store.log, ACME, conversation, command)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(commands=COMMANDS)
async def test_the_script_and_the_decider_agree(store: Store, commands: list[Take | Release]) -> None:
    conversation = ConversationId(f"conv_{next(_conversations)}")
    for command in commands:
        state = INITIAL
        for event in await store.log.read_conversation(ACME, conversation):
            state = control.evolve(state, decoded(event))
        expected = control.decide(state, command)
        outcome = await carry_out(store, conversation, command)
        if isinstance(expected, HeldBy):
            assert outcome == expected
        elif expected:
            assert isinstance(outcome, Taken | Released)
            assert outcome.epoch == state.epoch + 1
        else:
            assert outcome == AlreadyTheirs(state.epoch)


async def test_of_ten_agents_at_once_exactly_one_gets_the_conversation(store: Store) -> None:
    outcomes = await asyncio.gather(*(control.take(store.log, ACME, ANN, Take(f"a{i}")) for i in range(10)))
    assert [type(each) for each in outcomes].count(Taken) == 1
    holders = {each.agent for each in outcomes if isinstance(each, HeldBy)}
    assert len(holders) == 1
    assert len(await store.log.read_conversation(ACME, ANN)) == 1


async def test_taking_names_the_agent_and_remembers_the_address_of_a_new_conversation(store: Store) -> None:
    await control.take(store.log, ACME, ANN, Take("7", "Ann"), address="tel:+14155552671")
    assert await store.log.address(ACME, ANN) == "tel:+14155552671"
    (event,) = await store.log.read_conversation(ACME, ANN)
    assert event.actor == "agent:7"
    document = conversations.fold([event])
    assert document is not None
    assert (document.control.holder, document.control.agent_name) == ("7", "Ann")


async def test_handing_back_is_work_for_the_conversation(store: Store) -> None:
    await control.take(store.log, ACME, ANN, Take("7", "Ann"))
    released = await control.release(store.log, ACME, ANN, Release("7", reason="idle"))
    assert isinstance(released, Released)
    assert await store.queue(ANN) == [released.position]
    assert (await store.log.read_conversation(ACME, ANN))[-1].actor == "system:control"


async def test_handing_back_twice_finds_nobody(store: Store) -> None:
    await control.take(store.log, ACME, ANN, Take("7", "Ann"))
    await control.release(store.log, ACME, ANN, Release("7"))
    assert await control.release(store.log, ACME, ANN, Release("7")) == HeldBy("", 2)


async def test_a_conversation_that_went_on_is_not_handed_back_for_idleness(store: Store) -> None:
    await control.take(store.log, ACME, ANN, Take("7"))
    version = await store.log.version(ACME, ANN)
    await store.write(fact(ANN))
    late = await control.release(store.log, ACME, ANN, Release("7", reason="idle"), expected=version)
    assert isinstance(late, VersionConflict)
    assert (await store.log.control(ACME, ANN)).agent == "7"


async def test_the_same_join_again_by_its_key_is_the_join_it_was(store: Store) -> None:
    key = Idempotency("join", "body")
    taken = await control.take(store.log, ACME, ANN, Take("7"), idempotency=key)
    assert isinstance(taken, Taken)
    await control.release(store.log, ACME, ANN, Release("7"))
    again = await control.take(store.log, ACME, ANN, Take("7"), idempotency=key)
    assert isinstance(again, Duplicate)
    assert again.positions == [taken.position]
    assert (await store.log.control(ACME, ANN)).agent == ""
