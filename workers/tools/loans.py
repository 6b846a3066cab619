"""Tools of the loan assistant. Their rules are those of `workers/lending.py`; what they decide goes on the log in the
same step as their answer."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple

from msgspec.structs import replace

from eventstore.events.loans import BorrowerProfiled, KycChecked, LoanDecided, LoanSanctioned
from eventstore.schema import Body, Event
from projections.borrowers import Borrower
from projections.contacts import Contact
from projections.tool_arguments import Borrower as Whom
from projections.tool_arguments import UnderwriteLoan, VerifyKyc
from workers import lending
from workers.tool_call import Answered, Refusal
from workers.tools.call import ToolContext

LETTER_VALID = timedelta(days=30)


class _Party(NamedTuple):
    contact: Contact
    borrower: Borrower
    profile: BorrowerProfiled


async def fetch_preapproved_offer(arguments: Whom, context: ToolContext) -> Answered:
    """The limit is the recorded one, at the rate of the score, over 60 months; none below a score of 700."""
    party = await _party(arguments, context)
    limit, points = party.profile.preapproved_limit, lending.score(party.profile.credit)
    rate = lending.rate_for(points)
    offer: dict[str, Any] = {"contactId": party.contact.id, "name": party.contact.name, "eligible": False}
    if rate is None or limit <= 0:
        return Answered(offer)
    months = lending.OFFER_TENURE_MONTHS
    return Answered(
        offer
        | {
            "eligible": True,
            "preApprovedLimit": limit,
            "currency": party.profile.currency,
            "annualRate": rate,
            "tenureMonths": months,
            "emi": lending.emi(limit, rate, months),
        }
    )


async def verify_kyc(arguments: VerifyKyc, context: ToolContext) -> Answered:
    """Verified if the record has a name, a phone number, an address and a valid identity document, and if all that the
    customer states is what the record says."""
    party = await _party(arguments, context)
    contact, profile = party.contact, party.profile
    failed = [name for name, value in (("name", contact.name), ("phone", contact.phone)) if not value]
    failed += lending.identity_faults(profile, context.now.date())
    stated = (
        ("dateOfBirth", arguments.date_of_birth, profile.date_of_birth),
        ("idNumber", arguments.id_number, profile.id_number),
    )
    failed += [name for name, said, known in stated if said is not None and _plain(said) != _plain(known)]
    check_id = context.new_id("kyc")
    checked = KycChecked(contact_id=contact.id, check_id=check_id, verified=not failed, failed=failed)
    data = {"contactId": contact.id, "checkId": check_id, "verified": not failed, "failedChecks": failed}
    return Answered(data, [_event(checked, context)])


async def get_credit_score(arguments: Whom, context: ToolContext) -> Answered:
    """From 300 to 900, computed from the history that the organization has recorded; no bureau is asked."""
    party = await _party(arguments, context)
    points = lending.score(party.profile.credit)
    return Answered(
        {
            "contactId": party.contact.id,
            "score": points,
            "maximum": lending.HIGHEST_SCORE,
            "required": lending.MIN_SCORE,
            "eligible": points >= lending.MIN_SCORE,
        }
    )


async def underwrite_loan(arguments: UnderwriteLoan, context: ToolContext) -> Answered:
    """Refused below a score of 700, above twice the pre-approved limit, or where instalment and obligations exceed
    half of the income; approved up to the limit, and above it if a salary slip proves the income that is given."""
    party = await _party(arguments, context)
    profile, proven = party.profile, arguments.monthly_income
    if proven is not None:
        profile = replace(profile, monthly_income=proven)
    verdict = lending.underwrite(profile, arguments.amount, arguments.tenure_months, has_proof=proven is not None)
    decided = LoanDecided(
        contact_id=party.contact.id,
        decision_id=context.new_id("decision"),
        decision=verdict.decision,
        reasons=verdict.reasons,
        currency=profile.currency,
        amount=arguments.amount,
        tenure_months=arguments.tenure_months,
        annual_rate=verdict.rate,
        emi=verdict.emi,
        credit_score=verdict.score,
    )
    needed = [lending.PROOF_OF_INCOME] if verdict.decision == "documents_required" else []
    return Answered(_told(decided) | {"documentsRequired": needed}, [_event(decided, context)])


async def generate_sanction_letter(arguments: Whom, context: ToolContext) -> Answered:
    """For the last decision, if it was an approval and the last identity check was passed; the same letter again for
    the same decision. It is valid for 30 days."""
    party = await _party(arguments, context)
    borrower = party.borrower
    if borrower.decision is None or borrower.decision.body.decision != "approved":
        raise Refusal("NOT_APPROVED", "There is no approved loan: underwrite it first", 409)
    if not borrower.kyc_verified:
        raise Refusal("KYC_REQUIRED", "The identity is not verified: verify it first", 409)
    decided, letter = borrower.decision.body, borrower.letter
    if letter is not None and letter.decision_id == decided.decision_id:
        return Answered(_told(decided) | _told_letter(letter))
    until = (context.now + LETTER_VALID).date().isoformat()
    letter = LoanSanctioned(
        contact_id=party.contact.id,
        letter_id=context.new_id("letter"),
        decision_id=decided.decision_id,
        valid_until=until,
        letter=_letter(party.contact, decided, until),
    )
    return Answered(_told(decided) | _told_letter(letter), [_event(letter, context)])


async def _party(whom: Whom, context: ToolContext) -> _Party:
    if whom.phone:
        contact = await context.crm.by_phone(context.org, whom.phone)
    else:
        contact = await context.crm.by_id(context.org, whom.contact_id or "")
    if contact is None:
        raise Refusal("NOT_FOUND", "Contact not found", 404)
    borrower = await context.borrower(contact.id)
    if borrower is None or borrower.profile is None:
        raise Refusal("NO_PROFILE", "Nothing is known of this contact as a borrower", 404)
    return _Party(contact, borrower, borrower.profile)


def _event(body: Body, context: ToolContext) -> Event:
    return Event(body, context.actor, context.conversation, context.run, context.cause)


def _told(decided: LoanDecided) -> dict[str, Any]:
    return {
        "contactId": decided.contact_id,
        "decisionId": decided.decision_id,
        "decision": decided.decision,
        "reasons": decided.reasons,
        "amount": decided.amount,
        "currency": decided.currency,
        "tenureMonths": decided.tenure_months,
        "annualRate": decided.annual_rate,
        "emi": decided.emi,
        "creditScore": decided.credit_score,
    }


def _told_letter(letter: LoanSanctioned) -> dict[str, Any]:
    return {"letterId": letter.letter_id, "validUntil": letter.valid_until, "letter": letter.letter}


def _letter(contact: Contact, decided: LoanDecided, until: str) -> str:
    return (
        f"Dear {contact.name},\n\nyour loan of {decided.amount:,.2f} {decided.currency} over {decided.tenure_months} "
        f"months at {decided.annual_rate} % a year is sanctioned. The monthly instalment is "
        f"{decided.emi:,.2f} {decided.currency}.\n\nThis letter is valid until {until}. "
        f"Reference: {decided.decision_id}."
    )


def _plain(text: str | None) -> str:
    return "".join((text or "").split()).casefold()
