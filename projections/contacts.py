"""The people an organization knows, and the numbers that want no messages."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from eventstore.events.contacts import ContactCreated, ContactOptedIn, ContactOptedOut, ContactUpdated
from projections import contact_terms
from projections.engine import ReadModel
from projections.projection import Fact, Projection


class Contact(msgspec.Struct, frozen=True, omit_defaults=True, tag="contact"):
    """A person. The times are those of the events that created and last changed it."""

    id: str
    created_at: str
    updated_at: str
    first_name: str = ""
    last_name: str = ""
    phone: str | None = None
    email: str | None = None
    tags: tuple[str, ...] = ()
    source: str | None = None

    @property
    def name(self) -> str:
        return f"{self.first_name} {self.last_name}".strip()


class OptOut(msgspec.Struct, frozen=True, tag="opt_out"):
    """A number that must not be texted, whether or not a contact has it."""

    phone: str
    since: str


Document = Contact | OptOut
CHANGED = ("first_name", "last_name", "phone", "email")


def touches(event: Fact) -> tuple[str, ...]:
    match event.body:
        case ContactCreated(contact_id=contact) | ContactUpdated(contact_id=contact):
            return (f"contact:{contact}",)
        case ContactOptedOut(phone=phone) | ContactOptedIn(phone=phone):
            return (f"phone:{phone}",)
    return ()


def evolve(document: Document | None, event: Fact) -> Document | None:
    match event.body, document:
        case ContactCreated() as created, None:
            return _created(created, event.at)
        case ContactUpdated() as changed, Contact():
            return _updated(document, changed, event.at)
        case ContactOptedOut(phone=phone), None:
            return OptOut(phone, event.at)
        case ContactOptedIn(), _:
            return None
    return document


def _created(body: ContactCreated, at: str) -> Contact:
    return Contact(
        id=body.contact_id,
        created_at=at,
        updated_at=at,
        first_name=body.first_name,
        last_name=body.last_name,
        phone=body.phone,
        email=body.email,
        tags=tuple(body.tags),
        source=body.source,
    )


def _updated(contact: Contact, body: ContactUpdated, at: str) -> Contact:
    told = {name: value for name in CHANGED if (value := getattr(body, name)) is not None}
    tags = contact.tags if body.tags is None else tuple(body.tags)
    return replace(contact, updated_at=at, tags=tags, **told)


def terms(document: Document) -> set[str]:
    return contact_terms.terms_of(profile(document)) if isinstance(document, Contact) else set()


def profile(contact: Contact) -> contact_terms.Profile:
    """What search looks at."""
    return contact_terms.Profile(
        contact.created_at, contact.first_name, contact.last_name, contact.phone, contact.email, contact.tags
    )


CONTACTS: Projection[Document] = Projection("contacts", 1, Document, touches, evolve, terms)


async def by_id(model: ReadModel[Document], contact_id: str) -> Contact | None:
    document = await model.get(f"contact:{contact_id}")
    return document if isinstance(document, Contact) else None


async def by_phone(model: ReadModel[Document], e164: str) -> Contact | None:
    """The first that was created, if several have it."""
    return await _first(model, contact_terms.phone_term(e164))


async def by_email(model: ReadModel[Document], email: str) -> Contact | None:
    return await _first(model, contact_terms.email_term(email))


async def is_opted_out(model: ReadModel[Document], e164: str) -> bool:
    return await model.get(f"phone:{e164}") is not None


SAME_IDENTITY = 100
"""Contacts with one and the same phone or email that are looked at."""


async def _first(model: ReadModel[Document], term: str) -> Contact | None:
    documents = await model.get_many(await model.keys_with(term, SAME_IDENTITY))
    found = [document for document in documents.values() if isinstance(document, Contact)]
    return min(found, key=lambda contact: (contact.created_at, contact.id), default=None)
