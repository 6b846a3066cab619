"""What a text message's fate can be, whoever carries it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import aiohttp


class Sent(NamedTuple):
    """The provider has it; `provider_id` names it in status reports."""

    provider_id: str
    status: str


class Refused(NamedTuple):
    """The provider said no, and would say so again. `code` is the provider's, `status` HTTP's."""

    code: str
    status: int


class NotSent(NamedTuple):
    """Certainly did not leave (no connection, or turned away for its rate): may be sent again."""

    why: str


class Unknown(NamedTuple):
    """It may have left or not: look before it is sent again."""

    why: str


def unanswered(error: Exception) -> NotSent | Unknown:
    """Only where no connection came about is it certain that nothing left."""
    name = type(error).__name__
    return NotSent(name) if isinstance(error, aiohttp.ClientConnectorError) else Unknown(name)


Fate = Sent | Refused | NotSent | Unknown


class Outgoing(NamedTuple):
    """A text message to send. `intent_id` comes back with the provider's status reports."""

    intent_id: str
    to: str
    text: str
    from_number: str | None = None


class SmsProvider(Protocol):
    async def send(self, message: Outgoing) -> Fate:
        """One attempt; it ends within a bounded time and is never repeated here."""
        ...

    async def find(self, message: Outgoing, *, since_ms: int, known: frozenset[str]) -> Sent | Unknown | None:
        """The message as the provider has it: same text and numbers, created since then, and none of the `known`
        provider ids. None if it has no such message, Unknown if it could not be asked."""
        ...
