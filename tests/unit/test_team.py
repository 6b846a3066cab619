"""A member's turn inside another assistant's: a fold of its own over the same events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventstore.events.members import MemberStepped
from eventstore.events.replies import ReplyStarted, ReplyStepped, ToolCall, Usage
from eventstore.events.tools import ToolCompleted, ToolFailed, ToolStarted
from eventstore.schema import Body
from workers.model import AssistantMessage, StepDone, ToolResult, ToolResults
from workers.team import turn_of
from workers.turn import CallModel, Finish, RunTools, Step, next_step

STARTED = ReplyStarted(attempt=1, assistant="lead", model="m", context_until="5-0")
ASKS_TWO = ReplyStepped(
    attempt=1,
    step=1,
    usage=Usage(10, 1),
    calls=[ToolCall("d1", "delegate", {"member": "ann"}), ToolCall("d2", "delegate", {"member": "ben"})],
)


def stepped(path: str, step: int, *call_ids: str, text: str = "") -> MemberStepped:
    calls = [ToolCall(call_id, "look", {}) for call_id in call_ids]
    return MemberStepped(member="ann", call_id=path, attempt=1, step=step, text=text, calls=calls, usage=Usage(100, 10))


def completed(call_id: str) -> ToolCompleted:
    return ToolCompleted(tool="look", call_id=call_id, result=call_id)


def whole(path: str) -> list[Body]:
    """All that a member leaves on the log which looks up two things at once, then one more, and reports."""
    return [
        ToolStarted(tool="delegate", call_id=path),
        stepped(path, 1, "c1", "c2", text="Hm."),
        *(ToolStarted(tool="look", call_id=f"{path}/{call_id}", member="ann") for call_id in ("c1", "c2")),
        *(completed(f"{path}/{call_id}") for call_id in ("c1", "c2")),
        stepped(path, 2, "c1"),  # an id names a call of its step only
        ToolStarted(tool="look", call_id=f"{path}/c1", member="ann"),
        completed(f"{path}/c1"),
        ToolCompleted(tool="delegate", call_id=path, result={"member": "ann", "report": "Done."}),
        stepped(path, 3, text="Done."),
    ]


def member(events: list[Body], path: str = "d1") -> Step:
    return next_step(turn_of(events, path))


def test_a_member_begins_with_a_model_call_of_its_own() -> None:
    assert member([STARTED, ASKS_TWO]) == CallModel(1, 1, "", ())


def test_a_members_finished_steps_are_what_its_model_is_told() -> None:
    failed = ToolFailed(tool="look", code="NOT_FOUND", status=404, call_id="d1/c2", error="nobody")
    step = member([STARTED, ASKS_TWO, stepped("d1", 1, "c1", "c2", text="Hm."), completed("d1/c1"), failed])
    assert isinstance(step, CallModel)
    assert step.exchanges == (
        AssistantMessage("Hm.", (ToolCall("c1", "look", {}), ToolCall("c2", "look", {}))),
        ToolResults((ToolResult("c1", "look", "d1/c1"), ToolResult("c2", "look", "NOT_FOUND: nobody", failed=True))),
    )


def test_two_members_at_once_do_not_see_each_others_calls() -> None:
    events = [STARTED, ASKS_TWO, stepped("d1", 1, "c1"), stepped("d2", 1, "c1"), completed("d2/c1")]
    assert isinstance(member(events, "d1"), RunTools)
    assert isinstance(member(events, "d2"), CallModel)


def test_a_members_member_has_a_turn_of_its_own() -> None:
    events = [STARTED, ASKS_TWO, stepped("d1", 1, "c1"), stepped("d1/c1", 1, "c1"), completed("d1/c1/c1")]
    assert isinstance(member(events, "d1/c1"), CallModel)
    assert isinstance(member(events, "d1"), RunTools)


def test_an_id_that_a_later_step_uses_again_is_another_task() -> None:
    events = [STARTED, ASKS_TWO, *whole("d1"), ASKS_TWO]
    assert member(events) == CallModel(1, 1, "", ())


def test_the_leaders_turn_waits_for_the_reports_and_for_nothing_else() -> None:
    events: list[Body] = [STARTED, ASKS_TWO, *whole("d1")[:-2]]
    waiting = next_step(events)
    assert isinstance(waiting, RunTools)
    assert [call.id for call in waiting.calls] == ["d1", "d2"]
    report = next_step([*events, *whole("d1")[-2:], *whole("d2")])
    assert isinstance(report, CallModel)
    assert report.text == ""


def test_what_members_used_counts_in_the_reply() -> None:
    finished = next_step([STARTED, ASKS_TWO, *whole("d1"), *whole("d2")], StepDone("So.", usage=Usage(5, 2)))
    assert isinstance(finished, Finish)
    assert (finished.text, finished.usage.input_tokens, finished.usage.output_tokens) == ("So.", 615, 63)


@given(st.integers(0, 11), st.lists(st.integers(0, 11), min_size=11, max_size=11).map(sorted))
def test_wherever_the_log_was_cut_a_member_goes_on_with_what_has_no_event(cut: int, places: list[int]) -> None:
    """The events of the other member, which works at the same time, may lie anywhere between."""
    own = whole("d1")[:cut]
    events = list(own)
    for before, (place, event) in enumerate(zip(places, whole("d2"), strict=True)):
        events.insert(min(place, cut) + before, event)
    step = member([STARTED, ASKS_TWO, *events])
    done = [event.call_id for event in own if isinstance(event, ToolCompleted)]
    steps = len([event for event in own if isinstance(event, MemberStepped)])
    match step:
        case RunTools(calls=calls):
            expected = {1: ["d1/c1", "d1/c2"], 2: ["d1/c1"]}[steps]
            finished = done if steps == 1 else done[2:]
            assert [f"d1/{call.id}" for call in calls] == [call_id for call_id in expected if call_id not in finished]
        case CallModel(step=number):
            assert number == steps + 1
            assert len(done) >= {0: 0, 1: 2, 2: 3, 3: 4}[steps]
        case Finish():
            raise AssertionError("a member's turn ends with its report")
