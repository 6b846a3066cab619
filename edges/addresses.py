"""Which conversation a request names: by its id, or by the address that the id stands for."""

from __future__ import annotations

from edges.errors import ApiError
from eventstore.organizations import Organization, conversation_id
from eventstore.schema import ConversationId
from projections import phones


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
