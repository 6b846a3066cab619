"""A team at work: what its assistants ask for is done by tools and by members, and every step of it is an event."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

from msgspec.structs import replace

from eventstore.events.members import MemberStepped
from eventstore.events.replies import ReplyStarted, ReplyStepped, ToolCall
from eventstore.events.tools import ToolCompleted, ToolFailed, ToolStarted
from eventstore.schema import Body, Event, UnknownEvent
from projections import assistants
from projections.assistants import MAX_DEPTH, Assistant
from workers import prompt, tool_call
from workers.batch import Batch
from workers.errors import Rejected, TryAgain
from workers.groups import together
from workers.model import PAUSED, Model, ModelRequest, StepDone, TextDelta, ToolSpec, UserMessage
from workers.tool_call import Answered, Call, Refusal
from workers.turn import CallModel, RunTools, next_step
from workers.work import Work

DELEGATE = "delegate"
MAX_DELEGATIONS = 8
"""Of one answer, at all depths; with the steps of a turn it bounds what one message can cost."""


async def assemble(work: Work, assistant: str, started: ReplyStarted | None) -> dict[str, Assistant]:
    """Whoever answers and all it can delegate to, by id: as configured now, or as when the turn began.

    Raises Rejected if there is no such assistant.
    """
    services = work.services
    if started is not None and started.configured:
        found = await assistants.team_as_of(services.log, services.engine, work.org, started.configured)
    else:
        found = await assistants.team(services.engine, work.org, assistant)
    if assistant not in found:
        raise Rejected("UNKNOWN_ASSISTANT", f"there is no assistant {assistant[:80]!r}")
    return found


@dataclass(frozen=True)
class Team:
    """The assistants of one answer, by id, and the run's events so far, which its steps are added to."""

    work: Work
    model: Model
    assistants: Mapping[str, Assistant]
    events: list[Body | UnknownEvent]
    attempt: int

    async def append(self, batch: Batch) -> None:
        await self.work.append_batch(batch, epoch=self.work.epoch)
        self.events.extend(event.body for event in batch.events)

    def has_begun(self, call_id: str) -> bool:
        """Whether an earlier attempt began this call and did not live to tell its result."""
        begun = False
        for event in self.events:
            match event:
                case ToolStarted(call_id=of) | ToolCompleted(call_id=of) | ToolFailed(call_id=of) if of == call_id:
                    begun = isinstance(event, ToolStarted)
        return begun

    def delegations(self) -> int:
        begun = {event.call_id for event in self.events if isinstance(event, ToolStarted) and event.tool == DELEGATE}
        return len(begun)


class Tools:
    """What one assistant of a team may use: its own tools of the installation's, and its members.

    `path` is the id of the delegation it works on, "" for the assistant that answers. Ids of calls are paths too, so
    that no two calls of a run share one.
    """

    def __init__(self, team: Team, assistant: Assistant, path: str = "") -> None:
        self._team = team
        self._assistant = assistant
        self._path = path

    @property
    def specs(self) -> Sequence[ToolSpec]:
        own = [spec for spec in self._team.work.services.tools.specs if spec.name in self._assistant.tools]
        members = self._members
        return [*own, delegation(members)] if members else own

    async def run_all(self, calls: Iterable[ToolCall]) -> None:
        """Side by side; each has its result on the log when it returns."""
        await together(*(self._run(call) for call in calls))

    async def _run(self, asked: ToolCall) -> None:
        """Its result and its own events are one append, so a tool that left a trace is never run again."""
        team, services = self._team, self._team.work.services
        call_id = f"{self._path}/{asked.id}" if self._path else asked.id
        member = self._assistant.id if self._path else None
        call = Call(
            team.work.org, team.work.item, asked.tool, asked.arguments, call_id, team.has_begun(call_id), member
        )
        started = ToolStarted(tool=call.tool, attempt=team.attempt, call_id=call_id, member=member)
        await team.append(Batch([Event(started, f"tool:{call.tool}")]))
        within_s = services.reply_deadline_s if call.tool == DELEGATE else services.tool_deadline_s
        await team.append(await tool_call.answer(self, call, within_s))

    async def run(self, call: Call) -> Answered:
        """Raises Refusal for what this assistant may not use, whatever its model made up."""
        if call.tool == DELEGATE and self._members:
            member, task = self._assignment(call)
            return await Member(self._team, member, task, str(call.call_id)).work()
        if call.tool in self._assistant.tools:
            return await self._team.work.services.tools.run(call)
        raise Refusal("TOOL_NOT_FOUND", f"{self._assistant.id} has no tool {call.tool[:80]!r}", 404)

    @property
    def _members(self) -> list[Assistant]:
        """Those it may delegate to; none at the bottom."""
        depth = self._path.count("/") + 1 if self._path else 0
        known = self._team.assistants
        return [known[member] for member in self._assistant.members if member in known] if depth < MAX_DEPTH else []

    def _assignment(self, call: Call) -> tuple[Assistant, str]:
        wanted, task = call.arguments.get("member"), call.arguments.get("task")
        member = next((member for member in self._members if member.id == wanted), None)
        if member is None:
            names = ", ".join(each.id for each in self._members)
            raise Refusal("MEMBER_NOT_FOUND", f"member: expected one of {names}, got {str(wanted)[:80]!r}", 404)
        if not isinstance(task, str) or not task.strip():
            raise Refusal("INVALID_ARGUMENTS", "task: expected what the member is to do", 422)
        if self._team.delegations() > MAX_DELEGATIONS:
            raise Refusal("TOO_MANY_DELEGATIONS", f"at most {MAX_DELEGATIONS} tasks are delegated in one answer", 429)
        return member, task


class Member:
    """A member at work on one task: a turn of its own, folded from those events of the run that carry its path."""

    def __init__(self, team: Team, assistant: Assistant, task: str, path: str) -> None:
        self._team = team
        self._assistant = assistant
        self._task = task
        self._path = path
        self._tools = Tools(team, assistant, path)

    async def work(self) -> Answered:
        """Its report, with the model call that ended it as an event of the same step."""
        while True:
            match next_step(turn_of(self._team.events, self._path)):
                case CallModel() as call:
                    done = await self._call_model(call)
                    step = self._stepped(call, done)
                    if not step.calls and done.stop_reason != PAUSED:
                        return self._report(step, done)
                    await self._team.append(Batch([self._event(step)]))
                case RunTools(calls=calls):
                    await self._tools.run_all(calls)

    async def _call_model(self, call: CallModel) -> StepDone:
        """Nobody reads along, so only the end of the stream counts."""
        work = self._team.work
        request = ModelRequest(
            system=prompt.member(self._assistant, work.org),
            messages=[UserMessage(self._task), *call.exchanges],
            tools=self._tools.specs,
            may_use_tools=call.may_use_tools,
            model=self._assistant.model,
            step=call.step,
            attempt=self._team.attempt,
        )
        stream = cast("AsyncGenerator[TextDelta | StepDone]", self._team.model.stream(request))
        async with aclosing(stream) as pieces:
            async for piece in pieces:
                if isinstance(piece, StepDone):
                    return piece if call.may_use_tools else piece._replace(calls=())
        raise TryAgain("the model's stream ended before its end was announced")

    def _stepped(self, call: CallModel, done: StepDone) -> MemberStepped:
        return MemberStepped(
            member=self._assistant.id,
            call_id=self._path,
            attempt=self._team.attempt,
            step=call.step,
            usage=done.usage,
            text=done.text,
            calls=list(done.calls),
            blocks=list(done.blocks) or None,
        )

    def _report(self, step: MemberStepped, done: StepDone) -> Answered:
        data = {"member": self._assistant.id, "report": step.text.strip(), "stop_reason": done.stop_reason}
        return Answered(data, [self._event(step)])

    def _event(self, step: MemberStepped) -> Event:
        return Event(step, f"assistant:{self._assistant.id}")


def turn_of(events: Iterable[Body | UnknownEvent], path: str) -> list[Body]:
    """The events of the member that works at `path`, as those of a turn of its own.

    A new step of whoever it works for begins anew: models may use an id again in another step.
    """
    own: list[Body] = []
    for event in events:
        match event:
            case ReplyStepped():
                own = []
            case MemberStepped(call_id=of) if path.startswith(f"{of}/"):
                own = []
            case MemberStepped(call_id=of) if of == path:
                own.append(_as_step(event))
            case ToolCompleted(call_id=str(of)) | ToolFailed(call_id=str(of)) if of.startswith(f"{path}/"):
                own.append(replace(event, call_id=of[len(path) + 1 :]))
    return own


def _as_step(step: MemberStepped) -> ReplyStepped:
    return ReplyStepped(
        attempt=step.attempt, step=step.step, usage=step.usage, text=step.text, calls=step.calls, blocks=step.blocks
    )


def delegation(members: Sequence[Assistant]) -> ToolSpec:
    """`delegate`, as a model is told of it."""
    names = ", ".join(f"{member.id} ({member.name})" for member in members)
    return ToolSpec(
        DELEGATE,
        f"Give a task to a member of your team and get its report. Several at once work side by side. Members: {names}",
        {
            "type": "object",
            "properties": {
                "member": {"type": "string", "enum": [member.id for member in members]},
                "task": {"type": "string", "description": "All that the member has to know: it sees nothing else"},
            },
            "required": ["member", "task"],
        },
    )
