"""Loan sales assistant (document 004): `GET /health`, `POST /chat`, `GET /chat/stream`, `WS /ws/chat`.

Stream (SSE, data only): content_start, content*, tool_start, tool_complete, member_tool_start, member_tool_complete,
restart, and done | error. The WebSocket sends ack before content_start, and then the same.
"""

from __future__ import annotations

from typing import Annotated, Any
from uuid import uuid4

import msgspec
from aiohttp import web
from pydantic import Field, StringConstraints

from edges import sockets
from edges.auth import require
from edges.bodies import parse_body, validated
from edges.errors import ApiError
from edges.intake import MAX_KEY_LENGTH
from edges.models import BaseModel
from edges.ring import Dialect
from edges.runs import CANCELLED, TAKEN_OVER, RunRequest, answer_of, collect, start_or_attach
from edges.sockets import Surface
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
)
from eventstore.events.tools import ToolCompleted, ToolFailed, ToolStarted
from eventstore.schema import Recorded

DEADLINE_S = 120.0
SOURCE = "loan"
ASSISTANT = "loan-sales"
PREVIEW_LENGTH = 200
HEALTHY = b'{"status":"healthy","service":"loan-sales-assistant"}'

_encode = msgspec.json.encode

SessionId = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class ChatMessage(BaseModel):
    """What a customer says. Without a `session_id` a new conversation begins."""

    message: Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]
    session_id: SessionId | None = None


class SocketQuery(BaseModel):
    """What the URL of a socket says."""

    session_id: SessionId | None = None


class SocketMessage(BaseModel):
    """A question on the WebSocket. The same `id` again is the same question, and is not asked twice."""

    message: Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]
    id: Annotated[str, Field(min_length=1, max_length=MAX_KEY_LENGTH, coerce_numbers_to_str=True)] | None = None


def _frame(kind: str, **data: str) -> Frame:
    return Frame(_encode({"type": kind, **data}))


def _render(event: Recorded) -> list[Frame]:
    match codec.decode(event):
        case MessageReceived() as message:
            return [_frame("content_start", session_id=session_of(message))]
        case ReplyDelta(text=text) | MessageSent(text=text):
            return [_frame("content", data=text)]
        case ReplyRestarted(text=text):
            return [_frame("restart"), *_content(text)]
        case ReplyAwaited(interrupted=True):
            return [_frame("restart")]
        case ToolStarted() | ToolCompleted() | ToolFailed() as tool if tool.call_id is not None:
            return [_tool(tool)]
        case ReplyCompleted():
            return [_frame("done")]
        case ReplyDeferred(message_id=str(), text=text) | ReplyDeferred(reason="covered", text=text):
            return [*_content(text), _frame("done")]
        case ReplyFailed(detail=detail):
            return [_frame("error", message=detail)]
        case ReplyDeferred():
            return [_frame("error", message=TAKEN_OVER)]
        case ReplyCancelled():
            return [_frame("error", message=CANCELLED)]
    return []


def _render_socket(event: Recorded) -> list[Frame]:
    match codec.decode(event):
        case MessageReceived() as message:
            return [_frame("ack", message="Processing...", session_id=session_of(message)), *_render(event)]
    return _render(event)


def _content(text: str) -> list[Frame]:
    return [_frame("content", data=text)] if text else []


def _tool(event: ToolStarted | ToolCompleted | ToolFailed) -> Frame:
    phase = "start" if isinstance(event, ToolStarted) else "complete"
    if event.member is not None:
        return _frame(f"member_tool_{phase}", member=event.member, tool=event.tool)
    match event:
        case ToolCompleted(result=result):
            return _frame("tool_complete", tool=event.tool, result=_preview(result))
        case ToolFailed(error=error):
            return _frame("tool_complete", tool=event.tool, result=f"Error: {error}"[:PREVIEW_LENGTH])
    return _frame("tool_start", tool=event.tool)


def _preview(result: Any) -> str:
    text = result if isinstance(result, str) else _encode(result).decode()
    return text if len(text) <= PREVIEW_LENGTH else text[: PREVIEW_LENGTH - 1] + "…"


def session_of(message: MessageReceived) -> str:
    """Empty for a message that came into the session by another surface."""
    return (message.provider or {}).get("session_id", "")


LOAN = Dialect("loan", _render, retells=True)
LOAN_SOCKET = Dialect("loan-socket", _render_socket, retells=True)


async def health(request: web.Request) -> web.Response:
    return web.Response(body=HEALTHY, content_type="application/json")


async def chat(request: web.Request) -> web.Response:
    """Waits for the whole answer."""
    caller = await require(request, "chat:write")
    asked = (await parse_body(request, ChatMessage)).model
    events, headers = await collect(request, caller, _run("/chat", asked))
    question = codec.decode(events[0])
    assert isinstance(question, MessageReceived)
    return web.json_response({"response": answer_of(events), "session_id": session_of(question)}, headers=headers)


async def stream(request: web.Request) -> web.StreamResponse:
    caller = await require(request, "chat:write")
    asked = validated(ChatMessage, dict(request.query))
    return await start_or_attach(request, caller, _run("/chat/stream", asked), SSE, LOAN)


async def socket(request: web.Request) -> web.StreamResponse:
    caller = await require(request, "chat:write")
    session = validated(SocketQuery, dict(request.query)).session_id or _new_session()
    return await sockets.converse(request, caller, _surface(session))


def _surface(session: str) -> Surface:
    def ask(said: dict[str, Any]) -> RunRequest:
        asked = validated(SocketMessage, said)
        key = uuid4().hex if asked.id is None else f"id:{asked.id}"
        run = _run(f"/ws/chat/{session}", ChatMessage(message=asked.message, session_id=session))
        return run._replace(key=key)

    def refusal(error: ApiError) -> Frame:
        return _frame("error", message=error.message)

    return Surface(LOAN_SOCKET, f"session:{session}", ask, refusal)


def _run(name: str, asked: ChatMessage) -> RunRequest:
    """A session is the organization's: whichever of its credentials names it goes on with it."""
    session = asked.session_id or _new_session()
    body = MessageReceived(
        message_id=str(uuid4()),
        assistant=ASSISTANT,
        source=SOURCE,
        text=asked.message,
        provider={"session_id": session},
    )
    return RunRequest(body, name, _encode(asked.model_dump()), DEADLINE_S, address=f"session:{session}")


def _new_session() -> str:
    return uuid4().hex


ROUTES = (
    web.get("/health", health),
    web.post("/chat", chat),
    web.get("/chat/stream", stream, allow_head=False),
    web.get("/ws/chat", socket, allow_head=False),
)
