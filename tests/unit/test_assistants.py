"""The predefined assistants, and what an organization may make of them."""

from __future__ import annotations

import pytest

from projections.assistants import MAX_ASSISTANTS, MAX_TEAM, PREDEFINED, Assistant, faults

EVERYONE = {assistant.id: assistant for assistant in PREDEFINED}


def assistant(name: str, *members: str, tools: tuple[str, ...] = ()) -> Assistant:
    return Assistant(name, name, "staff", "You help.", None, tools, members)


def known(*assistants: Assistant) -> dict[str, Assistant]:
    return {each.id: each for each in assistants}


@pytest.mark.parametrize("predefined", PREDEFINED, ids=lambda each: str(each.id))
def test_a_predefined_assistant_would_be_accepted_from_a_client(predefined: Assistant) -> None:
    """So its tools are in the catalogue, and its members exist."""
    assert faults(predefined, EVERYONE) == []


def test_all_that_is_unknown_is_named() -> None:
    assert faults(assistant("a", "b", tools=("teleport", "get_location")), {}) == [
        "tools: there is no tool 'teleport'",
        "members: there is no assistant 'b'",
    ]


@pytest.mark.parametrize("leader", ["a", "b", "c"])
def test_nobody_delegates_to_itself_by_any_way(leader: str) -> None:
    others = known(assistant("a", "b"), assistant("b", "c"), assistant("c"))
    assert "delegate to itself" in faults(assistant("c", leader), others)[0]


def test_members_of_members_end_at_two_levels_wherever_one_is_added() -> None:
    chain = known(assistant("a", "b"), assistant("b", "c"), assistant("c"), assistant("d"))
    assert faults(assistant("c", "d"), chain) == ["members: at most 2 levels below an assistant: a > b > c > d"]
    assert faults(assistant("b", "d"), chain) == []
    assert faults(assistant("z", "a"), chain) == ["members: at most 2 levels below an assistant: z > a > b > c"]


def test_two_ways_to_one_member_are_no_circle() -> None:
    assert faults(assistant("a", "b", "c"), known(assistant("b", "c"), assistant("c"))) == []


def test_a_team_is_bounded_with_all_below() -> None:
    members = [assistant(f"m{n}") for n in range(MAX_TEAM)]
    half = assistant("half", *(member.id for member in members[: MAX_TEAM // 2]))
    others = known(*members, half)
    rest = [member.id for member in members[MAX_TEAM // 2 :]]
    assert faults(assistant("lead", "half", *rest[:-2]), others) == []
    assert "a team of 18" in faults(assistant("lead", "half", *rest), others)[0]


def test_the_number_of_assistants_is_bounded() -> None:
    others = known(*(assistant(f"a{n}") for n in range(MAX_ASSISTANTS)))
    assert faults(assistant("a1"), others) == []
    assert "at most 200" in faults(assistant("one-more"), others)[0]
