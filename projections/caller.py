"""What a voice agent is told about its caller: the nine variables of the telephony document, always all, all text."""

from __future__ import annotations

import asyncio

from eventstore.schema import ConversationId, OrgId
from projections import contacts
from projections.contacts import CONTACTS, Contact
from projections.conversations import CONVERSATIONS, Conversation, Message
from projections.engine import Engine

CONTEXT_MESSAGES = 10
CONTEXT_CHARS = 2_000
MESSAGE_CHARS = 300

CHANNELS = {"sms": "SMS", "whatsapp": "WhatsApp", "voice": "Call", "chat": "Chat"}
SPEAKERS = {"user": "customer", "agent": "assistant", "human_agent": "colleague"}


async def known(
    engine: Engine, org: OrgId, name: str, conversation: ConversationId, phone: str | None
) -> dict[str, str]:
    """The variables from the read models as they are now; `name` is the organization's."""
    spoken, people = await asyncio.gather(engine.level(org, CONVERSATIONS), engine.level(org, CONTACTS))
    contact = await contacts.by_phone(people, phone) if phone else None
    return variables(org, name, await spoken.get(conversation), contact)


def variables(
    organization_id: str, organization_name: str, conversation: Conversation | None, contact: Contact | None
) -> dict[str, str]:
    """Somebody of whom there is neither a contact nor a message is a new lead."""
    counts = conversation.counts if conversation else None
    total = counts.user + counts.agent + counts.human_agent if counts else 0
    is_known = contact is not None or total > 0
    return {
        "conversation_context": _context(conversation.messages) if conversation else "",
        "customer_name": contact.name if contact else "",
        "organization_name": organization_name,
        "lead_status": _lead_status(is_known, total),
        "previous_summary": conversation.summary if conversation else "",
        "organization_id": organization_id,
        "caller_type": "existing_lead" if is_known else "new_lead",
        "has_conversation_history": "true" if total else "false",
        "total_messages": str(total),
    }


def _lead_status(is_known: bool, total: int) -> str:
    if not is_known:
        return "New Lead"
    return "Returning Customer" if total else "Existing Lead"


def _context(messages: tuple[Message, ...]) -> str:
    """The last messages, oldest first, one a line, within a budget that a voice agent's prompt can bear."""
    lines: list[str] = []
    size = 0
    for message in reversed(messages[-CONTEXT_MESSAGES:]):
        line = _line(message)
        size += len(line) + 1
        if size > CONTEXT_CHARS:
            break
        lines.append(line)
    return "\n".join(reversed(lines))


def _line(message: Message) -> str:
    text = " ".join(message.text.split())
    if len(text) > MESSAGE_CHARS:
        text = text[: MESSAGE_CHARS - 1] + "…"
    return f"{CHANNELS[message.channel]} {message.at[:10]} {SPEAKERS[message.sent_by]}: {text}"
