"""Runs on the native surface: `GET` and `DELETE /v1/runs/{id}`, `GET /v1/runs/{id}/stream[?dialect=]`.

The stream's last frame is `{"type":"end"}`.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from aiohttp import web

from edges import resume
from edges.addresses import check_owner
from edges.app_keys import LOG, RUN_DIALECTS
from edges.auth import Caller, require
from edges.dialects.native import NATIVE, parse_position, wire_of
from edges.errors import ApiError
from edges.intake import record
from edges.limits import charge, charge_open
from edges.respond import respond
from edges.ring import Dialect
from edges.runs import ends_run, follow, last_word, plan_for, run_headers
from edges.subscriptions import Format
from edges.wire import Frame, Wire
from eventstore import codec
from eventstore.append import Append, Idempotency, fingerprint
from eventstore.events.messages import MessageReceived
from eventstore.events.runs import RunCancelRequested
from eventstore.events.tools import ToolRequested
from eventstore.lanes import Lanes
from eventstore.schema import Event, Recorded
from projections.agent_messages import waiting_lane

READERS = ("events:read", "tools:call", "chat:write")
"""Whoever may start a run may follow one of its kind."""


def _render(event: Recorded) -> list[Frame]:
    frames = list(NATIVE.render(event))
    return [*frames, Frame(b'{"type":"end"}')] if ends_run(event) else frames


NATIVE_RUN = Dialect("native-run", _render)


def _dialect(request: web.Request, root: Recorded, wire: Wire) -> Dialect:
    """The one asked for, else the one the run was started in."""
    known = request.app[RUN_DIALECTS]
    asked = request.query.get("dialect")
    if asked is not None and asked not in known:
        raise ApiError(422, "BAD_DIALECT", f"dialect: expected one of {', '.join(known)}, got {asked[:40]!r}")
    if asked is not None and not _shows(asked, root):
        raise ApiError(422, "BAD_DIALECT", f"dialect: {asked} does not show runs that begin with {root.type}")
    return known[asked or _started_in(root, known)](wire, root)


def _shows(dialect: str, root: Recorded) -> bool:
    """Tools are shown as tools, and chats in any chat's dialect: elsewhere a run would have no frames and no end."""
    return dialect == "native" or (root.type, dialect == "tools") in (
        ("tool.requested", True),
        ("message.received", False),
    )


def _started_in(root: Recorded, known: Container[str]) -> str:
    match codec.decode(root):
        case ToolRequested(source=source) if source != "native":
            return "tools"
        case MessageReceived(source=str(source)) if source in known:
            return source
    return "native"


async def show(request: web.Request) -> web.Response:
    """The run's state: what started it, whether it is over, and how."""
    caller = await require(request, *READERS)
    facts = await _facts(request, caller)
    _check_scope(caller, facts[0])
    return web.json_response(_state(facts))


async def cancel(request: web.Request) -> web.Response:
    """Asks for the run's end: 202, however often. Over by then: 200 if it was cancelled, else 409."""
    caller = await require(request, "chat:write", "events:write")
    facts = await _facts(request, caller)
    root, state = facts[0], _state(facts)
    if state["state"] == "cancelled":
        return web.json_response(state)
    if state["ended"] is not None:
        raise ApiError(409, "RUN_OVER", f"run {root.run} is over: {state['state']}")
    log, run = request.app[LOG], root.run
    asked = Event(RunCancelRequested(), caller.actor, root.conversation, run=run, cause=run)
    once = Idempotency(fingerprint("run.cancel_requested", str(run)), fingerprint(str(run)))
    await record(log, caller.org, Append(events=[asked], idempotency=once))
    if root.conversation is not None:  # if it pauses before a retry, or waits for a person, it ends now
        for lane in (root.conversation, waiting_lane(root.conversation)):
            await Lanes(log.pipe, "edge").hasten(caller.org, lane)
    return web.json_response({**state, "state": "cancelling"}, status=202, headers=run_headers(run))


async def _facts(request: web.Request, caller: Caller) -> list[Recorded]:
    """The run that the path names, its input first; 404 if it is none."""
    await charge(request, caller)
    run = parse_position("run", request.match_info["run"])
    facts = await request.app[LOG].read_run(caller.org, run, deltas=False)
    if not facts or facts[0].position != run or facts[0].run != run:
        raise ApiError(404, "RUN_NOT_FOUND", f"there is no run {run}")
    await _check_owner(request, caller, facts[0])
    return facts


def _check_scope(caller: Caller, root: Recorded) -> None:
    """403 for who may neither read all events nor start such a run."""
    scope = "tools:call" if root.type == "tool.requested" else "chat:write"
    if not (caller.may(scope) or caller.may("events:read")):
        raise ApiError(403, "FORBIDDEN", f"this credential does not have the scope {scope} or events:read")


async def _check_owner(request: web.Request, caller: Caller, root: Recorded) -> None:
    """Of a conversation's runs a token's user may know those it has begun: whoever knows one id can guess others."""
    body = codec.decode(root)
    asked_by = body.user if isinstance(body, MessageReceived) else None
    if root.conversation is not None and (caller.subject is None or asked_by != caller.subject):
        await check_owner(request, caller, await request.app[LOG].address(caller.org, root.conversation))


def _state(facts: Sequence[Recorded]) -> dict[str, Any]:
    root, last = facts[0], next((event for event in facts if ends_run(event)), None)
    return {
        "id": str(root.run),
        "type": root.type,
        "conversation": root.conversation,
        "state": "running" if last is None else last_word(last),
        "ended": str(last.position) if last is not None else None,
        "events": len(facts),
    }


async def stream(request: web.Request) -> web.StreamResponse:
    """From its beginning, or from where the client was."""
    caller = await require(request, *READERS)
    run, log = parse_position("run", request.match_info["run"]), request.app[LOG]
    root = await log.at(caller.org, run)
    seen = resume.requested(request)
    if root is None or root.run != run:
        raise ApiError(404, "RUN_NOT_FOUND", f"there is no run {run}")
    _check_scope(caller, root)
    await _check_owner(request, caller, root)
    wire = wire_of(request)
    dialect = _dialect(request, root, wire)
    format = Format(dialect, wire, request.version >= (1, 1), ends_run)
    if seen is None:
        await charge_open(request, caller, free=False, subscription=True)
        return await follow(request, caller, run, run.before(), format)
    start = await resume.start(log, caller.org, seen)
    await charge_open(request, caller, free=start.returns, subscription=True)
    if start.gap is not None:
        return await respond(request, plan_for(request, caller, run, start, format))
    return await follow(request, caller, run, start.position, format)


ROUTES = (
    web.get("/v1/runs/{run}", show),
    web.delete("/v1/runs/{run}", cancel),
    web.get("/v1/runs/{run}/stream", stream, allow_head=False),
)
