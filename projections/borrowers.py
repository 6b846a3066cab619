"""What is known of contacts as borrowers, and where each of them stands on the way to a loan."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from eventstore.events.loans import BorrowerProfiled, KycChecked, LoanDecided, LoanSanctioned
from projections.engine import ReadModel
from projections.projection import Fact, Projection


class Decision(msgspec.Struct, frozen=True):
    """The last decision, with the event's own values. `at` is when it was made."""

    body: LoanDecided
    at: str


class Borrower(msgspec.Struct, frozen=True, omit_defaults=True):
    """`kyc_verified` is what the last check found. A letter belongs to the decision that it names."""

    id: str
    profile: BorrowerProfiled | None = None
    kyc_verified: bool = False
    decision: Decision | None = None
    letter: LoanSanctioned | None = None


def touches(event: Fact) -> tuple[str, ...]:
    match event.body:
        case BorrowerProfiled() | KycChecked() | LoanDecided() | LoanSanctioned():
            return (event.body.contact_id,)
    return ()


def evolve(document: Borrower | None, event: Fact) -> Borrower | None:
    match event.body:
        case BorrowerProfiled() as profile:
            return replace(document or Borrower(profile.contact_id), profile=profile)
        case KycChecked() as check:
            return replace(document or Borrower(check.contact_id), kyc_verified=check.verified)
        case LoanDecided() as decided:
            return replace(document or Borrower(decided.contact_id), decision=Decision(decided, event.at))
        case LoanSanctioned() as letter:
            return replace(document or Borrower(letter.contact_id), letter=letter)
    return document


BORROWERS: Projection[Borrower] = Projection("borrowers", 1, Borrower, touches, evolve)


async def by_id(model: ReadModel[Borrower], contact_id: str) -> Borrower | None:
    return await model.get(contact_id)
