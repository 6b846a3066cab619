"""Who speaks: of two agents exactly one, and only the holder gives it back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventstore.append import HeldBy
from eventstore.events.control import ControlReleased, ControlTaken
from projections.control import INITIAL, ControlState, Release, Take, decide, evolve
from projections.projection import fact, timestamp
from tests.support.facts import at, recorded

AGENTS = st.sampled_from(["7", "8"])
COMMANDS = st.lists(st.builds(Take, AGENTS) | st.builds(Release, AGENTS), max_size=12)


def after(state: ControlState, number: int, command: Take | Release) -> ControlState:
    decision = decide(state, command)
    if isinstance(decision, HeldBy):
        return state
    for event in decision:
        state = evolve(state, fact(recorded(number, event)))
    return state


def test_a_free_conversation_can_be_taken() -> None:
    assert decide(INITIAL, Take("7", "Ann")) == [ControlTaken(agent="7", agent_name="Ann")]


def test_a_taken_conversation_knows_its_agent_and_since_when() -> None:
    assert after(INITIAL, 1, Take("7", "Ann")) == ControlState("7", "Ann", timestamp(at(1)), 1, at(1).ms)


def test_second_agent_cannot_take_a_held_conversation() -> None:
    held = after(INITIAL, 1, Take("7"))
    assert decide(held, Take("8")) == HeldBy("7", 1)


def test_the_same_agent_again_has_it_already() -> None:
    held = after(INITIAL, 1, Take("7"))
    assert decide(held, Take("7")) == []


def test_only_the_holder_can_release() -> None:
    held = after(INITIAL, 1, Take("7"))
    assert decide(held, Release("8")) == HeldBy("7", 1)
    assert decide(held, Release("7", reason="idle")) == [ControlReleased(agent="7", reason="idle")]
    assert decide(INITIAL, Release("7")) == HeldBy("", 0)


@given(COMMANDS)
def test_every_change_raises_the_epoch_and_nothing_else_does(commands: list[Take | Release]) -> None:
    state = INITIAL
    for number, command in enumerate(commands, 1):
        following = after(state, number, command)
        changed = following.holder != state.holder
        assert following.epoch == state.epoch + changed
        assert following.holder in {"", state.holder} or not state.holder
        state = following
