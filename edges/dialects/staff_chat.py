"""Staff chat (document 001): `/api/v1/staff/{staff_id}/messages`, and `…/messages/stream`.

Stream (SSE, data only): status {phase: context|thinking|tool}*, token*, done | error, and restart. `POST …/messages`
is the same without the stream: 202, and the answer goes to `callback_url`. `GET …/messages` lists, newest first.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple
from urllib.parse import urlencode
from uuid import uuid4

import msgspec
from aiohttp import web
from pydantic import StringConstraints

from edges.app_keys import CALLBACKS_ALLOWED, ENGINE, LOG, ORGANIZATIONS
from edges.auth import Caller, require
from edges.bodies import page_limit, parse_body
from edges.errors import ApiError
from edges.limits import charge
from edges.models import BaseModel
from edges.resume import parse_position
from edges.ring import Dialect
from edges.runs import CANCELLED, TAKEN_OVER, RunRequest, accept_message, start_or_attach
from edges.wire import SSE, Frame
from eventstore import codec
from eventstore.events.messages import MessageReceived, MessageSent
from eventstore.events.replies import (
    ReplyAwaited,
    ReplyCancelled,
    ReplyCompleted,
    ReplyDeferred,
    ReplyDelta,
    ReplyFailed,
    ReplyRestarted,
    ReplyStarted,
)
from eventstore.events.tools import ToolCompleted, ToolFailed, ToolStarted
from eventstore.schema import Position, Recorded
from projections import assistants, callback_urls
from projections.projection import timestamp

DEADLINE_S = 120.0
SOURCE = "staff"
DEFAULT_PAGE, MAX_PAGE = 50, 200

ANSWERED_ELSEWHERE = "this message was answered together with another one"

_encode = msgspec.json.encode


class Message(BaseModel):
    """What a member of staff is told."""

    content: Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]


class AsyncMessage(Message):
    """The same without a stream; the answer is posted to `callback_url`."""

    callback_url: str | None = None


class Shown(NamedTuple):
    """A message as the list shows it."""

    position: Position
    id: str
    content: str
    message_type: Literal["user", "assistant"]

    @property
    def json(self) -> dict[str, str]:
        return {
            "id": self.id,
            "content": self.content,
            "message_type": self.message_type,
            "created_at": timestamp(self.position),
        }


def _frame(kind: str, **data: str) -> Frame:
    return Frame(_encode({"type": kind, **data}))


def _render(event: Recorded) -> list[Frame]:
    match codec.decode(event):
        case MessageReceived():
            return [_frame("status", phase="context")]
        case ReplyStarted() | ToolCompleted() | ToolFailed():
            return [_frame("status", phase="thinking")]
        case ToolStarted():
            return [_frame("status", phase="tool")]
        case ReplyDelta(text=text) | MessageSent(text=text):
            return [_frame("token", content=text)]
        case ReplyRestarted(text=text):
            return [_frame("restart"), *_token(text)]
        case ReplyAwaited(interrupted=True):
            return [_frame("restart")]
        case ReplyCompleted(message_id=message_id):
            return [_frame("done", message_id=message_id)]
        case ReplyDeferred(message_id=str(message_id), text=text):
            return [*_token(text), _frame("done", message_id=message_id)]
        case ReplyFailed(detail=detail):
            return [_frame("error", detail=detail)]
        case ReplyCancelled():
            return [_frame("error", detail=CANCELLED)]
        case ReplyDeferred(reason=reason):
            return [_frame("error", detail=TAKEN_OVER if reason == "control" else ANSWERED_ELSEWHERE)]
    return []


def _token(text: str) -> list[Frame]:
    return [_frame("token", content=text)] if text else []


STAFF = Dialect("staff", _render, retells=True)


def address_of(staff_id: str, caller: Caller) -> str:
    """Who writes comes from the credential, so two users of one organization never see each other's messages."""
    return f"staff:{staff_id}:{caller.user}"


async def stream(request: web.Request) -> web.StreamResponse:
    caller = await require(request, "chat:write")
    staff_id = await _staff(request, caller)
    message = (await parse_body(request, Message)).model
    return await start_or_attach(request, caller, _run(staff_id, caller, message.content), SSE, STAFF)


async def send(request: web.Request) -> web.Response:
    caller = await require(request, "chat:write")
    staff_id = await _staff(request, caller)
    message = (await parse_body(request, AsyncMessage)).model
    url = message.callback_url
    if url is not None and (fault := callback_urls.fault(url, request.app[CALLBACKS_ALLOWED])) is not None:
        raise ApiError(422, "BAD_CALLBACK_URL", f"callback_url: {fault}")
    return await accept_message(request, caller, _run(staff_id, caller, message.content, url))


async def messages(request: web.Request) -> web.Response:
    """Newest first; `Link` leads to older ones."""
    caller = await require(request, "chat:write", "events:read")
    staff_id = await _staff(request, caller)
    await charge(request, caller)
    limit = page_limit(request.query, DEFAULT_PAGE, MAX_PAGE)
    before = parse_position("before", text) if (text := request.query.get("before")) else None
    found = await _before_position(request, caller, address_of(staff_id, caller), before, limit)
    headers = {"Cache-Control": "private, no-cache"}
    if len(found) == limit:
        target = urlencode({"before": str(found[-1].position), "limit": limit})
        headers["Link"] = f'<{request.path}?{target}>; rel="next"'
    return web.json_response([message.json for message in found], headers=headers)


async def _staff(request: web.Request, caller: Caller) -> str:
    staff_id = request.match_info["staff_id"]
    known = await assistants.find(request.app[ENGINE], caller.org, staff_id)
    if known is None or known.kind != "staff":
        raise ApiError(404, "STAFF_NOT_FOUND", f"Staff not found: {staff_id[:80]!r}")
    return staff_id


def _run(staff_id: str, caller: Caller, content: str, callback_url: str | None = None) -> RunRequest:
    body = MessageReceived(
        message_id=str(uuid4()), assistant=staff_id, source=SOURCE, text=content, callback_url=callback_url
    )
    canonical = _encode([content, callback_url] if callback_url else [content])
    return RunRequest(body, f"{SOURCE}/{staff_id}", canonical, DEADLINE_S, address=address_of(staff_id, caller))


async def _before_position(
    request: web.Request, caller: Caller, address: str, before: Position | None, limit: int
) -> list[Shown]:
    """An agent's one answer to several messages is an event of each of their runs, and shown once."""
    log = request.app[LOG]
    conversation = await request.app[ORGANIZATIONS].conversation(caller.org, address)
    found: dict[str, Shown] = {}
    while len(found) < limit and (page := await log.read_conversation_back(caller.org, conversation, before)):
        for message in filter(None, map(shown, reversed(page))):
            found.setdefault(message.id, message)
        before = page[0].position
    return list(found.values())[:limit]


def shown(event: Recorded) -> Shown | None:
    match codec.decode(event):
        case MessageReceived(message_id=message_id, text=text):
            return Shown(event.position, message_id, text, "user")
        case ReplyCompleted(message_id=message_id, text=str(text)) if text:
            return Shown(event.position, message_id, text, "assistant")
        case MessageSent(message_id=message_id, text=text):
            return Shown(event.position, message_id, text, "assistant")
    return None


ROUTES = (
    web.post("/api/v1/staff/{staff_id}/messages/stream", stream),
    web.post("/api/v1/staff/{staff_id}/messages", send),
    web.get("/api/v1/staff/{staff_id}/messages", messages, allow_head=False),
)
