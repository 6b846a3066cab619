"""What a conversation is now: its last messages, answers under way, who speaks, what is still unanswered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec
from msgspec.structs import replace

from eventstore.events.calls import CallEnded, CallSummarized, CallTurnRecorded
from eventstore.events.control import ControlReleased, ControlTaken
from eventstore.events.messages import MessageReceived
from eventstore.events.replies import (
    ReplyCancelled,
    ReplyCompleted,
    ReplyDeferred,
    ReplyFailed,
    ReplyRestarted,
    ReplyStarted,
    ReplyStepped,
)
from eventstore.events.sms import SmsRequested, SmsSent
from eventstore.schema import ORIGIN, Position, Recorded
from projections import control
from projections.control import ControlState
from projections.engine import ReadModel
from projections.projection import Fact, Projection, fact

KEPT_MESSAGES = 50

SentBy = Literal["user", "agent", "human_agent"]
Channel = Literal["sms", "whatsapp", "voice", "chat"]


class Message(msgspec.Struct, frozen=True):
    """`agent` is the assistant, `human_agent` a person of the organization. `at` is the time of `position`."""

    id: str
    text: str
    sent_by: SentBy
    channel: Channel
    at: str
    position: str


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


class Conversation(msgspec.Struct, frozen=True, omit_defaults=True):
    """`position` is that of the last event folded in: what comes after it on the log is not in here yet.

    `answered_until` is the last customer message that somebody answered, or that wants no answer. `summary` is that
    of the last call which somebody summarized.
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

    @property
    def unanswered(self) -> tuple[Message, ...]:
        """Of the kept messages, those of the customer that nobody has answered yet. What was said in a call was
        answered there."""
        until = Position.parse(self.answered_until)
        written = (m for m in self.messages if m.sent_by == "user" and m.channel != "voice")
        return tuple(m for m in written if Position.parse(m.position) > until)


_TYPES = (
    MessageReceived,
    ReplyStarted,
    ReplyStepped,
    ReplyRestarted,
    ReplyCompleted,
    ReplyFailed,
    ReplyCancelled,
    ReplyDeferred,
    SmsRequested,
    SmsSent,
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
        case SmsRequested():
            return _answered(before, event.position) if event.body.sent_by == "agent" else before
        case SmsSent():
            return _sms_sent(before, event, event.body)
        case ReplyStarted() | ReplyStepped() | ReplyRestarted():
            return _reply_goes_on(before, event, event.body)
        case ReplyCompleted() | ReplyFailed() | ReplyCancelled() | ReplyDeferred():
            return _reply_ended(before, event, event.body)
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
    spoken = replace(before, channel=body.channel)
    after = _with_message(spoken, event, body.message_id, body.text, sent_by)
    return _answered(after, event.position) if sent_by == "human_agent" else after


def _sms_sent(before: Conversation, event: Fact, body: SmsSent) -> Conversation:
    """What an agent writes is an answer when it is asked for, and a message once it has left. A text that carries an
    assistant's answer has the answer's message id, and is that message."""
    sent_by: SentBy = "human_agent" if body.sent_by == "agent" else "agent"
    channel: Channel = "whatsapp" if body.to.startswith("whatsapp:") else "sms"
    return _with_message(replace(before, channel=channel), event, body.message_id, body.text, sent_by)


def _spoken(before: Conversation, event: Fact, body: CallTurnRecorded) -> Conversation:
    sent_by: SentBy = "user" if body.role == "user" else "agent"
    return _with_message(replace(before, channel="voice"), event, body.message_id, body.text, sent_by)


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


def _reply_ended(
    before: Conversation, event: Fact, body: ReplyCompleted | ReplyFailed | ReplyCancelled | ReplyDeferred
) -> Conversation:
    run = str(event.recorded.run)
    ended = before.open_replies.get(run)
    after = replace(before, open_replies={other: reply for other, reply in before.open_replies.items() if other != run})
    match body:
        case ReplyCompleted():
            seen = _position(ended.context_until) if ended else None
            after = _answered(after, max(seen or ORIGIN, event.recorded.run))
            return _with_message(after, event, body.message_id, body.text, "agent") if body.text else after
        case ReplyDeferred(reason="keyword"):
            return _answered(after, event.recorded.run)
    return after


def _with_message(before: Conversation, event: Fact, name: str, text: str, sent_by: SentBy) -> Conversation:
    if any(message.id == name and message.sent_by != "user" for message in before.messages):
        return before
    message = Message(name, text, sent_by, before.channel, event.at, str(event.position))
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


def terms(document: Conversation) -> set[str]:
    """Ordered newest first: `recent:` for every conversation, `held:` for those that a person holds."""
    age = f"{_LAST_MS - Position.parse(document.position).ms:013d}"
    return {f"recent:{age}"} | ({f"held:{age}"} if document.control.holder else set())


CONVERSATIONS: Projection[Conversation] = Projection("conversations", 2, Conversation, touches, evolve, terms)


async def latest(model: ReadModel[Conversation], limit: int, *, held: bool = False) -> list[Conversation]:
    """Conversations by their last activity, newest first."""
    keys = await model.keys_with_prefix("held:" if held else "recent:", limit)
    return list((await model.get_many(keys)).values())
