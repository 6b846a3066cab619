"""The contact backend that tools work with, and the one that is built in: event-sourced on the organization's log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import msgspec

from eventstore.append import Append, Appended, VersionConflict
from eventstore.errors import StoreError
from eventstore.events.contacts import ContactCreated
from eventstore.log import Log
from eventstore.schema import ConversationId, Event, OrgId, Position
from projections import contact_search, contacts
from projections.contact_search import ContactQuery, Found
from projections.contacts import CONTACTS, Contact
from projections.engine import Engine, ReadModel

CONTACTS_STREAM = ConversationId("contacts:")
"""The conversation of all events that give a contact its phone or email: its version is what creation compares."""

MAX_RACES = 64
"""Contact events of others that one creation gives way to before it gives up."""


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


class Origin(NamedTuple):
    """Who creates, and in which run."""

    actor: str
    run: Position | None = None
    cause: Position | None = None


class Created(NamedTuple):
    contact: Contact
    new: bool


class Crm(Protocol):
    """What every contact backend can do. Phone numbers are E.164, emails lower case."""

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


def unnamed_location(org: OrgId) -> Location:
    return Location(org, org)


class EmbeddedCrm:
    """Contacts are events, found through their read model, which is brought level before each answer."""

    def __init__(self, log: Log, engine: Engine, locate: Callable[[OrgId], Location] = unnamed_location) -> None:
        self._log = log
        self._engine = engine
        self._locate = locate

    async def search(self, org: OrgId, query: ContactQuery) -> Found:
        return await contact_search.search(await self._level(org), query)

    async def by_phone(self, org: OrgId, e164: str) -> Contact | None:
        return await contacts.by_phone(await self._level(org), e164)

    async def by_id(self, org: OrgId, contact_id: str) -> Contact | None:
        return await contacts.by_id(await self._level(org), contact_id)

    async def accepts_sms(self, org: OrgId, e164: str) -> bool:
        return not await contacts.is_opted_out(await self._level(org), e164)

    async def location(self, org: OrgId) -> Location:
        return self._locate(org)

    async def create(self, org: OrgId, new: NewContact, origin: Origin) -> Created:
        """Looks at all contacts as of a version, and appends only if that is still the version.

        Not an idempotency key per phone or email: one append has one key and a contact two identities, and a key
        outlives a number that moved on to another contact.
        """
        for _ in range(MAX_RACES):
            version = await self._log.version(org, CONTACTS_STREAM)
            model = await self._level(org)
            existing = await _same(model, new)
            if existing is not None:
                return Created(existing, existing.id == new.id)
            event = Event(_created(new), origin.actor, CONTACTS_STREAM, origin.run, origin.cause)
            outcome = await self._log.append(org, Append(events=[event], expected=version))
            if not isinstance(outcome, Appended | VersionConflict):
                raise StoreError(f"creating a contact of {org} was answered {outcome!r}")
        raise StoreError(f"creating a contact of {org} lost {MAX_RACES} races at version {version}")

    async def _level(self, org: OrgId) -> ReadModel[contacts.Document]:
        return await self._engine.level(org, CONTACTS)


async def _same(model: ReadModel[contacts.Document], new: NewContact) -> Contact | None:
    """The contact this would be: its own from an earlier attempt, else that with the phone, else with the email."""
    found = await contacts.by_id(model, new.id)
    if found is None and new.phone:
        found = await contacts.by_phone(model, new.phone)
    if found is None and new.email:
        found = await contacts.by_email(model, new.email)
    return found


def _created(new: NewContact) -> ContactCreated:
    return ContactCreated(
        contact_id=new.id,
        source=new.source,
        tags=list(new.tags),
        first_name=new.first_name,
        last_name=new.last_name,
        phone=new.phone,
        email=new.email,
    )


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


DEMO_CONTACTS = (
    NewContact(
        id="contact_123", first_name="John", last_name="Doe", phone="+1234567890", email="john@example.com",
        tags=("lead", "vip"), source="demo",
    ),
    NewContact(
        id="contact_124", first_name="Maria", last_name="Ruiz", phone="+14155552671", email="maria.ruiz@example.com",
        tags=("customer",), source="demo",
    ),
    NewContact(
        id="contact_125", first_name="Jonas", last_name="Weber", phone="+4930901820", email="jonas@example.org",
        tags=("lead", "loan"), source="demo",
    ),
    NewContact(
        id="contact_126", first_name="Aisha", last_name="Khan", phone="+442079460958", email="aisha.khan@example.net",
        tags=("customer", "vip"), source="demo",
    ),
)  # fmt: skip


async def seed_demo(log: Log, org: OrgId) -> bool:
    """Gives an organization that never had a contact the demo contacts, in one step; False if it had one."""
    events = [Event(_created(new), "system:demo", CONTACTS_STREAM) for new in DEMO_CONTACTS]
    outcome = await log.append(org, Append(events=events, expected="absent"))
    if not isinstance(outcome, Appended | VersionConflict):
        raise StoreError(f"seeding {org} was answered {outcome!r}")
    return isinstance(outcome, Appended)
