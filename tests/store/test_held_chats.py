"""A chat in a person's hands: its runs stay open for that person, and each ends once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from eventstore import codec, keys
from eventstore.append import Appended, HeldBy, Outcome
from eventstore.events import TERMINAL_TYPES
from eventstore.events.messages import MessageSent
from eventstore.events.replies import ReplyAwaited, ReplyCompleted, ReplyDeferred, ReplyStarted
from eventstore.events.runs import RunCancelRequested
from eventstore.events.sms import SmsRequested, SmsStatusChanged, SmsStatusReported
from eventstore.log import Log
from eventstore.schema import ORIGIN, ConversationId, Event, OrgId, Position, Recorded
from projections import agent_messages
from projections.agent_messages import AgentMessage, waiting_lane
from projections.conversations import CONVERSATIONS
from projections.engine import Engine
from tests.support.workshop import ACME, ANN, ANNS_NUMBER, ScriptedModel, Workshop, says
from workers.handlers import HANDLERS, person
from workers.model import AssistantMessage, TextDelta, UserMessage
from workers.retry import Policy

SOON_S = 0.15
IMPATIENT = [each._replace(policy=Policy(3, "fail")) if each is person.HANDLER else each for each in HANDLERS]
"""Something else may be written between look and end, such as what memory has extracted, but not again and again."""


@pytest.fixture
def engine(shop: Workshop) -> Engine:
    return shop.services().engine


async def say_as_agent(
    shop: Workshop, engine: Engine, text: str, agent: str = "7", phone: str | None = None
) -> Outcome:
    message = AgentMessage(f"m-{text}", f"i-{text}", agent, "Berta", text, phone)
    return await agent_messages.say(shop.log, engine, ACME, ANN, message)


async def ends_of(shop: Workshop, run: Position) -> list[str]:
    facts = await shop.log.read_run(ACME, run, deltas=False)
    return [fact.type for fact in facts if fact.type in TERMINAL_TYPES]


async def ends(shop: Workshop) -> list[tuple[Position, str]]:
    """Of runs that got no answer of their own, in the order of the log."""
    await shop.seen.read_all()
    bodies = [(event.run, codec.decode(event)) for event in shop.seen.events]
    return [(run, body.reason) for run, body in bodies if isinstance(body, ReplyDeferred)]


async def many_that_wait(shop: Workshop) -> list[Position]:
    """More than one step ends."""
    runs = [await shop.say(f"Question {number}") for number in range(agent_messages.MOST_TOGETHER + 20)]
    await shop.seen.until_type("reply.awaited", len(runs))
    return runs


async def until_all_is_finished(shop: Workshop) -> None:
    async with asyncio.timeout(5):
        while await shop.pipe.call("HGET", keys.of(ACME).meta, "q") != b"0":  # noqa: ASYNC110 - leaves no event
            await asyncio.sleep(0.01)


async def until_ended(shop: Workshop, run: Position) -> None:
    await shop.seen.until(lambda events: any(each.run == run and each.type in TERMINAL_TYPES for each in events))


async def test_what_the_person_writes_is_shown_in_every_run_that_waits_and_ends_it(
    shop: Workshop, engine: Engine
) -> None:
    await shop.take_control()
    async with shop.worker(shop.services()):
        runs = [await shop.say("Is anybody there?"), await shop.say("Hello?")]
        await shop.seen.until_type("reply.awaited", 2)
        assert isinstance(await say_as_agent(shop, engine, "Berta here"), Appended)
    for run in runs:
        sent, ended = (await shop.log.read_run(ACME, run, deltas=False))[-2:]
        assert codec.decode(sent) == MessageSent(
            message_id="m-Berta here", agent="7", agent_name="Berta", text="Berta here"
        )
        assert codec.decode(ended) == ReplyDeferred(reason="control", message_id="m-Berta here")


async def test_of_very_many_runs_that_wait_the_earliest_are_told_by_their_lane(shop: Workshop, engine: Engine) -> None:
    await shop.take_control()
    async with shop.worker(shop.services(), handlers=IMPATIENT):
        runs = await many_that_wait(shop)
        said = await say_as_agent(shop, engine, "Berta here")
        assert isinstance(said, Appended)
        assert len(said.positions) == 2 * agent_messages.MOST_TOGETHER
        await until_all_is_finished(shop)
    assert sorted(await ends(shop)) == [(run, "control") for run in runs]
    told = shop.seen.bodies(ReplyDeferred)
    assert {end.message_id for end in told} == {"m-Berta here"}
    assert [end.text for end in told].count("Berta here") == 20


async def test_what_the_person_writes_while_nothing_waits_is_one_message(shop: Workshop, engine: Engine) -> None:
    await shop.take_control()
    outcome = await say_as_agent(shop, engine, "Welcome")
    assert isinstance(outcome, Appended)
    assert len(outcome.positions) == 1
    await shop.seen.read_all()
    assert shop.seen.types == ["control.taken", "message.sent"]


async def test_to_a_telephone_the_person_writes_a_text_message_from_the_number_that_was_written_to(
    shop: Workshop, engine: Engine
) -> None:
    await shop.say("Hello", channel="whatsapp")
    await shop.take_control()
    await say_as_agent(shop, engine, "Berta here", phone=ANNS_NUMBER)
    async with shop.worker(shop.services()):
        await shop.seen.until_type("sms.sent")
    [request] = shop.seen.bodies(SmsRequested)
    assert (request.to, request.from_number) == (f"whatsapp:{ANNS_NUMBER}", "whatsapp:+14155550100")
    assert (request.sent_by, request.agent_name, request.epoch) == ("agent", "Berta", None)


async def test_a_message_that_was_answered_before_its_run_could_wait_for_that_does_not_wait(
    shop: Workshop, engine: Engine
) -> None:
    await shop.take_control()
    run = await shop.say("Is anybody there?")
    await say_as_agent(shop, engine, "Berta here")
    async with shop.worker(shop.services()):
        ended = await shop.seen.until_type("reply.deferred")
    assert ended.run == run
    assert codec.decode(ended) == ReplyDeferred(reason="control", message_id="m-Berta here", text="Berta here")


async def test_an_answer_that_a_person_breaks_off_is_left_to_that_person(shop: Workshop, engine: Engine) -> None:
    run = await shop.say("Tell me a story")
    model = ScriptedModel([TextDelta("Once upon"), asyncio.Event()])
    async with shop.worker(shop.services(model=model)):
        await shop.seen.until_type("reply.delta")
        taken = await shop.take_control()
        await shop.seen.until_type("reply.awaited")
        assert isinstance(await say_as_agent(shop, engine, "Berta here"), Appended)
        await until_ended(shop, run)
    facts = await shop.log.read_run(ACME, run, taken)
    assert [fact.type for fact in facts] == ["reply.awaited", "message.sent", "reply.deferred"]
    assert shop.seen.bodies(ReplyAwaited) == [ReplyAwaited(deadline_s=120, interrupted=True)]
    document = await (await engine.level(ACME, CONVERSATIONS)).get(ANN)
    assert document is not None
    assert (document.open_replies, document.awaited, document.unanswered) == ({}, (), ())


async def test_only_the_holder_writes(shop: Workshop, engine: Engine) -> None:
    assert await say_as_agent(shop, engine, "Me too") == HeldBy("", 0)
    await shop.take_control()
    assert await say_as_agent(shop, engine, "Me too", agent="8") == HeldBy("7", 1)


async def test_a_run_that_nobody_answers_ends_at_its_deadline_without_occupying_a_worker(shop: Workshop) -> None:
    await shop.take_control()
    async with shop.worker(shop.services(reply_deadline_s=SOON_S), places=1):
        run = await shop.say("Is anybody there?")
        awaited = await shop.seen.until_type("reply.awaited")
        await shop.say("STOP", keyword="STOP", conversation=ANN)
        await shop.seen.until_type("reply.deferred", 2)
        ended = shop.seen.events[-1]
    assert ended.run == run
    assert ended.position.ms - awaited.position.ms >= SOON_S * 1_000
    assert codec.decode(ended) == ReplyDeferred(reason="control")


async def test_when_the_person_leaves_one_answer_covers_the_runs_that_wait(shop: Workshop) -> None:
    await shop.take_control()
    model = ScriptedModel(says("I am back"))
    async with shop.worker(shop.services(model=model)):
        runs = [await shop.say("Is anybody there?"), await shop.say("Hello?")]
        await shop.seen.until_type("reply.awaited", 2)
        left = await shop.release_control()
        await shop.seen.until_type("reply.deferred", 2)
    [completed] = shop.seen.bodies(ReplyCompleted)
    [started] = shop.seen.bodies(ReplyStarted)
    assert started.context_until == str(runs[-1])
    assert (
        shop.seen.bodies(ReplyDeferred)
        == [ReplyDeferred(reason="covered", by=str(left), message_id=completed.message_id, text="I am back")] * 2
    )
    assert [await ends_of(shop, run) for run in runs] == [["reply.deferred"]] * 2


async def test_however_many_runs_wait_they_end_in_order_and_at_nearly_the_first_attempt(shop: Workshop) -> None:
    await shop.take_control()
    async with shop.worker(shop.services(), handlers=IMPATIENT):
        runs = await many_that_wait(shop)
        await shop.release_control()
        await shop.seen.until_type("reply.deferred", len(runs))
        await until_all_is_finished(shop)
    assert await ends(shop) == [(run, "covered") for run in runs]
    assert shop.seen.types.count("reply.completed") == 1
    assert "work.failed" not in shop.seen.types
    before = [event for event in shop.seen.events if event.type != "reply.deferred"]
    assert [end.run for end in person.ends_of(before, 0)] == runs, "a single look ends them all"


async def test_a_worker_that_dies_while_runs_end_leaves_the_others_to_the_next(shop: Workshop) -> None:
    await shop.take_control()
    async with shop.worker(shop.services()) as first:
        runs = await many_that_wait(shop)
        await shop.release_control()
        await shop.seen.until_type("reply.deferred")
        await first.crash()
    async with shop.worker(shop.services()):
        await shop.seen.until_type("reply.deferred", len(runs))
        await until_all_is_finished(shop)
    assert await ends(shop) == [(run, "covered") for run in runs]
    assert shop.seen.types.count("reply.completed") == 1


async def test_a_person_who_comes_back_breaks_the_answer_off_and_the_runs_wait_on(shop: Workshop) -> None:
    await shop.take_control()
    model = ScriptedModel([TextDelta("I am"), asyncio.Event()], says("I am back"))
    async with shop.worker(shop.services(model=model), handlers=IMPATIENT):
        runs = [await shop.say("Is anybody there?"), await shop.say("Hello?")]
        await shop.seen.until_type("reply.awaited", 2)
        await shop.release_control()
        await shop.seen.until_type("reply.delta")
        await shop.take_control()
        await shop.seen.until_type("reply.cancelled")
        runs.append(await shop.say("Still there?"))
        await shop.seen.until_type("reply.awaited", 3)
        await shop.release_control()
        await shop.seen.until_type("reply.deferred", 3)
    assert await ends(shop) == [(run, "covered") for run in runs]
    assert {each.text for each in shop.seen.bodies(ReplyDeferred)} == {"I am back"}


async def test_deadlines_that_pass_together_end_each_run_once_and_at_the_first_attempt(shop: Workshop) -> None:
    await shop.take_control()
    runs = [await shop.say(f"Question {number}") for number in range(40)]
    async with shop.worker(shop.services(reply_deadline_s=SOON_S), handlers=IMPATIENT):
        await shop.seen.until_type("reply.deferred", len(runs))
        await until_all_is_finished(shop)
    assert await ends(shop) == [(run, "control") for run in runs]
    assert "work.failed" not in shop.seen.types
    awaited = {event.run: event.position for event in shop.seen.events if event.type == "reply.awaited"}
    assert {event.run: event.cause for event in shop.seen.events if event.type == "reply.deferred"} == awaited


async def test_what_the_person_has_answered_is_not_answered_again_but_known(shop: Workshop, engine: Engine) -> None:
    await shop.take_control()
    model = ScriptedModel(says("Certainly"))
    async with shop.worker(shop.services(model=model)):
        await shop.say("Is anybody there?")
        await shop.seen.until_type("reply.awaited")
        await say_as_agent(shop, engine, "Berta here")
        await shop.release_control()
        await shop.seen.until(lambda events: b'"nothing_open"' in events[-1].data if events else False)
        await shop.say("Thank you")
        await shop.seen.until_type("reply.completed")
    assert model.requests[0].messages == [
        UserMessage("Is anybody there?"),
        AssistantMessage("Berta here"),
        UserMessage("Thank you"),
    ]


async def test_an_agents_word_and_the_deadline_at_once_end_a_run_once(shop: Workshop, engine: Engine) -> None:
    await shop.take_control()
    async with shop.worker(shop.services(reply_deadline_s=0.05)):
        for turn in range(8):
            run = await shop.say("Hello?")
            await shop.seen.until_type("reply.awaited", turn + 1)
            await asyncio.gather(*(say_as_agent(shop, engine, f"{turn}-{at}") for at in range(3)))
            await until_ended(shop, run)
    await shop.seen.read_all()
    ends = [event.run for event in shop.seen.events if event.type in TERMINAL_TYPES]
    assert len(ends) == len(set(ends)) == 8


async def test_an_agents_word_after_the_look_at_a_deadline_is_the_end(shop: Workshop, engine: Engine) -> None:
    class Slow(Log):
        async def read_conversation(
            self, org: OrgId, conversation: ConversationId, after: Position = ORIGIN
        ) -> list[Recorded]:
            events = await super().read_conversation(org, conversation, after)
            await say_as_agent(shop, engine, "Berta here")
            return events

    await shop.take_control()
    async with shop.worker(replace(shop.services(reply_deadline_s=0), log=Slow(shop.pipe))):
        run = await shop.say("Hello?")
        await until_ended(shop, run)
        await until_all_is_finished(shop)
    assert await ends(shop) == [(run, "control")]
    assert [each.message_id for each in shop.seen.bodies(ReplyDeferred)] == ["m-Berta here"]


async def test_a_waiting_run_that_its_client_ends_is_cancelled_and_the_one_before_it_waits_on(shop: Workshop) -> None:
    await shop.take_control()
    lanes = shop.lanes()
    async with shop.worker(shop.services()):
        first, second = await shop.say("Hello?"), await shop.say("Hello?!")
        await shop.seen.until_type("reply.awaited", 2)
        await shop.put(Event(RunCancelRequested(), "client:1", ANN, second))
        async with asyncio.timeout(5):
            while not await ends_of(shop, second):
                await lanes.hasten(ACME, waiting_lane(ANN))  # in vain until the worker has put it aside
                await asyncio.sleep(0.01)
    assert [await ends_of(shop, run) for run in (first, second)] == [[], ["reply.cancelled"]]


async def test_statuses_of_a_text_are_told_in_their_order_however_they_come(shop: Workshop) -> None:
    async def report(status: str, intent: str | None = "intent", provider_id: str = "SM1") -> None:
        reported = SmsStatusReported(provider_id=provider_id, status=status, intent_id=intent)
        await shop.put(Event(reported, "provider:twilio", ANN, lane=f"status:{ANN}"))

    asked = SmsRequested(intent_id="intent", message_id="m", sent_by="agent", to=ANNS_NUMBER, text="hi")
    await shop.put(Event(asked, "agent:7", ANN))
    for status in ("sending", "delivered", "sent", "queued", "delivered", "undelivered", "nonsense", "sent", "read"):
        await report(status)
    async with shop.worker(shop.services()):
        await shop.seen.until_type("sms.status_changed", 3)
    assert [each.status for each in shop.seen.bodies(SmsStatusChanged)] == ["sending", "delivered", "read"]
    assert {each.message_id for each in shop.seen.bodies(SmsStatusChanged)} == {"m"}
