"""What the development organization begins with: contacts, and what is known of them as borrowers, all by events."""

from __future__ import annotations

from collections.abc import Sequence

from eventstore.append import Append, Appended, VersionConflict
from eventstore.errors import StoreError
from eventstore.events.contacts import ContactCreated
from eventstore.events.loans import BorrowerProfiled, CreditHistory
from eventstore.log import Log
from eventstore.schema import Body, ConversationId, Event, OrgId
from workers.crm.embedded import CONTACTS_STREAM

BORROWERS_STREAM = ConversationId("borrowers:")

DEMO_CONTACTS = (
    ContactCreated(
        contact_id="contact_123", first_name="John", last_name="Doe", phone="+1234567890", email="john@example.com",
        tags=["lead", "vip"], source="demo",
    ),
    ContactCreated(
        contact_id="contact_124", first_name="Maria", last_name="Ruiz", phone="+14155552671",
        email="maria.ruiz@example.com", tags=["customer"], source="demo",
    ),
    ContactCreated(
        contact_id="contact_125", first_name="Jonas", last_name="Weber", phone="+4930901820", email="jonas@example.org",
        tags=["lead", "loan"], source="demo",
    ),
    ContactCreated(
        contact_id="contact_126", first_name="Aisha", last_name="Khan", phone="+442079460958",
        email="aisha.khan@example.net", tags=["customer", "vip"], source="demo",
    ),
)  # fmt: skip


DEMO_BORROWERS = (
    BorrowerProfiled(
        contact_id="contact_123", preapproved_limit=25_000, monthly_income=6_200, monthly_obligations=800,
        credit=CreditHistory(60, 58, 0.22, 96, 1), date_of_birth="1988-04-12", address="12 Elm Street, Springfield",
        id_number="X1234567", id_expires="2031-05-31",
    ),
    BorrowerProfiled(
        contact_id="contact_124", preapproved_limit=40_000, monthly_income=9_100, monthly_obligations=1_500,
        credit=CreditHistory(84, 84, 0.10, 132, 0), date_of_birth="1979-11-02", address="88 Market Street, Oakland",
        id_number="M7788990", id_expires="2032-01-15",
    ),
    BorrowerProfiled(
        contact_id="contact_125", currency="EUR", preapproved_limit=10_000, monthly_income=3_100,
        monthly_obligations=900, credit=CreditHistory(30, 28, 0.45, 40, 2), date_of_birth="1995-07-23",
        address="Torstraße 5, Berlin", id_number="L01X00T47", id_expires="2029-09-30",
    ),
    BorrowerProfiled(
        contact_id="contact_126", currency="GBP", preapproved_limit=0, monthly_income=2_400, monthly_obligations=1_100,
        credit=CreditHistory(24, 15, 0.92, 26, 6), date_of_birth="1999-02-08", address="3 Brick Lane, London",
        id_number="536412877", id_expires="2024-12-31",
    ),
)  # fmt: skip
"""A sure borrower, a better one, one near the limit, and one whom the rules refuse."""


async def seed_demo(log: Log, org: OrgId) -> bool:
    """Gives an organization that never had a contact the demo contacts, in one step; False if it had one. What they
    are as borrowers is another step, for organizations that were begun before there were any."""
    was_empty = await _begin(log, org, CONTACTS_STREAM, DEMO_CONTACTS)
    await _begin(log, org, BORROWERS_STREAM, DEMO_BORROWERS)
    return was_empty


async def _begin(log: Log, org: OrgId, stream: ConversationId, bodies: Sequence[Body]) -> bool:
    events = [Event(body, "system:demo", stream) for body in bodies]
    outcome = await log.append(org, Append(events=events, expected="absent"))
    if not isinstance(outcome, Appended | VersionConflict):
        raise StoreError(f"seeding {org} was answered {outcome!r}")
    return isinstance(outcome, Appended)
