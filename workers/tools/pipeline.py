"""Tools that record deals."""

from __future__ import annotations

import msgspec

from projections.tool_arguments import CreateOpportunity, UpdateOpportunityStatus
from workers.tool_call import Answered
from workers.tools.call import ToolContext


async def create_opportunity(arguments: CreateOpportunity, context: ToolContext) -> Answered:
    created = await context.crm.create_opportunity(context.org, arguments, context.origin("opportunity"))
    return Answered(msgspec.to_builtins(created))


async def update_opportunity_status(arguments: UpdateOpportunityStatus, context: ToolContext) -> Answered:
    changed = await context.crm.set_status(context.org, arguments, context.origin("status"))
    return Answered(msgspec.to_builtins(changed))
