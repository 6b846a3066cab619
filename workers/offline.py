"""An assistant without a language model: honest about it, deterministic, and able to use tools.

It streams word by word like a model, so everything around it can be seen and tested without a key.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from eventstore.events.replies import ToolCall, Usage
from workers import offline_lending as lending
from workers import offline_memory
from workers.model import (
    AssistantMessage,
    Message,
    ModelRequest,
    StepDone,
    TextDelta,
    ToolResult,
    ToolResults,
    UserMessage,
)

QUOTED_WORDS = 8
"""A quotation stays short, so that the answer fits a text message."""
SHOWN_CONTACTS = 3
_URGENT = "If this is an emergency, call your local emergency number now."

_WORDS = re.compile(r"\S+\s*")
_GREETING = re.compile(r"\W*(hi|hey|hello|good (morning|afternoon|evening|day))\b[\w\s,!.]{0,20}", re.I)
_LOCATION = re.compile(
    r"\b(opening|business) (hours|times?)\b|\b(are|is) (you|it|the \w+) (open|closed)\b|\bdo you (open|close)\b"
    r"|\bwhere (are|is) (you|it|the)\b|\b(your|the) (address|location|hours)\b|\blocated\b",
    re.I,
)
_SELF = re.compile(r"\b(who am i|my (details|data|profile|contact))\b", re.I)
_EMERGENCY = re.compile(
    r"\bchest pain|\b(trouble|difficulty) breathing|\b(can'?t|cannot) breathe|\b(a|having a|had a) stroke\b"
    r"|\bunconscious|\bbleeding (heavily|badly)|\boverdose|\bpoison|\bsuicid|\bkill myself|\bhurt myself",
    re.I,
)
_RECALL = re.compile(r"\b(remember|know)\b.*\b(me|my|I)\b|\b(what|who|where|when)('s| is| are) my\b", re.I)
_FIND = re.compile(
    r"(?:^\W*|\bplease |\b(?:can|could) you )(?:find|search(?: for)?|look up) (?P<name>[^?!.,;]{1,80})", re.I
)


class OfflineModel:
    """`delay_ms` is the pause before each word, so that a test can cut in mid-answer."""

    name = "offline"

    def __init__(self, delay_ms: int = 0) -> None:
        self._delay_s = delay_ms / 1_000

    async def stream(self, request: ModelRequest) -> AsyncGenerator[TextDelta | StepDone]:
        done = respond(request)
        for word in _WORDS.findall(done.text):
            await asyncio.sleep(self._delay_s)
            yield TextDelta(word)
        yield done


_ABILITIES = {
    "get_location": "tell our opening hours",
    "get_contact_by_phone": "look up your details",
    "search_contacts": "find contacts",
    "fetch_preapproved_offer": "look up a loan that is pre-approved",
}
"""What it can do by itself, if the tool for it is offered."""


def respond(request: ModelRequest) -> StepDone:
    """The whole step at once: calls for what needs looking up, then one answer to all open questions."""
    questions, results = open_questions(request.messages)
    if any(tool.name == offline_memory.REMEMBER for tool in request.tools):
        noted = ToolCall("call_1", offline_memory.REMEMBER, offline_memory.notes(questions[-1]))
        return StepDone("", (noted,), "tool_use", _usage(request, ""))
    if request.may_use_tools and (calls := _calls(request, questions, results)):
        text = "Let me look into that." if any(call.tool == "fetch_preapproved_offer" for call in calls) else ""
        return StepDone(text, calls, "tool_use", _usage(request, text))
    text = " ".join(_sentences(request, questions, results))
    return StepDone(text, (), "end_turn", _usage(request, text))


def open_questions(messages: Sequence[Message]) -> tuple[list[str], list[ToolResult]]:
    """The customer's messages since the last finished answer, and what tools have said in this turn."""
    questions: list[str] = []
    results: list[ToolResult] = []
    for message in reversed(messages):
        match message:
            case UserMessage(text=text):
                questions.insert(0, text.strip())
            case ToolResults(results=answered):
                results[:0] = answered
            case AssistantMessage(calls=()):
                break
    return questions, results


def _calls(request: ModelRequest, questions: Sequence[str], results: Sequence[ToolResult]) -> tuple[ToolCall, ...]:
    wanted = lending.needs(request, questions, results)
    if not results:
        offered = {tool.name for tool in request.tools}
        needed = (_need(question, request.sender) for question in questions)
        wanted += [need for need in needed if need is not None and need.tool in offered]
    once = [need for at, need in enumerate(wanted) if need not in wanted[:at]]
    return tuple(
        ToolCall(f"call_{request.step}_{number}", need.tool, need.arguments) for number, need in enumerate(once, 1)
    )


def _need(question: str, sender: str | None) -> lending.Need | None:
    if _SELF.search(question):
        return lending.Need("get_contact_by_phone", {"phone": sender}) if sender else None
    if found := _FIND.search(question):
        return lending.Need("search_contacts", {"query": found["name"].strip()})
    return lending.Need("get_location", {}) if _LOCATION.search(question) else None


def _sentences(request: ModelRequest, questions: Sequence[str], results: Sequence[ToolResult]) -> list[str]:
    sentences = [_URGENT] if any(_EMERGENCY.search(question) for question in questions) else []
    if results:
        quoted = [f"You wrote {_quoted(questions)}."] if len(questions) > 1 else []
        told = dict.fromkeys(_told(result) for result in results)
        return [*sentences, *quoted, *told, *lending.asked_back(request, results)]
    if questions and all(_GREETING.fullmatch(question) for question in questions):
        return [f"Hello! I am the offline assistant{_abilities(request)}."]
    if any(_RECALL.search(question) for question in questions) and (recalled := offline_memory.told(request.notes)):
        return [*sentences, recalled]
    return [
        *sentences,
        f"You wrote {_quoted(questions)}.",
        f"I am the offline assistant{_abilities(request)}.",
        "Set ANTHROPIC_API_KEY to let a language model answer.",
    ]


def _abilities(request: ModelRequest) -> str:
    offered = {tool.name for tool in request.tools}
    known = [ability for tool, ability in _ABILITIES.items() if tool in offered]
    if not known:
        return " and know no answers of my own"
    return f": I can {' and '.join([', '.join(known[:-1]), known[-1]] if len(known) > 1 else known)}"


def _told(result: ToolResult) -> str:
    if (lent := lending.sentence(result)) is not None:
        return lent
    if result.failed:
        return _told_failure(result)
    match result.tool, result.content:
        case "get_location", dict(place):
            return _told_location(place)
        case "get_contact_by_phone", dict(contact):
            return f"You are {_contact(contact)}."
        case "search_contacts", {"contacts": list(contacts)}:
            return _told_contacts(contacts)
    return f"{result.tool} answered {str(result.content)[:120]}."


def _told_failure(result: ToolResult) -> str:
    if "NOT_FOUND" in str(result.content):
        return "I have no contact with that number." if result.tool == "get_contact_by_phone" else "I found nothing."
    return f"I could not look that up just now ({result.tool})."


def _told_location(place: dict[str, Any]) -> str:
    name = str(place.get("name") or "We")
    parts = [str(place[key]) for key in ("address", "city", "country") if place.get(key)]
    text = f"{name} is at {', '.join(parts)}." if parts else f"This is {name}."
    hours = place.get("openingHours") or place.get("hours")
    return f"{text} Opening hours: {_flat(hours)}." if hours else f"{text} I do not know the opening hours."


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " and ".join(_flat(item) for item in value)
    return str(value)


def _told_contacts(contacts: list[Any]) -> str:
    if not contacts:
        return "I found no contact of that name."
    shown = "; ".join(_contact(contact) for contact in contacts[:SHOWN_CONTACTS])
    more = f" and {len(contacts) - SHOWN_CONTACTS} more" if len(contacts) > SHOWN_CONTACTS else ""
    return f"I found {shown}{more}."


def _contact(contact: dict[str, Any]) -> str:
    name = contact.get("name") or f"{contact.get('firstName') or ''} {contact.get('lastName') or ''}".strip()
    ways = ", ".join(str(contact[key]) for key in ("phone", "email") if contact.get(key))
    return f"{name or 'someone without a name'} ({ways})" if ways else str(name or "someone without a name")


def _quoted(questions: Sequence[str]) -> str:
    quotes = [f"“{_short(question)}”" for question in questions]
    return quotes[0] if len(quotes) == 1 else ", ".join(quotes[:-1]) + " and " + quotes[-1] if quotes else "nothing"


def _short(text: str) -> str:
    words = text.split()
    return " ".join(words[:QUOTED_WORDS]) + ("…" if len(words) > QUOTED_WORDS else "")


def _usage(request: ModelRequest, text: str) -> Usage:
    asked = sum(len(message.text.split()) for message in request.messages if not isinstance(message, ToolResults))
    return Usage(asked, len(text.split()))
