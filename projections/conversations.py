"""What a conversation is now: its last messages, answers under way, who speaks, what is still unanswered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec
from msgspec.structs import replace

from eventstore.events.calls import CallEnded, CallSummarized, CallTurnRecorded
from eventstore.events.control import ControlReleased, ControlTaken
from eventstore.events.messages import MessageReceived, MessageSent
from eventstore.events.replies import (
    ReplyAwaited,
    ReplyCancelled,
    ReplyCompleted,
    ReplyDeferred,
    ReplyFailed,
    ReplyRestarted,
    ReplyStarted,
    ReplyStepped,
)
from eventstore.events.sms import SmsRequested, SmsSent, SmsStatusChanged
from eventstore.schema import ORIGIN, Position, Recorded
from projections import control
from projections.control import ControlState
from projections.engine import ReadModel
from projections.projection import Fact, Projection, fact

KEPT_MESSAGES = 50

SentBy = Literal["user", "agent", "human_agent"]
Channel = Literal["sms", "whatsapp", "voice", "chat"]
State = Literal["held", "answering", "waiting", "quiet"]


class Message(msgspec.Struct, frozen=True):
    """`agent` is the assistant, `human_agent` a person of the organization. `at` is the time of `position`.

    Keywords (STOP) want no answer, and what was said in a call was answered there.
    """

    id: str
    text: str
    sent_by: SentBy
    channel: Channel
    at: str
    position: str
    wants_answer: bool = True


class OpenReply(msgspec.Struct, frozen=True):
    """An answer that has begun and not ended. `context_until` is the last message it has seen."""

    run: str
    attempt: int
    assistant: str
    started: str
    context_until: str


class Counts(msgspec.Struct, frozen=True):
    user: int = 0
    agent: int = 0
    human_agent: int = 0


class Delivery(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a text of ours has come; `status` "" until the carrier has said something."""

    message_id: str
    provider_id: str = ""
    status: str = ""


class Conversation(msgspec.Struct, frozen=True, omit_defaults=True):
    """`position` is that of the last event folded in: what comes after it on the log is not in here yet.

    `line` is the number of ours that the customer wrote to last, with `whatsapp:` before it if it was by WhatsApp.
    `awaited` are the runs that a person is to answer; `deliveries` are by intent. `answered_until` is the last customer
    message that somebody answered. `summary` is that of the last call.
    """

    id: str
    position: str
    last_activity: str
    channel: Channel = "chat"
    messages: tuple[Message, ...] = ()
    open_replies: dict[str, OpenReply] = {}
    control: ControlState = control.INITIAL
    counts: Counts = Counts()
    answered_until: str = str(ORIGIN)
    summary: str = ""
    line: str = ""
    awaited: tuple[str, ...] = ()
    deliveries: dict[str, Delivery] = {}

    @property
    def state(self) -> State:
        """By who has to do something: a person, the assistant, somebody, nobody."""
        if self.control.holder:
            return "held"
        return "answering" if self.open_replies else "waiting" if self.unanswered else "quiet"

    @property
    def unanswered(self) -> tuple[Message, ...]:
        """Of the kept messages, those of the customer that nobody has answered yet."""
        until = Position.parse(self.answered_until)
        asked = (m for m in self.messages if m.sent_by == "user" and m.wants_answer)
        return tuple(m for m in asked if Position.parse(m.position) > until)


_TYPES = (
    MessageReceived,
    MessageSent,
    ReplyStarted,
    ReplyStepped,
    ReplyRestarted,
    ReplyCompleted,
    ReplyFailed,
    ReplyCancelled,
    ReplyDeferred,
    ReplyAwaited,
    SmsRequested,
    SmsSent,
    SmsStatusChanged,
    CallTurnRecorded,
    CallEnded,
    CallSummarized,
    ControlTaken,
    ControlReleased,
)


def touches(event: Fact) -> tuple[str, ...]:
    conversation = event.recorded.conversation
    return (conversation,) if conversation and isinstance(event.body, _TYPES) else ()


def evolve(document: Conversation | None, event: Fact) -> Conversation:
    position, at = str(event.position), event.at
    if document is None:
        before = Conversation(event.recorded.conversation or "", position, at)
    else:
        before = replace(document, position=position, last_activity=at)
    match event.body:
        case MessageReceived():
            return _received(before, event, event.body)
        case MessageSent() as sent:
            return _agent_wrote(_with_message(before, event, sent.message_id, sent.text, "human_agent"), event)
        case SmsRequested() as asked:
            after = _delivery(before, asked.intent_id, Delivery(asked.message_id))
            return _agent_wrote(after, event) if asked.sent_by == "agent" else after
        case SmsStatusChanged(intent_id=intent, status=status) if intent in before.deliveries:
            return _delivery(before, intent, replace(before.deliveries[intent], status=status))
        case SmsSent():
            return _sms_sent(before, event, event.body)
        case ReplyStarted() | ReplyStepped() | ReplyRestarted():
            return _reply_goes_on(before, event, event.body)
        case ReplyCompleted() | ReplyFailed() | ReplyCancelled() | ReplyDeferred():
            return _reply_ended(before, event, event.body)
        case ReplyAwaited():
            return _awaited(before, str(event.recorded.run))
        case CallTurnRecorded():
            return _spoken(before, event, event.body)
        case CallEnded(summary=summary) | CallSummarized(summary=summary):
            return replace(before, summary=summary) if summary else before
    return replace(before, control=control.evolve(before.control, event))


def fold(events: Iterable[Recorded]) -> Conversation | None:
    """One conversation from its own events, in order; None if none of them belongs to a conversation."""
    document: Conversation | None = None
    for event in map(fact, events):
        if touches(event):
            document = evolve(document, event)
    return document


def _received(before: Conversation, event: Fact, body: MessageReceived) -> Conversation:
    sent_by: SentBy = "human_agent" if event.recorded.actor.startswith("agent:") else "user"
    spoken = replace(before, channel=body.channel, line=_line(body) or before.line)
    after = _with_message(spoken, event, body.message_id, body.text, sent_by, wants_answer=body.keyword is None)
    return _answered(after, event.position) if sent_by == "human_agent" else after


def _line(body: MessageReceived) -> str:
    prefix = {"sms": "", "whatsapp": "whatsapp:"}.get(body.channel)
    return f"{prefix}{body.to}" if prefix is not None and body.to else ""


def _agent_wrote(before: Conversation, event: Fact) -> Conversation:
    return _answered(replace(before, control=control.evolve(before.control, event)), event.position)


def _delivery(before: Conversation, intent: str, delivery: Delivery) -> Conversation:
    deliveries = before.deliveries | {intent: delivery}
    return replace(before, deliveries=dict(list(deliveries.items())[-KEPT_MESSAGES:]))


def _sms_sent(before: Conversation, event: Fact, body: SmsSent) -> Conversation:
    """What an agent writes is an answer when it is asked for, and a message once it has left. A text that carries an
    assistant's answer has the answer's message id, and is that message."""
    sent_by: SentBy = "human_agent" if body.sent_by == "agent" else "agent"
    channel: Channel = "whatsapp" if body.to.startswith("whatsapp:") else "sms"
    delivery = before.deliveries.get(body.intent_id, Delivery(body.message_id))
    after = _delivery(
        replace(before, channel=channel), body.intent_id, replace(delivery, provider_id=body.provider_id or "")
    )
    return _with_message(after, event, body.message_id, body.text, sent_by)


def _spoken(before: Conversation, event: Fact, body: CallTurnRecorded) -> Conversation:
    sent_by: SentBy = "user" if body.role == "user" else "agent"
    spoken = replace(before, channel="voice")
    return _with_message(spoken, event, body.message_id, body.text, sent_by, wants_answer=False)


def _reply_goes_on(
    before: Conversation, event: Fact, body: ReplyStarted | ReplyStepped | ReplyRestarted
) -> Conversation:
    run = str(event.recorded.run)
    open_reply = before.open_replies.get(run)
    if isinstance(body, ReplyStarted):
        started = open_reply.started if open_reply else event.at
        open_reply = OpenReply(run, body.attempt, body.assistant, started, body.context_until)
    elif open_reply is not None:
        open_reply = replace(open_reply, attempt=body.attempt)
    return replace(before, open_replies=before.open_replies | {run: open_reply}) if open_reply else before


def _awaited(before: Conversation, run: str) -> Conversation:
    still_open = {other: reply for other, reply in before.open_replies.items() if other != run}
    return replace(before, open_replies=still_open, awaited=(*before.awaited, run))


def _reply_ended(
    before: Conversation, event: Fact, body: ReplyCompleted | ReplyFailed | ReplyCancelled | ReplyDeferred
) -> Conversation:
    run = str(event.recorded.run)
    ended = before.open_replies.get(run)
    after = replace(
        before,
        open_replies={other: reply for other, reply in before.open_replies.items() if other != run},
        awaited=tuple(other for other in before.awaited if other != run),
    )
    if not isinstance(body, ReplyCompleted):
        return after
    seen = _position(ended.context_until) if ended else None
    after = _answered(after, max(seen or ORIGIN, event.recorded.run))
    return _with_message(after, event, body.message_id, body.text, "agent") if body.text else after


def _with_message(
    before: Conversation, event: Fact, name: str, text: str, sent_by: SentBy, *, wants_answer: bool = True
) -> Conversation:
    if any(message.id == name and message.sent_by != "user" for message in before.messages):
        return before
    message = Message(name, text, sent_by, before.channel, event.at, str(event.position), wants_answer)
    counts = replace(before.counts, **{sent_by: getattr(before.counts, sent_by) + 1})
    return replace(before, messages=(*before.messages, message)[-KEPT_MESSAGES:], counts=counts)


def _answered(before: Conversation, until: Position) -> Conversation:
    return replace(before, answered_until=str(max(until, Position.parse(before.answered_until))))


def _position(text: str) -> Position | None:
    """An event may hold anything in a field of text; a fold must not stop at it."""
    try:
        return Position.parse(text)
    except ValueError:
        return None


_LAST_MS = 10**13 - 1
_LAST_SEQ = 10**5 - 1
ACTIVE = "active:"


def terms(document: Conversation) -> set[str]:
    """Newest first: `recent:` for every conversation, and one by its state. `active:` orders those that a person holds
    by what that person did last, longest ago first."""
    last = Position.parse(document.position)
    age = f"{_LAST_MS - last.ms:013d}{max(0, _LAST_SEQ - last.seq):05d}"
    held = {f"{ACTIVE}{document.control.active_ms:013d}"} if document.control.holder else set()
    return {f"recent:{age}", f"{document.state}:{age}"} | held


CONVERSATIONS: Projection[Conversation] = Projection("conversations", 5, Conversation, touches, evolve, terms)


async def latest(model: ReadModel[Conversation], limit: int, state: State | None = None) -> list[Conversation]:
    """Conversations by their last activity, newest first."""
    return await model.with_prefix(f"{state or 'recent'}:", limit)


async def held(model: ReadModel[Conversation], limit: int) -> list[Conversation]:
    """Those that a person holds, the longest idle first."""
    return await model.with_prefix(ACTIVE, limit)
