"""The rule-based assistant: honest, deterministic, and good for three kinds of questions."""

from __future__ import annotations

import pytest

from eventstore.events.replies import ToolCall
from workers.model import (
    AssistantMessage,
    Message,
    ModelRequest,
    StepDone,
    TextDelta,
    ToolResult,
    ToolResults,
    ToolSpec,
    UserMessage,
)
from workers.offline import OfflineModel, respond

TOOLS = [ToolSpec(name, name, {}) for name in ("get_location", "get_contact_by_phone", "search_contacts")]


def request(*messages: Message, sender: str | None = "+14155552671") -> ModelRequest:
    return ModelRequest(system="", messages=messages, tools=TOOLS, sender=sender)


def asked(*texts: str) -> ModelRequest:
    return request(*(UserMessage(text) for text in texts))


def told(question: str, call: ToolCall, content: object, *, failed: bool = False) -> str:
    result = ToolResult(call.id, call.tool, content, failed)
    return respond(request(UserMessage(question), AssistantMessage("", (call,)), ToolResults((result,)))).text


async def test_it_streams_word_by_word_what_it_then_says_it_said() -> None:
    pieces = [piece async for piece in OfflineModel().stream(asked("Can you write a poem?"))]
    done = pieces.pop()
    assert isinstance(done, StepDone)
    words = [piece.text for piece in pieces if isinstance(piece, TextDelta)]
    assert "".join(words) == done.text
    assert len(words) == len(done.text.split())


@pytest.mark.parametrize(
    "text", ["Can you write a poem?", "How much is it?", "What does the red gravel bike cost today?"]
)
def test_other_questions_get_an_honest_answer_that_quotes_them(text: str) -> None:
    done = respond(asked(text))
    assert text in done.text
    assert "offline assistant" in done.text
    assert "ANTHROPIC_API_KEY" in done.text
    assert 20 <= len(done.text.split()) <= 40


def test_the_same_question_gets_the_same_answer() -> None:
    assert respond(asked("What is it?")) == respond(asked("What is it?"))


@pytest.mark.parametrize("text", ["Hi", "hello!", "Good morning", "Hey there"])
def test_a_greeting_is_returned(text: str) -> None:
    assert respond(asked(text)).text.startswith("Hello!")


@pytest.mark.parametrize(
    ("text", "tool", "arguments"),
    [
        ("When are you open?", "get_location", {}),
        ("Where are you?", "get_location", {}),
        ("What are your opening hours on Sunday?", "get_location", {}),
        ("Who am I?", "get_contact_by_phone", {"phone": "+14155552671"}),
        ("show my details please", "get_contact_by_phone", {"phone": "+14155552671"}),
        ("Find John Doe, please", "search_contacts", {"query": "John Doe"}),
        ("Could you find John?", "search_contacts", {"query": "John"}),
    ],
)
def test_facts_come_from_tools(text: str, tool: str, arguments: dict[str, str]) -> None:
    done = respond(asked(text))
    assert done.stop_reason == "tool_use"
    assert [(call.tool, call.arguments) for call in done.calls] == [(tool, arguments)]


@pytest.mark.parametrize("text", ["I want to open an account", "I cannot find my order", "My email address is a@b.c"])
def test_a_word_alone_does_not_make_a_lookup(text: str) -> None:
    assert respond(asked(text)).calls == ()


def test_it_asks_only_for_tools_that_it_was_offered() -> None:
    without = ModelRequest(system="", messages=[UserMessage("Find John")])
    assert respond(without).calls == ()


def test_several_messages_get_one_answer_that_refers_to_all() -> None:
    done = respond(asked("My name is Ann", "I need a bike", "A red one"))
    assert all(quote in done.text for quote in ("My name is Ann", "I need a bike", "A red one"))


def test_several_lookups_are_one_step() -> None:
    done = respond(asked("Where are you?", "Who am I?"))
    assert [call.tool for call in done.calls] == ["get_location", "get_contact_by_phone"]
    assert len({call.id for call in done.calls}) == 2


def test_earlier_questions_that_were_answered_are_not_answered_again() -> None:
    done = respond(request(UserMessage("Where are you?"), AssistantMessage("Here."), UserMessage("Thanks a lot")))
    assert done.calls == ()
    assert "Where are you" not in done.text


def test_results_become_sentences() -> None:
    place = {"name": "Demo Bikes", "address": "1 Main St", "city": "Oakland", "hours": {"mon": "9-17"}}
    assert told("Where?", ToolCall("c", "get_location", {}), place) == (
        "Demo Bikes is at 1 Main St, Oakland. Opening hours: mon 9-17."
    )
    ann = {"name": "Ann Lee", "phone": "+1", "email": None}
    assert told("Who am I?", ToolCall("c", "get_contact_by_phone", {}), ann) == "You are Ann Lee (+1)."
    found = {"contacts": [ann], "total": 1}
    assert told("Find Ann", ToolCall("c", "search_contacts", {}), found) == "I found Ann Lee (+1)."


def test_it_claims_only_what_its_tools_can_do() -> None:
    hours = ModelRequest(system="", messages=[UserMessage("Hello")], tools=TOOLS[:1])
    assert respond(hours).text == "Hello! I am the offline assistant: I can tell our opening hours."
    alone = ModelRequest(system="", messages=[UserMessage("Hello")])
    assert respond(alone).text == "Hello! I am the offline assistant and know no answers of my own."


@pytest.mark.parametrize(
    "text", ["I have chest pain", "my father had a stroke", "She can't breathe!", "I want to kill myself"]
)
def test_an_emergency_comes_first(text: str) -> None:
    assert respond(asked(text)).text.startswith("If this is an emergency, call your local emergency number now.")


def test_a_failed_lookup_is_said_plainly() -> None:
    call = ToolCall("c", "get_contact_by_phone", {})
    assert told("Who am I?", call, "NOT_FOUND: nobody", failed=True) == "I have no contact with that number."
    assert "could not look that up" in told("Where?", ToolCall("c", "get_location", {}), "TIMEOUT: slow", failed=True)
