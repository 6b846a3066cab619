"""Tools that find and book time."""

from __future__ import annotations

import msgspec

from projections.tool_arguments import CreateAppointment, GetFreeSlots
from workers.tools.call import ToolContext, ToolOutcome


async def get_free_slots(arguments: GetFreeSlots, context: ToolContext) -> ToolOutcome:
    found = await context.crm.free_slots(context.org, arguments, context.now)
    return ToolOutcome({day: {"slots": slots} for day, slots in found.items()})


async def create_appointment(arguments: CreateAppointment, context: ToolContext) -> ToolOutcome:
    """The backend records the booking itself, before the answer: a retry finds it and answers the same."""
    booked = await context.crm.book(context.org, arguments, context.origin("appointment"), context.now)
    return ToolOutcome(msgspec.to_builtins(booked))
