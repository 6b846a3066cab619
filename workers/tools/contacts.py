"""Tools that find and create contacts."""

from __future__ import annotations

from projections.contact_search import ContactQuery
from projections.tool_arguments import CreateContact, GetContactByPhone, SearchContacts
from workers.crm.backend import on_wire
from workers.tool_call import Answered, Refusal
from workers.tools.call import ToolContext


async def search_contacts(arguments: SearchContacts, context: ToolContext) -> Answered:
    query = ContactQuery(
        text=arguments.query,
        phone=arguments.phone,
        email=arguments.email,
        tags=tuple(arguments.tags),
        limit=arguments.limit,
    )
    found = await context.crm.search(context.org, query)
    return Answered({"contacts": [on_wire(contact) for contact in found.contacts], "total": found.total})


async def get_contact_by_phone(arguments: GetContactByPhone, context: ToolContext) -> Answered:
    contact = await context.crm.by_phone(context.org, arguments.phone)
    if contact is None:
        raise Refusal("NOT_FOUND", "Contact not found", 404)
    return Answered(on_wire(contact))


async def create_contact(arguments: CreateContact, context: ToolContext) -> Answered:
    """The backend records the contact itself, before the answer: a retry finds it by its id and says `new` again."""
    created = await context.crm.create(context.org, arguments, context.origin("contact"))
    return Answered({**on_wire(created.contact), "new": created.new})
