"""Two machines that answer each other stop by themselves: what leaves is counted, and refused beyond the ceiling."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from eventstore.events.messages import MessageReceived
from eventstore.events.replies import ReplyFailed
from eventstore.events.sms import SmsFailed, SmsSent
from eventstore.limits import Ceiling, Ceilings, Communications, Limits
from eventstore.schema import ConversationId, OrgId, Recorded
from tests.support.clock import Clock
from tests.support.workshop import ACME, ANN, ANNS_NUMBER, BEN, ScriptedModel, Workshop, says
from workers.model import UserMessage


def fates(count: int, events: Sequence[Recorded]) -> bool:
    """Whether so many messages have left or failed."""
    return sum(event.type in ("sms.sent", "sms.failed") for event in events) == count


async def test_a_talk_with_another_bot_ends_at_the_ceiling(shop: Workshop) -> None:
    """The other bot answers every text that it gets, at once, and never speaks first."""
    allow = Communications(Limits(shop.pipe), Ceilings(sms_per_number=Ceiling(8))).allow
    async with shop.worker(shop.services(may_reach=allow)):
        heard = 0
        while not shop.seen.bodies(SmsFailed):
            await shop.say("Thank you! How can I help you?", channel="sms")
            heard += 1
            await shop.seen.until(partial(fates, heard))
    assert len(shop.seen.bodies(SmsSent)) == 8
    assert [failed.code for failed in shop.seen.bodies(SmsFailed)] == ["RATE_LIMITED"]
    assert len(shop.seen.bodies(MessageReceived)) == 9, "nothing left after the ninth, so nothing came back"


async def test_a_ceiling_is_a_customers_own_and_opens_with_the_next_window(shop: Workshop) -> None:
    clock = Clock()
    ceilings = Ceilings(sms_per_number=Ceiling(2, 60), sms=Ceiling(0), calls_per_number=Ceiling(0), calls=Ceiling(1))
    allow = Communications(Limits(shop.pipe, now_ms=clock), ceilings).allow

    async def texts(conversation: ConversationId, org: OrgId = ACME) -> bool:
        return await allow(org, "sms", conversation)

    assert [await texts(ANN), await texts(ANN), await texts(ANN)] == [True, True, False]
    assert await texts(BEN)
    assert await texts(ANN, OrgId("other"))
    assert [await allow(ACME, "calls", ANN), await allow(ACME, "calls", BEN)] == [True, False], "counted apart"
    clock.advance(60_000)
    assert await texts(ANN)


async def test_no_number_stands_in_a_counters_name(shop: Workshop) -> None:
    allow = Communications(Limits(shop.pipe), Ceilings()).allow
    await allow(ACME, "sms", ANN)
    names = await shop.pipe.call("KEYS", "*limit*")
    assert names
    assert not [name for name in names if ANNS_NUMBER.encode().strip(b"+") in name]


async def test_beyond_the_ceiling_no_model_is_called_and_what_is_written_then_is_not_lost(shop: Workshop) -> None:
    clock = Clock()
    texts = Communications(Limits(shop.pipe, now_ms=clock), Ceilings(sms_per_number=Ceiling(1, 60)))
    model = ScriptedModel(says("Hello!"), says("Yes, both."))
    services = shop.services(model=model, may_reach=texts.allow, has_room=texts.has_room)
    async with shop.worker(services):
        await shop.say("Are you open?", channel="sms")
        await shop.seen.until_type("sms.sent")
        await shop.say("On Sunday too?", channel="sms")
        await shop.seen.until_type("reply.failed")
        assert len(model.requests) == 1
        clock.advance(60_000)
        await shop.say("Hello?", channel="sms")
        await shop.seen.until(partial(fates, 2))
    assert [failed.code for failed in shop.seen.bodies(ReplyFailed)] == ["RATE_LIMITED"]
    asked = [message.text for message in model.requests[1].messages if isinstance(message, UserMessage)]
    assert asked[-2:] == ["On Sunday too?", "Hello?"]
    assert "sms.failed" not in shop.seen.types


async def test_to_ask_for_room_takes_none(shop: Workshop) -> None:
    texts = Communications(Limits(shop.pipe), Ceilings(sms_per_number=Ceiling(2), sms=Ceiling(3)))
    assert [await texts.has_room(ACME, "sms", ANN) for _ in range(5)] == [True] * 5
    assert [await texts.allow(ACME, "sms", ANN) for _ in range(2)] == [True, True]
    assert [await texts.has_room(ACME, "sms", each) for each in (ANN, BEN)] == [False, True]
    assert await texts.allow(ACME, "sms", BEN)
    assert not await texts.has_room(ACME, "sms", BEN), "the organization's own is used up"
