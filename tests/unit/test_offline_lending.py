"""The offline assistant sells loans: what is told decides whom it asks, and nobody is asked twice."""

from __future__ import annotations

from typing import Any

import pytest

from projections.assistants import PREDEFINED
from projections.tool_catalog import TOOL_SPECS
from workers.model import AssistantMessage, Message, ModelRequest, ToolResult, ToolResults, ToolSpec, UserMessage
from workers.offline import respond
from workers.offline_lending import Case, told_case
from workers.team import delegation

STAFF = {assistant.id: assistant for assistant in PREDEFINED}
PHONE = "+1234567890"
OFFER = {
    "contactId": "c", "name": "John Doe", "eligible": True, "preApprovedLimit": 25_000.0, "currency": "USD",
    "annualRate": 10.5, "tenureMonths": 60, "emi": 537.35,
}  # fmt: skip
DECIDED = {
    "contactId": "c", "decisionId": "d", "decision": "approved", "reasons": ["WITHIN_LIMIT"], "amount": 12_000.0,
    "currency": "USD", "tenureMonths": 36, "annualRate": 10.5, "emi": 390.03, "creditScore": 848,
    "documentsRequired": [],
}  # fmt: skip
SCORE = {"contactId": "c", "score": 848, "maximum": 900, "required": 700, "eligible": True}
ANSWERS: dict[str, Any] = {
    "fetch_preapproved_offer": OFFER,
    "verify_kyc": {"contactId": "c", "checkId": "k", "verified": True, "failedChecks": []},
    "get_credit_score": SCORE,
    "underwrite_loan": DECIDED,
    "generate_sanction_letter": {**DECIDED, "letterId": "l", "validUntil": "2026-12-20", "letter": "Dear John Doe"},
}


class Team:
    """The predefined loan team over tools that always answer; `asked` has every call with whose it was."""

    def __init__(self, **answers: Any) -> None:
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        self.said: list[Message] = []
        self._answers = {**ANSWERS, **answers}

    def ask(self, text: str) -> str:
        self.said.append(UserMessage(text))
        answer = self._turn("loan-sales", self.said)
        self.said.append(AssistantMessage(answer))
        return answer

    def _turn(self, who: str, messages: list[Message]) -> str:
        assistant, text, messages = STAFF[who], "", list(messages)
        tools = [ToolSpec(spec.name, "", spec.schema) for spec in TOOL_SPECS if spec.name in assistant.tools]
        if assistant.members:
            tools.append(delegation([STAFF[member] for member in assistant.members]))
        for step in range(1, 9):
            done = respond(ModelRequest(system=assistant.prompt, messages=messages, tools=tools, step=step))
            text += done.text
            if not done.calls:
                return text
            results = tuple(self._result(who, call.id, call.tool, call.arguments) for call in done.calls)
            messages += [AssistantMessage(done.text, done.calls), ToolResults(results)]
        raise AssertionError("the turn does not end")

    def _result(self, who: str, call_id: str, tool: str, arguments: dict[str, Any]) -> ToolResult:
        if tool != "delegate":
            self.asked.append((who, tool, arguments))
            content = self._answers[tool]
            return ToolResult(call_id, tool, content, failed=isinstance(content, str))
        report = self._turn(arguments["member"], [UserMessage(arguments["task"])])
        return ToolResult(call_id, tool, {"member": arguments["member"], "report": report, "stop_reason": "end_turn"})


def test_an_application_goes_its_way_from_the_first_word_to_the_letter() -> None:
    team = Team(fetch_preapproved_offer="INVALID_ARGUMENTS: contactId or phone is required")
    assert team.ask("I want to apply for a loan").endswith("Which phone number are you registered with?")
    assert team.asked == [("loan-sales", "fetch_preapproved_offer", {}), ("sales", "fetch_preapproved_offer", {})]

    team = Team()
    answer = team.ask(f"I want to apply for a loan, my number is {PHONE}")
    assert "up to 25,000 USD is pre-approved" in answer
    assert answer.endswith("How much would you like to borrow, and over how many months?")
    assert [(who, tool) for who, tool, _ in team.asked] == [
        ("loan-sales", "fetch_preapproved_offer"),
        ("sales", "fetch_preapproved_offer"),
        ("verification", "verify_kyc"),
    ]

    team.asked.clear()
    assert "A loan of 12,000 USD is approved" in team.ask("12,000 over 3 years")
    assert team.asked[-2:] == [
        ("underwriting", "get_credit_score", {"phone": PHONE}),
        ("underwriting", "underwrite_loan", {"phone": PHONE, "amount": 12_000, "tenureMonths": 36}),
    ]

    team.asked.clear()
    assert "Dear John Doe" in team.ask("Yes, please")
    assert team.asked == [("sanction", "generate_sanction_letter", {"phone": PHONE})]


def test_an_unverified_identity_is_not_underwritten() -> None:
    team = Team(verify_kyc={"contactId": "c", "checkId": "k", "verified": False, "failedChecks": ["id_document"]})
    answer = team.ask(f"A loan of 12000 over 36 months for {PHONE}")
    assert "could not be verified (id_document)" in answer
    assert "underwriting" not in {who for who, _, _ in team.asked}


@pytest.mark.parametrize(
    ("decision", "told"),
    [
        ({"decision": "rejected", "reasons": ["LOW_SCORE"], "annualRate": None, "emi": None}, "is refused: low score"),
        ({"decision": "documents_required", "documentsRequired": ["salary_slip"]}, "once there is a salary slip"),
    ],
)
def test_no_letter_is_offered_for_what_is_not_approved(decision: dict[str, Any], told: str) -> None:
    answer = Team(underwrite_loan=DECIDED | decision).ask(f"A loan of 12000 over 36 months for {PHONE}")
    assert told in answer
    assert "sanction letter" not in answer


def test_what_a_tool_refuses_is_told_in_words() -> None:
    answer = Team(generate_sanction_letter="KYC_REQUIRED: verify it first").ask(f"Sanction letter for {PHONE}")
    assert answer == "Before a sanction letter can be written, the identity has to be verified."


def test_a_phone_number_alone_does_not_tell_a_name() -> None:
    assert "John" not in Team().ask(f"Do you have a loan offer for {PHONE}?")


def test_other_questions_ask_nobody() -> None:
    team = Team()
    assert team.ask("Hello").startswith("Hello!")
    assert "offline assistant" in team.ask("What is the weather like?")
    assert team.asked == []


@pytest.mark.parametrize(
    ("texts", "case"),
    [
        (["I want to apply for a loan"], Case()),
        (["My number is +1 (234) 567-890, thanks"], Case("+1 (234) 567-890")),
        (["$5,000 over 24 months"], Case(None, 5_000, 24)),
        (["5k for 2 years", "or rather 8000"], Case(None, 8_000, 24)),
        (["a 12-month loan at 10.5% of 10,000.00 for 415-555-2671"], Case("415-555-2671", 10_000, 12)),
        (["born 1988-04-12, 3 children"], Case()),
    ],
)
def test_what_was_told_is_understood_and_the_last_word_counts(texts: list[str], case: Case) -> None:
    assert told_case(texts) == case
