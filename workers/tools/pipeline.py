"""Tools that record deals."""

from __future__ import annotations

import msgspec

from projections.tool_arguments import CreateOpportunity, UpdateOpportunityStatus
from workers.crm import NewOpportunity, StatusChange
from workers.tools.call import ToolContext, ToolOutcome


async def create_opportunity(arguments: CreateOpportunity, context: ToolContext) -> ToolOutcome:
    new = NewOpportunity(
        id=context.new_id("opportunity"),
        contact_id=arguments.contact_id,
        name=arguments.name,
        pipeline=arguments.pipeline_id,
        stage=arguments.stage_id,
        monetary_value=arguments.monetary_value,
    )
    return ToolOutcome(msgspec.to_builtins(await context.crm.create_opportunity(context.org, new, context.origin)))


async def update_opportunity_status(arguments: UpdateOpportunityStatus, context: ToolContext) -> ToolOutcome:
    change = StatusChange(context.new_id("status"), arguments.opportunity_id, arguments.status, arguments.lost_reason)
    return ToolOutcome(msgspec.to_builtins(await context.crm.set_status(context.org, change, context.origin)))
