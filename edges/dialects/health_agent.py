"""Health agent (document 003): `POST /functions/v1/health-agent`, `DELETE …/sessions/{id}`.

SSE, named: session, chunk*, text_done, response_done, done | error, and restart. Without `stream` one JSON object.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any
from uuid import uuid4

import msgspec
from aiohttp import web
from pydantic import StringConstraints

from edges import resume, sessions
from edges.app_keys import LOG, PROVIDERS
from edges.auth import Caller, require
from edges.bodies import parse_body
from edges.errors import ApiError
from edges.intake import client_key, record
from edges.limits import admit, charge, check_room
from edges.models import BaseModel
from edges.ring import Dialect
from edges.runs import (
    ANSWER_GRACE_S,
    CANCELLED,
    TAKEN_OVER,
    RunRequest,
    answer_of,
    begin,
    event_at,
    outcome,
    run_headers,
    show,
    start_or_attach,
)
from edges.wire import NDJSON, SSE, SSE_TYPE, STREAM_HEADERS, Frame, Wire
from eventstore import codec
from eventstore.append import Append, fingerprint
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
from eventstore.events.sessions import SessionEnded
from eventstore.schema import ConversationId, Event, Position, Recorded
from projections.sessions import Session

DEADLINE_S = 120.0
SOURCE = "health"
ASSISTANT = "health-agent"
PATH = "/functions/v1/health-agent"

_encode = msgspec.json.encode

Name = Annotated[str, StringConstraints(max_length=200)]


class Asked(BaseModel):
    """What a user's device sends. Nothing of it is needed: without a message a session is all that is made."""

    message: str | None = None
    user: Name | None = None
    deviceId: Name | None = None
    stream: bool = False

    @property
    def text(self) -> str:
        return (self.message or "").strip()


def _frame(name: str, data: dict[str, Any]) -> Frame:
    return Frame(_encode(data), name)


def _render(session: str, event: Recorded) -> list[Frame]:
    match codec.decode(event):
        case MessageReceived() as message:
            return [_session_frame(message)]
        case ReplyDelta(text=text):
            return [_chunk(session, text)]
        case ReplyRestarted(text=text):
            return [_restart(session), *([_chunk(session, text)] if text else [])]
        case ReplyAwaited(interrupted=True):
            return [_restart(session)]
        case MessageSent(text=text):
            return _said(session, text)
        case ReplyCompleted(text=text, message_id=message_id):
            return [_text_done(session, text), *_response_done(session, message_id, text)]
        case ReplyDeferred(message_id=str(message_id), text=text) if text:
            return [*_said(session, text), *_response_done(session, message_id, text)]
        case ReplyDeferred(message_id=str(message_id)):
            return _response_done(session, message_id, None)
        case ReplyDeferred(reason="control"):
            return [_error("HELD", TAKEN_OVER)]
        case ReplyDeferred():
            return [_frame("done", {"sessionId": session})]
        case ReplyFailed(code=code, detail=detail):
            return [_error(code, detail)]
        case ReplyCancelled():
            return [_error("CANCELLED", CANCELLED)]
    return []


def _render_lines(session: str, event: Recorded) -> list[Frame]:
    """Where frames have no names, the name is the object's type."""
    return [
        Frame(b'{"type":"%b",%b' % ((frame.name or "").encode(), frame.data[1:])) for frame in _render(session, event)
    ]


def _session_frame(message: MessageReceived) -> Frame:
    return _frame("session", _session_data(*_kept(message)))


def _session_data(session: str, user: str, workflow: str) -> dict[str, str]:
    return {"sessionId": session, "userId": user, "workflowId": workflow}


def _chunk(session: str, text: str) -> Frame:
    return _frame("chunk", {"text": text, "sessionId": session})


def _text_done(session: str, text: str) -> Frame:
    return _frame("text_done", {"text": text, "sessionId": session})


def _said(session: str, text: str) -> list[Frame]:
    """By somebody else than the run's own answer: in one piece."""
    return [_chunk(session, text), _text_done(session, text)]


def _restart(session: str) -> Frame:
    return _frame("restart", {"sessionId": session})


def _response_done(session: str, message_id: str, text: str | None) -> list[Frame]:
    response = {"id": message_id, "status": "completed", **({} if text is None else {"text": text})}
    done = _frame("response_done", {"sessionId": session, "response": response})
    return [done, _frame("done", {"sessionId": session})]


def _error(code: str, message: str) -> Frame:
    return _frame("error", {"message": message, "code": code})


def _kept(message: MessageReceived) -> tuple[str, str, str]:
    """Session, user and workflow, which a message of this surface keeps besides its text."""
    kept = message.provider or {}
    return kept.get("session_id", ""), kept.get("user", ""), kept.get("workflow_id", "")


def run_dialect(wire: Wire, root: Recorded) -> Dialect:
    """Every frame names the session, and only the question knows it. Sessions share no bytes, as no two of them are
    the same conversation."""
    message = codec.decode(root)
    session = _kept(message)[0] if isinstance(message, MessageReceived) else ""
    if wire is NDJSON:
        return Dialect(f"health-lines:{session}", partial(_render_lines, session), retells=True)
    return Dialect(f"health:{session}", partial(_render, session), named=True, retells=True)


async def ask(request: web.Request) -> web.StreamResponse:
    caller = await require(request, "chat:write")
    asked = (await parse_body(request, Asked)).model
    if asked.stream:
        return await _stream(request, caller, asked)
    if not asked.text:
        return await _session_only(request, caller, asked)
    session = await sessions.current(request, caller, _user(request, caller, asked))
    accepted = await begin(request, caller, _run(asked, session))
    run = accepted.positions[0]
    events = await outcome(request, caller, run, DEADLINE_S + ANSWER_GRACE_S)
    question = codec.decode(events[0])
    assert isinstance(question, MessageReceived)
    body = await _session_body(request, caller, *_kept(question)) | {"response": answer_of(events)}
    return web.json_response(body, headers={**accepted.headers, **run_headers(run)})


async def _session_only(request: web.Request, caller: Caller, asked: Asked) -> web.Response:
    await charge(request, caller)
    session = await sessions.current(request, caller, _user(request, caller, asked))
    return web.json_response(await _session_body(request, caller, session.id, session.user, session.workflow_id))


async def _session_body(request: web.Request, caller: Caller, session: str, user: str, workflow: str) -> dict[str, Any]:
    shown = {
        "id": session,
        "client_secret": await request.app[PROVIDERS].client_secret(caller.org, session),
        "user": user,
        "workflow": {"id": workflow},
    }
    return {"success": True, "session": shown, "message": "Session created successfully"}


async def _stream(request: web.Request, caller: Caller, asked: Asked) -> web.StreamResponse:
    """A session that cannot be made is an `error` frame: the client that asks for a stream reads nothing else."""
    if (seen := resume.last_seen(request)) is not None:
        root = await _root_at(request, caller, seen.position)
        dialect = run_dialect(SSE, root) if root is not None else NO_SESSION
        return await start_or_attach(request, caller, _run(asked, None), SSE, dialect)
    check_room(request, caller)
    try:
        session = await sessions.current(request, caller, _user(request, caller, asked))
    except ApiError as error:
        if error.status != 502:
            raise
        return _whole([_error(error.code, error.message)])
    if not asked.text:
        data = _session_data(session.id, session.user, session.workflow_id)
        return _whole([_frame("session", data), _frame("done", {"sessionId": session.id})])
    accepted = await begin(request, caller, _run(asked, session))
    root = await request.app[LOG].at(
        caller.org, accepted.run
    )  # a repeated request is shown with the session of the first
    assert root is not None
    return await show(request, caller, accepted, SSE, run_dialect(SSE, root))


async def _root_at(request: web.Request, caller: Caller, position: Position) -> Recorded | None:
    """The input of the run that the event at this position belongs to."""
    event = await event_at(request.app[LOG], caller.org, position)
    return await request.app[LOG].at(caller.org, event.run) if event is not None else None


NO_SESSION = Dialect("health", partial(_render, ""), named=True)


def _whole(frames: list[Frame]) -> web.Response:
    """A stream that is over with its first write, and stems from nothing that could be resumed."""
    return web.Response(body=SSE.encode(frames, None), headers={"Content-Type": SSE_TYPE, **STREAM_HEADERS})


def _user(request: web.Request, caller: Caller, asked: Asked) -> str:
    """A token's subject, whatever the body says. Somebody without a name gets one, the same for a request that is
    repeated with its key."""
    if name := caller.subject or asked.user or asked.deviceId:
        return name
    key = client_key(request)
    return f"anon_{uuid4().hex if key is None else fingerprint(caller.credential_id, PATH, key)}"


def _run(asked: Asked, session: Session | None) -> RunRequest:
    """Without a session it can only be compared with the run of an earlier request."""
    canonical = _encode([asked.text, asked.user, asked.deviceId])
    if session is None:
        return RunRequest(MessageReceived(message_id=""), PATH, canonical, DEADLINE_S)
    body = MessageReceived(
        message_id=str(uuid4()),
        assistant=ASSISTANT,
        source=SOURCE,
        text=asked.text,
        provider={"session_id": session.id, "user": session.user, "workflow_id": session.workflow_id},
    )
    return RunRequest(body, PATH, canonical, DEADLINE_S, address=f"health:{session.id}")


async def end_session(request: web.Request) -> web.Response:
    """A user logs out: the session is over at once, and its secret forgotten. Its thread stays."""
    caller = await admit(request, "chat:write")
    name = request.match_info["session"]
    if (session := await sessions.shown(request, caller, name)) is None:
        raise ApiError(404, "SESSION_NOT_FOUND", f"there is no session {name[:80]!r}")
    await request.app[PROVIDERS].forget_client_secret(caller.org, session.id)
    if not session.ended:
        ended = Event(
            SessionEnded(session_id=session.id, reason="deleted"), caller.actor, ConversationId(session.owner)
        )
        await record(request.app[LOG], caller.org, Append(events=[ended]))
    return web.json_response({"success": True, "message": "Session deleted successfully"})


ROUTES = (
    web.post(PATH, ask),
    web.delete(PATH + "/sessions/{session}", end_session),
)
