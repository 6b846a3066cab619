"""Text messages: at most one leaves, whatever happens between us and the provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from eventstore.events.sms import SmsFailed, SmsRequested, SmsSent, SmsStarted, SmsStatusReported, SmsUncertain
from eventstore.provider_settings import ProviderSettings
from eventstore.schema import Event, Position
from tests.support.twilio_api import ACCOUNT, NUMBER, TOKEN, TwilioApi, twilio_api
from tests.support.workshop import ACME, ANN, ANNS_NUMBER, Workshop
from workers.clients.sms import Outgoing, Refused, Sent
from workers.clients.twilio import Connections, Twilio, TwilioAccount, TwilioClients
from workers.handlers import sms
from workers.retry import Backoff

AT_ONCE = Backoff(1, 1)
HANDLERS = [sms.handler(sms.POLICY._replace(backoff=AT_ONCE), AT_ONCE)]
LANE = f"send:{ANN}"


@pytest.fixture
async def api() -> AsyncIterator[TwilioApi]:
    async with twilio_api() as api:
        yield api


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    connections = Connections()
    yield connections
    await connections.close()


@pytest.fixture
async def twilio(api: TwilioApi, connections: Connections) -> Twilio:
    account = TwilioAccount(ACCOUNT, TOKEN, NUMBER, api.url, "https://acme.example")
    return Twilio(account, connections, timeout_s=1.0)


def intent(intent_id: str = "intent-1", text: str = "Yes, it is in stock.", epoch: int | None = None) -> Event:
    body = SmsRequested(
        intent_id=intent_id, message_id="m1", sent_by="assistant", epoch=epoch, to=ANNS_NUMBER, text=text
    )
    return Event(body, "assistant:test", ANN, lane=LANE)


async def test_a_message_leaves_once_and_asks_for_status_reports(
    shop: Workshop, api: TwilioApi, twilio: Twilio
) -> None:
    run = await shop.put(intent())
    async with shop.worker(shop.services(sms=twilio), handlers=HANDLERS):
        await shop.seen.until_type("sms.sent")
    assert api.forms == [
        {
            "To": ANNS_NUMBER,
            "From": NUMBER,
            "Body": "Yes, it is in stock.",
            "StatusCallback": "https://acme.example/api/webhooks/twilio/sms/status?intent=intent-1",
        }
    ]
    [sent] = shop.seen.bodies(SmsSent)
    assert (sent.provider, sent.provider_id, sent.status) == ("twilio", api.messages[0]["sid"], "queued")
    assert {event.run for event in shop.seen.events} == {run}


async def test_without_a_provider_the_event_is_the_message(shop: Workshop) -> None:
    await shop.put(intent())
    async with shop.worker(shop.services(), handlers=HANDLERS):
        await shop.seen.until_type("sms.sent")
    [sent] = shop.seen.bodies(SmsSent)
    assert (sent.provider, sent.provider_id, sent.text) == ("outbox", None, "Yes, it is in stock.")


async def test_a_number_that_opted_out_is_sent_nothing(shop: Workshop, api: TwilioApi, twilio: Twilio) -> None:
    shop.opted_out.add(ANNS_NUMBER)
    await shop.put(intent())
    async with shop.worker(shop.services(sms=twilio), handlers=HANDLERS):
        await shop.seen.until_type("sms.failed")
    assert [failed.code for failed in shop.seen.bodies(SmsFailed)] == ["OPTED_OUT"]
    assert api.forms == []


async def test_a_message_of_a_cancelled_run_never_leaves(shop: Workshop, api: TwilioApi, twilio: Twilio) -> None:
    await shop.put(intent(epoch=0))
    await shop.take_control()
    async with shop.worker(shop.services(sms=twilio), handlers=HANDLERS):
        await shop.seen.until_type("sms.failed")
    assert [failed.code for failed in shop.seen.bodies(SmsFailed)] == ["CANCELLED"]
    assert not shop.seen.bodies(SmsStarted)
    assert api.forms == []


async def test_a_refusal_is_final_and_quotes_no_number(shop: Workshop, api: TwilioApi, twilio: Twilio) -> None:
    api.next("unsubscribed")
    await shop.put(intent())
    async with shop.worker(shop.services(sms=twilio), handlers=HANDLERS):
        await shop.seen.until_type("sms.failed")
    assert shop.seen.bodies(SmsFailed)[0].code == "21610"
    assert len(api.forms) == 1


async def test_a_wrong_token_is_a_refusal(shop: Workshop, api: TwilioApi, connections: Connections) -> None:
    stranger = Twilio(TwilioAccount(ACCOUNT, "wrong", NUMBER, api.url), connections)
    await shop.put(intent())
    async with shop.worker(shop.services(sms=stranger), handlers=HANDLERS):
        await shop.seen.until_type("sms.failed")
    assert shop.seen.bodies(SmsFailed)[0].code == "20003"


async def test_what_was_turned_away_for_its_rate_is_sent_again(shop: Workshop, api: TwilioApi, twilio: Twilio) -> None:
    api.next("too_many_requests", "too_many_requests")
    await shop.put(intent())
    async with shop.worker(shop.services(sms=twilio), handlers=HANDLERS):
        await shop.seen.until_type("sms.sent")
    assert [started.attempt for started in shop.seen.bodies(SmsStarted)] == [1, 2, 3]
    assert len(api.messages) == 1


@pytest.mark.parametrize("behaviour", ["take_and_hang", "take_and_drop"])
async def test_a_message_that_left_without_an_answer_is_found(
    shop: Workshop, api: TwilioApi, twilio: Twilio, behaviour: str
) -> None:
    api.next(behaviour)  # type: ignore[arg-type]
    await shop.put(intent())
    async with shop.worker(shop.services(sms=twilio), handlers=HANDLERS):
        await shop.seen.until_type("sms.sent")
    assert len(api.forms) == len(api.messages) == 1
    assert shop.seen.bodies(SmsSent)[0].provider_id == api.messages[0]["sid"]


@pytest.mark.parametrize("behaviour", ["hang", "drop", "unavailable"])
async def test_a_message_whose_fate_is_unknown_is_never_sent_again(
    shop: Workshop, api: TwilioApi, twilio: Twilio, behaviour: str
) -> None:
    api.next(behaviour)  # type: ignore[arg-type]
    await shop.put(intent())
    async with shop.worker(shop.services(sms=twilio), handlers=HANDLERS):
        await shop.seen.until_type("sms.uncertain")
    assert len(api.forms) == 1
    assert [uncertain.intent_id for uncertain in shop.seen.bodies(SmsUncertain)] == ["intent-1"]


async def test_an_equal_message_sent_before_is_not_mistaken_for_this_one(
    shop: Workshop, api: TwilioApi, twilio: Twilio
) -> None:
    await shop.put(intent("intent-1", "Yes"))
    async with shop.worker(shop.services(sms=twilio), handlers=HANDLERS):
        await shop.seen.until_type("sms.sent")
        api.next("drop")
        await shop.put(intent("intent-2", "Yes"))
        await shop.seen.until_type("sms.uncertain")
    assert shop.seen.bodies(SmsUncertain)[0].intent_id == "intent-2"
    assert len(shop.seen.bodies(SmsSent)) == 1


async def test_a_status_report_proves_that_it_left(shop: Workshop, api: TwilioApi, twilio: Twilio) -> None:
    """A worker died after sending began; the carrier's report arrived before the next one looked."""
    at = await shop.put(intent())
    await _start_and_die(shop, at)
    report = SmsStatusReported(provider_id="SM9", status="delivered", intent_id="intent-1")
    await shop.put(Event(report, "provider:twilio", ANN))
    async with shop.worker(shop.services(sms=twilio), handlers=HANDLERS):
        await shop.seen.until_type("sms.sent")
    assert (shop.seen.bodies(SmsSent)[0].provider_id, api.forms) == ("SM9", [])


async def test_a_worker_that_dies_while_sending_leaves_no_second_message(
    shop: Workshop, api: TwilioApi, connections: Connections
) -> None:
    patient = Twilio(TwilioAccount(ACCOUNT, TOKEN, NUMBER, api.url), connections)
    api.next("take_and_hang")
    await shop.put(intent())
    async with shop.worker(shop.services(sms=patient), handlers=HANDLERS) as first:
        await shop.seen.until_type("sms.started")
        async with asyncio.timeout(5):
            await api.taken.wait()
        await first.crash()
    async with shop.worker(shop.services(sms=patient), handlers=HANDLERS):
        await shop.seen.until_type("sms.sent")
    assert len(api.forms) == len(api.messages) == 1


async def test_a_provider_that_refuses_connections_is_tried_a_few_times(
    shop: Workshop, connections: Connections
) -> None:
    nobody = Twilio(TwilioAccount(ACCOUNT, TOKEN, NUMBER, "http://127.0.0.1:1"), connections)
    await shop.put(intent())
    async with shop.worker(shop.services(sms=nobody), handlers=HANDLERS):
        await shop.seen.until_type("sms.failed")
    assert shop.seen.bodies(SmsFailed)[0].code == "UNREACHABLE"
    assert len(shop.seen.bodies(SmsStarted)) == sms.TRIES


async def test_a_message_without_any_number_of_ours_is_refused_and_not_tried(
    shop: Workshop, api: TwilioApi, connections: Connections
) -> None:
    numberless = Twilio(TwilioAccount(ACCOUNT, TOKEN, None, api.url), connections)
    await shop.put(intent())
    async with shop.worker(shop.services(sms=numberless), handlers=HANDLERS):
        await shop.seen.until_type("sms.failed")
    assert shop.seen.bodies(SmsFailed)[0].code == "NO_SENDER"
    assert api.forms == []


async def test_each_organizations_messages_leave_by_its_own_account(api: TwilioApi, connections: Connections) -> None:
    clients = TwilioClients(connections, None)
    ours = ProviderSettings(
        twilio_account_sid=ACCOUNT, twilio_auth_token=TOKEN, twilio_phone_number=NUMBER, twilio_base_url=api.url
    )
    theirs = msgspec.structs.replace(ours, twilio_auth_token="wrong")
    first, second = clients.of(ours), clients.of(theirs)
    assert first is not None
    assert second is not None
    assert clients.of(ours) is first
    assert isinstance(await first.send(Outgoing("i1", ANNS_NUMBER, "hello")), Sent)
    assert await second.send(Outgoing("i2", ANNS_NUMBER, "hello")) == Refused("20003", 401)
    assert clients.of(ProviderSettings()) is None


async def _start_and_die(shop: Workshop, at: Position) -> None:
    """What a worker leaves that was killed between `sms.started` and the outcome."""
    event = await shop.log.at(ACME, at)
    assert event is not None
    started = Event(SmsStarted(intent_id="intent-1"), sms.ACTOR, ANN, run=event.run, cause=event.position)
    await shop.put(started)
