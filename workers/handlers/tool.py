"""Runs a tool that was called from outside."""

from __future__ import annotations

from collections.abc import Sequence

from eventstore.events.tools import ToolFailed, ToolRequested, ToolStarted
from eventstore.schema import Event
from workers.retry import Backoff, Policy
from workers.tool_call import Call, answer, timed_out
from workers.work import Done, Handler, Work

POLICY = Policy(max_attempts=3, on_exhausted="fail", backoff=Backoff(200, 2_000))


async def handle(work: Work) -> Done:
    """The deadline counts from the request's own time, measured by the log's clock alone: workers' clocks differ."""
    request = work.body
    assert isinstance(request, ToolRequested)
    if work.attempts == 1 and await work.is_cancelled():
        return Done([_cancelled(request)])
    call = Call(work.org, work.item, request.tool, request.arguments, is_repeated=work.attempts > 1)
    mark = ToolStarted(tool=request.tool, attempt=work.attempts)
    started = await work.append(Event(mark, f"tool:{request.tool}"))
    left_s = request.deadline_s - (started.positions[0].ms - work.item.position.ms) / 1_000
    if left_s <= 0:
        return Done([timed_out(call)])
    batch = await answer(work.services.tools, call, left_s)
    return Done(batch.events, addresses=batch.addresses)


def _cancelled(request: ToolRequested) -> Event:
    """Only what has not begun can be cancelled: a tool that was broken off may have had its effect."""
    error = f"the run was cancelled before {request.tool} began"
    return Event(ToolFailed(tool=request.tool, code="CANCELLED", status=409, error=error), f"tool:{request.tool}")


async def failed(work: Work, error: str) -> Sequence[Event]:
    request = work.body
    assert isinstance(request, ToolRequested)
    failure = ToolFailed(tool=request.tool, code="INTERNAL", status=500, error=f"{request.tool} failed")
    return [Event(failure, f"tool:{request.tool}")]


HANDLER = Handler(ToolRequested, handle, POLICY, failed)
