"""Every tool's function."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from projections import phones, tool_catalog
from projections.tool_catalog import Faulty
from workers.tool_call import Answered, Refusal
from workers.tools.call import ToolContext
from workers.tools.crm import (
    create_appointment,
    create_contact,
    create_opportunity,
    get_contact_by_phone,
    get_free_slots,
    get_location,
    search_contacts,
    update_opportunity_status,
)
from workers.tools.loans import (
    fetch_preapproved_offer,
    generate_sanction_letter,
    get_credit_score,
    underwrite_loan,
    verify_kyc,
)
from workers.tools.messaging import send_email, send_sms

Run = Callable[[Any, ToolContext], Awaitable[Answered]]

TOOLS: tuple[Run, ...] = (
    search_contacts,
    get_contact_by_phone,
    create_contact,
    send_sms,
    send_email,
    get_free_slots,
    create_appointment,
    create_opportunity,
    update_opportunity_status,
    get_location,
    fetch_preapproved_offer,
    verify_kyc,
    get_credit_score,
    underwrite_loan,
    generate_sanction_letter,
)
"""Each has the name of its declaration, and takes the arguments that are declared there."""

_RUNS = {run.__name__: run for run in TOOLS}


async def run(name: str, raw: Mapping[str, Any], context: ToolContext, region: str = phones.DEFAULT_REGION) -> Answered:
    """Checks the arguments and runs the tool; whatever it cannot do is a Refusal."""
    spec = tool_catalog.find(name)
    if spec is None:
        raise Refusal("TOOL_NOT_FOUND", f"There is no tool named {name[:80]!r}", 404)
    arguments = tool_catalog.parse(spec, raw, region)
    if isinstance(arguments, Faulty):
        raise Refusal("INVALID_ARGUMENTS", "; ".join(arguments.faults), 422)
    return await _RUNS[name](arguments, context)
