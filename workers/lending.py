"""What may be lent to whom: rules of thumb of retail lending, written down, with no opinion of a model in them.

Nothing is asked of a credit bureau: a score is computed from what the organization itself has recorded.
"""

from __future__ import annotations

from datetime import date
from typing import NamedTuple

from eventstore.events.loans import BorrowerProfiled, CreditHistory, Decision

LOWEST_SCORE, HIGHEST_SCORE = 300, 900
MIN_SCORE = 700
"""Below it nothing is lent."""
MAX_FOIR = 0.5
"""Of the monthly income, the share that this loan's instalment and all other obligations may take together."""
STRETCH = 2
"""Up to so many times the pre-approved limit a loan is possible, on proof of income."""
RATES = ((800, 10.5), (750, 11.5), (MIN_SCORE, 13.0))
"""Annual rates in percent by the least score that gets them."""
OFFER_TENURE_MONTHS = 60
PROOF_OF_INCOME = "salary_slip"


class Verdict(NamedTuple):
    """`reasons` are codes, in the order of the rules; `rate` (percent a year) and `emi` are None without a rate."""

    decision: Decision
    reasons: list[str]
    score: int
    rate: float | None
    emi: float | None


def score(credit: CreditHistory | None) -> int:
    """300 to 900: of the 600 points between, 45 % for payments on time, 25 % for unused credit, 20 % for the age of
    the oldest account (full at seven years), 10 % for few recent enquiries (none left at six). 300 without history."""
    if credit is None or credit.payments_due <= 0:
        return LOWEST_SCORE
    parts = (
        0.45 * _share(credit.payments_on_time / credit.payments_due),
        0.25 * (1 - _share(credit.utilisation)),
        0.20 * _share(credit.oldest_account_months / 84),
        0.10 * (1 - _share(credit.recent_enquiries / 6)),
    )
    return round(LOWEST_SCORE + (HIGHEST_SCORE - LOWEST_SCORE) * sum(parts))


def rate_for(points: int) -> float | None:
    """Percent a year; None for a score that gets no loan."""
    return next((rate for least, rate in RATES if points >= least), None)


def emi(amount: float, annual_rate: float, months: int) -> float:
    """The equated monthly instalment, P·r·(1+r)ⁿ / ((1+r)ⁿ - 1) with the monthly rate r, to the cent."""
    monthly = annual_rate / 12 / 100
    growth = (1 + monthly) ** months
    return round(amount * monthly * growth / (growth - 1), 2)


def underwrite(profile: BorrowerProfiled, amount: float, months: int, *, has_proof: bool) -> Verdict:
    """The rules, in this order:

    1. A score below 700 is refused (`LOW_SCORE`).
    2. More than twice the pre-approved limit is refused (`OVER_LIMIT`).
    3. Instalment and other obligations above half of the income are refused (`FOIR_EXCEEDED`): the fixed obligations
       to income ratio.
    4. Within the limit it is approved (`WITHIN_LIMIT`).
    5. Above it a salary slip is needed (`PROOF_OF_INCOME_NEEDED`), and with one it is approved (`INCOME_PROVEN`).
    """
    points = score(profile.credit)
    rate = rate_for(points)
    if rate is None:
        return Verdict("rejected", ["LOW_SCORE"], points, None, None)
    instalment = emi(amount, rate, months)

    def verdict(decision: Decision, reason: str) -> Verdict:
        return Verdict(decision, [reason], points, rate, instalment)

    if amount > STRETCH * profile.preapproved_limit:
        return verdict("rejected", "OVER_LIMIT")
    if instalment + profile.monthly_obligations > MAX_FOIR * profile.monthly_income:
        return verdict("rejected", "FOIR_EXCEEDED")
    if amount <= profile.preapproved_limit:
        return verdict("approved", "WITHIN_LIMIT")
    if not has_proof:
        return verdict("documents_required", "PROOF_OF_INCOME_NEEDED")
    return verdict("approved", "INCOME_PROVEN")


def identity_faults(profile: BorrowerProfiled, today: date) -> list[str]:
    """What is missing in a record of identity: `address`, `id_document` (none, or one that has expired)."""
    faults = [] if profile.address else ["address"]
    valid = profile.id_number is not None and (profile.id_expires or "") >= today.isoformat()
    return faults if valid else [*faults, "id_document"]


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))
