"""What the routes of document 002 share: its names for people and messages."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from edges.addresses import phone_number
from edges.app_keys import ENGINE
from edges.errors import ApiError
from eventstore.schema import OrgId
from projections import contacts
from projections.contacts import CONTACTS
from projections.control import ControlState
from projections.conversations import Conversation, Message


async def phone_of(request: web.Request, org: OrgId, given: str | None, lead: str | None) -> str:
    """The conversation's: `phoneNumber`, else that of the contact `leadId`; 422 without either."""
    if given:
        return phone_number("phoneNumber", given)
    contact = await contacts.by_id(await request.app[ENGINE].level(org, CONTACTS), lead) if lead else None
    if contact is None or not contact.phone:
        message = f"phoneNumber is missing, and there is no contact {(lead or '')[:80]!r} with a phone number"
        raise ApiError(422, "NO_PHONE_NUMBER", message)
    return contact.phone


def message_json(message: Message) -> dict[str, str]:
    return {
        "id": message.id,
        "content": message.text,
        "sentBy": message.sent_by,
        "messageType": "voice" if message.channel == "voice" else "text",
        "timestamp": message.at,
    }


def control_json(control: ControlState) -> dict[str, Any] | None:
    """None while the assistant speaks."""
    if not control.holder:
        return None
    return {"agentId": control.holder, "agentName": control.agent_name, "since": control.since}


def queued(conversation: Conversation | None) -> list[dict[str, str]]:
    """What the customer wrote and nobody has answered."""
    return [message_json(message) for message in conversation.unanswered] if conversation else []
