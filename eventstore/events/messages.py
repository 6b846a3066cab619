"""What people write to a conversation."""

from __future__ import annotations

from typing import Literal

from eventstore.schema import Body, Hidden, Personal

Channel = Literal["sms", "whatsapp", "voice", "chat"]


class MessageReceived(Body, frozen=True, kw_only=True, tag="message.received"):
    """A customer's message. `provider` keeps every field the provider sent, known or not.

    `source` is the surface or provider it came by. `fingerprint` is that of the request, so that a client that lost
    the stream may re-attach by repeating it; `user` is whom its token stood for, None for one with an API key.
    `callback_url` is where the answer is posted.
    """

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
    fingerprint: Personal[str | None] = None
    user: Personal[str | None] = None
    callback_url: Hidden[str | None] = None


class MessageSent(Body, frozen=True, kw_only=True, tag="message.sent"):
    """What an agent wrote in a conversation that no provider carries (a chat): the event is its delivery."""

    message_id: str
    agent: str
    agent_name: Personal[str] = ""
    text: Personal[str]


TYPES = (MessageReceived, MessageSent)
