"""The CRM that is built in: event-sourced on the organization's log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime

from eventstore.append import Append, Appended, VersionConflict
from eventstore.errors import StoreError
from eventstore.events.contacts import ContactCreated
from eventstore.log import Log
from eventstore.schema import ConversationId, Event, OrgId
from projections import borrowers, contact_search, contacts
from projections import tool_arguments as arguments
from projections.borrowers import BORROWERS, Borrower
from projections.contact_search import ContactQuery, Found
from projections.contacts import CONTACTS, Contact
from projections.engine import Engine, ReadModel
from workers.crm.backend import Appointment, Created, Location, Opportunity, Origin
from workers.crm.calendar import EmbeddedCalendars
from workers.crm.pipeline import EmbeddedPipelines
from workers.tool_call import Refusal

CONTACTS_STREAM = ConversationId("contacts:")
"""The conversation of all events that give a contact its phone or email: its version is what creation compares."""

MAX_RACES = 64
"""Contact events of others that one creation gives way to before it gives up."""


class EmbeddedCrm:
    """Everything is events, found through read models, which are brought level before each answer."""

    def __init__(self, log: Log, engine: Engine, locate: Callable[[OrgId], Awaitable[Location]]) -> None:
        self._log = log
        self._engine = engine
        self._locate = locate
        self._calendars = EmbeddedCalendars(log, engine)
        self._pipelines = EmbeddedPipelines(log, engine)

    async def search(self, org: OrgId, query: ContactQuery) -> Found:
        return await contact_search.search(await self._level(org), query)

    async def by_phone(self, org: OrgId, e164: str) -> Contact | None:
        return await contacts.by_phone(await self._level(org), e164)

    async def by_id(self, org: OrgId, contact_id: str) -> Contact | None:
        return await contacts.by_id(await self._level(org), contact_id)

    async def accepts_sms(self, org: OrgId, e164: str) -> bool:
        return not await contacts.is_opted_out(await self._level(org), e164)

    async def borrower(self, org: OrgId, contact_id: str) -> Borrower | None:
        """What is known of a contact of whatever backend as a borrower."""
        return await borrowers.by_id(await self._engine.level(org, BORROWERS), contact_id)

    async def location(self, org: OrgId) -> Location:
        return await self._locate(org)

    async def free_slots(self, org: OrgId, query: arguments.GetFreeSlots, now: datetime) -> dict[str, list[str]]:
        return await self._calendars.free_slots(org, query, now, (await self._locate(org)).timezone)

    async def book(self, org: OrgId, new: arguments.CreateAppointment, origin: Origin, now: datetime) -> Appointment:
        await self._require(org, new.contact_id)
        return await self._calendars.book(org, new, origin, now, (await self._locate(org)).timezone)

    async def create_opportunity(self, org: OrgId, new: arguments.CreateOpportunity, origin: Origin) -> Opportunity:
        await self._require(org, new.contact_id)
        return await self._pipelines.create(org, new, origin)

    async def set_status(self, org: OrgId, change: arguments.UpdateOpportunityStatus, origin: Origin) -> Opportunity:
        return await self._pipelines.set_status(org, change, origin)

    async def create(self, org: OrgId, new: arguments.CreateContact, origin: Origin) -> Created:
        """Looks at all contacts as of a version, and appends only if that is still the version.

        Not an idempotency key per phone or email: one append has one key and a contact two identities, and a key
        outlives a number that moved on to another contact.
        """
        created = _created(origin.id, new)
        for _ in range(MAX_RACES):
            version = await self._log.version(org, CONTACTS_STREAM)
            model = await self._level(org)
            existing = await _same(model, created)
            if existing is not None:
                return Created(existing, existing.id == origin.id)
            event = Event(created, origin.actor, CONTACTS_STREAM, origin.run, origin.cause)
            outcome = await self._log.append(org, Append(events=[event], expected=version))
            if not isinstance(outcome, Appended | VersionConflict):
                raise StoreError(f"creating a contact of {org} was answered {outcome!r}")
        raise StoreError(f"creating a contact of {org} lost {MAX_RACES} races at version {version}")

    async def _require(self, org: OrgId, contact_id: str) -> None:
        if await self.by_id(org, contact_id) is None:
            raise Refusal("NOT_FOUND", "Contact not found", 404)

    async def _level(self, org: OrgId) -> ReadModel[contacts.Document]:
        return await self._engine.level(org, CONTACTS)


async def _same(model: ReadModel[contacts.Document], new: ContactCreated) -> Contact | None:
    """The contact this would be: its own from an earlier attempt, else that with the phone, else with the email."""
    found = await contacts.by_id(model, new.contact_id)
    if found is None and new.phone:
        found = await contacts.by_phone(model, new.phone)
    if found is None and new.email:
        found = await contacts.by_email(model, new.email)
    return found


def _created(contact_id: str, new: arguments.CreateContact) -> ContactCreated:
    first_name, last_name = new.names
    return ContactCreated(
        contact_id=contact_id,
        source=new.source,
        tags=new.tags,
        first_name=first_name,
        last_name=last_name,
        phone=new.phone,
        email=new.email,
    )
