"""What a voice agent is told about its caller, from the read models as they are now."""

from __future__ import annotations

import asyncio

from aiohttp import web

from edges.app_keys import ENGINE
from eventstore.organizations import Organization, conversation_id
from projections import caller, contacts
from projections.contacts import CONTACTS
from projections.conversations import CONVERSATIONS


async def variables_for(request: web.Request, organization: Organization, address: str) -> dict[str, str]:
    """All nine, for the customer at an address."""
    engine, org = request.app[ENGINE], organization.id
    conversations, people = await asyncio.gather(engine.level(org, CONVERSATIONS), engine.level(org, CONTACTS))
    conversation = await conversations.get(conversation_id(organization.pepper, address))
    contact = await contacts.by_phone(people, address.removeprefix("tel:")) if address.startswith("tel:") else None
    return caller.variables(org, organization.name, conversation, contact)
