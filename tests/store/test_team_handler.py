"""Answers by assistants as they are configured, and by teams of them: each step once, wherever a worker dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

import pytest

from eventstore.events.members import MemberStepped
from eventstore.events.replies import ReplyCompleted, ReplyFailed, ReplyStarted, ToolCall, Usage
from eventstore.events.tools import ToolCompleted, ToolFailed, ToolStarted
from eventstore.schema import Recorded
from tests.support.workshop import Bench, ScriptedModel, Workshop, says
from workers.model import ModelRequest, StepDone, TextDelta, ToolResults, UserMessage
from workers.team import MAX_DELEGATIONS
from workers.tool_call import Answered, Call

Rule = Callable[[ModelRequest], StepDone]


class RuleModel:
    """Answers each request by its own content, whoever asks and in whatever order."""

    name = "rules"

    def __init__(self, rule: Rule) -> None:
        self.requests: list[ModelRequest] = []
        self._rule = rule

    async def stream(self, request: ModelRequest) -> AsyncGenerator[TextDelta | StepDone]:
        self.requests.append(request)
        done = self._rule(request)
        yield TextDelta(done.text)
        yield done


async def look(call: Call) -> Answered:
    return Answered({"found": call.call_id})


async def team(shop: Workshop) -> None:
    """A leader of two; both may look, and one of them has a member of its own."""
    await shop.configure("lead", prompt="You lead.", members=["ann", "ben"])
    await shop.configure("ann", prompt="You are thorough.", tools=["look"], members=["cleo"])
    await shop.configure("ben", prompt="You are quick.", tools=["look"], model="small")
    await shop.configure("cleo", prompt="You are last.", tools=["look"])


def delegate(call_id: str, member: object, task: object = "Find it") -> ToolCall:
    return ToolCall(call_id, "delegate", {"member": member, "task": task})


def play(request: ModelRequest) -> StepDone:
    """The leader asks both at once; Ann looks, then asks Cleo and looks again; Ben and Cleo look once."""
    step, usage = request.step, Usage(100, 1)
    again = ToolCall("c1", "look", {})
    if "You lead." in request.system and step == 1:
        return StepDone("Let me ask.", (delegate("d1", "ann"), delegate("d2", "ben")), "tool_use", usage)
    if "You are thorough." in request.system and step == 2:
        return StepDone("Hm.", (delegate("c2", "cleo"), again), "tool_use", usage)
    if step == 1:
        return StepDone("", (again,), "tool_use", usage)
    return StepDone("So." if "You lead." in request.system else "Done.", (), "end_turn", usage)


CALLS = ["d1", "d1/c1", "d1/c1", "d1/c2", "d1/c2/c1", "d2", "d2/c1"]
"""Ann's model names two of its calls alike, in different steps."""


def text_of(results: Sequence[object]) -> list[object]:
    return [result.content for message in results if isinstance(message, ToolResults) for result in message.results]


async def test_members_work_on_their_tasks_and_the_leader_answers_from_their_reports(shop: Workshop) -> None:
    await team(shop)
    model = RuleModel(play)
    await shop.say("Find it", assistant="lead")
    async with shop.worker(shop.services(model=model, tools=Bench(look=look))):
        await shop.seen.until_type("reply.completed")
    [completed] = shop.seen.bodies(ReplyCompleted)
    assert completed.text == "Let me ask.\n\nSo."
    assert completed.usage == Usage(900, 9)
    report = {"member": "ann", "report": "Done.", "stop_reason": "end_turn"}
    assert text_of(model.requests[-1].messages) == [report, {**report, "member": "ben"}]
    asked = {request.system.splitlines()[1]: request for request in model.requests if request.step == 1}
    assert [message.text for message in asked["You are quick."].messages if isinstance(message, UserMessage)] == [
        "Find it"
    ]
    assert asked["You are quick."].model == "small"
    assert {prompt: [tool.name for tool in request.tools] for prompt, request in asked.items()} == {
        "You lead.": ["delegate"],
        "You are thorough.": ["look", "delegate"],
        "You are quick.": ["look"],
        "You are last.": ["look"],
    }


async def test_each_event_of_a_member_names_it(shop: Workshop) -> None:
    await team(shop)
    await shop.say("Find it", assistant="lead")
    async with shop.worker(shop.services(model=RuleModel(play), tools=Bench(look=look))):
        await shop.seen.until_type("reply.completed")
    expected = {"d1": None, "d2": None, "d1/c1": "ann", "d1/c2": "ann", "d1/c2/c1": "cleo", "d2/c1": "ben"}
    assert {event.call_id: event.member for event in shop.seen.bodies(ToolStarted)} == expected
    assert {event.call_id: event.member for event in shop.seen.bodies(ToolCompleted)} == expected
    assert {event.call_id: event.member for event in shop.seen.bodies(MemberStepped)} == {
        "d1": "ann",
        "d2": "ben",
        "d1/c2": "cleo",
    }
    assert "Done." not in "".join(completed.text for completed in shop.seen.bodies(ReplyCompleted))


@pytest.mark.parametrize("recorded", range(8, 30, 2))
async def test_a_crash_anywhere_in_a_members_turn_repeats_no_finished_step(shop: Workshop, recorded: int) -> None:
    """A worker dies as soon as so many facts are on the log; another one goes on."""

    def facts(events: list[Recorded]) -> int:
        return len([event for event in events if event.is_fact])

    await team(shop)
    await shop.say("Find it", assistant="lead")
    async with shop.worker(shop.services(model=RuleModel(play), tools=Bench(look=look))) as worker:
        await shop.seen.until(lambda events: facts(events) >= recorded)
        await worker.crash()
    await shop.seen.read_all()
    finished = {event.call_id for event in shop.seen.bodies(ToolCompleted)}
    bench = Bench(look=look)
    if "reply.completed" not in shop.seen.types:
        async with shop.worker(shop.services(model=RuleModel(play), tools=bench)):
            await shop.seen.until_type("reply.completed")
    assert sorted(str(event.call_id) for event in shop.seen.bodies(ToolCompleted)) == CALLS
    assert {call.call_id for call in bench.called} & finished <= {"d1/c1"}  # which of the two, CALLS tells
    steps = [(event.call_id, event.step) for event in shop.seen.bodies(MemberStepped)]
    assert len(steps) == len(set(steps)) == 7
    [completed] = shop.seen.bodies(ReplyCompleted)
    assert (completed.text, completed.usage) == ("Let me ask.\n\nSo.", Usage(900, 9))


async def test_a_repeated_call_of_a_tool_is_known_as_one(shop: Workshop) -> None:
    """What the attempt before did outside is unknown to it."""
    begun = asyncio.Event()

    async def hang(call: Call) -> Answered:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    await team(shop)
    await shop.say("Find it", assistant="lead")
    async with shop.worker(shop.services(model=RuleModel(play), tools=Bench(look=hang))) as worker:
        await begun.wait()
        await shop.seen.until_type("tool.started", 4)
        await worker.crash()
    bench = Bench(look=look)
    async with shop.worker(shop.services(model=RuleModel(play), tools=bench)):
        await shop.seen.until_type("reply.completed")
    assert [(call.call_id, call.is_repeated) for call in sorted(bench.called, key=lambda call: str(call.call_id))] == [
        ("d1/c1", True),
        ("d1/c1", False),
        ("d1/c2/c1", False),
        ("d2/c1", True),
    ]


async def test_what_an_assistant_may_not_use_is_refused_whatever_its_model_made_up(shop: Workshop) -> None:
    await team(shop)
    asks = (
        ToolCall("c1", "look", {}),
        delegate("c2", "cleo"),
        delegate("c3", "ann", " "),
        delegate("c4", ["ann"]),
    )
    model = ScriptedModel([StepDone("", asks)], says("So."))
    bench = Bench(look=look)
    await shop.say("Find it", assistant="lead")
    async with shop.worker(shop.services(model=model, tools=bench)):
        await shop.seen.until_type("reply.completed")
    failures = {event.call_id: (event.code, event.error) for event in shop.seen.bodies(ToolFailed)}
    assert failures == {
        "c1": ("TOOL_NOT_FOUND", "lead has no tool 'look'"),
        "c2": ("MEMBER_NOT_FOUND", "member: expected one of ann, ben, got 'cleo'"),
        "c3": ("INVALID_ARGUMENTS", "task: expected what the member is to do"),
        "c4": ("MEMBER_NOT_FOUND", "member: expected one of ann, ben, got \"['ann']\""),
    }
    assert not bench.called


async def test_one_answer_delegates_only_so_many_tasks(shop: Workshop) -> None:
    def rule(request: ModelRequest) -> StepDone:
        if "You lead." in request.system and request.step == 1:
            return StepDone("", tuple(delegate(f"d{n}", "ben") for n in range(MAX_DELEGATIONS + 1)))
        return StepDone("Done.")

    await team(shop)
    await shop.say("Find it", assistant="lead")
    async with shop.worker(shop.services(model=RuleModel(rule), tools=Bench(look=look))):
        await shop.seen.until_type("reply.completed")
    assert len(shop.seen.bodies(ToolCompleted)) <= MAX_DELEGATIONS
    assert {failed.code for failed in shop.seen.bodies(ToolFailed)} == {"TOO_MANY_DELEGATIONS"}


async def test_control_taken_while_a_member_works_breaks_the_answer_off(shop: Workshop) -> None:
    begun = asyncio.Event()

    async def hang(call: Call) -> Answered:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    await team(shop)
    await shop.say("Find it", assistant="lead")
    async with shop.worker(shop.services(model=RuleModel(play), tools=Bench(look=hang))):
        await begun.wait()
        taken = await shop.take_control()
        await shop.seen.until_type("reply.awaited")
    assert [event.type for event in shop.seen.events if event.position > taken] == ["reply.awaited"]


async def test_a_turn_keeps_to_the_configuration_it_began_with(shop: Workshop) -> None:
    """Changed by the turn's own first tool, and read again after a crash."""
    await shop.configure("lead", prompt="Old.", tools=["change"], model="m1")

    async def change(call: Call) -> Answered:
        await shop.configure("lead", prompt="New.", tools=[], model="m2")
        return Answered("changed")

    dies = ScriptedModel([StepDone("", (ToolCall("c1", "change", {}),))], [TextDelta("It "), asyncio.Event()])
    lives = ScriptedModel(says("It is so"), says("Now it is"))
    await shop.say("Change", assistant="lead")
    async with shop.worker(shop.services(model=dies, tools=Bench(change=change))) as first:
        await shop.seen.until_type("reply.delta")
        await first.crash()
    await shop.say("Again", assistant="lead")
    async with shop.worker(shop.services(model=lives, tools=Bench(change=change))):
        await shop.seen.until_type("reply.completed", 2)
    shown = [
        (request.system.splitlines()[1], request.model, [tool.name for tool in request.tools])
        for request in (*dies.requests, *lives.requests)
    ]
    assert shown == [*[("Old.", "m1", ["change"])] * 3, ("New.", "m2", [])]


async def test_an_assistant_that_nobody_configured_fails_clearly(shop: Workshop) -> None:
    await shop.say("Hello", assistant="nobody")
    async with shop.worker(shop.services()):
        await shop.seen.until_type("reply.failed")
    assert shop.seen.bodies(ReplyFailed) == [
        ReplyFailed(code="UNKNOWN_ASSISTANT", detail="there is no assistant 'nobody'")
    ]
    assert not shop.seen.bodies(ReplyStarted)


async def test_a_predefined_assistant_answers_without_any_configuration(shop: Workshop) -> None:
    model = ScriptedModel(says("Hello"))
    await shop.say("Hello", assistant="health-agent")
    async with shop.worker(shop.services(model=model)):
        await shop.seen.until_type("reply.completed")
    [started] = shop.seen.bodies(ReplyStarted)
    assert (started.assistant, started.configured) == ("health-agent", {"health-agent": ""})
    assert "emergency number" in model.requests[0].system
