"""What GoHighLevel's objects are called and hold, as the CRM's own: pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from projections.contacts import Contact
from workers.crm.backend import Appointment, Location, Opportunity
from workers.tool_call import Refusal


def location(found: Mapping[str, Any]) -> Location:
    """Its own default stands for what is empty."""
    named = _texts(Location, found)
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
    status = _text(found, "appointmentStatus", "appoinmentStatus") or "confirmed"
    return Appointment(**{**_texts(Appointment, found), "appointment_status": status})


def opportunity(found: Mapping[str, Any]) -> Opportunity:
    value, reason = float(found.get("monetaryValue") or 0), _text(found, "lostReasonId") or None
    return Opportunity(**{**_texts(Opportunity, found), "monetary_value": value, "lost_reason": reason})


def part(answer: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = answer.get(name)
    if not isinstance(found, dict):
        raise Refusal("UPSTREAM_ERROR", f"GoHighLevel answered without a {name}", 502)
    return found


def _texts(shape: type[msgspec.Struct], found: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are called here as they are there."""
    names = zip(shape.__struct_fields__, shape.__struct_encode_fields__, strict=True)
    return {name: _text(found, wire) for name, wire in names}


def _text(found: Mapping[str, Any], *names: str) -> str:
    """The first of the fields that has a value."""
    return next((str(found[name]) for name in names if found.get(name)), "")
