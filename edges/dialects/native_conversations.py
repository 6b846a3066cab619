"""Conversations on the native surface: `GET /v1/conversations`, `/v1/conversations/{id}[?at=]`, `…/{id}/stream`,
`POST …/{id}/messages`. `{id}` is an id or an address.

The stream begins with a frame `snapshot`; what follows are events, as on `/v1/events/stream`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, get_args
from uuid import uuid4

import msgspec
from aiohttp import web
from pydantic import StringConstraints

from edges import resume
from edges.addresses import Place, check_writer, phone_number, place_of
from edges.app_keys import ENGINE, LOG, ORGANIZATIONS
from edges.auth import Caller, require
from edges.bodies import page_limit, parse_body
from edges.dialects.native import NATIVE, wire_of
from edges.dialects.native_runs import NATIVE_RUN
from edges.errors import ApiError
from edges.limits import admit, charge_open
from edges.models import ExactModel
from edges.respond import Plan, respond
from edges.runs import RunRequest, accept_message, start_or_attach
from edges.subscriptions import Filter, Format
from edges.wire import NDJSON_TYPE, Frame
from eventstore.events.messages import MessageReceived
from eventstore.organizations import Organization, conversation_id
from eventstore.schema import ConversationId, Position
from projections import contact_search, conversation_snapshot, conversations, phones
from projections.contact_search import ContactQuery
from projections.contacts import CONTACTS
from projections.conversation_snapshot import Snapshot
from projections.conversations import CONVERSATIONS, Conversation, Message, State
from projections.projection import timestamp

DEADLINE_S = 120.0
DEFAULT_LIST, MAX_LIST = 50, 200
STATES: tuple[State, ...] = get_args(State)
_encode = msgspec.json.encode


class NewMessage(ExactModel):
    """What somebody says in a conversation, as its customer."""

    text: Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]
    assistant: str | None = None


async def listed(request: web.Request) -> web.Response:
    """By their last activity, newest first; `q` is about the people they are with, `phone` about one number."""
    caller = await admit(request, "events:read")
    state, limit = _state(request.query), page_limit(request.query, DEFAULT_LIST, MAX_LIST)
    organization = await request.app[ORGANIZATIONS].require(caller.org)
    model = await request.app[ENGINE].level(caller.org, CONVERSATIONS)
    if (named := await _named(request, organization)) is None:
        found = await conversations.latest(model, limit, state)
    else:
        of_them = (await model.get_many(named)).values()
        found = [each for each in of_them if state in (None, each.state)]
        found.sort(key=lambda each: Position.parse(each.position), reverse=True)
    shown = await asyncio.gather(*(_summary(request, caller, each) for each in found[:limit]))
    return web.Response(body=_encode({"conversations": shown}), content_type="application/json")


async def _named(request: web.Request, organization: Organization) -> list[ConversationId] | None:
    """Conversations that the query names; None if it names none, and so all are meant."""
    numbers: list[str] = []
    if phone := request.query.get("phone", ""):
        numbers = [phone_number("phone", phone)]
    elif text := request.query.get("q", "").strip():
        people = await request.app[ENGINE].level(organization.id, CONTACTS)
        found = await contact_search.search(people, ContactQuery(text=text, limit=MAX_LIST))
        numbers = [contact.phone for contact in found.contacts if contact.phone]
    else:
        return None
    return [conversation_id(organization.pepper, phones.address(number)) for number in numbers]


async def show(request: web.Request) -> web.Response:
    """As it is, or with `at` (a position or a time) as it was."""
    caller = await admit(request, "events:read")
    place, log = await _place(request, caller), request.app[LOG]
    if at := request.query.get("at", ""):
        snapshot = await conversation_snapshot.at(log, caller.org, place.id, resume.moment("at", at))
    else:
        snapshot = await conversation_snapshot.latest(log, request.app[ENGINE], caller.org, place.id)
    if snapshot.conversation is None:
        raise ApiError(404, "CONVERSATION_NOT_FOUND", f"there is no conversation {request.match_info['id'][:80]!r}")
    return web.Response(body=_encode(_whole(place, snapshot)), content_type="application/json")


async def stream(request: web.Request) -> web.StreamResponse:
    """One that does not exist yet is waited for. With a resume position no snapshot is sent again."""
    caller = await require(request, "events:read")
    place, log, wanted = await _place(request, caller), request.app[LOG], resume.requested(request)
    wants = Filter(place.id, deltas=request.query.get("deltas", "1") not in ("0", "false", "no"))
    start = await resume.start(log, caller.org, wanted, wants.indexed(caller.org))
    await charge_open(request, caller, free=start.returns, subscription=True)
    format = Format(NATIVE, wire_of(request), request.version >= (1, 1), tells_position=True)
    opening = b""
    if wanted is None or start.gap is not None:
        snapshot = await conversation_snapshot.latest(log, request.app[ENGINE], caller.org, place.id)
        start = start._replace(position=snapshot.position)
        frame = Frame(_encode({"type": "snapshot", "conversation": _whole(place, snapshot)}))
        opening = format.wire.encode([frame], snapshot.position.encode())
    elif (at := await resume.stands_at(log, caller.org, start)) is not None:
        opening = format.position(at)
    return await respond(request, Plan(caller, wants, format, start, opening))


async def post(request: web.Request) -> web.StreamResponse:
    """202 with the run; its stream if `Accept` asks for one."""
    caller = await require(request, "chat:write", "events:write")
    place, body = await _place(request, caller), await parse_body(request, NewMessage)
    if place.address is None:
        raise ApiError(404, "CONVERSATION_NOT_FOUND", f"there is no conversation {request.match_info['id'][:80]!r}")
    await check_writer(request, caller, place.address)
    message = MessageReceived(
        message_id=str(uuid4()), source="native", assistant=body.model.assistant, text=body.model.text
    )
    wanted = RunRequest(message, request.path, body.raw, DEADLINE_S, place.address)
    accept = request.headers.get("Accept", "")
    if "text/event-stream" in accept or NDJSON_TYPE in accept:
        return await start_or_attach(request, caller, wanted, wire_of(request), NATIVE_RUN)
    return await accept_message(request, caller, wanted)


async def _place(request: web.Request, caller: Caller) -> Place:
    organization = await request.app[ORGANIZATIONS].require(caller.org)
    return await place_of(request.app[LOG], organization, request.match_info["id"])


def _whole(place: Place, snapshot: Snapshot) -> dict[str, Any]:
    at = snapshot.position
    document = snapshot.conversation or Conversation(place.id, str(at), timestamp(at))
    return {
        **_about(place, document),
        "summary": document.summary,
        "messages": [_message(document, each) for each in document.messages],
        "open_replies": [
            {
                "run": each.run,
                "attempt": each.attempt,
                "assistant": each.assistant,
                "started": each.started,
                "text": snapshot.texts[each.run],
            }
            for each in document.open_replies.values()
        ],
        "awaited": list(document.awaited),
    }


async def _summary(request: web.Request, caller: Caller, document: Conversation) -> dict[str, Any]:
    """As in a list: with its last message only."""
    identity = ConversationId(document.id)
    place = Place(identity, await request.app[LOG].address(caller.org, identity))
    last = _message(document, document.messages[-1]) if document.messages else None
    return {**_about(place, document), "last_message": last}


def _about(place: Place, document: Conversation) -> dict[str, Any]:
    control = document.control
    held = {"agent": control.holder, "agent_name": control.agent_name, "since": control.since}
    return {
        "id": document.id,
        "address": place.address,
        "state": document.state,
        "channel": document.channel,
        "position": document.position,
        "last_activity": document.last_activity,
        "control": held if control.holder else None,
        "counts": document.counts,
        "unanswered": len(document.unanswered),
    }


def _message(document: Conversation, message: Message) -> dict[str, Any]:
    """`status` is the carrier's latest word, for a text of ours that it has said something about."""
    deliveries = (each.status for each in document.deliveries.values() if each.message_id == message.id)
    status = next((status for status in deliveries if status), None)
    shown = msgspec.structs.asdict(message)
    del shown["wants_answer"]
    return shown | ({"status": status} if status else {})


def _state(query: Mapping[str, str]) -> State | None:
    text = query.get("state", "")
    if (state := next((known for known in STATES if known == text), None)) is None and text:
        raise ApiError(422, "BAD_STATE", f"state: expected one of {', '.join(STATES)}, got {text[:40]!r}")
    return state


ROUTES = (
    web.get("/v1/conversations", listed),
    web.get("/v1/conversations/{id}", show),
    web.get("/v1/conversations/{id}/stream", stream, allow_head=False),
    web.post("/v1/conversations/{id}/messages", post),
)
