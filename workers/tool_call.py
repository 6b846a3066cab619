"""One tool call, within its deadline, as events: the result first, then what the tool itself has to say."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from eventstore.events.tools import ToolCompleted, ToolFailed
from eventstore.schema import ConversationId, Event, OrgId, Recorded
from workers.batch import Batch
from workers.model import ToolSpec


class Call(NamedTuple):
    """What is to be run for whom: `item` is the input whose run it belongs to, `call_id` the caller's name for it.
    `is_repeated` says that an earlier attempt ended without a word: what it did outside is unknown. `member` is the
    team's member that called, None for anybody else."""

    org: OrgId
    item: Recorded
    tool: str
    arguments: dict[str, Any]
    call_id: str | None = None
    is_repeated: bool = False
    member: str | None = None


class Answered(NamedTuple):
    """What the caller gets, and the events that go into the same append as the result.

    `addresses` tells what the ids of new conversations among them stand for.
    """

    data: Any
    events: Sequence[Event] = ()
    addresses: Mapping[ConversationId, str] | None = None


class Refusal(Exception):
    """A tool's own answer that it cannot: `code` for programs, the text for people, `status` as HTTP has it."""

    def __init__(self, code: str, message: str, status: int) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class Toolbox(Protocol):
    """All tools of this installation."""

    @property
    def specs(self) -> Sequence[ToolSpec]: ...

    async def run(self, call: Call) -> Answered:
        """Raises Refusal, also for a tool that does not exist (NOT_FOUND)."""
        ...


async def answer(toolbox: Toolbox, call: Call, within_s: float) -> Batch:
    """The result as events, a failure too, and always the first of them; only a bug in the tool raises."""
    loop = asyncio.get_running_loop()
    began, actor = loop.time(), f"tool:{call.tool}"
    try:
        async with asyncio.timeout(within_s) as deadline:
            answered = await toolbox.run(call)
    except Refusal as refusal:
        return Batch([Event(_failed(call, refusal.code, refusal.status, str(refusal)), actor)])
    except TimeoutError:
        if not deadline.expired():
            raise
        return Batch([timed_out(call)])
    duration_ms = int((loop.time() - began) * 1_000)
    completed = ToolCompleted(
        tool=call.tool, call_id=call.call_id, member=call.member, duration_ms=duration_ms, result=answered.data
    )
    return Batch([Event(completed, actor), *answered.events], answered.addresses)


def timed_out(call: Call) -> Event:
    return Event(_failed(call, "TIMEOUT", 504, f"{call.tool} took too long"), f"tool:{call.tool}")


def _failed(call: Call, code: str, status: int, error: str) -> ToolFailed:
    return ToolFailed(tool=call.tool, code=code, status=status, call_id=call.call_id, member=call.member, error=error)
