"""What an agent writes: one step that records it, ends the runs that waited for it, and answers nothing twice."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from eventstore.append import Append, Appended, Control, Idempotency, Outcome, VersionConflict
from eventstore.errors import StoreError
from eventstore.events.messages import MessageSent
from eventstore.events.replies import ReplyDeferred
from eventstore.events.sms import SmsRequested
from eventstore.lanes import Lanes
from eventstore.log import Log
from eventstore.schema import ConversationId, Event, OrgId, Position, Sibling
from projections.conversations import CONVERSATIONS, Conversation
from projections.engine import Engine

TRIES = 8
"""Something was written to the conversation between look and append; then it is looked at again."""
MOST_TOGETHER = 100
"""Runs that are ended in one step."""


def waiting_lane(conversation: ConversationId) -> str:
    """Where runs that were left to a person wait for their end, in their order."""
    return f"person:{conversation}"


class AgentMessage(NamedTuple):
    """`phone` is the customer's, where the conversation is one of a telephone number."""

    message_id: str
    intent_id: str
    agent: str
    agent_name: str
    text: str
    phone: str | None = None


async def say(
    log: Log,
    engine: Engine,
    org: OrgId,
    conversation: ConversationId,
    message: AgentMessage,
    idempotency: Idempotency | None = None,
) -> Outcome:
    """HeldBy if the agent does not hold the conversation. Of two messages at once one is the answer to what waits."""
    for _ in range(TRIES):
        version = await log.version(org, conversation)
        document = await (await engine.level(org, CONVERSATIONS)).get(conversation)
        append = Append(
            events=decide(conversation, document, message),
            control=Control("holds", message.agent),
            expected=version,
            idempotency=idempotency,
        )
        outcome = await log.append(org, append)
        if not isinstance(outcome, VersionConflict):
            break
    if isinstance(outcome, Appended):
        with suppress(StoreError):  # a hint: what follows from a run's end need not wait for its deadline
            await Lanes(log.pipe, "agents").hasten(org, waiting_lane(conversation))
    return outcome


def decide(conversation: ConversationId, document: Conversation | None, message: AgentMessage) -> list[Event]:
    """Runs that wait show the message as their answer; of very many the latest do, and their lane tells the others of
    it. To a telephone it goes out as a text message besides; in a chat for which nothing waits the event alone is the
    message."""
    actor = f"agent:{message.agent}"
    sent = MessageSent(
        message_id=message.message_id, agent=message.agent, agent_name=message.agent_name, text=message.text
    )
    ended = ReplyDeferred(reason="control", message_id=message.message_id)
    events: list[Event] = []
    for run in map(Position.parse, document.awaited[-MOST_TOGETHER:] if document else ()):
        events.append(Event(sent, actor, conversation, run))
        events.append(Event(ended, actor, conversation, run, Sibling(len(events) - 1)))
    if message.phone is not None:
        events.append(Event(_text(document, message), actor, conversation, lane=f"send:{conversation}"))
    return events or [Event(sent, actor, conversation)]


def _text(document: Conversation | None, message: AgentMessage) -> SmsRequested:
    """From the number that the customer wrote to, and by the way it came; carries no epoch, because what an agent
    wrote leaves even if the agent does."""
    line = document.line if document else ""
    prefix = "whatsapp:" if line.startswith("whatsapp:") else ""
    return SmsRequested(
        intent_id=message.intent_id,
        message_id=message.message_id,
        sent_by="agent",
        from_number=line or None,
        to=f"{prefix}{message.phone}",
        text=message.text,
        agent_name=message.agent_name,
    )
