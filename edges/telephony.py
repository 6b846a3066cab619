"""What the routes of document 002 share: its names for people and messages."""

from __future__ import annotations

from typing import Any

from projections.control import ControlState
from projections.conversations import Conversation, Message


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
