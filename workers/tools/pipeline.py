"""Tools that record deals."""

from __future__ import annotations

import msgspec

from projections.tool_arguments import CreateOpportunity, UpdateOpportunityStatus
from workers.tools.call import ToolContext, ToolOutcome


async def create_opportunity(arguments: CreateOpportunity, context: ToolContext) -> ToolOutcome:
    created = await context.crm.create_opportunity(context.org, arguments, context.origin("opportunity"))
    return ToolOutcome(msgspec.to_builtins(created))


async def update_opportunity_status(arguments: UpdateOpportunityStatus, context: ToolContext) -> ToolOutcome:
    changed = await context.crm.set_status(context.org, arguments, context.origin("status"))
    return ToolOutcome(msgspec.to_builtins(changed))
