"""Answers a customer's message: one turn of the assistant, every step an event."""

from __future__ import annotations

from collections.abc import Sequence

from eventstore import codec
from eventstore.events.messages import MessageReceived
from eventstore.events.replies import ReplyCompleted, ReplyStarted
from eventstore.events.sms import SmsRequested
from eventstore.schema import Position, Recorded
from workers import answering
from workers.answering import deferred
from workers.work import Done, Handler, Work


async def handle(work: Work) -> Done:
    """Who holds the conversation speaks; a message that an answer has already seen gets none of its own."""
    message = work.body
    assert isinstance(message, MessageReceived)
    assert work.item.conversation is not None
    if work.holder:
        return deferred("control")
    if message.keyword is not None:
        return deferred("keyword")
    since = await work.log.read_conversation(work.org, work.item.conversation, work.item.position)
    if (by := covering(since, work.item)) is not None:
        return deferred("covered", by)
    if is_answered_by_agent(since):
        return deferred("control")
    return await answering.answer(work, message, latest_message(since, work.item.position))


def covering(since: Sequence[Recorded], item: Recorded) -> Position | None:
    """The run whose completed answer has seen this message, from the conversation's events after the message."""
    seen_until: dict[Position, Position] = {}
    for event in since:
        match codec.decode(event):
            case ReplyStarted(context_until=context_until):
                seen_until.setdefault(event.run, Position.parse(context_until))
            case ReplyCompleted() if event.run != item.run and event.run in seen_until:
                if seen_until[event.run] >= item.position:
                    return event.run
    return None


def is_answered_by_agent(since: Sequence[Recorded]) -> bool:
    """For a message that waited until the agent who answered it had left again."""
    return any(isinstance(body := codec.decode(event), SmsRequested) and body.sent_by == "agent" for event in since)


def latest_message(since: Sequence[Recorded], at_least: Position) -> Position:
    """The last message that is in the conversation now: the answer sees all up to it."""
    return max((event.position for event in since if event.type == "message.received"), default=at_least)


HANDLER = Handler(MessageReceived, handle, answering.POLICY, answering.failed, answering.overtaken, answering.cancelled)
