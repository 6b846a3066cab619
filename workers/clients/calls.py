"""What an outgoing call's fate can be, whoever places it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

from workers.clients.sms import NotSent, Refused, Unknown


class Placed(NamedTuple):
    """The provider calls. Without a `call_sid` it has not said which call it is: its first report will."""

    provider: Literal["twilio", "elevenlabs"]
    call_sid: str | None
    number: str | None = None


CallFate = Placed | Refused | NotSent | Unknown


class Ring(NamedTuple):
    """Whom to call, and what a voice agent is to know of them."""

    to: str
    variables: Mapping[str, str]


class CallProvider(Protocol):
    async def call(self, ring: Ring) -> CallFate:
        """One attempt; it ends within a bounded time and is never repeated here."""
        ...
