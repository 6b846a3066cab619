"""Calling a customer (002): `POST /api/conversations/outbound-call` {"phoneNumber","leadId"?} → 202 with the run."""

from __future__ import annotations

from uuid import uuid4

from aiohttp import web
from pydantic import ConfigDict

from edges.app_keys import LOG, ORGANIZATIONS
from edges.auth import check_organization, require
from edges.bodies import parse_body
from edges.errors import ApiError
from edges.intake import Input, accept
from edges.limits import charge
from edges.models import BaseModel
from edges.runs import run_headers
from edges.telephony import phone_of
from eventstore.append import Control
from eventstore.events.calls import CallRequested
from eventstore.schema import Event
from projections import phones

NOBODY = Control("holds", "")
"""Of the conversation's agents: checked in the step that appends, and not for a repetition of what was accepted."""


class OutboundCall(BaseModel):
    """`phoneNumber` counts; without one it is that of the contact `leadId`."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    phoneNumber: str | None = None
    leadId: str | None = None
    organizationId: str | None = None


async def call(request: web.Request) -> web.Response:
    """The call is placed by a worker; whether it came about, and how it ended, is told by its run."""
    caller = await require(request, "control:write", "chat:write")
    parsed = await parse_body(request, OutboundCall)
    check_organization(caller, parsed.model.organizationId)
    if caller.subject is not None and not caller.may("control:write"):
        raise ApiError(403, "FORBIDDEN", "a user's token needs the scope control:write: it could ring any number")
    await charge(request, caller)
    phone = await phone_of(request, caller.org, parsed.model.phoneNumber, parsed.model.leadId)
    address = phones.address(phone)
    conversation = await request.app[ORGANIZATIONS].conversation(caller.org, address)
    epoch = (await request.app[LOG].control(caller.org, conversation)).epoch
    body = CallRequested(call_id=uuid4().hex, epoch=epoch, lead=parsed.model.leadId, to=phone)
    event = Event(body, caller.actor, conversation, lane=f"call:{conversation}")
    given = Input(
        events=[event],
        raw=parsed.raw,
        route="outbound-call",
        control=NOBODY,
        addresses={conversation: address},
    )
    accepted = await accept(request, caller, given)
    answer = {
        "success": True,
        "run_id": str(accepted.run),
        "status": "accepted",
        "phoneNumber": phone,
        "leadId": parsed.model.leadId,
    }
    return web.json_response(answer, status=202, headers={**accepted.headers, **run_headers(accepted.run)})


ROUTES = (web.post("/api/conversations/outbound-call", call),)
