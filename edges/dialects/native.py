"""The native surface: events as they are.

`GET /v1/events/stream` (SSE, NDJSON): one event = one frame, unnamed, or named by its type with `?named=1`;
frames `position` and `gap` besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
from aiohttp import web

from edges import resume
from edges.addresses import conversation_of
from edges.app_keys import LOG, ORGANIZATIONS
from edges.auth import require
from edges.errors import ApiError
from edges.limits import charge_open
from edges.respond import Plan, respond
from edges.ring import Dialect
from edges.subscriptions import Filter, Format
from edges.wire import NDJSON, NDJSON_TYPE, SSE, Frame, Wire
from eventstore import codec
from eventstore.organizations import Organization
from eventstore.schema import Position, Recorded


@lru_cache(maxsize=4)
def _second(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def event_json(event: Recorded) -> bytes:
    """The event as clients see it: the envelope around the stored data, which is not decoded."""
    second, ms = divmod(event.position.ms, 1000)
    head: dict[str, Any] = {"id": str(event.position)}
    if event.is_fact:
        head["number"] = event.number
    head |= {"type": event.type, "organization": event.organization, "conversation": event.conversation}
    if event.is_fact:
        head["version"] = event.version
    head |= {
        "actor": event.actor,
        "run": str(event.run),
        "cause": str(event.cause) if event.cause is not None else None,
        "at": f"{_second(second)}.{ms:03d}Z",
    }
    return b'%b,"data":%b}' % (msgspec.json.encode(head)[:-1], codec.shown(event))


def _render(event: Recorded) -> Sequence[Frame]:
    return [Frame(event_json(event))]


def _render_named(event: Recorded) -> Sequence[Frame]:
    return [Frame(event_json(event), event.type)]


NATIVE = Dialect("native", _render)
NATIVE_NAMED = Dialect("native-named", _render_named, named=True)


def wire_of(request: web.Request) -> Wire:
    return NDJSON if NDJSON_TYPE in request.headers.get("Accept", "") else SSE


def filter_of(request: web.Request, organization: Organization) -> Filter:
    """`conversation=` (id or address), `types=reply.*,tool.completed`, `run=`, `deltas=0`."""
    query = request.query
    types = tuple(part.strip() for part in query.get("types", "").split(",") if part.strip())
    deltas = query.get("deltas", "1") not in ("0", "false", "no")
    if run := query.get("run", ""):
        run = str(parse_position("run", run))
    conversation = query.get("conversation", "")
    if conversation:
        conversation = conversation_of(organization, conversation)
        return Filter(conversation, types, deltas, run)
    return Filter(f"run:{run}" if run else "", types, deltas)


def parse_position(name: str, text: str) -> Position:
    try:
        return Position.parse(text)
    except ValueError as error:
        raise ApiError(400, "MALFORMED_POSITION", f"{name}: {error}") from None


async def stream(request: web.Request) -> web.StreamResponse:
    caller = await require(request, "events:read")
    organization = await request.app[ORGANIZATIONS].require(caller.org)
    log, wire = request.app[LOG], wire_of(request)
    filter = filter_of(request, organization)
    start = await resume.start(log, caller.org, resume.requested(request))
    await charge_open(request, caller, free=start.returns, subscription=True)
    dialect = NATIVE_NAMED if request.query.get("named") in ("1", "true") else NATIVE
    format = Format(dialect, wire, request.version >= (1, 1), tells_position=True)
    opening = b""
    if start.gap is None and (at := await resume.stands_at(log, caller.org, start)) is not None:
        opening = format.position(at)
    return await respond(request, Plan(caller, filter, format, start, opening))


ROUTES = (web.get("/v1/events/stream", stream, allow_head=False),)
