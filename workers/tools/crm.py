"""Tools over the business's own data: contacts, time, deals, and the business itself.

What writes is recorded by the backend itself, before the answer: a retry finds it by its id and answers the same.
"""

from __future__ import annotations

import msgspec

from projections.contact_search import ContactQuery
from projections.tool_arguments import (
    CreateAppointment,
    CreateContact,
    CreateOpportunity,
    GetContactByPhone,
    GetFreeSlots,
    GetLocation,
    SearchContacts,
    UpdateOpportunityStatus,
)
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
    created = await context.crm.create(context.org, arguments, context.origin("contact"))
    return Answered({**on_wire(created.contact), "new": created.new})


async def get_free_slots(arguments: GetFreeSlots, context: ToolContext) -> Answered:
    found = await context.crm.free_slots(context.org, arguments, context.now)
    return Answered({day: {"slots": slots} for day, slots in found.items()})


async def create_appointment(arguments: CreateAppointment, context: ToolContext) -> Answered:
    booked = await context.crm.book(context.org, arguments, context.origin("appointment"), context.now)
    return Answered(msgspec.to_builtins(booked))


async def create_opportunity(arguments: CreateOpportunity, context: ToolContext) -> Answered:
    created = await context.crm.create_opportunity(context.org, arguments, context.origin("opportunity"))
    return Answered(msgspec.to_builtins(created))


async def update_opportunity_status(arguments: UpdateOpportunityStatus, context: ToolContext) -> Answered:
    changed = await context.crm.set_status(context.org, arguments, context.origin("status"))
    return Answered(msgspec.to_builtins(changed))


async def get_location(_: GetLocation, context: ToolContext) -> Answered:
    return Answered(msgspec.to_builtins(await context.crm.location(context.org)))
