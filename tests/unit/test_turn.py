"""The turn as a fold, and the context it is given."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from eventstore import codec
from eventstore.events.calls import CallTurnRecorded
from eventstore.events.messages import MessageReceived
from eventstore.events.replies import (
    ReplyCompleted,
    ReplyDelta,
    ReplyRestarted,
    ReplyStarted,
    ReplyStepped,
    ToolCall,
    Usage,
)
from eventstore.events.sms import SmsRequested
from eventstore.events.tools import ToolCompleted, ToolFailed, ToolStarted
from eventstore.schema import Body, ConversationId, OrgId, Position, Recorded
from workers import context, prompt
from workers.model import AssistantMessage, Message, StepDone, ToolResult, ToolResults, UserMessage
from workers.turn import MAX_STEPS, CallModel, Finish, RunTools, fold, joint, next_step

STARTED = ReplyStarted(attempt=1, assistant="a", model="m", context_until="5-0")


def stepped(step: int, *call_ids: str, text: str = "") -> ReplyStepped:
    calls = [ToolCall(call_id, "look", {}) for call_id in call_ids]
    return ReplyStepped(attempt=1, step=step, text=text, calls=calls, usage=Usage(10, 1))


def completed(call_id: str, result: Any = "found") -> ToolCompleted:
    return ToolCompleted(tool="look", call_id=call_id, result=result)


def test_a_turn_begins_with_a_model_call() -> None:
    assert next_step([STARTED]) == CallModel(1, 1, "", ())


def test_calls_of_a_step_are_run() -> None:
    step = stepped(1, "c1", "c2")
    assert next_step([STARTED, step]) == RunTools(tuple(step.calls))


def test_only_calls_without_a_result_are_run_again_after_a_crash() -> None:
    step = stepped(1, "c1", "c2")
    started = ToolStarted(tool="look", call_id="c2")
    assert next_step([STARTED, step, completed("c1"), started]) == RunTools((step.calls[1],))


def test_when_all_tools_have_answered_the_model_goes_on_from_their_results() -> None:
    failed = ToolFailed(tool="look", code="NOT_FOUND", status=404, call_id="c2", error="nobody")
    step = next_step([STARTED, stepped(1, "c1", "c2", text="Hm."), completed("c1"), failed])
    assert step == CallModel(
        1,
        2,
        "Hm.",
        (
            AssistantMessage("Hm.", (ToolCall("c1", "look", {}), ToolCall("c2", "look", {}))),
            ToolResults(
                (ToolResult("c1", "look", "found"), ToolResult("c2", "look", "NOT_FOUND: nobody", failed=True))
            ),
        ),
    )


def test_results_of_other_runs_tools_are_not_taken_for_calls() -> None:
    """A tool called from outside has no call id of this turn."""
    step = stepped(1, "c1")
    assert next_step([STARTED, step, ToolCompleted(tool="look", result=1)]) == RunTools(tuple(step.calls))


def test_the_answer_is_the_text_of_all_steps_and_counts_all_tokens() -> None:
    events = [STARTED, stepped(1, "c1", text="Hm."), completed("c1")]
    last = StepDone("\n\nFound.", (), "end_turn", Usage(5, 2))
    assert next_step(events, last) == Finish("Hm.\n\nFound.", "end_turn", Usage(15, 3))


def test_a_restart_continues_after_the_finished_steps() -> None:
    events = [STARTED, stepped(1, "c1", text="Hm."), completed("c1"), ReplyRestarted(attempt=2, text="Hm.")]
    step = next_step(events)
    assert isinstance(step, CallModel)
    assert (step.attempt, step.step, step.text) == (2, 2, "Hm.")


def test_the_last_model_call_gets_no_tools() -> None:
    events: list[Body] = [STARTED]
    for number in range(1, MAX_STEPS):
        events += [stepped(number, f"c{number}"), completed(f"c{number}")]
    step = next_step(events)
    assert isinstance(step, CallModel)
    assert (step.step, step.may_use_tools) == (MAX_STEPS, False)


def test_texts_of_two_steps_do_not_run_together() -> None:
    assert joint("Hm.", "Found") == "\n\n"
    assert joint("Hm. ", "Found") == joint("Hm.", " Found") == joint("", "Found") == joint("Hm.", "") == ""


@given(st.integers(0, 40))
def test_wherever_the_log_was_cut_no_finished_tool_is_asked_for_again(cut: int) -> None:
    events: list[Body] = [STARTED]
    for number in range(1, 5):
        ids = [f"{number}a", f"{number}b"]
        events += [stepped(number, *ids), *(completed(call_id) for call_id in ids)]
    seen = events[:cut]
    step = next_step(seen)
    if isinstance(step, RunTools):
        assert not {call.id for call in step.calls} & set(fold(seen).steps[-1].results)


class Died(Exception):
    """The worker was killed before it could append."""


class Life:
    """One life of a worker: it appends so many events, and then no more. Two words to a step, no tool twice."""

    def __init__(self, log: list[Body], plan: list[int], appends: int) -> None:
        self._log, self._plan, self._left = log, plan, appends

    def run(self) -> None:
        turn = fold(self._log)
        self.attempt = turn.attempt + 1
        self._append(ReplyRestarted(attempt=self.attempt, text=turn.text) if turn.started else STARTED)
        last: StepDone | None = None
        while not isinstance(step := next_step(self._log, last), Finish):
            if isinstance(step, CallModel):
                last = self._call_model(step)
            else:
                self._run_tools(step)
        self._append(ReplyCompleted(message_id="m", attempt=self.attempt, model="m", text=step.text))

    def _call_model(self, call: CallModel) -> StepDone | None:
        text = f"{joint(call.text, 'x')}step {call.step}"
        for index, word in enumerate((text[:3], text[3:])):
            self._append(ReplyDelta(attempt=self.attempt, index=index, text=word))
        if call.step > len(self._plan):
            return StepDone(text)
        ids = [f"{call.step}-{number}" for number in range(self._plan[call.step - 1])]
        self._append(stepped(call.step, *ids, text=text))
        return None

    def _run_tools(self, step: RunTools) -> None:
        for call in step.calls:
            finished = [body.call_id for body in self._log if isinstance(body, ToolCompleted)]
            assert call.id not in finished
            self._append(ToolStarted(tool="look", call_id=call.id))
            self._append(completed(call.id))

    def _append(self, body: Body) -> None:
        if self._left == 0:
            raise Died
        self._left -= 1
        self._log.append(body)


def shown(log: list[Body]) -> str:
    text = ""
    for body in log:
        match body:
            case ReplyRestarted(text=restart):
                text = restart
            case ReplyDelta(text=more):
                text += more
    return text


@given(st.lists(st.integers(1, 3), max_size=MAX_STEPS - 1), st.lists(st.integers(0, 12), max_size=8))
def test_however_often_a_turn_dies_every_tool_finishes_once_and_what_is_shown_is_stored(
    plan: list[int], lives: list[int]
) -> None:
    """`plan` is how many calls each step makes, `lives` after how many appends each worker dies."""
    log: list[Body] = []
    for appends in lives:
        with suppress(Died):
            Life(log, plan, appends).run()
            break
    else:
        Life(log, plan, 1_000).run()
    assert isinstance(log[-1], ReplyCompleted)
    assert log[-1].text == shown(log) == "\n\n".join(f"step {number}" for number in range(1, len(plan) + 2))
    assert len([body for body in log if isinstance(body, ToolCompleted)]) == sum(plan)
    assert len([body for body in log if isinstance(body, ReplyStepped)]) == len(plan)


def recorded(at: int, body: Body, run: int | None = None) -> Recorded:
    fields = codec.encode(body, "x", ConversationId("c"))
    return Recorded(
        position=Position(at, 0),
        organization=OrgId("acme"),
        type=body.type,
        actor="x",
        run=Position(run or at, 0),
        cause=None,
        conversation=ConversationId("c"),
        number=at,
        version=at,
        data=fields.data,
        personal=fields.personal,
        digest=fields.digest,
    )


def said(text: str, **fields: Any) -> MessageReceived:
    return MessageReceived(message_id="m", text=text, **fields)


def answered(text: str) -> ReplyCompleted:
    return ReplyCompleted(message_id="m", attempt=1, model="m", text=text)


def test_an_answer_stands_behind_the_last_message_it_had_seen() -> None:
    events = [
        recorded(1, said("one")),
        recorded(2, ReplyStarted(attempt=1, assistant="a", model="m", context_until="1-0"), run=1),
        recorded(3, said("two")),
        recorded(4, answered("first"), run=1),
    ]
    assert context.messages(events, Position(3, 0)) == [
        UserMessage("one"),
        AssistantMessage("first"),
        UserMessage("two"),
    ]


def test_the_context_ends_where_the_answer_began() -> None:
    events = [recorded(1, said("one")), recorded(2, said("two")), recorded(3, said("late"))]
    assert context.messages(events, Position(2, 0)) == [UserMessage("one"), UserMessage("two")]


def test_keywords_are_not_talk_and_agents_are() -> None:
    agent = SmsRequested(intent_id="i", message_id="m", sent_by="agent", to="+1", text="It is me")
    events = [recorded(1, said("STOP", keyword="STOP")), recorded(2, said("hi")), recorded(3, agent)]
    assert context.messages(events, Position(9, 0)) == [UserMessage("hi"), AssistantMessage("It is me")]


def test_what_was_said_on_the_telephone_is_part_of_the_talk() -> None:
    turns = [
        CallTurnRecorded(call_sid="CA1", message_id="1", role="assistant", text="Hello?"),
        CallTurnRecorded(call_sid="CA1", message_id="2", role="user", text="A bike, please"),
    ]
    events = [*(recorded(place, turn) for place, turn in enumerate(turns, start=1)), recorded(3, said("Well?"))]
    assert context.messages(events, Position(9, 0)) == [
        AssistantMessage("Hello?"),
        UserMessage("A bike, please"),
        UserMessage("Well?"),
    ]


def test_a_long_conversation_is_cut_at_a_customers_message() -> None:
    messages: list[Message] = [UserMessage("x" * 400), AssistantMessage("y" * 400), UserMessage("now")]
    assert prompt.fit(messages, 120) == [UserMessage("now")]
    assert prompt.fit(messages, 1_000) == messages


def test_the_last_message_stays_however_long_it_is() -> None:
    assert prompt.fit([UserMessage("x" * 9_000)], 10) == [UserMessage("x" * 9_000)]
