"""What every contact backend can do, and what goes in and out of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple, Protocol

import msgspec

from eventstore.events.opportunities import Status
from eventstore.schema import OrgId, Position
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


class NewContact(msgspec.Struct, frozen=True, kw_only=True):
    """A contact to create: `phone` in E.164, `email` in lower case, at least one of them. The caller makes the id,
    the same one on every attempt, so that a repetition recognises its own contact."""

    id: str
    first_name: str = ""
    last_name: str = ""
    phone: str | None = None
    email: str | None = None
    tags: tuple[str, ...] = ()
    source: str | None = None


class SlotQuery(NamedTuple):
    """Dates and times as `projections.moments` reads them. `timezone` is the asker's; None is the calendar's."""

    start: str
    end: str
    calendar: str | None = None
    timezone: str | None = None


class NewAppointment(msgspec.Struct, frozen=True, kw_only=True):
    """`id` is the caller's, the same one on every attempt. Without `end` it takes one slot."""

    id: str
    contact_id: str
    start: str
    end: str | None = None
    calendar: str | None = None
    title: str = ""
    timezone: str | None = None


class Appointment(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """As clients see it, named as by GoHighLevel; times with offset."""

    id: str
    calendar_id: str
    contact_id: str
    start_time: str
    end_time: str
    title: str = ""
    appointment_status: str = "confirmed"


class NewOpportunity(msgspec.Struct, frozen=True, kw_only=True):
    """`id` is the caller's, the same one on every attempt."""

    id: str
    contact_id: str
    name: str
    pipeline: str | None = None
    stage: str | None = None
    monetary_value: float = 0.0


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


class StatusChange(NamedTuple):
    """`id` is the caller's, the same one on every attempt."""

    id: str
    opportunity_id: str
    status: Status
    lost_reason: str | None = None


class Origin(NamedTuple):
    """Who writes, in which run, and whether an earlier attempt may already have written."""

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

    async def create(self, org: OrgId, new: NewContact, origin: Origin) -> Created:
        """The contact that has the phone or else the email already, or a new one; concurrent calls make one."""
        ...

    async def accepts_sms(self, org: OrgId, e164: str) -> bool:
        """False once the number has opted out."""
        ...

    async def location(self, org: OrgId) -> Location: ...

    async def free_slots(self, org: OrgId, query: SlotQuery, now: datetime) -> dict[str, list[str]]:
        """Beginnings of free slots after `now`, with offset, by every day asked for (`YYYY-MM-DD`)."""
        ...

    async def book(self, org: OrgId, new: NewAppointment, origin: Origin, now: datetime) -> Appointment:
        """Of simultaneous bookings of overlapping times exactly one succeeds; the others are refused, SLOT_TAKEN."""
        ...

    async def create_opportunity(self, org: OrgId, new: NewOpportunity, origin: Origin) -> Opportunity: ...

    async def set_status(self, org: OrgId, change: StatusChange, origin: Origin) -> Opportunity: ...


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
