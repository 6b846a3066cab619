"""VAPI's `tool-calls` server message: always 200 once authenticated, one result per call, in order.

VAPI's own documents disagree on the shape of a call (FACTS: four variants), so all are read.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from edges.auth import Caller
from edges.bodies import json_object
from edges.errors import ApiError, of_store
from edges.runs import ANSWER_GRACE_S, RunRequest, begin, outcome
from edges.tool_calls import requested, spec_of
from eventstore import codec
from eventstore.append import fingerprint
from eventstore.errors import StoreError
from eventstore.events.tools import ToolCompleted, ToolFailed
from eventstore.schema import Position

MAX_CALLS = 32


class Call(NamedTuple):
    id: str
    name: str
    arguments: Any


def is_envelope(body: dict[str, Any]) -> bool:
    message = body.get("message")
    return isinstance(message, dict) and message.get("type") == "tool-calls"


async def answer(request: web.Request, caller: Caller, body: dict[str, Any]) -> web.Response:
    """Runs every call by its own function name; the route's tool, if it names one, is only the default."""
    calls = parse(body["message"], request.match_info.get("tool", ""))
    results = await asyncio.gather(*(_result(request, caller, call) for call in calls[:MAX_CALLS]))
    too_many = f"more than {MAX_CALLS} calls in one message"
    results += [{"toolCallId": call.id, "name": call.name, "error": too_many} for call in calls[MAX_CALLS:]]
    return web.json_response({"results": results}, dumps=lambda value: msgspec.json.encode(value).decode())


async def _result(request: web.Request, caller: Caller, call: Call) -> dict[str, str]:
    named = {"toolCallId": call.id, "name": call.name}
    try:
        wanted = _wanted(call)
        accepted = await begin(request, caller, wanted)
        return named | await _text(request, caller, accepted.positions[0], wanted)
    except ApiError as error:
        return named | {"error": single_line(error.message)}
    except StoreError as error:
        return named | {"error": of_store(error).message}


def _wanted(call: Call) -> RunRequest:
    if not isinstance(call.arguments, dict):
        raise ApiError(422, "INVALID_ARGUMENTS", f"arguments of {call.name}: expected an object")
    canonical = msgspec.json.encode(call.arguments, order="sorted")
    key = f"vapi:{fingerprint(call.id, call.name, canonical)}" if call.id else None
    return requested(spec_of(call.name), call.arguments, source="ai", key=key)


async def _text(request: web.Request, caller: Caller, run: Position, wanted: RunRequest) -> dict[str, str]:
    events = await outcome(request, caller, run, wanted.deadline_s + ANSWER_GRACE_S)
    match codec.decode(events[-1]):
        case ToolCompleted() as done:
            return {"result": single_line(done.result)}
        case ToolFailed() as failed:
            return {"error": single_line(failed.error)}
    return {"error": "the tool gave no answer"}


def single_line(value: Any) -> str:
    """VAPI wants one string without line breaks; objects are JSON."""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return " ".join(text.split()) if isinstance(value, str) else text


def parse(message: dict[str, Any], default: str) -> list[Call]:
    for name in ("toolCallList", "toolWithToolCallList", "toolCalls"):
        entries = message.get(name)
        if isinstance(entries, list) and entries:
            return [_call(entry, default) for entry in entries if isinstance(entry, dict)]
    return []


def _call(entry: dict[str, Any], default: str) -> Call:
    inner = _object(entry.get("toolCall")) or entry
    function = _object(inner.get("function"))
    name = function.get("name") or inner.get("name") or entry.get("name") or default
    candidates = [source.get(key) for source in (function, inner) for key in ("arguments", "parameters")]
    arguments: Any = next((candidate for candidate in candidates if candidate is not None), {})
    if isinstance(arguments, str):
        try:
            arguments = json_object(arguments.encode())
        except ApiError:
            arguments = None
    return Call(str(inner.get("id") or entry.get("id") or ""), str(name), arguments)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
