"""The feed of a telephone conversation (document 002): `GET /api/stream/conversation/{leadId}`, and its test page.

SSE, unnamed; with `load=true` conversation_history first. sms_received, sms_sent, message_status, call_initiated,
call_ended, human_control_started, human_control_ended, human_message_sent, ai_message_started, ai_token, ai_message;
position and gap. Every frame has type, organizationId, phoneNumber, leadId, timestamp. A second ai_message_started
for a run means: drop what was shown of it. `GET /test-streaming.html` shows all of it working.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from edges import resume
from edges.app_keys import ENGINE, LOG, ORGANIZATIONS
from edges.auth import require
from edges.limits import charge_open
from edges.respond import Plan, respond
from edges.ring import Dialect
from edges.subscriptions import OWN, Filter, Format
from edges.telephony import control_json, message_json, phone_of
from edges.wire import SSE, Frame
from eventstore import codec
from eventstore.events.calls import CallEnded, CallInitiated
from eventstore.events.control import ControlReleased, ControlTaken
from eventstore.events.messages import MessageReceived, MessageSent
from eventstore.events.replies import ReplyCompleted, ReplyDelta, ReplyRestarted, ReplyStarted
from eventstore.events.sms import SmsFailed, SmsRequested, SmsSent, SmsStatusChanged, SmsUncertain
from eventstore.schema import OrgId, Position, Recorded
from projections import conversation_snapshot, phones
from projections.conversation_snapshot import Snapshot
from projections.projection import timestamp

PAGE = Path(__file__).parent.parent / "static" / "test-streaming.html"
PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
SENT_BY = {"assistant": "agent", "tool": "agent", "agent": "human_agent"}

_encode = msgspec.json.encode


def _frame(kind: str, at: Position, **members: Any) -> Frame:
    rest = _encode({"timestamp": timestamp(at), **members})
    return Frame(b'{"type":"%b"%b,%b' % (kind.encode(), OWN, rest[1:]))


def _notice(data: bytes, at: Position) -> bytes:
    return b'%b%b,"timestamp":"%b"}' % (data[:-1], OWN, timestamp(at).encode())


def _render(event: Recorded) -> Sequence[Frame]:
    at, run = event.position, str(event.run)
    match codec.decode(event):
        case MessageReceived() as received:
            return [_frame("sms_received", at, message=received.text, messageId=received.message_id)]
        case SmsSent() as sent:
            sent_by = SENT_BY[sent.sent_by]
            return [_frame("sms_sent", at, message=sent.text, messageId=sent.message_id, sentBy=sent_by)]
        case SmsStatusChanged(message_id=name, status=status, error_code=code):
            return [_status(at, name, status, code)]
        case SmsFailed(message_id=name, code=code):
            return [_status(at, name, "failed", code)]
        case SmsUncertain(message_id=name):
            return [_status(at, name, "unknown", None)]
        case ControlTaken(agent=agent, agent_name=name):
            return [_frame("human_control_started", at, agentId=agent, agentName=name)]
        case ControlReleased(agent=agent, agent_name=name):
            return [_frame("human_control_ended", at, agentId=agent, agentName=name)]
        case SmsRequested(sent_by="agent") as asked:
            return [_written(at, asked, event.actor.removeprefix("agent:"))]
        case MessageSent() as written:
            return [_written(at, written, written.agent)]
        case ReplyStarted(attempt=attempt):
            return [_frame("ai_message_started", at, run=run, attempt=attempt)]
        case ReplyRestarted(attempt=attempt, text=text):
            return _open_reply(at, run, attempt, text)
        case ReplyDelta(text=text):
            return [_frame("ai_token", at, run=run, content=text)]
        case ReplyCompleted(message_id=name, text=text):
            return [_frame("ai_message", at, run=run, message=text, messageId=name)]
        case CallInitiated(call_sid=sid, direction=direction):
            return [_frame("call_initiated", at, callSid=sid, direction=direction)]
        case CallEnded() as ended:
            return [_call_ended(at, ended)]
    return []


def _status(at: Position, message_id: str, status: str, code: str | None) -> Frame:
    return _frame("message_status", at, messageId=message_id, status=status, **({"errorCode": code} if code else {}))


def _written(at: Position, written: SmsRequested | MessageSent, agent: str) -> Frame:
    about = {"messageId": written.message_id, "agentId": agent, "agentName": written.agent_name}
    return _frame("human_message_sent", at, message=written.text, **about)


def _open_reply(at: Position, run: str, attempt: int, text: str) -> list[Frame]:
    started = _frame("ai_message_started", at, run=run, attempt=attempt)
    return [started, _frame("ai_token", at, run=run, content=text)] if text else [started]


def _call_ended(at: Position, ended: CallEnded) -> Frame:
    summary = {"summary": ended.summary} if ended.summary else {}
    duration_s = ended.duration_s or 0
    return _frame(
        "call_ended", at, callSid=ended.call_sid, durationSeconds=duration_s, outcome=ended.outcome, **summary
    )


FEED = Dialect("feed", _render, notice=_notice)


async def stream(request: web.Request) -> web.StreamResponse:
    """With a resume position no history is sent again, unless that position could not be honoured."""
    caller = await require(request, "events:read", "control:write")
    lead = request.match_info["leadId"]
    phone = await phone_of(request, caller.org, request.query.get("phoneNumber"), lead)
    conversation = await request.app[ORGANIZATIONS].conversation(caller.org, phones.address(phone))
    log, wanted = request.app[LOG], resume.requested(request)
    wants = Filter(conversation)
    start = await resume.start(log, caller.org, wanted, wants.indexed(caller.org))
    await charge_open(request, caller, free=start.returns, subscription=True)
    format = Format(FEED, SSE, request.version >= (1, 1), tells_position=True, own=_own(caller.org, phone, lead))
    opening = b""
    if request.query.get("load") in ("1", "true") and (wanted is None or start.gap is not None):
        snapshot = await conversation_snapshot.latest(log, request.app[ENGINE], caller.org, conversation)
        start, opening = start._replace(position=snapshot.position), _history(snapshot)
    elif start.gap is None and (at := await resume.stands_at(log, caller.org, start)) is not None:
        opening = format.position(at)
    return await respond(request, Plan(caller, wants, format, start, opening))


def _own(org: OrgId, phone: str, lead: str) -> bytes:
    return b",%b" % _encode({"organizationId": org, "phoneNumber": phone, "leadId": lead})[1:-1]


def _history(snapshot: Snapshot) -> bytes:
    """The messages, and behind them what has been shown of answers under way; only the first carries the id, because
    what follows belongs to the same position."""
    at, document = snapshot.position, snapshot.conversation
    messages = [message_json(message) for message in document.messages] if document else []
    control = control_json(document.control) if document else None
    history = _frame("conversation_history", at, messages=messages, humanControl=control)
    replies = document.open_replies.values() if document else ()
    shown = [frame for each in replies for frame in _open_reply(at, each.run, each.attempt, snapshot.texts[each.run])]
    return SSE.encode([history], at.encode()) + SSE.encode(shown, None)


async def page(request: web.Request) -> web.FileResponse:
    return web.FileResponse(PAGE, headers=PAGE_HEADERS)


ROUTES = (
    web.get("/api/stream/conversation/{leadId}", stream, allow_head=False),
    web.get("/test-streaming.html", page),
)
