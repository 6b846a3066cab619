"""The conversation as a model reads it, from its events."""

from __future__ import annotations

from collections.abc import Sequence

from eventstore import codec
from eventstore.events.calls import CallTurnRecorded
from eventstore.events.messages import MessageReceived, MessageSent
from eventstore.events.replies import ReplyCompleted, ReplyStarted
from eventstore.events.sms import SmsRequested
from eventstore.schema import Position, Recorded
from workers.model import AssistantMessage, Message, UserMessage


def messages(events: Sequence[Recorded], until: Position) -> list[Message]:
    """Everything written or spoken up to a position, oldest first; keyword messages (STOP) are not part of the talk.

    An answer stands behind the last message it had seen, not where it was stored: a message that arrived while the
    assistant was still speaking is the next question.
    """
    seen: dict[Position, Position] = {}
    said: list[tuple[Position, Position, Message]] = []
    written: dict[str, tuple[Position, str]] = {}
    for event in events:
        match codec.decode(event):
            case ReplyStarted(context_until=context_until):
                seen.setdefault(event.run, Position.parse(context_until))
            case MessageReceived(keyword=None, text=text) if event.position <= until:
                said.append((event.position, event.position, UserMessage(text)))
            case CallTurnRecorded(role=role, text=text):
                spoken = UserMessage(text) if role == "user" else AssistantMessage(text)
                said.append((event.position, event.position, spoken))
            case ReplyCompleted(text=text):
                said.append((seen.get(event.run, event.position), event.position, AssistantMessage(text)))
            case SmsRequested(sent_by="agent", message_id=name, text=text) | MessageSent(message_id=name, text=text):
                written.setdefault(name, (event.position, text))  # once, though every run that waited for it shows it
    said += [(at, at, AssistantMessage(text)) for at, text in written.values()]
    return [message for at, _, message in sorted(said, key=lambda entry: entry[:2]) if at <= until]
