"""Every tool: its declaration and the function that does it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from projections import phones, tool_catalog
from projections.tool_catalog import Faulty, ToolSpec
from workers.tool_call import Refusal
from workers.tools.calendar import create_appointment, get_free_slots
from workers.tools.call import ToolContext, ToolOutcome
from workers.tools.contacts import create_contact, get_contact_by_phone, search_contacts
from workers.tools.loans import (
    fetch_preapproved_offer,
    generate_sanction_letter,
    get_credit_score,
    underwrite_loan,
    verify_kyc,
)
from workers.tools.location import get_location
from workers.tools.messaging import send_email, send_sms
from workers.tools.pipeline import create_opportunity, update_opportunity_status


class Tool(NamedTuple):
    """`run` takes exactly the arguments that the spec declares, which the type of this tuple cannot say."""

    spec: ToolSpec
    run: Callable[[Any, ToolContext], Awaitable[ToolOutcome]]


TOOLS: tuple[Tool, ...] = (
    Tool(tool_catalog.SEARCH_CONTACTS, search_contacts),
    Tool(tool_catalog.GET_CONTACT_BY_PHONE, get_contact_by_phone),
    Tool(tool_catalog.CREATE_CONTACT, create_contact),
    Tool(tool_catalog.SEND_SMS, send_sms),
    Tool(tool_catalog.SEND_EMAIL, send_email),
    Tool(tool_catalog.GET_FREE_SLOTS, get_free_slots),
    Tool(tool_catalog.CREATE_APPOINTMENT, create_appointment),
    Tool(tool_catalog.CREATE_OPPORTUNITY, create_opportunity),
    Tool(tool_catalog.UPDATE_OPPORTUNITY_STATUS, update_opportunity_status),
    Tool(tool_catalog.GET_LOCATION, get_location),
    Tool(tool_catalog.FETCH_PREAPPROVED_OFFER, fetch_preapproved_offer),
    Tool(tool_catalog.VERIFY_KYC, verify_kyc),
    Tool(tool_catalog.GET_CREDIT_SCORE, get_credit_score),
    Tool(tool_catalog.UNDERWRITE_LOAN, underwrite_loan),
    Tool(tool_catalog.GENERATE_SANCTION_LETTER, generate_sanction_letter),
)


def find(name: str) -> Tool | None:
    return next((tool for tool in TOOLS if tool.spec.name == name), None)


async def run(
    name: str, raw: Mapping[str, Any], context: ToolContext, region: str = phones.DEFAULT_REGION
) -> ToolOutcome:
    """Checks the arguments and runs the tool; whatever it cannot do is a Refusal."""
    tool = find(name)
    if tool is None:
        raise Refusal("TOOL_NOT_FOUND", f"There is no tool named {name[:80]!r}", 404)
    arguments = tool_catalog.parse(tool.spec, raw, region)
    if isinstance(arguments, Faulty):
        raise Refusal("INVALID_ARGUMENTS", "; ".join(arguments.faults), 422)
    return await tool.run(arguments, context)
