"""Memory at work: extracted every ten messages beside the conversation, and told to the answers that follow."""

from __future__ import annotations

import json

import pytest

from eventstore.events.memory import Memory, MemoryExtracted, MemoryFailed, MemoryRequested
from eventstore.events.replies import ReplyCompleted, ToolCall, Usage
from projections.memory import MEMORY
from tests.support.anthropic_api import anthropic_api, claude_at, message, refused, text, tool_use
from tests.support.workshop import ACME, ANN, BEN, Piece, ScriptedModel, Workshop, says
from workers.handlers import HANDLERS, memory
from workers.model import StepDone, UserMessage
from workers.offline_memory import REMEMBER
from workers.retry import Backoff

QUICK = memory.HANDLER._replace(policy=memory.POLICY._replace(max_attempts=2, backoff=Backoff(1, 1)))
QUICKLY = (*(handler for handler in HANDLERS if handler is not memory.HANDLER), QUICK)


def takes_notes(**notes: object) -> list[Piece]:
    return [
        StepDone("", (ToolCall("t1", REMEMBER, {"summary": "", "memories": [], **notes}),), "tool_use", Usage(7, 3))
    ]


async def talk(shop: Workshop, *texts: str) -> None:
    """One message after the other, each answered before the next."""
    for said in texts:
        answered = len(shop.seen.bodies(ReplyCompleted))
        await shop.say(said)
        await shop.seen.until_type("reply.completed", answered + 1)


async def test_the_tenth_message_asks_for_an_extraction_in_its_own_step(shop: Workshop) -> None:
    notes = takes_notes(summary="Small talk", memories=[{"text": "Likes tea", "topics": ["drink"]}])
    model = ScriptedModel(*[says("Yes")] * 5, notes)
    async with shop.worker(shop.services(model=model)):
        await talk(shop, "one", "two", "three", "four", "five")
        await shop.seen.until_type("memory.extracted")
    assert shop.seen.bodies(MemoryRequested) == [MemoryRequested(messages=10)]
    [extracted] = shop.seen.bodies(MemoryExtracted)
    assert (extracted.summary, extracted.model, extracted.usage) == ("Small talk", "scripted", Usage(7, 3))
    assert extracted.memories == [Memory(text="Likes tea", topics=["drink"])]
    [asked] = [event for event in shop.seen.events if event.type == "memory.requested"]
    fifth = [event for event in shop.seen.events if event.type == "reply.completed"][-1]
    assert asked.number == (fifth.number or 0) + 1
    material = json.loads(str(model.requests[-1].messages[0].text))  # type: ignore[union-attr]
    assert [line["text"] for line in material["messages"]] == [
        "one", "Yes", "two", "Yes", "three", "Yes", "four", "Yes", "five", "Yes",
    ]  # fmt: skip
    assert [line["by"] for line in material["messages"]] == ["user", "assistant"] * 5


async def test_what_was_extracted_is_told_to_later_answers_of_this_conversation_alone(shop: Workshop) -> None:
    notes = takes_notes(summary="About Ann", memories=[{"text": "The user's name is Ann", "about": "name"}])
    model = ScriptedModel(*[says("Yes")] * 5, notes, says("Ann"), says("No idea"))
    async with shop.worker(shop.services(model=model)):
        await talk(shop, "one", "two", "three", "four", "five")
        await shop.seen.until_type("memory.extracted")
        await talk(shop, "What is my name?")
        await shop.say("What is my name?", BEN)
        await shop.seen.until_type("reply.completed", 7)
    *_, ann, ben = model.requests
    assert "So far: About Ann" in ann.notes
    assert "- The user's name is Ann (" in ann.notes
    assert (ben.messages, ben.notes) == ([UserMessage("What is my name?")], "")


async def test_offline_notes_are_taken_and_recalled_too(shop: Workshop) -> None:
    async with shop.worker(shop.services()):
        await talk(shop, "My name is Ann Berg", "I live in Oslo", "My dog is called Rex", "I like tea", "Thanks")
        await shop.seen.until_type("memory.extracted")
        await talk(shop, "What do you remember about me and my dog?")
    assert "The user's dog is Rex" in shop.seen.bodies(ReplyCompleted)[-1].text
    remembered = await (await shop.services().engine.level(ACME, MEMORY)).get(ANN)
    assert remembered is not None
    assert [entity.name for entity in remembered.entities] == ["Rex"]


@pytest.mark.parametrize(
    "answer",
    [says("I would rather talk"), [StepDone("", (ToolCall("t", REMEMBER, {"memories": "none"}),), "tool_use")], []],
    ids=["no notes", "notes of another form", "a stream that breaks off"],
)
async def test_a_failed_extraction_is_an_event_and_its_messages_are_taken_by_the_next(
    shop: Workshop, answer: list[Piece]
) -> None:
    model = ScriptedModel(*[says("Yes")] * 5, answer, answer, *[says("Yes")] * 5, takes_notes(summary="All"))
    async with shop.worker(shop.services(model=model), handlers=QUICKLY):
        await talk(shop, "one", "two", "three", "four", "five")
        await shop.seen.until_type("memory.failed")
        await talk(shop, "six", "seven", "eight", "nine", "ten")
        await shop.seen.until_type("memory.extracted")
    assert len(shop.seen.bodies(MemoryFailed)) == 1
    material = json.loads(str(model.requests[-1].messages[0].text))  # type: ignore[union-attr]
    assert [line["text"] for line in material["messages"] if line["by"] == "user"] == [
        "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    ]  # fmt: skip


async def test_the_next_extraction_gets_the_notes_and_only_what_is_new(shop: Workshop) -> None:
    notes = takes_notes(summary="So far", memories=[{"text": "Likes tea"}])
    model = ScriptedModel(*[says("Yes")] * 5, notes, *[says("Yes")] * 5, takes_notes())
    async with shop.worker(shop.services(model=model)):
        await talk(shop, "one", "two", "three", "four", "five")
        await shop.seen.until_type("memory.extracted")
        await talk(shop, "six", "seven", "eight", "nine", "ten")
        await shop.seen.until_type("memory.extracted", 2)
    material = json.loads(str(model.requests[-1].messages[0].text))  # type: ignore[union-attr]
    assert (material["summary"], material["memories"]) == ("So far", [{"text": "Likes tea"}])
    assert material["messages"][0] == {"by": "user", "text": "six"}


async def test_claude_hands_its_notes_over_by_a_tool_call(shop: Workshop) -> None:
    notes = {"summary": "Tea", "memories": [{"text": "Likes tea", "about": "", "topics": ["drink"]}]}
    async with anthropic_api() as api, claude_at(api.url, silence_s=5) as claude:
        api.next(*[message(text("Yes"))] * 5)
        api.next(
            message(tool_use("toolu_1", REMEMBER, json.dumps(notes)), stop_reason="tool_use"), message(text("Tea"))
        )
        async with shop.worker(shop.services(model=claude)):
            await talk(shop, "one", "two", "three", "four", "five")
            await shop.seen.until_type("memory.extracted")
            await talk(shop, "What do I drink?")
    assert not api.faults
    [extracted] = shop.seen.bodies(MemoryExtracted)
    assert (extracted.summary, extracted.memories) == ("Tea", [Memory(text="Likes tea", topics=["drink"])])
    asked, told = api.requests[-2:]
    assert [tool["name"] for tool in asked["tools"]] == [REMEMBER]
    prompt, remembered = told["system"]
    assert "cache_control" in prompt
    assert "cache_control" not in remembered
    assert "- Likes tea (" in remembered["text"]


async def test_a_model_that_refuses_for_good_is_not_asked_again(shop: Workshop) -> None:
    async with anthropic_api() as api, claude_at(api.url, silence_s=5) as claude:
        api.next(*[message(text("Yes"))] * 5)
        api.next(refused(401))
        async with shop.worker(shop.services(model=claude)):
            await talk(shop, "one", "two", "three", "four", "five")
            await shop.seen.until_type("memory.failed")
    assert "work.failed" not in shop.seen.types


async def test_nothing_personal_is_in_the_public_part(shop: Workshop) -> None:
    notes = takes_notes(summary="Ann's secret", memories=[{"text": "secret"}], entities=[{"name": "secret"}])
    async with shop.worker(shop.services(model=ScriptedModel(*[says("Yes")] * 5, notes))):
        await talk(shop, "one", "two", "three", "four", "five")
        extracted = await shop.seen.until_type("memory.extracted")
    assert b"secret" not in extracted.data
    assert extracted.personal.count(b"secret") == 3
