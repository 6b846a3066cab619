"""GoHighLevel as a contact backend, by LeadConnector's API v2. Nothing is kept here: each answer is its own.

Texts and emails are not sent through it (`/conversations/messages`): the channels are Twilio and SMTP, whose fate the
log can tell.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

from eventstore.provider_settings import ProviderSettings
from eventstore.schema import OrgId
from projections import moments, slots
from projections import tool_arguments as arguments
from projections.contact_search import ContactQuery, Found
from projections.contacts import Contact
from workers.clients import gohighlevel_shapes as shapes
from workers.clients.leadconnector import Account, Connections, LeadConnector, Members, Method, Rejected
from workers.crm.backend import Appointment, Created, Crm, Location, Opportunity, Origin
from workers.crm.calendar import span_of, time_of
from workers.tool_call import Refusal

MAX_QUERY = 75
"""Characters that its search takes."""


def backend(
    providers: Callable[[OrgId], Awaitable[ProviderSettings]], connections: Connections
) -> Callable[[OrgId], Awaitable[Crm | None]]:
    """Gives each organization that has a token and a location its GoHighLevel, None to the others."""

    async def of(org: OrgId) -> Crm | None:
        given = await providers(org)
        if not given.ghl_api_token or not given.ghl_location_id:
            return None
        account = Account(
            given.ghl_api_token,
            given.ghl_location_id,
            given.ghl_calendar_id,
            given.ghl_pipeline_id,
            given.ghl_base_url,
        )
        return GoHighLevel(LeadConnector(account, connections))

    return of


class GoHighLevel:
    """The `Crm` of one location; the organization is the account's, whatever is passed."""

    def __init__(self, api: LeadConnector) -> None:
        self._api = api
        self._account = api.account

    async def search(self, org: OrgId, query: ContactQuery) -> Found:
        filters = [("phone", "eq", query.phone), ("email", "eq", query.email)]
        filters += [("tags", "contains", tag) for tag in query.tags]
        body: dict[str, Any] = {"locationId": self._account.location, "page": 1, "pageLimit": query.limit}
        if text := query.text.strip():
            body["query"] = text[:MAX_QUERY]
        if chosen := [{"field": f, "operator": o, "value": v} for f, o, v in filters if v]:
            body["filters"] = chosen
        answer = await self._call("POST", "/contacts/search", body=body)
        found = [shapes.contact(each) for each in answer.get("contacts") or () if isinstance(each, dict)]
        return Found(found, int(answer.get("total") or len(found)))

    async def by_phone(self, org: OrgId, e164: str) -> Contact | None:
        found = await self._with_number(e164)
        return shapes.contact(found) if found else None

    async def by_id(self, org: OrgId, contact_id: str) -> Contact | None:
        try:
            answer = await self._api.call("GET", f"/contacts/{quote(contact_id, safe='')}")
        except Rejected as rejected:
            if rejected.status in (400, 404, 422):  # it says 400 of an id that it never made
                return None
            raise _refused(rejected) from rejected
        return shapes.contact(shapes.part(answer, "contact"))

    async def create(self, org: OrgId, new: arguments.CreateContact, origin: Origin) -> Created:
        """By upsert, which may be repeated. Where the location's own rules make it a duplicate all the same, the
        contact it names is the answer."""
        first_name, last_name = new.names
        fields: dict[str, Any] = {
            "locationId": self._account.location,
            "firstName": first_name,
            "lastName": last_name,
            "phone": new.phone,
            "email": new.email,
            "tags": new.tags,
            "source": new.source,
        }
        body = {name: value for name, value in fields.items() if value}
        try:
            answer = await self._api.call("POST", "/contacts/upsert", body=body)
        except Rejected as rejected:
            known = rejected.meta.get("contactId")
            contact = await self.by_id(org, known) if isinstance(known, str) else None
            if contact is None:
                raise _refused(rejected) from rejected
            return Created(contact, False)
        return Created(shapes.contact(shapes.part(answer, "contact")), bool(answer.get("new")))

    async def accepts_sms(self, org: OrgId, e164: str) -> bool:
        """False for a contact marked "do not disturb", for everything or for SMS."""
        found = await self._with_number(e164) or {}
        sms = (found.get("dndSettings") or {}).get("SMS") or {}
        return not found.get("dnd") and sms.get("status") not in ("active", "permanent")

    async def location(self, org: OrgId) -> Location:
        answer = await self._call("GET", f"/locations/{quote(self._account.location, safe='')}")
        return shapes.location(shapes.part(answer, "location"))

    async def free_slots(self, org: OrgId, query: arguments.GetFreeSlots, now: datetime) -> dict[str, list[str]]:
        calendar = self._calendar(query.calendar_id)
        local = await self._zone(org, query.timezone)
        asked = span_of(query, local)
        if asked.ends <= now:
            return {day.isoformat(): [] for day in slots.days_of(asked, local)}
        parameters = {
            "startDate": str(moments.to_ms(max(asked.starts, now))),
            "endDate": str(moments.to_ms(asked.ends)),
            "timezone": local.key,
        }
        path = f"/calendars/{quote(calendar, safe='')}/free-slots"
        answer = await self._call("GET", path, query=parameters)
        return {
            day: [str(slot) for slot in entry.get("slots") or ()]
            for day, entry in answer.items()
            if isinstance(entry, dict)  # a traceId stands beside the days
        }

    async def book(self, org: OrgId, new: arguments.CreateAppointment, origin: Origin, now: datetime) -> Appointment:
        """A booking that an earlier attempt may have made is looked for first: a second one would find the slot taken
        by the first."""
        calendar = self._calendar(new.calendar_id)
        local = await self._zone(org, new.timezone)
        starts = time_of("startTime", new.start_time, local)
        if origin.is_repeated and (made := await self._booked(new.contact_id, calendar, starts, local)) is not None:
            return made
        body = {
            "calendarId": calendar,
            "locationId": self._account.location,
            "contactId": new.contact_id,
            "startTime": moments.shown(moments.to_ms(starts), local),
            "appointmentStatus": "confirmed",
        }
        if new.end_time:
            body["endTime"] = moments.shown(moments.to_ms(time_of("endTime", new.end_time, local)), local)
        if new.title:
            body["title"] = new.title
        try:
            answer = await self._api.call("POST", "/calendars/events/appointments", body=body)
        except Rejected as rejected:
            if "slot" in rejected.text.lower():
                raise Refusal(
                    "SLOT_TAKEN", f"{new.start_time} is taken, or the calendar is closed then", 409
                ) from rejected
            raise _refused(rejected) from rejected
        return shapes.appointment(answer)

    async def create_opportunity(self, org: OrgId, new: arguments.CreateOpportunity, origin: Origin) -> Opportunity:
        pipeline = new.pipeline_id or self._account.pipeline
        if pipeline is None:
            raise Refusal("INVALID_ARGUMENTS", "pipelineId is required: no GHL_PIPELINE_ID is set", 422)
        if origin.is_repeated and (made := await self._created(new, pipeline)) is not None:
            return made
        body = {
            "pipelineId": pipeline,
            "locationId": self._account.location,
            "name": new.name,
            "status": "open",
            "contactId": new.contact_id,
            "monetaryValue": new.monetary_value,
        }
        if new.stage_id:
            body["pipelineStageId"] = new.stage_id
        answer = await self._call("POST", "/opportunities/", body=body)
        return shapes.opportunity(shapes.part(answer, "opportunity"))

    async def set_status(self, org: OrgId, change: arguments.UpdateOpportunityStatus, origin: Origin) -> Opportunity:
        path = f"/opportunities/{quote(change.opportunity_id, safe='')}"
        body: dict[str, Any] = {"status": change.status}
        if change.lost_reason:
            body["lostReasonId"] = change.lost_reason
        await self._call("PUT", f"{path}/status", body=body)
        answer = await self._call("GET", path)
        return shapes.opportunity(shapes.part(answer, "opportunity"))

    async def _with_number(self, e164: str) -> dict[str, Any] | None:
        query = {"locationId": self._account.location, "number": e164}
        found = (await self._call("GET", "/contacts/search/duplicate", query=query)).get("contact")
        return found if isinstance(found, dict) else None

    async def _booked(self, contact: str, calendar: str, starts: datetime, local: ZoneInfo) -> Appointment | None:
        path = f"/contacts/{quote(contact, safe='')}/appointments"
        for each in (await self._call("GET", path)).get("events") or ():
            if each.get("calendarId") == calendar and _is_at(each.get("startTime"), starts, local):
                return shapes.appointment({"contactId": contact, **each})
        return None

    async def _created(self, new: arguments.CreateOpportunity, pipeline: str) -> Opportunity | None:
        query = {"location_id": self._account.location, "contact_id": new.contact_id, "pipeline_id": pipeline}
        answer = await self._call("GET", "/opportunities/search", query=query)
        for each in answer.get("opportunities") or ():
            if each.get("name") == new.name and each.get("status") == "open":
                return shapes.opportunity(each)
        return None

    def _calendar(self, asked: str | None) -> str:
        if (calendar := asked or self._account.calendar) is None:
            raise Refusal("INVALID_ARGUMENTS", "calendarId is required: no GHL_CALENDAR_ID is set", 422)
        return calendar

    async def _zone(self, org: OrgId, asked: str | None) -> ZoneInfo:
        name = asked or (await self.location(org)).timezone
        try:
            return moments.zone(name)
        except ValueError:
            raise Refusal(
                "UPSTREAM_ERROR", f"GoHighLevel's location has no known time zone: {name[:40]!r}", 502
            ) from None

    async def _call(self, method: Method, path: str, **content: Members) -> dict[str, Any]:
        try:
            return await self._api.call(method, path, **content)
        except Rejected as rejected:
            raise _refused(rejected) from rejected


def _refused(rejected: Rejected) -> Refusal:
    if rejected.status == 404:
        return Refusal("NOT_FOUND", f"GoHighLevel: {rejected.text}", 404)
    return Refusal("UPSTREAM_REJECTED", f"GoHighLevel: {rejected.text}", 422)


def _is_at(text: Any, moment: datetime, local: ZoneInfo) -> bool:
    """Its lists show times without offset too, by the location's clock."""
    try:
        return moments.start(str(text), local) == moment
    except ValueError:
        return False
