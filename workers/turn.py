"""The LLM turn as a fold: what to do next follows from the events of the run alone, so a crash between any two steps
repeats only what left no event. A finished tool is never run again, a finished model call never made again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from eventstore.events.members import MemberStepped
from eventstore.events.replies import ReplyRestarted, ReplyStarted, ReplyStepped, ToolCall, Usage
from eventstore.events.tools import ToolCompleted, ToolFailed
from eventstore.schema import Body, UnknownEvent
from workers.model import AssistantMessage, Message, StepDone, ToolResult, ToolResults

MAX_STEPS = 8
"""Model calls of one turn; the last one gets no tools and so has to answer."""


class CallModel(NamedTuple):
    """Ask the model. `exchanges` are the finished steps of this turn; `text` is what the customer has seen of them."""

    attempt: int
    step: int
    text: str
    exchanges: tuple[Message, ...]
    may_use_tools: bool = True


class RunTools(NamedTuple):
    """Run these calls: those of the last step that have no result yet."""

    calls: tuple[ToolCall, ...]


class Finish(NamedTuple):
    """The turn is over: `text` is the whole answer, `usage` that of all steps."""

    text: str
    stop_reason: str
    usage: Usage


Step = CallModel | RunTools | Finish


class FinishedStep(NamedTuple):
    """A finished model call, and what its calls have answered so far: an id names a call of its step only."""

    step: ReplyStepped
    results: dict[str, ToolResult]

    @property
    def waiting(self) -> tuple[ToolCall, ...]:
        """The calls without an answer."""
        return tuple(call for call in self.step.calls if call.id not in self.results)


class Turn(NamedTuple):
    """A run of the assistant as its events tell it. `attempt` is 0 before the first; members used `delegated`."""

    attempt: int
    started: ReplyStarted | None
    steps: tuple[FinishedStep, ...]
    delegated: tuple[Usage, ...] = ()

    @property
    def text(self) -> str:
        """The text of the finished steps: what a restarted answer continues."""
        return "".join(finished.step.text for finished in self.steps)


def fold(events: Iterable[Body | UnknownEvent]) -> Turn:
    attempt, started = 0, None
    steps: list[FinishedStep] = []
    delegated: list[Usage] = []
    for event in events:
        match event:
            case ReplyStarted():
                attempt, started = max(attempt, event.attempt), started or event
            case ReplyRestarted():
                attempt = max(attempt, event.attempt)
            case ReplyStepped():
                steps.append(FinishedStep(event, {}))
            case MemberStepped(usage=Usage() as usage):
                delegated.append(usage)
            case ToolCompleted(call_id=str(call_id)) if steps:
                steps[-1].results[call_id] = ToolResult(call_id, event.tool, event.result)
            case ToolFailed(call_id=str(call_id)) if steps:
                failure = ToolResult(call_id, event.tool, f"{event.code}: {event.error}", failed=True)
                steps[-1].results[call_id] = failure
    return Turn(attempt, started, tuple(steps), tuple(delegated))


def next_step(events: Iterable[Body | UnknownEvent], last: StepDone | None = None) -> Step:
    """What the turn does now. `last` is a model call that asked for no tools: it has no event of its own, because
    `reply.completed` is the event that ends it."""
    turn = fold(events)
    if last is not None:
        return Finish(turn.text + last.text, last.stop_reason, _sum(turn, last.usage))
    if turn.steps and (waiting := turn.steps[-1].waiting):
        return RunTools(waiting)
    step = len(turn.steps) + 1
    return CallModel(max(turn.attempt, 1), step, turn.text, _exchanges(turn), step < MAX_STEPS)


def joint(before: str, text: str) -> str:
    """What stands between the text of one step and the next, so that they do not run together."""
    return "\n\n" if before and text and not before[-1].isspace() and not text[0].isspace() else ""


def _exchanges(turn: Turn) -> tuple[Message, ...]:
    messages: list[Message] = []
    for step, results in turn.steps:
        messages.append(AssistantMessage(step.text.strip(), tuple(step.calls), tuple(step.blocks or ())))
        if step.calls:
            messages.append(ToolResults(tuple(results[call.id] for call in step.calls)))
    return tuple(messages)


def _sum(turn: Turn, last: Usage) -> Usage:
    own = [finished.step.usage for finished in turn.steps if finished.step.usage is not None]
    usages = [*own, *turn.delegated, last]
    costs = [usage.cost_usd for usage in usages if usage.cost_usd is not None]
    return Usage(
        sum(usage.input_tokens for usage in usages),
        sum(usage.output_tokens for usage in usages),
        sum(usage.cache_write_tokens for usage in usages),
        sum(usage.cache_read_tokens for usage in usages),
        round(sum(costs), 9) if len(costs) == len(usages) else None,
    )
