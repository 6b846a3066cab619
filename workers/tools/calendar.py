"""Tools that find and book time."""

from __future__ import annotations

import msgspec

from projections.tool_arguments import CreateAppointment, GetFreeSlots
from workers.crm import NewAppointment, SlotQuery
from workers.tools.call import ToolContext, ToolOutcome


async def get_free_slots(arguments: GetFreeSlots, context: ToolContext) -> ToolOutcome:
    query = SlotQuery(arguments.start_date, arguments.end_date, arguments.calendar_id, arguments.timezone)
    found = await context.crm.free_slots(context.org, query, context.now)
    return ToolOutcome({day: {"slots": slots} for day, slots in found.items()})


async def create_appointment(arguments: CreateAppointment, context: ToolContext) -> ToolOutcome:
    """The backend records the booking itself, before the answer: a retry finds it and answers the same."""
    new = NewAppointment(
        id=context.new_id("appointment"),
        contact_id=arguments.contact_id,
        start=arguments.start_time,
        end=arguments.end_time,
        calendar=arguments.calendar_id,
        title=arguments.title,
        timezone=arguments.timezone,
    )
    booked = await context.crm.book(context.org, new, context.origin, context.now)
    return ToolOutcome(msgspec.to_builtins(booked))
