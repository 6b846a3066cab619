"""The native surface: events as they are.

`GET /v1/events/stream` (SSE, NDJSON): one event = one frame, unnamed, or named by its type with `?named=1`;
frames `position` and `gap` besides. `GET`, `POST /v1/events`: pages of facts, and appending inputs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from typing import Annotated, Any, Literal
from urllib.parse import urlencode
from uuid import uuid4

import msgspec
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from edges import resume
from edges.addresses import address_of, conversation_of
from edges.app_keys import LOG, ORGANIZATIONS
from edges.auth import Caller, require
from edges.bodies import parse_body
from edges.channels import Filter, Format
from edges.errors import ApiError
from edges.intake import Input, accept
from edges.limits import charge, charge_open
from edges.respond import Plan, respond
from edges.ring import Dialect
from edges.tool_calls import requested, spec_of
from edges.wire import NDJSON, NDJSON_TYPE, SSE, Frame, Wire
from eventstore import codec
from eventstore.events import Custom
from eventstore.events.messages import MessageReceived
from eventstore.events.tools import ToolRequested
from eventstore.organizations import Organization
from eventstore.schema import ORIGIN, Body, ConversationId, Event, Position, Recorded

MAX_PAGE = 1_000
MAX_BATCH = 500
_LIMIT = re.compile(r"[0-9]{1,4}")


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
    return b'%b,"data":%b}' % (msgspec.json.encode(head)[:-1], codec.merge(event.data, event.personal))


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
    if start.gap is None and (at := await _opening_position(request, caller, start)) is not None:
        opening = format.position(at)
    return await respond(request, Plan(caller, filter, format, start, opening))


async def _opening_position(request: web.Request, caller: Caller, start: resume.Start) -> Position | None:
    """The fact a new subscriber stands at; one that resumes after a delta has its position already."""
    log = request.app[LOG]
    if start.seen:
        is_delta = await log.exists(caller.org, start.position) and await log.at(caller.org, start.position) is None
        return None if is_delta else start.position
    before = await log.read_back(caller.org, Position(start.position.ms, start.position.seq + 1), count=1)
    return before[0].position if before else start.position


async def page(request: web.Request) -> web.Response:
    """Facts, oldest first; `Link` leads on. The ETag changes when the page could."""
    caller = await require(request, "events:read")
    await charge(request, caller)
    organization = await request.app[ORGANIZATIONS].require(caller.org)
    query = request.query
    limit = _limit(query)
    filter = filter_of(request, organization)._replace(deltas=False)
    if before := query.get("before"):
        events = await _backwards(request, caller, filter, parse_position("before", before), limit)
        link = ("prev", "before", events[0].position) if len(events) == limit else None
    else:
        events = await _forwards(request, caller, filter, await _after(request, caller), limit)
        link = ("next", "after", events[-1].position) if len(events) == limit else None
    body = b'{"events":[%b]}' % b",".join(event_json(event) for event in events)
    etag = f'"{sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if _has_it(request, etag):
        return web.Response(status=304, headers=headers)
    if link is not None:
        relation, parameter, position = link
        rest = [(k, v) for k, v in query.items() if k not in ("after", "before", "last_event_id")]
        target = urlencode([(parameter, str(position)), *rest])
        headers["Link"] = f'<{request.path}?{target}>; rel="{relation}"'
    return web.Response(body=body, content_type="application/json", headers=headers)


def _has_it(request: web.Request, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")]
    return etag in tags or "*" in tags


async def _after(request: web.Request, caller: Caller) -> Position:
    """A page begins at the log's beginning unless it says otherwise."""
    if (wanted := resume.requested(request)) is not None:
        return wanted.position
    return (await request.app[LOG].bounds(caller.org)).clock if request.query.get("after") == "now" else ORIGIN


async def _forwards(
    request: web.Request, caller: Caller, filter: Filter, after: Position, limit: int
) -> list[Recorded]:
    log = request.app[LOG]
    if filter.scope.startswith("run:"):
        events = await log.read_run(caller.org, Position.parse(filter.scope[4:]), after, deltas=False)
    elif filter.scope:
        events = await log.read_conversation(caller.org, ConversationId(filter.scope), after)
    else:
        found: list[Recorded] = []
        while len(found) < limit and (events := await log.read(caller.org, after, deltas=False)):
            found += [event for event in events if filter.accepts(event)]
            after = events[-1].position
        return found[:limit]
    return [event for event in events if filter.accepts(event)][:limit]


async def _backwards(
    request: web.Request, caller: Caller, filter: Filter, before: Position, limit: int
) -> list[Recorded]:
    log = request.app[LOG]
    found: list[Recorded] = []
    at: Position = before
    while len(found) < limit and at > ORIGIN and (events := await log.read_back(caller.org, at)):
        found = [event for event in events if filter.covers(event) and filter.accepts(event)] + found
        at = events[0].position
    return found[-limit:]


def _limit(query: Mapping[str, str]) -> int:
    text = query.get("limit", "100")
    if not _LIMIT.fullmatch(text) or not 1 <= int(text) <= MAX_PAGE:
        raise ApiError(422, "BAD_LIMIT", f"limit: expected 1 to {MAX_PAGE}, got {text[:20]!r}")
    return int(text)


class NewEvent(BaseModel):
    """An input event of a client."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(min_length=1, max_length=128)
    conversation: str | None = Field(default=None, max_length=256)
    data: dict[str, Any] = Field(default_factory=dict)


class NewEvents(BaseModel):
    """One atomic batch. `expected_version` needs exactly one conversation."""

    model_config = ConfigDict(extra="forbid")

    events: list[NewEvent] = Field(min_length=1, max_length=MAX_BATCH)
    expected_version: Annotated[int, Field(strict=True, ge=0)] | Literal["exists", "absent"] | None = None


async def append(request: web.Request) -> web.Response:
    """201 with the positions; the batch is one atomic step."""
    caller = await require(request, "events:write")
    await charge(request, caller)
    organization = await request.app[ORGANIZATIONS].require(caller.org)
    batch = await parse_body(request, NewEvents)
    addresses: dict[ConversationId, str] = {}
    events = [_event(organization, caller, new, addresses, at) for at, new in enumerate(batch.model.events)]
    conversations = {event.conversation for event in events}
    if batch.model.expected_version is not None and (len(conversations) != 1 or None in conversations):
        raise ApiError(422, "BAD_EXPECTED_VERSION", "expected_version: needs events of exactly one conversation")
    accepted = await accept(
        request,
        caller,
        Input(
            events=events,
            raw=batch.raw,
            route="/v1/events",
            expected=batch.model.expected_version,
            addresses=addresses,
        ),
    )
    headers = dict(accepted.headers)
    starts = [position for position, event in zip(accepted.positions, events, strict=True) if event.lane is not None]
    if starts:
        headers |= {"X-Run-Id": str(starts[0]), "Location": f"/v1/runs/{starts[0]}/stream"}
    version = next((v for v in reversed(accepted.versions) if v is not None), None)
    body = {"positions": [str(position) for position in accepted.positions], "version": version}
    return web.Response(status=201, body=msgspec.json.encode(body), content_type="application/json", headers=headers)


def _event(
    organization: Organization, caller: Caller, new: NewEvent, addresses: dict[ConversationId, str], at: int
) -> Event:
    conversation = None
    if new.conversation is not None:
        conversation = conversation_of(organization, new.conversation)
        if not new.conversation.startswith("conv_"):
            addresses[conversation] = address_of(new.conversation)
    body, lane = _body(new, caller, conversation, at)
    return Event(body, caller.actor if new.type != "message.received" else "customer", conversation, lane=lane)


def _body(new: NewEvent, caller: Caller, conversation: ConversationId | None, at: int) -> tuple[Body, str | None]:
    where = f"events[{at}]"
    match new.type:
        case name if codec.is_custom_type(name):
            return Custom(name=name, data=new.data), None
        case "message.received":
            if conversation is None:
                raise ApiError(422, "BAD_EVENT", f"{where}: message.received needs a conversation")
            data = {"message_id": new_id("msg_"), **new.data}
            return _convert(data, MessageReceived, where), conversation
        case "tool.requested":
            return _tool_requested(new.data, where), new_id("tool:")
        case _:
            raise ApiError(
                422,
                "TYPE_REFUSED",
                f"{where}: clients append message.received, tool.requested and custom.*, not {new.type[:80]!r}",
            )


def _tool_requested(data: dict[str, Any], where: str) -> ToolRequested:
    tool, arguments = data.get("tool"), data.get("arguments", {})
    if data.keys() - {"tool", "arguments"} or not isinstance(tool, str) or not isinstance(arguments, dict):
        raise ApiError(422, "BAD_EVENT", f"{where}.data: expected tool (a name) and arguments (an object)")
    spec = spec_of(tool)
    return requested(spec, arguments, source="native").body


def _convert(data: dict[str, Any], body: type[Body], where: str) -> Body:
    try:
        return msgspec.convert(data, body)
    except msgspec.ValidationError as error:
        raise ApiError(422, "BAD_EVENT", f"{where}.data: {error}") from None


def new_id(prefix: str) -> str:
    return f"{prefix}{uuid4().hex}"


ROUTES = (
    web.get("/v1/events/stream", stream, allow_head=False),
    web.get("/v1/events", page, allow_head=False),
    web.post("/v1/events", append),
)
