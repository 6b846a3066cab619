"""What GoHighLevel's objects are called and hold, as the CRM's own: pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from projections.contacts import Contact
from workers.crm.backend import Appointment, Location, Opportunity
from workers.tool_call import Refusal

_LOCATION = {
    "id": "id",
    "name": "name",
    "timezone": "timezone",
    "address": "address",
    "city": "city",
    "state": "state",
    "country": "country",
    "postal_code": "postalCode",
    "phone": "phone",
    "email": "email",
    "website": "website",
}


def location(found: Mapping[str, Any]) -> Location:
    """Its own default stands for what is empty."""
    named = {name: _text(found, wire) for name, wire in _LOCATION.items()}
    return Location(**{"id": "", "name": "", **{name: value for name, value in named.items() if value}})


def contact(found: Mapping[str, Any]) -> Contact:
    """Search gives names in lower case only, under names of their own."""
    return Contact(
        id=_text(found, "id"),
        created_at=_text(found, "dateAdded"),
        updated_at=_text(found, "dateUpdated", "dateAdded"),
        first_name=_text(found, "firstName", "firstNameRaw", "firstNameLowerCase"),
        last_name=_text(found, "lastName", "lastNameRaw", "lastNameLowerCase"),
        phone=_text(found, "phone") or None,
        email=_text(found, "email") or None,
        tags=tuple(str(tag) for tag in found.get("tags") or ()),
        source=_text(found, "source") or None,
    )


def appointment(found: Mapping[str, Any]) -> Appointment:
    return Appointment(
        id=_text(found, "id"),
        calendar_id=_text(found, "calendarId"),
        contact_id=_text(found, "contactId"),
        start_time=_text(found, "startTime"),
        end_time=_text(found, "endTime"),
        title=_text(found, "title"),
        appointment_status=_text(found, "appointmentStatus", "appoinmentStatus") or "confirmed",
    )


def opportunity(found: Mapping[str, Any]) -> Opportunity:
    return Opportunity(
        id=_text(found, "id"),
        name=_text(found, "name"),
        contact_id=_text(found, "contactId"),
        pipeline_id=_text(found, "pipelineId"),
        pipeline_stage_id=_text(found, "pipelineStageId"),
        status=_text(found, "status"),
        monetary_value=float(found.get("monetaryValue") or 0),
        lost_reason=_text(found, "lostReasonId") or None,
        created_at=_text(found, "createdAt"),
        updated_at=_text(found, "updatedAt"),
    )


def part(answer: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = answer.get(name)
    if not isinstance(found, dict):
        raise Refusal("UPSTREAM_ERROR", f"GoHighLevel answered without a {name}", 502)
    return found


def _text(found: Mapping[str, Any], *names: str) -> str:
    """The first of the fields that has a value."""
    return next((str(found[name]) for name in names if found.get(name)), "")
