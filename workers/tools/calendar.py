"""Tools that find and book time."""

from __future__ import annotations

import msgspec

from projections.tool_arguments import CreateAppointment, GetFreeSlots
from workers.tool_call import Answered
from workers.tools.call import ToolContext


async def get_free_slots(arguments: GetFreeSlots, context: ToolContext) -> Answered:
    found = await context.crm.free_slots(context.org, arguments, context.now)
    return Answered({day: {"slots": slots} for day, slots in found.items()})


async def create_appointment(arguments: CreateAppointment, context: ToolContext) -> Answered:
    """The backend records the booking itself, before the answer: a retry finds it and answers the same."""
    booked = await context.crm.book(context.org, arguments, context.origin("appointment"), context.now)
    return Answered(msgspec.to_builtins(booked))
