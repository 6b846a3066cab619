"""Tools about the business itself."""

from __future__ import annotations

import msgspec

from projections.tool_arguments import GetLocation
from workers.tool_call import Answered
from workers.tools.call import ToolContext


async def get_location(_: GetLocation, context: ToolContext) -> Answered:
    return Answered(msgspec.to_builtins(await context.crm.location(context.org)))
