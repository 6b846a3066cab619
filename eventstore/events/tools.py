"""Tools: asked for, run, answered."""

from __future__ import annotations

from typing import Any

from eventstore.schema import Body, Personal


class ToolRequested(Body, frozen=True, kw_only=True, tag="tool.requested"):
    """A tool called from outside: its run ends with its answer.

    `fingerprint` is that of the request, so that a client that lost the stream may re-attach by repeating it.
    """

    tool: str
    source: str = "native"
    deadline_s: float = 18.0
    fingerprint: Personal[str | None] = None
    arguments: Personal[dict[str, Any]] = {}


class ToolStarted(Body, frozen=True, kw_only=True, tag="tool.started"):
    """Recorded before the tool runs, so that a crash leaves a trace. `call_id` names a call inside a turn, `member` the
    team's member that called (None: whoever answers)."""

    tool: str
    attempt: int = 1
    call_id: str | None = None
    member: str | None = None


class ToolProgressed(Body, frozen=True, kw_only=True, tag="tool.progressed"):
    tool: str
    call_id: str | None = None
    member: str | None = None
    message: Personal[str] = ""


class ToolCompleted(Body, frozen=True, kw_only=True, tag="tool.completed"):
    tool: str
    call_id: str | None = None
    member: str | None = None
    duration_ms: int = 0
    result: Personal[Any] = None


class ToolFailed(Body, frozen=True, kw_only=True, tag="tool.failed"):
    """`status` is the HTTP status a caller would expect for this failure; `error` is for people."""

    tool: str
    code: str
    status: int = 500
    call_id: str | None = None
    member: str | None = None
    error: Personal[str]


TYPES = (ToolRequested, ToolStarted, ToolProgressed, ToolCompleted, ToolFailed)
