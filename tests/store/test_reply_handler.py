"""Answers: each step once, shown as stored, and silent as soon as a person speaks."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from hashlib import sha256

import pytest

from eventstore import codec
from eventstore.events import TERMINAL_TYPES
from eventstore.events.messages import Channel, MessageReceived
from eventstore.events.replies import (
    ReplyAwaited,
    ReplyCancelled,
    ReplyCompleted,
    ReplyDeferred,
    ReplyDelta,
    ReplyFailed,
    ReplyRestarted,
    ReplyStarted,
    ReplyStepped,
    ToolCall,
)
from eventstore.events.sms import SmsRequested
from eventstore.events.tools import ToolCompleted
from eventstore.schema import Event, Recorded
from tests.support.workshop import ACME, ANN, ANNS_NUMBER, Bench, Piece, ScriptedModel, Workshop, says
from workers.model import StepDone, TextDelta, UserMessage
from workers.tool_call import Answered, Call


def shown(events: list[Recorded]) -> str:
    """What a client shows that follows the stream: deltas, begun again at each restart."""
    text = ""
    for event in events:
        match codec.decode(event):
            case ReplyRestarted(text=restart):
                text = restart
            case ReplyDelta(text=more):
                text += more
    return text


async def test_an_answer_is_started_streamed_and_completed(shop: Workshop) -> None:
    run = await shop.say("Hello there")
    async with shop.worker(shop.services(model=ScriptedModel(says("Good ", "day")))):
        await shop.seen.until_type("reply.completed")
    [completed] = shop.seen.bodies(ReplyCompleted)
    assert completed.text == shown(shop.seen.events) == "Good day"
    assert completed.deltas_digest == sha256(b"Good day").hexdigest()
    assert {event.run for event in shop.seen.events} == {run}
    assert all(event.cause == run for event in shop.seen.events[1:])
    assert "sms.requested" not in shop.seen.types


async def test_the_first_token_does_not_wait_for_the_rest(shop: Workshop) -> None:
    gate = asyncio.Event()
    await shop.say("Hello")
    model = ScriptedModel([TextDelta("Well"), gate, TextDelta(", hello"), StepDone("Well, hello")])
    async with shop.worker(shop.services(model=model)):
        first = await shop.seen.until_type("reply.delta")
        gate.set()
        await shop.seen.until_type("reply.completed")
    assert codec.decode(first) == ReplyDelta(attempt=1, index=0, text="Well")
    assert [delta.index for delta in shop.seen.bodies(ReplyDelta)] == [0, 1]


async def test_an_answer_to_a_text_message_asks_for_a_text_message(shop: Workshop) -> None:
    await shop.say("Hello", channel="sms")
    async with shop.worker(shop.services(model=ScriptedModel(says("Hi Ann")))):
        await shop.seen.until_type("sms.sent")
    [request] = shop.seen.bodies(SmsRequested)
    [completed] = shop.seen.bodies(ReplyCompleted)
    assert (request.to, request.text, request.sent_by) == (ANNS_NUMBER, "Hi Ann", "assistant")
    assert request.message_id == completed.message_id
    assert request.epoch == 0


async def test_three_quick_messages_get_one_answer_that_has_seen_all(shop: Workshop) -> None:
    first = await shop.say("My name is Ann")
    await shop.say("I am looking for a bike")
    last = await shop.say("A red one")
    model = ScriptedModel(says("A red bike for Ann"))
    async with shop.worker(shop.services(model=model)):
        await shop.seen.until_type("reply.deferred", 2)
    [started] = shop.seen.bodies(ReplyStarted)
    assert started.context_until == str(last)
    [completed] = shop.seen.bodies(ReplyCompleted)
    covered = ReplyDeferred(reason="covered", by=str(first), message_id=completed.message_id, text=completed.text)
    assert shop.seen.bodies(ReplyDeferred) == [covered] * 2
    assert [m.text for m in model.requests[0].messages if isinstance(m, UserMessage)] == [
        "My name is Ann",
        "I am looking for a bike",
        "A red one",
    ]


async def test_a_message_that_comes_during_the_answer_is_answered_after_it(shop: Workshop) -> None:
    gate = asyncio.Event()
    await shop.say("First")
    model = ScriptedModel([TextDelta("One"), gate, StepDone("One")], says("Two"))
    async with shop.worker(shop.services(model=model)):
        await shop.seen.until_type("reply.delta")
        await shop.say("Second")
        gate.set()
        await shop.seen.until_type("reply.completed", 2)
    assert [completed.text for completed in shop.seen.bodies(ReplyCompleted)] == ["One", "Two"]
    assert model.requests[1].messages[-1] == UserMessage("Second")


async def test_a_keyword_is_not_answered(shop: Workshop) -> None:
    await shop.say("STOP", channel="sms", keyword="STOP")
    async with shop.worker(shop.services()):
        await shop.seen.until_type("reply.deferred")
    assert shop.seen.bodies(ReplyDeferred) == [ReplyDeferred(reason="keyword")]


@pytest.mark.parametrize("channel", ["sms", "whatsapp"])
async def test_who_has_opted_out_costs_no_answer_that_could_not_be_sent(shop: Workshop, channel: Channel) -> None:
    shop.opted_out.add(ANNS_NUMBER)
    model = ScriptedModel(says("Hello!"))
    async with shop.worker(shop.services(model=model)):
        await shop.say("Are you open?", channel=channel)
        await shop.seen.until_type("reply.failed")
        assert not model.requests
        shop.opted_out.clear()
        await shop.say("And now?", channel=channel)
        await shop.seen.until_type("reply.completed")
    assert [failed.code for failed in shop.seen.bodies(ReplyFailed)] == ["OPTED_OUT"]
    assert "sms.failed" not in shop.seen.types


async def test_who_has_opted_out_of_texts_may_chat(shop: Workshop) -> None:
    shop.opted_out.add(ANNS_NUMBER)
    await shop.say("Are you open?")
    async with shop.worker(shop.services()):
        await shop.seen.until_type("reply.completed")


async def test_while_a_person_holds_the_conversation_the_assistant_is_silent(shop: Workshop) -> None:
    await shop.take_control()
    await shop.say("Are you human?", channel="sms")
    async with shop.worker(shop.services()):
        await shop.seen.until_type("reply.deferred")
    assert shop.seen.bodies(ReplyDeferred) == [ReplyDeferred(reason="control")]


async def test_what_is_open_when_a_person_leaves_is_answered_once(shop: Workshop) -> None:
    await shop.take_control()
    await shop.say("Is anybody there?", channel="sms")
    await shop.say("Hello?", channel="sms")
    model = ScriptedModel(says("I am back"))
    async with shop.worker(shop.services(model=model)):
        await shop.seen.until_type("reply.deferred", 2)
        await shop.release_control()
        await shop.seen.until_type("reply.completed")
        await shop.take_control()
        await shop.release_control()
        await shop.say("STOP", keyword="STOP")  # behind the release on the same lane
        await shop.seen.until_type("reply.deferred", 3)
    assert [m.text for m in model.requests[0].messages if isinstance(m, UserMessage)] == ["Is anybody there?", "Hello?"]
    assert len(shop.seen.bodies(ReplyCompleted)) == 1


async def test_what_an_agent_has_answered_is_not_open(shop: Workshop) -> None:
    await shop.take_control()
    await shop.say("Is anybody there?", channel="sms")
    answer = SmsRequested(intent_id="i", message_id="m", sent_by="agent", to=ANNS_NUMBER, text="Yes, me")
    await shop.put(Event(answer, "agent:7", ANN))
    await shop.release_control()
    await shop.say("STOP", keyword="STOP")
    async with shop.worker(shop.services()):
        await shop.seen.until_type("reply.deferred", 2)
    assert not shop.seen.bodies(ReplyStarted)


async def test_control_taken_in_mid_answer_ends_it_without_another_word(shop: Workshop) -> None:
    await shop.say("Tell me a story", channel="sms")
    model = ScriptedModel([TextDelta("Once upon"), asyncio.Event()])
    async with shop.worker(shop.services(model=model)):
        await shop.seen.until_type("reply.delta")
        taken = await shop.take_control()
        cancelled = await shop.seen.until_type("reply.cancelled")
    assert [event.type for event in shop.seen.events if event.position > taken] == ["reply.cancelled"]
    assert cancelled.position.ms - taken.ms < 1_000
    assert shop.seen.bodies(ReplyCancelled) == [ReplyCancelled(reason="control")]
    assert "sms.requested" not in shop.seen.types


async def test_a_model_that_talks_on_after_control_was_taken_is_not_heard(shop: Workshop) -> None:
    """Noticed by the fence of the append, before any renewal could."""
    gate = asyncio.Event()
    await shop.say("Tell me a story", channel="sms")
    model = ScriptedModel([TextDelta("Once upon"), gate, TextDelta(" a time"), StepDone("Once upon a time")])
    services = shop.services(model=model)
    async with shop.worker(services):
        await shop.seen.until_type("reply.delta")
        taken = await shop.take_control()
        gate.set()
        await shop.seen.until_type("reply.cancelled")
    assert [event.type for event in shop.seen.events if event.position > taken] == ["reply.cancelled"]


async def test_an_answer_begun_before_a_take_and_a_release_is_broken_off_too(shop: Workshop) -> None:
    gate = asyncio.Event()
    await shop.say("Hello")
    model = ScriptedModel([TextDelta("Old"), gate, StepDone("Old")], says("New"))
    async with shop.worker(shop.services(model=model)):
        await shop.seen.until_type("reply.delta")
        await shop.take_control()
        await shop.release_control()
        gate.set()
        await shop.seen.until_type("reply.completed")
    assert [completed.text for completed in shop.seen.bodies(ReplyCompleted)] == ["New"]
    assert shop.seen.bodies(ReplyAwaited) == [ReplyAwaited(deadline_s=120, interrupted=True)]


async def test_a_turn_that_died_after_its_tools_goes_on_without_running_them_again(shop: Workshop) -> None:
    calls = (ToolCall("c1", "add", {"n": 1}), ToolCall("c2", "add", {"n": 2}))

    async def add(call: Call) -> Answered:
        return Answered(call.arguments["n"] + 1)

    bench = Bench(add=add)
    dies = ScriptedModel([TextDelta("Let me see."), StepDone("", calls)], [TextDelta("It "), asyncio.Event()])
    lives = ScriptedModel(says("It is five"))
    await shop.say("Add")
    async with shop.worker(shop.services(model=dies, tools=bench)) as first:
        await shop.seen.until_type("reply.delta", 2)
        await first.crash()
    async with shop.worker(shop.services(model=lives, tools=bench)):
        await shop.seen.until_type("reply.completed")
    [completed] = shop.seen.bodies(ReplyCompleted)
    assert completed.text == shown(shop.seen.events) == "Let me see.\n\nIt is five"
    assert completed.deltas_digest == sha256(completed.text.encode()).hexdigest()
    assert len(bench.called) == 2
    assert len(lives.requests) == 1
    assert lives.requests[0].step == 2
    assert [restarted.attempt for restarted in shop.seen.bodies(ReplyRestarted)] == [2]


@pytest.mark.parametrize("recorded", range(1, 10))
async def test_a_crash_between_any_two_steps_repeats_no_finished_tool(shop: Workshop, recorded: int) -> None:
    """A worker dies as soon as so many facts of a turn with two tools are on the log; another one goes on."""
    scripts: list[list[Piece]] = [
        [TextDelta("Hm."), StepDone("", (ToolCall("c1", "look", {}),))],
        [TextDelta("Aha."), StepDone("", (ToolCall("c2", "look", {}),))],
        says("So."),
    ]

    async def look(call: Call) -> Answered:
        return Answered({"found": call.call_id})

    def facts(events: list[Recorded]) -> int:
        return len([event for event in events if event.is_fact])

    await shop.say("Find it")
    async with shop.worker(shop.services(model=ScriptedModel(*scripts), tools=Bench(look=look))) as worker:
        await shop.seen.until(lambda events: facts(events) >= recorded)
        await worker.crash()
    await shop.seen.read_all()
    if "reply.completed" not in shop.seen.types:
        rest = ScriptedModel(*scripts[shop.seen.types.count("reply.stepped") :])
        async with shop.worker(shop.services(model=rest, tools=Bench(look=look))):
            await shop.seen.until_type("reply.completed")
    [completed] = shop.seen.bodies(ReplyCompleted)
    assert completed.text == shown(shop.seen.events) == "Hm.\n\nAha.\n\nSo."
    assert completed.deltas_digest == sha256(completed.text.encode()).hexdigest()
    assert [tool.call_id for tool in shop.seen.bodies(ToolCompleted)] == ["c1", "c2"]
    assert [step.step for step in shop.seen.bodies(ReplyStepped)] == [1, 2]


async def test_a_model_that_breaks_off_is_asked_again_and_the_text_begins_anew(shop: Workshop) -> None:
    await shop.say("Hello")
    model = ScriptedModel([TextDelta("Goo"), ConnectionError("gone")], [TextDelta("Goo")], says("Good day"))
    async with shop.worker(shop.services(model=model)):
        await shop.seen.until_type("reply.completed")
    assert shown(shop.seen.events) == "Good day"
    assert [restarted.text for restarted in shop.seen.bodies(ReplyRestarted)] == ["", ""]


async def test_an_answer_that_takes_too_long_fails_with_a_timeout(shop: Workshop) -> None:
    await shop.say("Hello")
    model = ScriptedModel([TextDelta("Well"), asyncio.Event()])
    async with shop.worker(shop.services(model=model, reply_deadline_s=0.1)):
        await shop.seen.until_type("reply.failed")
    assert [failed.code for failed in shop.seen.bodies(ReplyFailed)] == ["TIMEOUT"]


@pytest.mark.parametrize(("channel", "outcome"), [("chat", "reply.failed"), ("sms", "reply.completed")])
async def test_who_chats_waits_no_longer_for_several_attempts_than_for_one(
    shop: Workshop, channel: Channel, outcome: str
) -> None:
    """The pause before the second attempt is longer than the deadline."""
    await shop.say("Hello", channel=channel)
    model = ScriptedModel([ConnectionError("gone")], says("Good day"))
    async with shop.worker(shop.services(model=model, reply_deadline_s=0.1)):
        await shop.seen.until(lambda events: any(event.type in TERMINAL_TYPES for event in events))
    [ended] = [event.type for event in shop.seen.events if event.type in TERMINAL_TYPES]
    assert ended == outcome
    assert [failed.code for failed in shop.seen.bodies(ReplyFailed)] == ["TIMEOUT"] * (channel == "chat")


async def test_the_offline_assistant_answers_end_to_end(shop: Workshop) -> None:
    async def get_contact_by_phone(call: Call) -> Answered:
        return Answered({"name": "Ann Lee", "phone": call.arguments["phone"]})

    await shop.say("Who am I?", channel="sms")
    async with shop.worker(shop.services(tools=Bench(get_contact_by_phone=get_contact_by_phone))):
        await shop.seen.until_type("sms.sent")
    [completed] = shop.seen.bodies(ReplyCompleted)
    assert "Ann Lee" in completed.text
    assert ANNS_NUMBER in completed.text


async def test_the_text_of_a_message_is_only_among_its_personal_data(shop: Workshop) -> None:
    at = await shop.say("a secret")
    recorded = await shop.log.at(ACME, at)
    assert recorded is not None
    assert b"secret" not in recorded.data
    assert isinstance(codec.decode(recorded), MessageReceived)


async def test_a_text_is_answered_at_once_while_the_clock_is_behind_the_log(shop: Workshop) -> None:
    """As for an hour after it was set back by one: positions stand still, and are later than now."""
    await shop.say("Hello", channel="sms")
    behind = replace(shop.services(settle_s=0.1), now_ms=lambda: time.time_ns() // 1_000_000 - 3_600_000)
    async with shop.worker(behind), asyncio.timeout(5):
        await shop.seen.until_type("sms.sent")
