"""An assistant without a language model: honest about it, deterministic, and able to use tools.

It streams word by word like a model, so everything around it can be seen and tested without a key.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from typing import Any, NamedTuple

from eventstore.events.replies import ToolCall, Usage
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

_WORDS = re.compile(r"\S+\s*")
_GREETING = re.compile(r"\W*(hi|hey|hello|good (morning|afternoon|evening|day))\b[\w\s,!.]{0,20}", re.I)
_LOCATION = re.compile(
    r"\b(opening|business) (hours|times?)\b|\b(are|is) (you|it|the \w+) (open|closed)\b|\bdo you (open|close)\b"
    r"|\bwhere (are|is) (you|it|the)\b|\b(your|the) (address|location|hours)\b|\blocated\b",
    re.I,
)
_SELF = re.compile(r"\b(who am i|my (details|data|profile|contact))\b", re.I)
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


class _Need(NamedTuple):
    """What one question needs: a tool's answer, or nothing but words."""

    tool: str
    arguments: dict[str, Any]


def respond(request: ModelRequest) -> StepDone:
    """The whole step at once: calls for what needs looking up, then one answer to all open questions."""
    questions, results = open_questions(request.messages)
    if not results and (calls := _calls(request, questions)):
        return StepDone("", calls, "tool_use", _usage(request, ""))
    text = " ".join(_sentences(questions, results))
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


def _calls(request: ModelRequest, questions: Sequence[str]) -> tuple[ToolCall, ...]:
    available = {tool.name for tool in request.tools if request.may_use_tools}
    wanted: list[_Need] = []
    for question in questions:
        need = _need(question, request.sender)
        if need is not None and need.tool in available and need not in wanted:
            wanted.append(need)
    return tuple(
        ToolCall(f"call_{request.step}_{number}", need.tool, need.arguments) for number, need in enumerate(wanted, 1)
    )


def _need(question: str, sender: str | None) -> _Need | None:
    if _SELF.search(question):
        return _Need("get_contact_by_phone", {"phone": sender}) if sender else None
    if found := _FIND.search(question):
        return _Need("search_contacts", {"query": found["name"].strip()})
    return _Need("get_location", {}) if _LOCATION.search(question) else None


def _sentences(questions: Sequence[str], results: Sequence[ToolResult]) -> list[str]:
    sentences = [f"You wrote {_quoted(questions)}."] if len(questions) > 1 or not results else []
    if questions and all(_GREETING.fullmatch(question) for question in questions):
        return [
            "Hello! I am the offline assistant: I can tell our opening hours, look up your details or find a contact."
        ]
    sentences += [_told(result) for result in results]
    if not results:
        sentences.append(
            "I am the offline assistant: I can tell our opening hours, look up your details and find contacts. "
            "Set ANTHROPIC_API_KEY to let a language model answer."
        )
    return sentences


def _told(result: ToolResult) -> str:
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
