"""What is kept of extractions, when the next one is due, what an answer is told, and notes without a model."""

from __future__ import annotations

import msgspec
import pytest

from eventstore.events.memory import Entity, Memory, MemoryExtracted, MemoryRequested, Relation
from eventstore.events.messages import MessageReceived, MessageSent
from eventstore.events.replies import ReplyCompleted
from eventstore.schema import Body
from projections.memory import KEPT_MEMORIES, MEMORY, Kept, Remembered
from projections.projection import fact
from tests.support.facts import ANN, history, recorded
from workers import memory, offline_memory
from workers.memory import Line
from workers.model import AssistantMessage, Message, UserMessage

NOW = 1_760_000_000_000


def folded(*extractions: MemoryExtracted) -> Remembered:
    events = [fact(recorded(number, body)) for number, body in enumerate(extractions, 1)]
    state = MEMORY.fold({}, events)[ANN]
    assert state is not None
    return state


def extracted(*memories: Memory, **fields: object) -> MemoryExtracted:
    return msgspec.structs.replace(MemoryExtracted(until="5-0", model="m", memories=list(memories)), **fields)


def texts(state: Remembered) -> list[str]:
    return [kept.memory.text for kept in state.memories]


# The fold


def test_a_later_memory_about_the_same_replaces_the_earlier() -> None:
    berlin, paris = Memory(text="Lives in Berlin", about="home"), Memory(text="Lives in Paris", about="Home")
    assert texts(folded(extracted(berlin, Memory(text="Likes tea")), extracted(paris))) == [
        "Likes tea",
        "Lives in Paris",
    ]


def test_the_same_again_is_heard_of_anew() -> None:
    state = folded(extracted(Memory(text="Likes tea"), Memory(text="Owns a boat")), extracted(Memory(text="likes TEA")))
    assert texts(state) == ["Owns a boat", "likes TEA"]
    assert state.memories[1].at_ms > state.memories[0].at_ms


def test_the_summary_stays_until_there_is_a_new_one() -> None:
    assert folded(extracted(summary="First"), extracted()).summary == "First"
    assert folded(extracted(summary="First"), extracted(summary="Both")).summary == "Both"


def test_entities_and_relations_are_kept_once() -> None:
    rex, relation = Entity("Rex", "dog"), Relation("user", "dog", "Rex")
    state = folded(
        extracted(entities=[Entity("rex"), Entity("Elsa")], relations=[relation]),
        extracted(entities=[rex], relations=[relation]),
    )
    assert state.entities == (Entity("Elsa"), rex)
    assert state.relations == (relation,)


def test_only_so_many_memories_are_kept() -> None:
    state = folded(*(extracted(*(Memory(text=f"{page}/{i}") for i in range(40))) for page in range(6)))
    assert len(state.memories) == KEPT_MEMORIES
    assert texts(state)[-1] == "5/39"


# When an extraction is due


def talk(messages: int) -> list[Body]:
    return [
        MessageReceived(message_id=f"u{i}", text=f"{i}")
        if i % 2 == 0
        else ReplyCompleted(message_id=f"a{i}", attempt=1, model="m", text=f"{i}")
        for i in range(messages)
    ]


@pytest.mark.parametrize(("before", "due"), [(0, False), (8, False), (9, True), (25, True)])
def test_it_is_due_with_the_tenth_message(before: int, due: bool) -> None:
    events = memory.due(history(*talk(before)), ANN)
    assert [event.body for event in events] == ([MemoryRequested(messages=before + 1)] if due else [])
    assert all(event.lane == f"memory:{ANN}" for event in events)


def test_only_messages_since_the_last_request_count() -> None:
    past = [*talk(10), MemoryRequested(messages=10)]
    assert memory.due(history(*past, *talk(8)), ANN) == []
    assert len(memory.due(history(*past, *talk(9)), ANN)) == 1


def test_what_is_no_message_does_not_count() -> None:
    stop = MessageReceived(message_id="s", text="STOP", keyword="STOP")
    assert memory.due(history(*talk(8), stop, stop), ANN) == []


def test_an_agents_message_to_several_runs_is_one() -> None:
    sent = MessageSent(message_id="m", agent="7", text="On it")
    assert memory.transcript(history(sent, sent)) == [Line("agent", "On it")]


# What an answer is told


def test_the_question_is_what_was_written_since_the_last_answer() -> None:
    said: list[Message] = [UserMessage("Old"), AssistantMessage("Answer"), UserMessage("And"), UserMessage("now?")]
    assert memory.question_of(said) == "And\nnow?"


def test_notes_hold_summary_memories_and_relations_within_the_budget() -> None:
    said = [*(f"Memory {i} about something else" for i in range(50)), "The dog is called Rex"]
    kept = tuple(Kept(NOW, Memory(text=text)) for text in said)
    state = Remembered("5-0", "Talked about a dog.", kept, relations=(Relation("user", "dog", "Rex"),))
    told = memory.notes(state, "How is my dog?", NOW)
    lines = told.splitlines()
    assert lines[1] == "So far: Talked about a dog."
    assert lines[2] == "- The dog is called Rex (2025-10-09)"
    assert lines[-1] == "- user: dog Rex"
    assert len(lines) == 2 + memory.MEMORIES + 1
    short = memory.notes(state, "How is my dog?", NOW, budget=60)
    assert len(short.encode()) <= 60 * 4
    assert "Rex" in short


def test_nobody_is_told_of_nothing() -> None:
    assert memory.notes(None, "Hello", NOW) == memory.notes(Remembered("5-0"), "Hello", NOW) == ""


# Notes without a model


def noted(*texts: str, summary: str = "") -> dict[str, object]:
    messages = [{"by": "user", "text": text} for text in texts]
    material = {"summary": summary, "memories": [], "messages": [*messages, {"by": "assistant", "text": "I like tea"}]}
    return offline_memory.notes(msgspec.json.encode(material).decode())


@pytest.mark.parametrize(
    ("said", "note", "about"),
    [
        ("Hi, my name is Marta Lindqvist and I need help", "The user's name is Marta Lindqvist", "name"),
        ("I moved to Göteborg last week", "Lives in Göteborg", "home"),
        ("I work as a nurse. Busy!", "Works as a nurse", "job"),
        ("I'm allergic to peanuts", "Is allergic to peanuts", ""),
        ("I really prefer short answers", "The user prefers short answers", ""),
        ("my favourite colour is dark green", "The user's favourite colour is dark green", ""),
        ("Please remember that the launch is on 1 December", "the launch is on 1 December", ""),
        ("My birthday is on the 3rd of May", "The user's birthday is on the 3rd of May", "birthday"),
        ("my dog is called Rex", "The user's dog is Rex", ""),
    ],
)
def test_sentences_that_people_use_of_themselves_are_noted(said: str, note: str, about: str) -> None:
    [memory] = msgspec.convert(noted(said)["memories"], list[Memory])
    assert (memory.text, memory.about) == (note, about)


@pytest.mark.parametrize("said", ["What is my name?", "I work", "my name is not important", "Do I live in a dream?"])
def test_nothing_is_guessed(said: str) -> None:
    assert noted(said)["memories"] == []


def test_relatives_are_entities() -> None:
    notes = noted("My daughter is called Elsa")
    assert notes["entities"] == [{"name": "Elsa", "kind": "daughter"}]
    assert notes["relations"] == [{"subject": "user", "relation": "daughter", "object": "Elsa"}]


def test_the_summary_quotes_what_was_written_and_stays_short() -> None:
    assert noted("Hello there", "One more thing")["summary"] == "The user wrote: “Hello there” “One more thing”"
    summary = ""
    for number in range(100):
        summary = str(noted(f"Message {number} about something", summary=summary)["summary"])
    assert len(summary) <= offline_memory.SUMMARY_CHARS + 30
    assert summary.endswith("“Message 99 about something”")
