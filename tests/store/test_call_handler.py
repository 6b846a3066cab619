"""Calls: at most one telephone rings, whatever happens between us and the provider."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import pytest

from eventstore.append import Append, Appended, Duplicate
from eventstore.events.calls import CallEnded, CallFailed, CallInitiated, CallRequested, CallStarted
from eventstore.events.contacts import ContactCreated
from eventstore.limits import Ceiling, Ceilings, Communications, Limits
from eventstore.provider_settings import ProviderSettings
from eventstore.schema import ConversationId, Event, OrgId, Position, Recorded
from projections.calls import Told, beginning
from tests.support.elevenlabs_api import AGENT, API_KEY, NUMBER_ID, ElevenLabsApi, elevenlabs_api
from tests.support.twilio_api import ACCOUNT, NUMBER, TOKEN, TwilioApi, twilio_api
from tests.support.workshop import ACME, ANN, ANNS_NUMBER, BEN, Workshop
from workers.clients.calls import CallProvider
from workers.clients.elevenlabs import ElevenLabs
from workers.clients.twilio import Connections, Twilio, TwilioAccount, twiml
from workers.handlers import call
from workers.retry import Backoff
from workers.work import Services

AT_ONCE = Backoff(1, 1)
HANDLERS = [call.handler(call.POLICY._replace(backoff=AT_ONCE), AT_ONCE)]
OWN = {"elevenlabs_api_key": API_KEY, "elevenlabs_agent_id": AGENT, "elevenlabs_phone_number_id": NUMBER_ID}


@pytest.fixture
async def api() -> AsyncIterator[ElevenLabsApi]:
    async with elevenlabs_api() as api:
        yield api


@pytest.fixture
async def twilio_stand_in() -> AsyncIterator[TwilioApi]:
    async with twilio_api() as api:
        yield api


@pytest.fixture
async def twilio(twilio_stand_in: TwilioApi) -> AsyncIterator[Twilio]:
    connections = Connections()
    account = TwilioAccount(ACCOUNT, TOKEN, NUMBER, twilio_stand_in.url, "https://acme.example/")
    yield Twilio(account, connections, timeout_s=1.0)
    await connections.close()


def agent(api: ElevenLabsApi) -> ElevenLabs:
    own = ElevenLabs.of(ProviderSettings(**OWN, elevenlabs_base_url=api.url))
    assert own is not None
    return own


def services(shop: Workshop, provider: CallProvider | None = None, **options: Any) -> Services:
    async def calls(org: OrgId) -> CallProvider | None:
        return provider

    async def name_of(org: OrgId) -> str:
        return "Acme & Sons"

    return shop.services(calls=calls, name_of=name_of, **options)


async def ask(shop: Workshop, conversation: ConversationId = ANN, *, epoch: int = 0) -> Position:
    body = CallRequested(call_id="call-1", epoch=epoch, to=ANNS_NUMBER)
    return await shop.put(Event(body, "client:1", conversation, lane=f"call:{conversation}"))


def fates(count: int, events: Sequence[Recorded]) -> bool:
    """Whether so many calls have come about or failed."""
    return sum(event.type in ("call.initiated", "call.failed") for event in events) == count


async def test_the_agent_calls_with_all_that_is_known_of_the_customer(shop: Workshop, api: ElevenLabsApi) -> None:
    ann = ContactCreated(contact_id="c1", first_name="Ann", last_name="Lee", phone=ANNS_NUMBER)
    await shop.put(Event(ann, "system:test"))
    run = await ask(shop)
    async with shop.worker(services(shop, agent(api)), handlers=HANDLERS):
        await shop.seen.until_type("call.initiated")
    [asked] = api.asked
    variables = asked.pop("conversation_initiation_client_data")["dynamic_variables"]
    assert asked == {"agent_id": AGENT, "agent_phone_number_id": NUMBER_ID, "to_number": ANNS_NUMBER}
    assert len(variables) == 9
    assert (variables["customer_name"], variables["organization_name"]) == ("Ann Lee", "Acme & Sons")
    assert variables["lead_status"] == "Existing Lead"
    [began] = shop.seen.bodies(CallInitiated)
    assert began == CallInitiated(
        call_sid=api.placed[0],
        direction="outbound",
        provider="elevenlabs",
        call_id="call-1",
        customer=ANNS_NUMBER,
    )
    assert {event.run for event in shop.seen.events if event.type.startswith("call.")} == {run}


async def test_without_an_agent_twilio_calls_and_says_who_called(
    shop: Workshop, twilio_stand_in: TwilioApi, twilio: Twilio
) -> None:
    await ask(shop)
    async with shop.worker(services(shop, twilio), handlers=HANDLERS):
        await shop.seen.until_type("call.initiated")
    assert twilio_stand_in.rings == [
        {
            "To": [ANNS_NUMBER],
            "From": [NUMBER],
            "Twiml": [twiml("Acme & Sons")],
            "StatusCallback": ["https://acme.example/api/webhooks/twilio/voice/status"],
            "StatusCallbackEvent": ["initiated", "ringing", "answered", "completed"],
        }
    ]
    assert "Acme &amp; Sons" in twiml("Acme & Sons")
    [began] = shop.seen.bodies(CallInitiated)
    assert (began.call_sid, began.number) == (twilio_stand_in.calls[0]["sid"], NUMBER)


async def test_without_a_provider_the_events_are_the_call(shop: Workshop) -> None:
    run = await ask(shop)
    async with shop.worker(services(shop), handlers=HANDLERS):
        await shop.seen.until_type("call.ended")
    [ended] = shop.seen.bodies(CallEnded)
    assert (ended.provider, ended.outcome) == ("outbox", "outbox")
    assert shop.seen.types == ["call.requested", "call.started", "call.initiated", "call.ended"]
    assert {event.run for event in shop.seen.events} == {run}


@pytest.mark.parametrize(("behaviour", "code"), [("refuse", "422"), ("decline", "NOT_PLACED")])
async def test_a_refusal_ends_the_run_and_is_not_repeated(
    shop: Workshop, api: ElevenLabsApi, behaviour: Any, code: str
) -> None:
    api.next(behaviour)
    await ask(shop)
    async with shop.worker(services(shop, agent(api)), handlers=HANDLERS):
        await shop.seen.until_type("call.failed")
    assert [failed.code for failed in shop.seen.bodies(CallFailed)] == [code]
    assert len(api.asked) == 1


async def test_what_certainly_did_not_ring_is_asked_for_again(shop: Workshop, api: ElevenLabsApi) -> None:
    api.next("too_many_requests", "too_many_requests")
    await ask(shop)
    async with shop.worker(services(shop, agent(api)), handlers=HANDLERS):
        await shop.seen.until_type("call.initiated")
    assert [started.attempt for started in shop.seen.bodies(CallStarted)] == [1, 2, 3]
    assert len(api.placed) == 1


async def test_a_provider_that_nobody_reaches_ends_the_run(shop: Workshop) -> None:
    gone = ElevenLabs(API_KEY, AGENT, NUMBER_ID, "http://127.0.0.1:9")
    await ask(shop)
    async with shop.worker(services(shop, gone), handlers=HANDLERS):
        await shop.seen.until_type("call.failed")
    assert [failed.code for failed in shop.seen.bodies(CallFailed)] == ["UNREACHABLE"]


@pytest.mark.parametrize("behaviour", ["place_and_drop", "unavailable", "html"])
async def test_what_may_have_rung_is_never_rung_again(shop: Workshop, api: ElevenLabsApi, behaviour: Any) -> None:
    api.next(behaviour)
    await ask(shop)
    async with shop.worker(services(shop, agent(api)), handlers=HANDLERS):
        await shop.seen.until_type("call.failed")
    assert [failed.code for failed in shop.seen.bodies(CallFailed)] == ["UNCERTAIN"]
    assert len(api.asked) == 1


async def test_twilios_lost_answer_is_uncertain_too(shop: Workshop, twilio_stand_in: TwilioApi, twilio: Twilio) -> None:
    twilio_stand_in.next("take_and_drop")
    await ask(shop)
    async with shop.worker(services(shop, twilio), handlers=HANDLERS):
        await shop.seen.until_type("call.failed")
    assert [failed.code for failed in shop.seen.bodies(CallFailed)] == ["UNCERTAIN"]
    assert len(twilio_stand_in.rings) == 1


async def test_a_lost_answer_is_no_matter_once_somebody_reports_the_call(shop: Workshop, api: ElevenLabsApi) -> None:
    api.next("place_and_drop")
    api.drops.clear()
    run = await ask(shop)
    async with shop.worker(services(shop, agent(api)), handlers=HANDLERS):
        await api.rung.wait()
        keyed = beginning(Told("CA1", "twilio", "outbound", "", NUMBER, ANNS_NUMBER), "call-1")
        reported = [Event(body, "provider:twilio", ANN, run) for body in keyed.bodies]
        await shop.log.append(ACME, Append(events=reported, idempotency=keyed.key))
        next_run = await ask(shop)  # behind it in the lane: when that has begun, the first is done with
        api.drops.set()
        await shop.seen.until(
            lambda events: [each for each in events if each.run == next_run and each.position > next_run]
        )
    assert not shop.seen.bodies(CallFailed)


async def test_the_report_and_the_workers_own_word_are_one_beginning(shop: Workshop) -> None:
    run = await ask(shop)
    told = Told("outbox:call-1", "twilio", "outbound", "", NUMBER, ANNS_NUMBER)
    keyed = beginning(told, "call-1")
    reported = [Event(body, "provider:twilio", BEN) for body in keyed.bodies]
    assert isinstance(await shop.log.append(ACME, Append(events=reported, idempotency=keyed.key)), Appended)
    async with shop.worker(services(shop), handlers=HANDLERS):
        await shop.seen.until_type("call.ended")
    assert len(shop.seen.bodies(CallInitiated)) == 1
    assert isinstance(await shop.log.append(ACME, Append(events=reported, idempotency=keyed.key)), Duplicate)
    assert [event.run for event in shop.seen.events if event.type == "call.ended"] == [run]


async def test_nobody_is_called_while_a_person_holds_the_conversation(shop: Workshop, api: ElevenLabsApi) -> None:
    await ask(shop)
    await shop.take_control()
    async with shop.worker(services(shop, agent(api)), handlers=HANDLERS):
        await shop.seen.until_type("call.failed")
    assert [failed.code for failed in shop.seen.bodies(CallFailed)] == ["HELD"]
    assert api.asked == []


async def test_a_request_of_before_a_person_came_and_went_is_void(shop: Workshop, api: ElevenLabsApi) -> None:
    await ask(shop)
    await shop.take_control()
    await shop.release_control()
    async with shop.worker(services(shop, agent(api)), handlers=HANDLERS):
        await shop.seen.until_type("call.failed")
    assert [failed.code for failed in shop.seen.bodies(CallFailed)] == ["HELD"]
    assert api.asked == []


async def test_calls_beyond_the_ceiling_are_refused_with_an_event(shop: Workshop, api: ElevenLabsApi) -> None:
    ceilings = Ceilings(calls_per_number=Ceiling(2), calls=Ceiling(3))
    allow = Communications(Limits(shop.pipe), ceilings).allow
    async with shop.worker(services(shop, agent(api), may_reach=allow), handlers=HANDLERS):
        for place, conversation in enumerate([ANN, ANN, ANN, BEN, BEN], start=1):
            await ask(shop, conversation)
            await shop.seen.until(partial(fates, place))
    assert [failed.code for failed in shop.seen.bodies(CallFailed)] == ["RATE_LIMITED"] * 2
    assert len(api.placed) == 3, "two of Ann's, and one of Ben's before the organization's own ceiling"
