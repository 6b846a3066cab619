"""Which conversation a request names: by its id, or by the address that the id stands for."""

from __future__ import annotations

from typing import NamedTuple

from aiohttp import web

from edges import sessions
from edges.auth import Caller
from edges.errors import ApiError
from eventstore.log import Log
from eventstore.organizations import Organization, conversation_id
from eventstore.schema import ConversationId
from projections import phones

TELEPHONE = "tel:"
BEYOND_CHAT = frozenset({"events:read", "events:write", "admin"})
"""Scopes of those who have to do with all of the organization's conversations."""
KNOWN_TO_OTHERS = frozenset({"staff", "health", "tel", "mailto"})
"""Kinds of addresses that may be guessed or looked up. To know another, as that of a session, is a right to it."""


class Place(NamedTuple):
    """A conversation; `address` is None where only its id is known."""

    id: ConversationId
    address: str | None

    @property
    def phone(self) -> str | None:
        """The customer's number, if this is a telephone conversation."""
        address = self.address or ""
        return address.removeprefix(TELEPHONE) if address.startswith(TELEPHONE) else None


async def place_of(log: Log, organization: Organization, text: str) -> Place:
    """A conversation by its id or address, with its address."""
    if text.startswith("conv_"):
        return Place(ConversationId(text), await log.address(organization.id, ConversationId(text)))
    address = address_of(text)
    return Place(conversation_id(organization.pepper, address), address)


def conversation_of(organization: Organization, text: str) -> ConversationId:
    """A conversation by its id or by the address it stands for (`tel:+1555…`)."""
    if text.startswith("conv_"):
        return ConversationId(text)
    return conversation_id(organization.pepper, address_of(text))


def address_of(text: str) -> str:
    """An address in the one form that its conversation is named by; 422 for what is none."""
    scheme, colon, rest = text.partition(":")
    try:
        if not colon:
            raise ValueError(text)
        return phones.address(phones.e164(rest)) if scheme == "tel" else text
    except ValueError:
        expected = "conversation: expected conv_… or an address like tel:+15550100"
        raise ApiError(422, "BAD_CONVERSATION", f"{expected}, got {text[:80]!r}") from None


async def check_owner(request: web.Request, caller: Caller, address: str | None) -> None:
    """403 for who may only chat, in another user's chat with staff (`staff:<id>:<user>`). A token's user has to do with
    its own sessions of the health agent (`health:<session>`) besides, and, by `control:write`, with all the rest."""
    if not BEYOND_CHAT.isdisjoint(caller.scopes):
        return
    scheme, _, rest = (address or "").partition(":")
    if scheme == "staff":
        is_own = rest.partition(":")[2] == caller.user
    elif scheme == "health" and caller.subject is not None:
        is_own = await sessions.shown(request, caller, rest) is not None
    else:
        is_own = caller.subject is None or caller.may("control:write")
    if not is_own:
        raise ApiError(403, "FORBIDDEN", "this conversation is another user's")


async def check_writer(request: web.Request, caller: Caller, address: str) -> None:
    if address.partition(":")[0] in KNOWN_TO_OTHERS:
        await check_owner(request, caller, address)


def phone_number(name: str, text: str) -> str:
    """E.164, however the number is written, with or without the channel that it came by; 422 for what is none."""
    try:
        return phones.e164(text)
    except ValueError:
        raise ApiError(422, "BAD_PHONE_NUMBER", f"{name}: expected a phone number, got {text[:80]!r}") from None
