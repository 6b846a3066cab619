"""Tools about the business itself."""

from __future__ import annotations

import msgspec

from projections.tool_arguments import GetLocation
from workers.tools.call import ToolContext, ToolOutcome


async def get_location(_: GetLocation, context: ToolContext) -> ToolOutcome:
    return ToolOutcome(msgspec.to_builtins(await context.crm.location(context.org)))
