"""Calling a customer (002): `POST /api/conversations/outbound-call` {"phoneNumber","leadId"?} → 202 with the run."""

from __future__ import annotations

from uuid import uuid4

from aiohttp import web
from pydantic import BaseModel, ConfigDict

from edges.app_keys import ENGINE, LOG, ORGANIZATIONS
from edges.auth import Caller, check_organization, require
from edges.bodies import parse_body
from edges.errors import ApiError
from edges.intake import Input, accept
from edges.limits import charge
from edges.runs import run_headers
from eventstore.events.calls import CallRequested
from eventstore.organizations import conversation_id
from eventstore.schema import Event
from projections import contacts, phones
from projections.contacts import CONTACTS


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
    await charge(request, caller)
    phone = await _phone(request, caller, parsed.model)
    organization = await request.app[ORGANIZATIONS].require(caller.org)
    address = phones.address(phone)
    conversation = conversation_id(organization.pepper, address)
    control = await request.app[LOG].control(caller.org, conversation)
    if control.agent:
        raise ApiError(409, "HUMAN_CONTROL", f"{control.agent} is speaking in this conversation")
    body = CallRequested(call_id=uuid4().hex, epoch=control.epoch, lead=parsed.model.leadId, to=phone)
    event = Event(body, caller.actor, conversation, lane=f"call:{conversation}")
    given = Input(
        events=[event],
        raw=parsed.raw,
        route="outbound-call",
        epoch=control.epoch,
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


async def _phone(request: web.Request, caller: Caller, asked: OutboundCall) -> str:
    if asked.phoneNumber:
        try:
            return phones.e164(asked.phoneNumber)
        except ValueError as error:
            raise ApiError(422, "BAD_PHONE_NUMBER", f"phoneNumber: {error}") from None
    if asked.leadId:
        people = await request.app[ENGINE].level(caller.org, CONTACTS)
        contact = await contacts.by_id(people, asked.leadId)
        if contact is not None and contact.phone:
            return contact.phone
        raise ApiError(422, "NO_PHONE_NUMBER", f"there is no telephone number for leadId {asked.leadId[:80]!r}")
    raise ApiError(422, "NO_PHONE_NUMBER", "phoneNumber is missing, and so is leadId")


ROUTES = (web.post("/api/conversations/outbound-call", call),)
