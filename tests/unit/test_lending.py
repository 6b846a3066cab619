"""The lending rules, case by case."""

from __future__ import annotations

from datetime import date

import pytest
from msgspec.structs import replace

from eventstore.events.loans import BorrowerProfiled, CreditHistory, Decision
from workers import lending

GOOD = CreditHistory(
    payments_due=60, payments_on_time=60, utilisation=0.2, oldest_account_months=84, recent_enquiries=0
)
ANN = BorrowerProfiled(
    contact_id="ann", preapproved_limit=20_000, monthly_income=4_000, monthly_obligations=500, credit=GOOD,
    address="1 Elm Street", id_number="X1", id_expires="2030-01-31",
)  # fmt: skip


@pytest.mark.parametrize(
    ("credit", "expected"),
    [
        (None, 300),
        (CreditHistory(0, 0, 0.0, 200, 0), 300),
        (CreditHistory(10, 10, 0.0, 84, 0), 900),
        (CreditHistory(10, 0, 1.0, 0, 6), 300),
        (GOOD, 870),
        (CreditHistory(10, 12, -1.0, 900, -3), 900),  # what is recorded wrongly counts as full, not as more
    ],
)
def test_a_score_follows_from_the_history(credit: CreditHistory | None, expected: int) -> None:
    assert lending.score(credit) == expected


@pytest.mark.parametrize(("points", "rate"), [(900, 10.5), (800, 10.5), (799, 11.5), (700, 13.0), (699, None)])
def test_a_better_score_gets_a_better_rate(points: int, rate: float | None) -> None:
    assert lending.rate_for(points) == rate


def test_the_instalment_is_the_textbooks() -> None:
    """100,000 at 12 % over 12 months: the example in every table of EMIs."""
    assert lending.emi(100_000, 12, 12) == 8_884.88


@pytest.mark.parametrize(
    ("profile", "amount", "has_proof", "decision", "reason"),
    [
        (ANN, 20_000, False, "approved", "WITHIN_LIMIT"),
        (ANN, 20_001, False, "documents_required", "PROOF_OF_INCOME_NEEDED"),
        (ANN, 40_000, True, "approved", "INCOME_PROVEN"),
        (ANN, 40_001, True, "rejected", "OVER_LIMIT"),
        (replace(ANN, monthly_obligations=1_600), 20_000, True, "rejected", "FOIR_EXCEEDED"),
        (replace(ANN, credit=None), 1_000, True, "rejected", "LOW_SCORE"),
    ],
)
def test_every_rule_decides(
    profile: BorrowerProfiled, amount: float, has_proof: bool, decision: Decision, reason: str
) -> None:
    verdict = lending.underwrite(profile, amount, 60, has_proof=has_proof)
    assert (verdict.decision, verdict.reasons) == (decision, [reason])


def test_half_of_the_income_is_the_limit_to_the_cent() -> None:
    instalment = lending.emi(20_000, 10.5, 60)
    at_limit = replace(ANN, monthly_income=4_000, monthly_obligations=2_000 - instalment)
    assert lending.underwrite(at_limit, 20_000, 60, has_proof=False).decision == "approved"
    above = replace(at_limit, monthly_obligations=2_000.01 - instalment)
    assert lending.underwrite(above, 20_000, 60, has_proof=False).reasons == ["FOIR_EXCEEDED"]


def test_an_identity_document_is_valid_on_its_last_day_and_not_after() -> None:
    assert lending.identity_faults(ANN, date(2030, 1, 31)) == []
    assert lending.identity_faults(ANN, date(2030, 2, 1)) == ["id_document"]
    assert lending.identity_faults(replace(ANN, address=None, id_number=None), date(2026, 1, 1)) == [
        "address",
        "id_document",
    ]
