"""Runs: started by one input, followed by any client of the organization, over with the terminal event of their root.

What every route that starts work shares: begin, follow, re-attach, or wait for the whole answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple
from uuid import uuid4

import msgspec
from aiohttp import web

from edges import resume
from edges.app_keys import LOG, ORGANIZATIONS, PRESENCE
from edges.auth import Caller
from edges.errors import ApiError
from edges.intake import Accepted, Input, accept, client_key
from edges.limits import charge, check_room
from edges.respond import Plan, respond
from edges.ring import Dialect
from edges.subscriptions import Filter, Format
from edges.tail import TAILER
from edges.wire import STREAM_HEADERS, Frame, Wire
from eventstore import codec
from eventstore.append import DELTA_RETENTION_MS, IDEMPOTENCY_TTL_MS, fingerprint
from eventstore.events import DELTA_TYPES, TERMINAL_TYPES, TYPES
from eventstore.events.messages import MessageReceived, MessageSent
from eventstore.events.replies import ReplyCompleted, ReplyDeferred, ReplyFailed, ReplyRestarted
from eventstore.events.tools import ToolRequested
from eventstore.log import Log
from eventstore.schema import ConversationId, Event, OrgId, Position, Recorded

ANSWER_GRACE_S = 7.0
"""How much longer than a run's own deadline an edge waits for the event that says so."""
STARTS_WORK = frozenset(
    {
        "message.received",
        "tool.requested",
        "control.released",
        "call.requested",
        "call.initiated",
        "session.requested",
    }
)
_OVER_AT_ONCE = frozenset(str(body.__struct_config__.tag) for body in TYPES) - STARTS_WORK

CANCELLED = "the answer was cancelled"
TAKEN_OVER = "a person has taken over this conversation and has not answered yet"


class RunRequest(NamedTuple):
    """Work asked for by a request. `canonical` is what makes two requests the same.

    `address` is that of the conversation a message belongs to; a tool call has none. `key` is the producer's own name
    for the input; `dedupe_ms` merges repeats that carry none. `deadline_s` is the work's own.
    """

    body: ToolRequested | MessageReceived
    name: str
    canonical: bytes
    deadline_s: float
    address: str | None = None
    dedupe_ms: int | None = None
    key: str | None = None


def ends_run(event: Recorded) -> bool:
    """Stateless: tools inside a turn carry a call id, and an input that starts no work is over with itself. One of a
    type that is not known here may be work for a worker of a later version."""
    if event.type in TERMINAL_TYPES:
        return True
    if event.type in ("tool.completed", "tool.failed"):
        return b'"call_id":"' not in event.data
    return event.position == event.run and (event.type in _OVER_AT_ONCE or event.type.startswith("custom."))


def last_word(end: Recorded) -> str:
    """How a run ended: the last word of its terminal event's type. What was over with itself has nothing to tell."""
    return "completed" if end.type not in TERMINAL_TYPES and end.position == end.run else end.type.rpartition(".")[2]


async def start_or_attach(
    request: web.Request, caller: Caller, wanted: RunRequest, wire: Wire, dialect: Dialect
) -> web.StreamResponse:
    """The stream of the run this request starts, or of the one it started before it lost the connection."""
    seen = resume.last_seen(request)
    check_room(request, caller, returns=seen is not None)
    if seen is not None:
        return await _attach(request, caller, wanted, seen, Format(dialect, wire, request.version >= (1, 1), ends_run))
    return await show(request, caller, await begin(request, caller, wanted), wire, dialect)


async def show(
    request: web.Request, caller: Caller, accepted: Accepted, wire: Wire, dialect: Dialect
) -> web.StreamResponse:
    """The stream of a run that was just begun."""
    format = Format(dialect, wire, request.version >= (1, 1), ends_run)
    plan = plan_for(request, caller, accepted.run, resume.Start(accepted.run.before()), format)
    return await respond(request, plan._replace(headers={**accepted.headers, **run_headers(accepted.run)}))


async def accept_message(request: web.Request, caller: Caller, wanted: RunRequest) -> web.Response:
    """Begins the run without showing it: 202. A repeated request is answered with the id of the first one's message."""
    accepted = await begin(request, caller, wanted)
    body: object = wanted.body
    if accepted.replayed:
        recorded = await request.app[LOG].at(caller.org, accepted.run)
        body = codec.decode(recorded) if recorded is not None else None
    message_id = body.message_id if isinstance(body, MessageReceived) else None
    answer = {"message_id": message_id, "run_id": str(accepted.run), "status": "accepted"}
    return web.json_response(answer, status=202, headers={**accepted.headers, **run_headers(accepted.run)})


async def begin(request: web.Request, caller: Caller, wanted: RunRequest) -> Accepted:
    """Appends the input: a message on its conversation's lane, a tool call on its own, where it delays nobody."""
    await charge(request, caller)
    digest = _fingerprint(caller, wanted)
    body = msgspec.structs.replace(wanted.body, fingerprint=digest)
    if isinstance(body, MessageReceived):
        body = msgspec.structs.replace(body, user=caller.subject)
    addresses: dict[ConversationId, str] = {}
    if wanted.address is None:
        event = Event(body, caller.actor, lane=f"tool:{uuid4().hex}")
    else:
        conversation = await request.app[ORGANIZATIONS].conversation(caller.org, wanted.address)
        addresses[conversation] = wanted.address
        event = Event(body, "customer", conversation, lane=conversation)
    key, ttl_ms = wanted.key or client_key(request), IDEMPOTENCY_TTL_MS
    if key is None and wanted.dedupe_ms is not None:
        key, ttl_ms = f"repeat:{digest}", wanted.dedupe_ms
    given = Input(events=[event], raw=wanted.canonical, route=wanted.name, key=key, ttl_ms=ttl_ms, addresses=addresses)
    return await accept(request, caller, given)


def _fingerprint(caller: Caller, wanted: RunRequest) -> str:
    return fingerprint(caller.credential_id, wanted.name, wanted.canonical)


def run_headers(run: Position) -> dict[str, str]:
    return {"X-Run-Id": str(run), "Location": f"/v1/runs/{run}/stream"}


async def _attach(
    request: web.Request, caller: Caller, wanted: RunRequest, seen: resume.Requested, format: Format
) -> web.StreamResponse:
    log = request.app[LOG]
    event = await event_at(log, caller.org, seen.position)
    if event is None:
        return await _refuse_with_gap(request, caller, seen, format)
    root = await log.at(caller.org, event.run)
    body = codec.decode(root) if root is not None else None
    if not isinstance(body, ToolRequested | MessageReceived) or body.fingerprint != _fingerprint(caller, wanted):
        raise ApiError(422, "RUN_MISMATCH", f"Last-Event-ID {seen.text} belongs to another request than this one")
    return await follow(request, caller, event.run, seen.position, format)


async def _refuse_with_gap(
    request: web.Request, caller: Caller, seen: resume.Requested, format: Format
) -> web.StreamResponse:
    """A position that leads to no run must not start one: a gap, and a clean end."""
    log = request.app[LOG]
    start = await resume.start(log, caller.org, seen)
    gap = start.gap or await resume.gap_from_start(log, caller.org, seen.text, "unknown")
    frame = Frame(gap.data(), "gap" if format.dialect.named else None)
    response = web.StreamResponse(headers={"Content-Type": format.wire.content_type, **STREAM_HEADERS})
    await response.prepare(request)
    await response.write(format.wire.encode([frame], gap.resume.encode()))
    await response.write_eof()
    return response


async def event_at(log: Log, org: OrgId, position: Position) -> Recorded | None:
    """The fact or delta at exactly this position."""
    events = await log.read(org, position.before(), count=1)
    return events[0] if events and events[0].position == position else None


async def follow(
    request: web.Request, caller: Caller, run: Position, after: Position, format: Format
) -> web.StreamResponse:
    """The run's stream from a position that was seen; 204 if that was its end."""
    log = request.app[LOG]
    facts = await log.read_run(caller.org, run, deltas=False)
    last = next((event for event in facts if ends_run(event)), None)
    if last is not None and after >= last.position:
        return web.Response(status=204, headers=run_headers(run))
    plan = plan_for(request, caller, run, resume.Start(after, resumed=True), format)
    return await respond(request, plan._replace(opening=await _retold(log, caller.org, run, after, format)))


async def _retold(log: Log, org: OrgId, run: Position, after: Position, format: Format) -> bytes:
    """The whole answer in one piece, where the pieces that a client would miss have been trimmed."""
    if not format.dialect.retells or run.ms > (await log.bounds(org)).clock.ms - DELTA_RETENTION_MS:
        return b""
    events = await log.read_run(org, run)
    completed = next((event for event in events if event.type == "reply.completed" and event.position > after), None)
    body = codec.decode(completed) if completed is not None else None
    if completed is None or not isinstance(body, ReplyCompleted) or any(each.type in DELTA_TYPES for each in events):
        return b""
    restarted = ReplyRestarted(attempt=body.attempt, text=body.text)
    fields = codec.encode(restarted, completed.actor, completed.conversation)
    shown = msgspec.structs.replace(completed, type=restarted.type, data=fields.data, personal=fields.personal)
    return format.wire.encode(format.dialect.render(shown), None)


def plan_for(request: web.Request, caller: Caller, run: Position, start: resume.Start, format: Format) -> Plan:
    return Plan(
        caller,
        Filter(f"run:{run}"),
        format,
        start,
        begins=run,
        headers=run_headers(run),
        alive=request.app[PRESENCE].any_alive,
    )


async def collect(request: web.Request, caller: Caller, wanted: RunRequest) -> tuple[list[Recorded], dict[str, str]]:
    """Starts a run and waits for all of it, for callers that read one body."""
    accepted = await begin(request, caller, wanted)
    run = accepted.positions[0]
    events = await outcome(request, caller, run, wanted.deadline_s + ANSWER_GRACE_S)
    return events, {**accepted.headers, **run_headers(run)}


async def outcome(request: web.Request, caller: Caller, run: Position, timeout_s: float) -> list[Recorded]:
    """The events of a run up to its end; 503 when no worker answers in time (the work itself goes on)."""
    log, tailer = request.app[LOG], request.app[TAILER]
    async with tailer.audience(caller.org) as audience:
        with audience.watch(f"run:{run}") as watch:
            events = await log.read_run(caller.org, run, deltas=False)
            try:
                async with asyncio.timeout(timeout_s):
                    while (end := next((at for at, event in enumerate(events) if ends_run(event)), None)) is None:
                        arrived = await watch.take()
                        events += [event for event in arrived if not events or event.position > events[-1].position]
            except TimeoutError:
                raise ApiError(
                    503, "NO_WORKER", f"no answer in {timeout_s:.0f} s; follow it at /v1/runs/{run}/stream",
                    {"Retry-After": "5", **run_headers(run)},
                ) from None  # fmt: skip
    return events[: end + 1]  # what follows from the answer comes after it, in the same step or later


def answer_of(events: Sequence[Recorded]) -> str:
    """What was said to a run's question, by the assistant or by the person who holds the conversation."""
    match codec.decode(events[-1]):
        case ReplyCompleted(text=text):
            return text
        case ReplyDeferred(message_id=str(), text=text):
            return text or "\n".join(body.text for body in map(codec.decode, events) if isinstance(body, MessageSent))
        case ReplyDeferred():
            raise ApiError(409, "HELD", TAKEN_OVER)
        case ReplyFailed(code="TIMEOUT", detail=detail):
            raise ApiError(504, "TIMEOUT", detail)
        case ReplyFailed(code=code, detail=detail):
            raise ApiError(500, code, detail)
    raise ApiError(409, "CANCELLED", CANCELLED)
