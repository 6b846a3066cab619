"""What the offline assistant knows of selling loans: alone, as the leader of a team, and as a member of one.

Everything follows from what was said, the tools that are offered, and what they have answered so far.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from workers.model import AssistantMessage, Message, ModelRequest, ToolResult, UserMessage

DELEGATE = "delegate"

_PHONE = re.compile(r"\+\d[\d ().-]{6,18}\d|\b\d{3}[ .-]?\d{3}[ .-]?\d{4}\b")
_DATE = re.compile(r"\b\d{4}-\d\d-\d\d\b")
_TERM = re.compile(r"\b(\d{1,3})\s*-?(month|year)", re.I)
_AMOUNT = re.compile(r"(?<![\w.])(\d{1,3}(?:,\d{3})+|\d+)(?:\.\d\d)?( ?k\b)?(?![\d%]| *%)", re.I)
_LEAST_AMOUNT = 100
_LOAN = re.compile(r"\b(loan|borrow|lend)|\boffer\b", re.I)
_IDENTITY = re.compile(r"\b(kyc|identity|verif)", re.I)
_DECISION = re.compile(r"\b(underwrit|eligib|credit score)", re.I)
_LETTER = re.compile(r"\bsanction", re.I)
_YES = re.compile(r"\W*(yes|sure|ok(ay)?|please)\b", re.I)
_VERIFIED = "The identity is verified."
_APPROVED = "is approved"
_OFFERS_LETTER = "Shall I have the sanction letter written?"


class Case(NamedTuple):
    """An application, as far as it has been told; the last word counts."""

    phone: str | None = None
    amount: int | None = None
    months: int | None = None

    @property
    def whose(self) -> str:
        return f"the customer with phone number {self.phone}" if self.phone else "a customer who told no phone number"

    @property
    def borrower(self) -> dict[str, Any]:
        return {"phone": self.phone} if self.phone else {}


class Need(NamedTuple):
    """A tool that has to be asked before there is an answer."""

    tool: str
    arguments: dict[str, Any]


def told_case(texts: Sequence[str], sender: str | None = None) -> Case:
    case = Case(phone=sender)
    for text in texts:
        rest = _DATE.sub(" ", _PHONE.sub(" ", text))
        terms = [int(count) * (12 if unit.lower() == "year" else 1) for count, unit in _TERM.findall(rest)]
        amounts = [_number(*found) for found in _AMOUNT.findall(_TERM.sub(" ", rest))]
        case = Case(
            phone=next(reversed(_PHONE.findall(text)), case.phone),
            amount=next((amount for amount in reversed(amounts) if amount >= _LEAST_AMOUNT), case.amount),
            months=next(reversed(terms), case.months),
        )
    return case


def _number(digits: str, thousands: str) -> int:
    return int(digits.replace(",", "")) * (1_000 if thousands else 1)


def needs(request: ModelRequest, questions: Sequence[str], results: Sequence[ToolResult]) -> list[Need]:
    """Own tools first; then members, each once, and none before what it waits for is there."""
    if any(result.failed for result in results if result.tool == DELEGATE):
        return []
    case, asked = _case(request.messages, request.sender), _topic(request.messages, questions)
    own = [] if results else _own_tools({tool.name for tool in request.tools}, case, asked)
    return own or _assignments(members(request), case, asked, reports(results))


def _case(messages: Sequence[Message], sender: str | None) -> Case:
    return told_case([message.text for message in messages if isinstance(message, UserMessage)], sender)


def _topic(messages: Sequence[Message], questions: Sequence[str]) -> str:
    """A number alone goes on with what was talked about, and a yes with what was asked."""
    asked = " ".join(questions)
    said = next((message.text for message in reversed(messages) if isinstance(message, AssistantMessage)), "")
    if said.endswith(_OFFERS_LETTER) and _YES.match(asked):
        return f"{asked} sanction"
    earlier = " ".join(message.text for message in messages if isinstance(message, UserMessage))
    return f"{asked} loan" if told_case(questions) != Case() and _LOAN.search(earlier) else asked


def _own_tools(offered: set[str], case: Case, asked: str) -> list[Need]:
    decides = _DECISION.search(asked)
    wanted = [
        Need("fetch_preapproved_offer", case.borrower) if _LOAN.search(asked) else None,
        Need("verify_kyc", case.borrower) if _IDENTITY.search(asked) else None,
        Need("get_credit_score", case.borrower) if decides else None,
        Need("underwrite_loan", {**case.borrower, "amount": case.amount, "tenureMonths": case.months})
        if decides and case.amount and case.months
        else None,
        Need("generate_sanction_letter", case.borrower) if _LETTER.search(asked) else None,
    ]
    return [need for need in wanted if need is not None and need.tool in offered]


def _assignments(team: Sequence[str], case: Case, asked: str, told: Mapping[str, str]) -> list[Need]:
    """An offer and an identity can be looked at side by side; a decision needs the identity."""
    wants_loan = bool(_LOAN.search(asked)) and not _LETTER.search(asked)
    decides = bool(_DECISION.search(asked)) or (_VERIFIED in told.get("verification", "") and wants_loan)
    wanted = {
        "sales": f"Look up the loan offer for {case.whose}." if wants_loan else "",
        "verification": f"Verify the identity of {case.whose}."
        if _IDENTITY.search(asked) or (wants_loan and case.phone)
        else "",
        "underwriting": f"Tell credit score and underwrite {case.amount} over {case.months} months for {case.whose}."
        if decides and case.amount and case.months
        else "",
        "sanction": f"Generate the sanction letter for {case.whose}." if _LETTER.search(asked) else "",
    }
    return [
        Need(DELEGATE, {"member": member, "task": task})
        for member, task in wanted.items()
        if task and member in team and member not in told
    ]


def members(request: ModelRequest) -> Sequence[str]:
    """Those that may be delegated to, as the tool names them."""
    spec = next((tool.schema for tool in request.tools if tool.name == DELEGATE), None)
    return spec["properties"]["member"]["enum"] if spec else ()


def reports(results: Sequence[ToolResult]) -> dict[str, str]:
    """What members have said, by member."""
    return {
        str(result.content["member"]): str(result.content["report"])
        for result in results
        if result.tool == DELEGATE and not result.failed
    }


def asked_back(request: ModelRequest, results: Sequence[ToolResult]) -> list[str]:
    """What the leader of a team asks the customer once everybody has reported."""
    told = reports(results)
    if not told.keys() & {"sales", "underwriting"}:
        return []
    case = _case(request.messages, request.sender)
    if not case.phone:
        return ["Which phone number are you registered with?"]
    if not case.amount or not case.months:
        return ["How much would you like to borrow, and over how many months?"]
    return [_OFFERS_LETTER] if _APPROVED in told.get("underwriting", "") else []


def sentence(result: ToolResult) -> str | None:
    """A lending tool's answer in words; None for any other tool."""
    if result.failed:
        return _FAILURES.get(str(result.content).partition(":")[0]) if result.tool in _LENDING else None
    said: dict[str, Any] = result.content if isinstance(result.content, dict) else {}
    match result.tool:
        case "fetch_preapproved_offer":
            return _offer(said)
        case "verify_kyc":
            failed = ", ".join(said["failedChecks"])
            return _VERIFIED if said["verified"] else f"The identity could not be verified ({failed})."
        case "get_credit_score":
            return f"The credit score is {said['score']} of {said['maximum']}; {said['required']} are needed."
        case "underwrite_loan":
            return _decision(said)
        case "generate_sanction_letter":
            return f"The sanction letter is written and valid until {said['validUntil']}:\n\n{said['letter']}"
        case "delegate":
            return str(said["report"])
    return None


_LENDING = frozenset(
    {"fetch_preapproved_offer", "verify_kyc", "get_credit_score", "underwrite_loan", "generate_sanction_letter"}
)
_FAILURES = {
    "INVALID_ARGUMENTS": "That cannot be looked up without a phone number.",
    "NOT_FOUND": "Nobody is registered with that phone number.",
    "NO_PROFILE": "Nothing is recorded for that phone number that a loan could rest on.",
    "NOT_APPROVED": "There is no approved loan yet that a sanction letter could be written for.",
    "KYC_REQUIRED": "Before a sanction letter can be written, the identity has to be verified.",
}


def _offer(said: Mapping[str, Any]) -> str:
    if not said["eligible"]:
        return "No loan is pre-approved."
    return f"A loan of up to {said['preApprovedLimit']:,.0f} {said['currency']} is pre-approved, {_terms(said)}."


def _decision(decided: Mapping[str, Any]) -> str:
    loan = f"A loan of {decided['amount']:,.0f} {decided['currency']}"
    reasons = ", ".join(str(reason).replace("_", " ").lower() for reason in decided["reasons"])
    match decided["decision"]:
        case "approved":
            return f"{loan} {_APPROVED}, {_terms(decided)}."
        case "documents_required":
            return f"{loan} can be decided once there is a {', '.join(decided['documentsRequired']).replace('_', ' ')}."
    return f"{loan} is refused: {reasons}."


def _terms(loan: Mapping[str, Any]) -> str:
    monthly = f"{loan['emi']:,.2f} {loan['currency']} a month"
    return f"at {loan['annualRate']} % a year over {loan['tenureMonths']} months, {monthly}"
