"""What every contact backend can do, and what goes in and out of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple, Protocol

import msgspec

from eventstore.schema import OrgId, Position
from projections import tool_arguments as arguments
from projections.contact_search import ContactQuery, Found
from projections.contacts import Contact


class Location(msgspec.Struct, frozen=True, rename="camel"):
    """The business itself, as `get_location` tells it."""

    id: str
    name: str
    timezone: str = "UTC"
    address: str = ""
    city: str = ""
    state: str = ""
    country: str = ""
    postal_code: str = ""
    phone: str = ""
    email: str = ""
    website: str = ""


class Appointment(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """As clients see it, named as by GoHighLevel; times with offset."""

    id: str
    calendar_id: str
    contact_id: str
    start_time: str
    end_time: str
    title: str = ""
    appointment_status: str = "confirmed"


class Opportunity(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """As clients see it, named as by GoHighLevel."""

    id: str
    name: str
    contact_id: str
    pipeline_id: str
    pipeline_stage_id: str
    status: str
    monetary_value: float
    lost_reason: str | None
    created_at: str
    updated_at: str


class Origin(NamedTuple):
    """Of what is written: `id` is its own, the same one on every attempt, so that a repetition recognises it; who
    writes, in which run, and whether an earlier attempt may already have written."""

    id: str
    actor: str
    run: Position | None = None
    cause: Position | None = None
    is_repeated: bool = False


class Created(NamedTuple):
    contact: Contact
    new: bool


class Crm(Protocol):
    """Phone numbers are E.164, emails lower case. What a backend cannot do it says by raising Refusal."""

    async def search(self, org: OrgId, query: ContactQuery) -> Found: ...

    async def by_phone(self, org: OrgId, e164: str) -> Contact | None: ...

    async def by_id(self, org: OrgId, contact_id: str) -> Contact | None: ...

    async def create(self, org: OrgId, new: arguments.CreateContact, origin: Origin) -> Created:
        """The contact that has the phone or else the email already, or a new one; concurrent calls make one."""
        ...

    async def accepts_sms(self, org: OrgId, e164: str) -> bool:
        """False once the number has opted out."""
        ...

    async def location(self, org: OrgId) -> Location: ...

    async def free_slots(self, org: OrgId, query: arguments.GetFreeSlots, now: datetime) -> dict[str, list[str]]:
        """Beginnings of free slots after `now`, with offset, by every day asked for (`YYYY-MM-DD`)."""
        ...

    async def book(self, org: OrgId, new: arguments.CreateAppointment, origin: Origin, now: datetime) -> Appointment:
        """Of simultaneous bookings of overlapping times exactly one succeeds; the others are refused, SLOT_TAKEN."""
        ...

    async def create_opportunity(self, org: OrgId, new: arguments.CreateOpportunity, origin: Origin) -> Opportunity: ...

    async def set_status(
        self, org: OrgId, change: arguments.UpdateOpportunityStatus, origin: Origin
    ) -> Opportunity: ...


def on_wire(contact: Contact) -> dict[str, Any]:
    """A contact as clients see it (CONTRACT 1)."""
    return {
        "id": contact.id,
        "firstName": contact.first_name,
        "lastName": contact.last_name,
        "name": contact.name,
        "phone": contact.phone,
        "email": contact.email,
        "tags": list(contact.tags),
        "createdAt": contact.created_at,
        "updatedAt": contact.updated_at,
    }
