"""Every tool: its declaration and the function that does it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from projections import phones, tool_catalog
from projections.tool_catalog import Faulty, ToolSpec
from workers.tools.call import ToolContext, ToolError, ToolOutcome
from workers.tools.contacts import create_contact, get_contact_by_phone, search_contacts
from workers.tools.location import get_location
from workers.tools.messaging import send_sms


class Tool(NamedTuple):
    """`run` takes exactly the arguments that the spec declares, which the type of this tuple cannot say."""

    spec: ToolSpec
    run: Callable[[Any, ToolContext], Awaitable[ToolOutcome]]


TOOLS: tuple[Tool, ...] = (
    Tool(tool_catalog.SEARCH_CONTACTS, search_contacts),
    Tool(tool_catalog.GET_CONTACT_BY_PHONE, get_contact_by_phone),
    Tool(tool_catalog.CREATE_CONTACT, create_contact),
    Tool(tool_catalog.SEND_SMS, send_sms),
    Tool(tool_catalog.GET_LOCATION, get_location),
)


def find(name: str) -> Tool | None:
    return next((tool for tool in TOOLS if tool.spec.name == name), None)


async def run(
    name: str, raw: Mapping[str, Any], context: ToolContext, region: str = phones.DEFAULT_REGION
) -> ToolOutcome:
    """Checks the arguments and runs the tool; whatever it cannot do is a ToolError."""
    tool = find(name)
    if tool is None:
        raise ToolError("TOOL_NOT_FOUND", f"There is no tool named {name[:80]!r}", 404)
    arguments = tool_catalog.parse(tool.spec, raw, region)
    if isinstance(arguments, Faulty):
        raise ToolError("INVALID_ARGUMENTS", "; ".join(arguments.faults), 422)
    return await tool.run(arguments, context)
