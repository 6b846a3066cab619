"""What people write to a conversation."""

from __future__ import annotations

from typing import Literal

from eventstore.schema import Body, Personal

Channel = Literal["sms", "whatsapp", "voice", "chat"]


class MessageReceived(Body, frozen=True, kw_only=True, tag="message.received"):
    """A customer's message. `provider` keeps every field the provider sent, known or not."""

    message_id: str
    channel: Channel = "chat"
    assistant: str | None = None
    source: str | None = None
    to: str | None = None
    media_count: int = 0
    keyword: Literal["STOP", "START", "HELP"] | None = None
    text: Personal[str] = ""
    sender: Personal[str | None] = None
    provider: Personal[dict[str, str] | None] = None


TYPES = (MessageReceived,)
