"""From offer to letter: what the loan tools decide goes on the log with their answer, and the next one builds on it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from projections.tool_arguments import CreateContact
from tests.support.store import ACME, Store
from tests.support.tool_context import context_of, refused
from workers import tools
from workers.crm.backend import Origin
from workers.crm.demo import seed_demo
from workers.crm.embedded import EmbeddedCrm
from workers.tools.call import ToolContext

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
JOHN = {"contactId": "contact_123"}


class Desk:
    """Runs tools as a worker does: the events of an answer are on the log before the next call."""

    def __init__(self, store: Store, crm: EmbeddedCrm) -> None:
        self._store = store
        self._crm = crm
        self._calls = 0

    def context(self) -> ToolContext:
        self._calls += 1
        return context_of(self._store, self._crm, f"call_{self._calls}", now=NOW)

    async def run(self, tool: str, **raw: Any) -> dict[str, Any]:
        outcome = await tools.run(tool, raw, self.context())
        if outcome.events:
            await self._store.write(*outcome.events)
        data: dict[str, Any] = outcome.data
        return data

    async def refused(self, tool: str, **raw: Any) -> str:
        return (await refused(tool, raw, self.context()))[0]


@pytest.fixture
async def desk(store: Store, crm: EmbeddedCrm) -> Desk:
    await seed_demo(store.log, ACME)
    return Desk(store, crm)


async def test_an_offer_is_the_limit_at_the_scores_rate(desk: Desk) -> None:
    offer = await desk.run("fetch_preapproved_offer", phone="+1234567890")
    assert offer == {
        "contactId": "contact_123", "name": "John Doe", "eligible": True, "preApprovedLimit": 25_000.0,
        "currency": "USD", "annualRate": 10.5, "tenureMonths": 60, "emi": 537.35,
    }  # fmt: skip
    nothing = await desk.run("fetch_preapproved_offer", contactId="contact_126")
    assert nothing == {"contactId": "contact_126", "name": "Aisha Khan", "eligible": False}


async def test_a_score_says_whether_it_is_enough(desk: Desk) -> None:
    john, aisha = [await desk.run("get_credit_score", contactId=f"contact_{n}") for n in (123, 126)]
    assert john == {"contactId": "contact_123", "score": 848, "maximum": 900, "required": 700, "eligible": True}
    assert (aisha["eligible"], aisha["score"]) == (False, 518)


async def test_an_identity_is_verified_by_the_record_and_by_what_is_stated(desk: Desk) -> None:
    assert (await desk.run("verify_kyc", **JOHN))["verified"]
    stated = await desk.run("verify_kyc", **JOHN, dateOfBirth="1988-04-12", idNumber="x 1234567")
    assert stated["failedChecks"] == []
    wrong = await desk.run("verify_kyc", **JOHN, dateOfBirth="1988-04-13", idNumber="X1")
    assert (wrong["verified"], wrong["failedChecks"]) == (False, ["dateOfBirth", "idNumber"])
    expired = await desk.run("verify_kyc", contactId="contact_126")
    assert expired["failedChecks"] == ["id_document"]


async def test_a_loan_goes_from_decision_to_letter(desk: Desk) -> None:
    assert await desk.refused("generate_sanction_letter", **JOHN) == "NOT_APPROVED"
    decided = await desk.run("underwrite_loan", **JOHN, amount=20_000, tenureMonths=48)
    assert (decided["decision"], decided["reasons"], decided["documentsRequired"]) == ("approved", ["WITHIN_LIMIT"], [])
    assert (decided["annualRate"], decided["emi"], decided["creditScore"]) == (10.5, 512.07, 848)
    assert await desk.refused("generate_sanction_letter", **JOHN) == "KYC_REQUIRED"
    await desk.run("verify_kyc", **JOHN)
    letter = await desk.run("generate_sanction_letter", **JOHN)
    assert (letter["decisionId"], letter["validUntil"]) == (decided["decisionId"], "2026-04-01")
    assert "20,000.00 USD over 48 months at 10.5 %" in letter["letter"]
    assert letter["letter"].startswith("Dear John Doe,")
    assert await desk.run("generate_sanction_letter", **JOHN) == letter, "the same letter for the same decision"


async def test_above_the_limit_a_salary_slip_decides(desk: Desk) -> None:
    asked = await desk.run("underwrite_loan", **JOHN, amount=40_000, tenureMonths=60)
    assert (asked["decision"], asked["documentsRequired"]) == ("documents_required", ["salary_slip"])
    await desk.run("verify_kyc", **JOHN)
    assert await desk.refused("generate_sanction_letter", **JOHN) == "NOT_APPROVED"
    poor = await desk.run("underwrite_loan", **JOHN, amount=40_000, tenureMonths=60, monthlyIncome=2_000)
    assert poor["reasons"] == ["FOIR_EXCEEDED"]
    proven = await desk.run("underwrite_loan", **JOHN, amount=40_000, tenureMonths=60, monthlyIncome=6_200)
    assert proven["reasons"] == ["INCOME_PROVEN"]
    assert (await desk.run("generate_sanction_letter", **JOHN))["decisionId"] == proven["decisionId"]


async def test_a_later_refusal_takes_the_letter_away(desk: Desk) -> None:
    await desk.run("underwrite_loan", **JOHN, amount=1_000, tenureMonths=12)
    await desk.run("verify_kyc", **JOHN)
    await desk.run("underwrite_loan", **JOHN, amount=60_000, tenureMonths=60)
    assert await desk.refused("generate_sanction_letter", **JOHN) == "NOT_APPROVED"


async def test_who_is_not_known_gets_no_verdict(desk: Desk, crm: EmbeddedCrm) -> None:
    assert await desk.refused("get_credit_score", contactId="nobody") == "NOT_FOUND"
    await crm.create(ACME, CreateContact(email="mail@example.com"), Origin("c9", "tool:test"))
    assert await desk.refused("underwrite_loan", contactId="c9", amount=1, tenureMonths=12) == "NO_PROFILE"


@pytest.mark.parametrize(
    "raw",
    [{}, {**JOHN, "amount": 0}, {**JOHN, "amount": "inf"}, {**JOHN, "amount": 1_000, "tenureMonths": 85}],
)
async def test_amounts_without_sense_are_refused(desk: Desk, raw: dict[str, Any]) -> None:
    assert await desk.refused("underwrite_loan", **{"amount": 1_000, "tenureMonths": 12, **raw}) == "INVALID_ARGUMENTS"
