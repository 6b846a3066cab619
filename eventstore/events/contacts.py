"""The embedded CRM: people an organization knows."""

from __future__ import annotations

from typing import Literal

from eventstore.schema import Body, Personal


class ContactCreated(Body, frozen=True, kw_only=True, tag="contact.created"):
    contact_id: str
    source: str | None = None
    tags: list[str] = []
    first_name: Personal[str] = ""
    last_name: Personal[str] = ""
    phone: Personal[str | None] = None
    email: Personal[str | None] = None


class ContactUpdated(Body, frozen=True, kw_only=True, tag="contact.updated"):
    """Only the fields that changed are set; `None` leaves a field as it was."""

    contact_id: str
    tags: list[str] | None = None
    first_name: Personal[str | None] = None
    last_name: Personal[str | None] = None
    phone: Personal[str | None] = None
    email: Personal[str | None] = None


class ContactOptedOut(Body, frozen=True, kw_only=True, tag="contact.opted_out"):
    channel: Literal["sms"] = "sms"
    phone: Personal[str]


class ContactOptedIn(Body, frozen=True, kw_only=True, tag="contact.opted_in"):
    channel: Literal["sms"] = "sms"
    phone: Personal[str]


TYPES = (ContactCreated, ContactUpdated, ContactOptedOut, ContactOptedIn)
