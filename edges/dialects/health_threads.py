"""What was said in the health agent's sessions: `GET …/threads`, `…/threads/{id}`, `…/threads/{id}/export`.

A thread is the conversation of one session, and has its id.
"""

from __future__ import annotations

import re
import time
from typing import Any, Literal, NamedTuple

import msgspec
from aiohttp import web

from edges import sessions
from edges.app_keys import ENGINE, LOG, ORGANIZATIONS
from edges.bodies import page_limit
from edges.dialects.health_agent import PATH
from edges.errors import ApiError
from edges.limits import admit
from eventstore import codec
from eventstore.events.messages import MessageReceived, MessageSent
from eventstore.events.replies import ReplyCompleted
from eventstore.schema import Recorded
from projections.projection import timestamp
from projections.sessions import SESSIONS, Session, latest

DEFAULT_PAGE, MAX_PAGE = 50, 200
_NAMES = {"user": "User", "assistant": "Assistant", "agent": "Agent"}


class Said(NamedTuple):
    id: str
    role: Literal["user", "assistant", "agent"]
    content: str
    created_at: str


async def threads(request: web.Request) -> web.Response:
    """Newest first: those of `user` (or `deviceId`); all of the organization's only for who may read its events.

    A token's user without that right is its subject.
    """
    caller = await admit(request, "chat:write", "events:read")
    user = request.query.get("user") or request.query.get("deviceId")
    if not caller.may("events:read"):
        user = user or caller.subject
        if user is None or not sessions.may_see(caller, user):
            raise ApiError(403, "FORBIDDEN", "these threads take the scope events:read")
    owner = await sessions.owner_of(request, caller, user) if user else None
    model = await request.app[ENGINE].level(caller.org, SESSIONS)
    found = await latest(model, page_limit(request.query, DEFAULT_PAGE, MAX_PAGE), owner)
    return _json({"success": True, "threads": [_shown(session) for session in found]})


async def thread(request: web.Request) -> web.Response:
    session, said = await _read(request)
    return _json({"success": True, "thread": _whole(session, said)})


async def export(request: web.Request) -> web.Response:
    """As a file to keep."""
    session, said = await _read(request)
    match request.query.get("format", "json"):
        case "json":
            return _file(session, "json", "application/json", msgspec.json.encode(_whole(session, said)))
        case "markdown":
            return _file(session, "md", "text/markdown", _markdown(session, said).encode())
        case other:
            raise ApiError(422, "BAD_FORMAT", f"format: expected json or markdown, got {other[:40]!r}")


async def _read(request: web.Request) -> tuple[Session, list[Said]]:
    caller = await admit(request, "chat:write", "events:read")
    name = request.match_info["thread"]
    if (session := await sessions.shown(request, caller, name)) is None:
        raise ApiError(404, "THREAD_NOT_FOUND", f"there is no thread {name[:80]!r}")
    conversation = await request.app[ORGANIZATIONS].conversation(caller.org, f"health:{session.id}")
    events = await request.app[LOG].read_conversation(caller.org, conversation)
    return session, [said for event in events if (said := _said(event)) is not None]


def _said(event: Recorded) -> Said | None:
    at = timestamp(event.position)
    match codec.decode(event):
        case MessageReceived(message_id=message_id, text=text):
            return Said(message_id, "user", text, at)
        case ReplyCompleted(message_id=message_id, text=text) if text:
            return Said(message_id, "assistant", text, at)
        case MessageSent(message_id=message_id, text=text):
            return Said(message_id, "agent", text, at)
    return None


def _shown(session: Session) -> dict[str, Any]:
    status = session.ended or ("active" if session.is_valid(time.time()) else "expired")
    return {
        "id": session.id,
        "user": session.user,
        "status": status,
        "workflow": {"id": session.workflow_id},
        "created_at": session.created_at,
    }


def _whole(session: Session, said: list[Said]) -> dict[str, Any]:
    return _shown(session) | {"messages": [message._asdict() for message in said]}


def _markdown(session: Session, said: list[Said]) -> str:
    parts = [f"# Conversation {session.id}", f"{session.user}, {session.created_at}"]
    parts += [f"**{_NAMES[message.role]}** ({message.created_at})\n\n{message.content}" for message in said]
    return "\n\n".join(parts) + "\n"


def _file(session: Session, ending: str, content_type: str, body: bytes) -> web.Response:
    name = re.sub(r"[^A-Za-z0-9_-]", "_", session.id)
    headers = {
        "Content-Type": f"{content_type}; charset=utf-8",
        "Content-Disposition": f'attachment; filename="thread-{name}.{ending}"',
        "Cache-Control": "private, no-cache",
    }
    return web.Response(body=body, headers=headers)


def _json(body: dict[str, Any]) -> web.Response:
    return web.json_response(body, headers={"Cache-Control": "private, no-cache"})


ROUTES = (
    web.get(PATH + "/threads", threads, allow_head=False),
    web.get(PATH + "/threads/{thread}", thread, allow_head=False),
    web.get(PATH + "/threads/{thread}/export", export, allow_head=False),
)
