"""Lending: what is known of a borrower, and what was decided about a loan."""

from __future__ import annotations

from typing import Literal

import msgspec

from eventstore.schema import Body, Personal

Decision = Literal["approved", "rejected", "documents_required"]


class CreditHistory(msgspec.Struct, frozen=True):
    """What a score is made of: payments due and made on time, share of credit lines in use (0 to 1), age of the
    oldest account, requests for credit in the last six months."""

    payments_due: int
    payments_on_time: int
    utilisation: float
    oldest_account_months: int
    recent_enquiries: int


class BorrowerProfiled(Body, frozen=True, kw_only=True, tag="borrower.profiled"):
    """All that is known of a contact as a borrower, from now on. Amounts are in `currency`, incomes and obligations
    per month. `id_expires` is the last day (YYYY-MM-DD) on which the identity document is valid."""

    contact_id: str
    currency: str = "USD"
    preapproved_limit: Personal[float] = 0.0
    monthly_income: Personal[float]
    monthly_obligations: Personal[float] = 0.0
    credit: Personal[CreditHistory | None] = None
    date_of_birth: Personal[str | None] = None
    address: Personal[str | None] = None
    id_number: Personal[str | None] = None
    id_expires: Personal[str | None] = None


class KycChecked(Body, frozen=True, kw_only=True, tag="kyc.checked"):
    """`failed` names the checks that were not passed: `name`, `phone`, `address`, `id_document`, and what the
    customer stated otherwise than recorded."""

    contact_id: str
    check_id: str
    verified: bool
    failed: list[str] = []


class LoanDecided(Body, frozen=True, kw_only=True, tag="loan.decided"):
    """`reasons` are codes; with `documents_required` the decision waits for the named papers."""

    contact_id: str
    decision_id: str
    decision: Decision
    reasons: list[str] = []
    currency: str = "USD"
    amount: Personal[float]
    tenure_months: Personal[int]
    annual_rate: Personal[float | None] = None
    emi: Personal[float | None] = None
    credit_score: Personal[int]


class LoanSanctioned(Body, frozen=True, kw_only=True, tag="loan.sanctioned"):
    """`valid_until` is a day (YYYY-MM-DD)."""

    contact_id: str
    letter_id: str
    decision_id: str
    valid_until: str
    letter: Personal[str]


TYPES = (BorrowerProfiled, KycChecked, LoanDecided, LoanSanctioned)
