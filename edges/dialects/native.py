"""The native surface: events as they are.

`GET /v1/events/stream` (SSE, NDJSON, WebSocket): one event = one frame, unnamed, or named by its type with `?named=1`;
frames `position` and `gap` besides. `?consumer=` makes it durable.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache

import msgspec
from aiohttp import web

from edges.addresses import conversation_of
from edges.app_keys import ORGANIZATIONS
from edges.auth import require
from edges.consumers import newest, opening, subscription
from edges.errors import ApiError
from edges.followers import follow
from edges.respond import Plan, respond
from edges.ring import Dialect
from edges.subscriptions import Asked, Format
from edges.websocket import upgrades
from edges.wire import NDJSON, NDJSON_TYPE, SSE, Frame, Wire
from eventstore import codec
from eventstore.organizations import Organization
from eventstore.schema import Position, Recorded

NAMES = 20_000
"""Kept encoded; as many organizations as keys.py keeps the keys of, or many of them would cost more each."""


# Events that are shown one after the other share most of what these write.
@lru_cache(maxsize=NAMES)
def _text(value: str | None) -> bytes:
    return msgspec.json.encode(value)


@lru_cache(maxsize=NAMES)
def _place(type: str, organization: str, conversation: str | None) -> bytes:
    return b'"type":%b,"organization":%b,"conversation":%b,' % (_text(type), _text(organization), _text(conversation))


@lru_cache(maxsize=4_096)
def _delta_from(
    type: str, organization: str, conversation: str | None, actor: str, run: Position, cause: Position | None
) -> bytes:
    """All that the deltas of a run have in common."""
    return _place(type, organization, conversation) + _origin(actor, run, cause)


def _origin(actor: str, run: Position, cause: Position | None) -> bytes:
    known = b"null" if cause is None else b'"%b"' % cause.encode()
    return b'"actor":%b,"run":"%b","cause":%b,' % (_text(actor), run.encode(), known)


_shared_origin = lru_cache(maxsize=4_096)(_origin)
"""For events of the same run. One that begins a run is mostly alone in it, and would only drive out others."""


@lru_cache(maxsize=4)
def _second(at_s: int) -> bytes:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


def event_json(event: Recorded) -> bytes:
    """The event as clients see it: the envelope around the stored data, which is not decoded."""
    ms, seq = event.position
    if event.number is None:
        common = _delta_from(event.type, event.organization, event.conversation, event.actor, event.run, event.cause)
    else:
        origin = _origin if event.run is event.position else _shared_origin
        common = b'"number":%d,%b"version":%b,%b' % (
            event.number, _place(event.type, event.organization, event.conversation),
            b"null" if event.version is None else b"%d" % event.version, origin(event.actor, event.run, event.cause),
        )  # fmt: skip
    return b'{"id":"%d-%d",%b"at":"%b.%03dZ","data":%b}' % (
        ms, seq, common, _second(ms // 1_000), ms % 1_000, codec.shown(event),
    )  # fmt: skip


def _render(event: Recorded) -> Sequence[Frame]:
    return [Frame(event_json(event))]


def _render_named(event: Recorded) -> Sequence[Frame]:
    return [Frame(event_json(event), event.type)]


NATIVE = Dialect("native", _render)
NATIVE_NAMED = Dialect("native-named", _render_named, named=True)


def wire_of(request: web.Request) -> Wire:
    return NDJSON if NDJSON_TYPE in request.headers.get("Accept", "") else SSE


def asked_of(request: web.Request, organization: Organization) -> Asked:
    """`conversation=` (id or address), `types=reply.*,tool.completed`, `run=`, `deltas=0`."""
    query = request.query
    types = {part.strip() for part in query.get("types", "").split(",") if part.strip()}
    deltas = query.get("deltas", "1") not in ("0", "false", "no")
    if run := query.get("run", ""):
        run = str(parse_position("run", run))
    if conversation := query.get("conversation", ""):
        conversation = conversation_of(organization, conversation)
    return Asked(conversation, run, tuple(sorted(types)), deltas)


def parse_position(name: str, text: str) -> Position:
    try:
        return Position.parse(text)
    except ValueError as error:
        raise ApiError(400, "MALFORMED_POSITION", f"{name}: {error}") from None


async def stream(request: web.Request) -> web.StreamResponse:
    caller = await require(request, "events:read")
    organization = await request.app[ORGANIZATIONS].require(caller.org)
    asked = asked_of(request, organization)
    dialect = NATIVE_NAMED if request.query.get("named") in ("1", "true") else NATIVE
    begun = await subscription(request, caller, asked)
    if upgrades(request):
        return await follow(request, caller, begun, dialect)
    format = Format(dialect, wire_of(request), request.version >= (1, 1), tells_position=True)
    plan = Plan(caller, begun.filter, format, begun.start, await opening(request, caller, begun.start, format))
    with newest(request, caller, begun.consumer):
        return await respond(request, plan)


ROUTES = (web.get("/v1/events/stream", stream, allow_head=False),)
