"""Runs on the native surface: `GET /v1/runs/{id}` and `/v1/runs/{id}/stream[?dialect=]`, with a last frame `end`."""

from __future__ import annotations

from aiohttp import web

from edges import resume
from edges.app_keys import LOG
from edges.auth import require
from edges.dialects.native import NATIVE, parse_position, wire_of
from edges.dialects.tool_stream import dialect_for as tools_dialect
from edges.errors import ApiError
from edges.limits import charge, charge_open
from edges.respond import respond
from edges.ring import Dialect
from edges.runs import ends_run, follow, plan_for
from edges.subscriptions import Format
from edges.wire import Frame, Wire
from eventstore.schema import Recorded


def _render(event: Recorded) -> list[Frame]:
    frames = list(NATIVE.render(event))
    return [*frames, Frame(b'{"type":"end"}')] if ends_run(event) else frames


NATIVE_RUN = Dialect("native-run", _render)


def _dialect(asked: str | None, root: Recorded, wire: Wire) -> Dialect:
    """The one asked for, else the one the run was started in."""
    name = asked or ("tools" if root.type == "tool.requested" and b'"source":"native"' not in root.data else "native")
    match name:
        case "native":
            return NATIVE_RUN
        case "tools":
            return tools_dialect(wire)
    raise ApiError(422, "BAD_DIALECT", f"dialect: expected native or tools, got {name[:40]!r}")


async def show(request: web.Request) -> web.Response:
    """The run's state: what started it, whether it is over, and how."""
    caller = await require(request, "events:read", "tools:call")
    await charge(request, caller)
    run = parse_position("run", request.match_info["run"])
    log = request.app[LOG]
    facts = await log.read_run(caller.org, run, deltas=False)
    if not facts or facts[0].position != run or facts[0].run != run:
        raise ApiError(404, "RUN_NOT_FOUND", f"there is no run {run}")
    last = next((event for event in facts if ends_run(event)), None)
    body = {
        "id": str(run),
        "type": facts[0].type,
        "conversation": facts[0].conversation,
        "state": "running" if last is None else last.type.rpartition(".")[2],
        "ended": str(last.position) if last is not None else None,
        "events": len(facts),
    }
    return web.json_response(body)


async def stream(request: web.Request) -> web.StreamResponse:
    """From its beginning, or from where the client was."""
    caller = await require(request, "events:read", "tools:call")
    run, log = parse_position("run", request.match_info["run"]), request.app[LOG]
    root = await log.at(caller.org, run)
    seen = resume.requested(request)
    if root is None or root.run != run:
        raise ApiError(404, "RUN_NOT_FOUND", f"there is no run {run}")
    wire = wire_of(request)
    dialect = _dialect(request.query.get("dialect"), root, wire)
    format = Format(dialect, wire, request.version >= (1, 1), ends_run)
    if seen is None:
        await charge_open(request, caller, free=False, subscription=True)
        return await respond(request, plan_for(request, caller, run, resume.Start(run.before()), format))
    start = await resume.start(log, caller.org, seen)
    await charge_open(request, caller, free=start.returns, subscription=True)
    if start.gap is not None:
        return await respond(request, plan_for(request, caller, run, start, format))
    return await follow(request, caller, run, start.position, format)


ROUTES = (
    web.get("/v1/runs/{run}", show),
    web.get("/v1/runs/{run}/stream", stream, allow_head=False),
)
