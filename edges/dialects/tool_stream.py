"""Tools (document 000): `/api/sse/{tool}`, `/api/stream/{tool}`, `/api/ai/{tool}`, `GET /api/tools`.

SSE: connected, processing, authenticated, executing, result_chunk*, result, complete | error.
NDJSON: start, status, authenticated, executing, result_chunk*, result, complete | error.
`/api/ai` picks by Accept or `streamFormat`; without either it answers JSON; VAPI's tool-calls envelope gets `results`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from edges import vapi_tools
from edges.auth import Caller, check_organization, require
from edges.bodies import json_object, raw_body
from edges.errors import ApiError
from edges.limits import admit
from edges.ring import Dialect
from edges.runs import RunRequest, collect, start_or_attach
from edges.tool_calls import requested, spec_of
from edges.wire import NDJSON, SSE, Frame, Wire, wanted
from eventstore import codec
from eventstore.events.tools import ToolCompleted, ToolFailed, ToolProgressed, ToolRequested, ToolStarted
from eventstore.schema import Recorded
from projections.tool_catalog import TOOL_SPECS

CHUNK_ITEMS = 100
CONTROL_KEYS = frozenset({"stream", "streaming", "streamFormat"})
QUERY_CONTROL_KEYS = CONTROL_KEYS | {"last_event_id", "after", "idempotency_key", "ticket", "dialect"}

_encode = msgspec.json.encode


def _frame(name: str, **data: Any) -> Frame:
    return Frame(_encode({"type": name, **data}), name)


def _items(result: Any) -> list[Any] | None:
    """The list inside a large result: the result itself, or its one long list."""
    if isinstance(result, list):
        return result if len(result) > CHUNK_ITEMS else None
    if isinstance(result, dict):
        return next((value for value in result.values() if isinstance(value, list) and len(value) > CHUNK_ITEMS), None)
    return None


def _chunks(result: Any) -> list[Frame]:
    items = _items(result) or []
    return [
        _frame("result_chunk", items=items[start : start + CHUNK_ITEMS], index=index)
        for index, start in enumerate(range(0, len(items), CHUNK_ITEMS))
    ]


def result_of(event: Recorded, done: ToolCompleted) -> dict[str, Any]:
    metadata = {"tool": done.tool, "run": str(event.run), "duration_ms": done.duration_ms}
    return {"success": True, "data": done.result, "metadata": metadata}


def _render_sse(event: Recorded) -> Sequence[Frame]:
    match codec.decode(event):
        case ToolRequested() as asked:
            return [
                _frame("connected", status="connected", message="SSE stream established"),
                _frame("processing", status="processing", tool=asked.tool),
                _frame("authenticated", status="authenticated"),
            ]
        case ToolStarted(call_id=None) as started:
            return [_frame("executing", status="executing", tool=started.tool)]
        case ToolProgressed(call_id=None) as progress:
            return [_frame("progress", tool=progress.tool, message=progress.message)]
        case ToolCompleted(call_id=None) as done:
            return [
                *_chunks(done.result),
                _frame("result", **result_of(event, done)),
                _frame("complete", status="complete", message="Request completed successfully"),
            ]
        case ToolFailed(call_id=None) as failed:
            return [_frame("error", error=failed.error, statusCode=failed.status, code=failed.code)]
    return []


def _render_ndjson(event: Recorded) -> Sequence[Frame]:
    match codec.decode(event):
        case ToolRequested() as asked:
            return [
                _frame("start", status="connected", message="Stream initialized"),
                _frame("status", status="authenticating", tool=asked.tool),
                _frame("authenticated"),
            ]
        case ToolStarted(call_id=None) as started:
            return [_frame("executing", tool=started.tool)]
        case ToolProgressed(call_id=None) as progress:
            return [_frame("status", status="progress", tool=progress.tool, message=progress.message)]
        case ToolCompleted(call_id=None) as done:
            return [
                *_chunks(done.result),
                _frame("result", **result_of(event, done)),
                _frame("complete", status="success", message="Request completed"),
            ]
        case ToolFailed(call_id=None) as failed:
            return [_frame("error", error=failed.error, code=failed.code)]
    return []


TOOLS_SSE = Dialect("tools-sse", _render_sse, named=True)
TOOLS_NDJSON = Dialect("tools-ndjson", _render_ndjson, named=True)


def run_dialect(wire: Wire, root: Recorded | None = None) -> Dialect:
    return TOOLS_SSE if wire is SSE else TOOLS_NDJSON


async def sse(request: web.Request) -> web.StreamResponse:
    return await _run(request, SSE)


async def ndjson(request: web.Request) -> web.StreamResponse:
    return await _run(request, NDJSON)


async def ai(request: web.Request) -> web.StreamResponse:
    """Answers in the caller's own format."""
    caller = await require(request, "tools:call")
    raw = await raw_body(request) if request.method == "POST" else b""
    body = json_object(raw)
    if vapi_tools.is_envelope(body):
        return await vapi_tools.answer(request, caller, body)
    named = body.get("streamFormat") or request.query.get("streamFormat")
    wire = wanted(request.headers.get("Accept", ""), named)
    if wire is not None:
        return await _stream(request, caller, raw, wire)
    return await _answer_json(request, caller, raw)


async def _run(request: web.Request, wire: Wire) -> web.StreamResponse:
    caller = await require(request, "tools:call")
    raw = await raw_body(request) if request.method == "POST" else b""
    return await _stream(request, caller, raw, wire)


async def _stream(request: web.Request, caller: Caller, raw: bytes, wire: Wire) -> web.StreamResponse:
    return await start_or_attach(request, caller, tool_run(request, caller, raw), wire, run_dialect(wire))


async def _answer_json(request: web.Request, caller: Caller, raw: bytes) -> web.Response:
    events, headers = await collect(request, caller, tool_run(request, caller, raw))
    headers |= {"Cache-Control": "no-store"}  # not every cache knows what X-Tenant-API-Key is
    last = codec.decode(events[-1])
    if isinstance(last, ToolCompleted):
        return web.json_response(result_of(events[-1], last), headers=headers, dumps=dumps)
    assert isinstance(last, ToolFailed)
    body = {"success": False, "error": last.error, "code": last.code}
    return web.json_response(body, status=last.status, headers=headers, dumps=dumps)


def dumps(value: Any) -> str:
    return _encode(value).decode()


def tool_run(request: web.Request, caller: Caller, raw: bytes) -> RunRequest:
    """The run that a request asks for; 404 for an unknown tool, 422 for bad arguments."""
    spec = spec_of(request.match_info["tool"])
    if request.method == "POST":
        arguments = {name: value for name, value in json_object(raw).items() if name not in CONTROL_KEYS}
    else:
        arguments = _query_arguments(request)
        if spec.effect == "write" and not caller.in_header:
            raise ApiError(401, "UNAUTHORIZED", f"{spec.name} changes data: send the API key in a header")
    check_organization(caller, arguments.get("organizationId"))
    return requested(spec, arguments, source=request.path.split("/")[2], dedupe=request.method == "GET")


def _query_arguments(request: web.Request) -> dict[str, Any]:
    """Query values as arguments; a name given twice is a list."""
    arguments: dict[str, Any] = {}
    for name in dict.fromkeys(request.query):
        if name not in QUERY_CONTROL_KEYS:
            values = request.query.getall(name)
            arguments[name] = values if len(values) > 1 else values[0]
    return arguments


async def tools(request: web.Request) -> web.Response:
    await admit(request, "tools:call")
    listed = [
        {
            "name": spec.name,
            "description": spec.description,
            "effect": spec.effect,
            "parameters": spec.schema,
        }
        for spec in TOOL_SPECS
    ]
    return web.json_response({"tools": listed})


ROUTES = (
    web.get("/api/tools", tools),
    web.get("/api/sse/{tool}", sse, allow_head=False),
    web.post("/api/sse/{tool}", sse),
    web.get("/api/stream/{tool}", ndjson, allow_head=False),
    web.post("/api/stream/{tool}", ndjson),
    web.get("/api/ai/{tool}", ai, allow_head=False),
    web.post("/api/ai/{tool}", ai),
)
