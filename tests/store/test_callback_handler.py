"""Callbacks: posted once the run is over, signed, again while they fail, and given up visibly."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from eventstore.events.callbacks import (
    CallbackDeadLettered,
    CallbackDelivered,
    CallbackFailed,
    CallbackRequested,
    CallbackStarted,
)
from eventstore.events.replies import ReplyCompleted
from eventstore.schema import Event
from projections import agent_messages
from projections.agent_messages import AgentMessage
from projections.callback_urls import Allowed
from tests.support.receiver import Received, Receiver, receiving
from tests.support.workshop import ACME, ANN, ScriptedModel, Workshop, says
from workers.clients.callback import NOT_PUBLIC, CallbackClient, Delivery, signature
from workers.handlers import callback, person, reply
from workers.model import StepDone, TextDelta
from workers.retry import Schedule

VECTOR = Path(__file__).parents[1] / "fixtures" / "standard_webhook_vector.json"
LOCAL = CallbackClient(Allowed.parse(["127.0.0.0/8"]))
AT_ONCE = callback.handler(Schedule((0.01, 0.01)))
HANDLERS = (reply.HANDLER, AT_ONCE)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


def is_signed(received: Received, secret: str) -> bool:
    """By the rule as it is published."""
    head = received.headers["webhook-id"], received.headers["webhook-timestamp"]
    signed = f"{head[0]}.{head[1]}.".encode() + received.body
    digest = hmac.new(base64.b64decode(secret.removeprefix("whsec_")), signed, "sha256").digest()
    return received.headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()


def test_the_published_vector_has_this_signature() -> None:
    vector = json.loads(VECTOR.read_text())
    headers = vector["headers"]
    delivery = Delivery(headers["webhook-id"], "", vector["body"].encode(), vector["secret"])
    assert signature(delivery, int(headers["webhook-timestamp"])) == headers["webhook-signature"]


async def test_an_answer_is_posted_signed_when_its_run_is_over(shop: Workshop, receiver: Receiver) -> None:
    run = await shop.say("Hello", callback_url=receiver.url, assistant="staff_id")
    services = shop.services(model=ScriptedModel(says("Good day")), callbacks=LOCAL)
    async with shop.worker(services, handlers=HANDLERS):
        await shop.seen.until_type("callback.delivered")
    [received] = receiver.received
    [completed] = shop.seen.bodies(ReplyCompleted)
    [asked] = [event for event in shop.seen.events if event.type == "callback.requested"]
    [ended] = [event for event in shop.seen.events if event.type == "reply.completed"]
    body = json.loads(received.body)
    assert (body["type"], body.keys()) == ("reply.completed", {"type", "timestamp", "data"})
    assert body["data"] == {
        "run_id": str(run), "message_id": completed.message_id, "content": "Good day", "detail": None,
        "staff_id": "staff_id", "in_reply_to": "in-1",
    }  # fmt: skip
    assert received.headers["webhook-id"] == str(asked.position)
    assert is_signed(received, await services.providers.callback_secret(ACME))
    assert asked.run == ended.run == run
    assert asked.number == (ended.number or 0) + 1, "in one step with the end of the run"


async def test_without_a_url_nothing_is_asked_for(shop: Workshop) -> None:
    await shop.say("Hello")
    async with shop.worker(shop.services(model=ScriptedModel(says("Hi")))):
        await shop.seen.until_type("reply.completed")
    assert "callback.requested" not in shop.seen.types


async def test_a_failure_is_told_too(shop: Workshop, receiver: Receiver) -> None:
    await shop.say("Hello", callback_url=receiver.url)
    gate = asyncio.Event()
    model = ScriptedModel([TextDelta("Wait"), gate, StepDone("Wait")])
    async with shop.worker(shop.services(model=model, callbacks=LOCAL, reply_deadline_s=0.05), handlers=HANDLERS):
        await shop.seen.until_type("callback.delivered")
    body = json.loads(receiver.received[0].body)
    assert body["type"] == "reply.failed"
    assert (body["data"]["message_id"], body["data"]["detail"]) == (None, "no answer within 0.05 s")


async def test_what_a_person_answers_is_posted(shop: Workshop, receiver: Receiver) -> None:
    await shop.take_control()
    await shop.say("Hello", callback_url=receiver.url)
    services = shop.services(callbacks=LOCAL)
    async with shop.worker(services, handlers=(*HANDLERS, person.HANDLER)):
        await shop.seen.until_type("reply.awaited")
        written = AgentMessage("m-7", "intent-7", "7", "Kim", "I am on it")
        await agent_messages.say(shop.log, services.engine, ACME, ANN, written)
        await shop.seen.until_type("callback.delivered")
    body = json.loads(receiver.received[0].body)
    assert body["type"] == "reply.deferred"
    assert (body["data"]["message_id"], body["data"]["content"]) == ("m-7", "I am on it")


async def test_attempts_repeat_the_same_bytes_under_the_same_id(shop: Workshop, receiver: Receiver) -> None:
    receiver.statuses = [500, 302]
    receiver.headers = {"Location": receiver.url + "/elsewhere"}
    await shop.say("Hello", callback_url=receiver.url)
    async with shop.worker(shop.services(callbacks=LOCAL), handlers=HANDLERS):
        await shop.seen.until_type("callback.delivered")
    first, second, third = receiver.received
    assert first.body == second.body == third.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == third.headers["webhook-id"]
    assert [(failed.status, failed.error) for failed in shop.seen.bodies(CallbackFailed)] == [
        (500, "HTTP 500"),
        (302, "HTTP 302"),
    ]
    assert [started.attempt for started in shop.seen.bodies(CallbackStarted)] == [1, 2, 3]
    assert [delivered.attempt for delivered in shop.seen.bodies(CallbackDelivered)] == [3]


async def test_what_fails_to_the_end_is_a_dead_letter_until_it_is_delivered_again(
    shop: Workshop, receiver: Receiver
) -> None:
    receiver.statuses = [503, 503, 503]
    run = await shop.say("Hello", callback_url=receiver.url)
    services = shop.services(callbacks=LOCAL)
    async with shop.worker(services, handlers=HANDLERS):
        await shop.seen.until_type("callback.dead_lettered")
        [dead] = shop.seen.bodies(CallbackDeadLettered)
        assert (dead.attempts, dead.error) == (3, "HTTP 503")
        again = CallbackRequested(url=receiver.url, redelivers=dead.callback)
        await shop.put(Event(again, "client:1", ANN, run, lane=f"callback:{run}"))
        await shop.seen.until_type("callback.delivered")
    assert {received.headers["webhook-id"] for received in receiver.received} == {dead.callback}
    assert {received.body for received in receiver.received} == {receiver.received[0].body}


async def test_a_receiver_that_is_gone_for_good_is_not_asked_again(shop: Workshop, receiver: Receiver) -> None:
    receiver.statuses = [410]
    await shop.say("Hello", callback_url=receiver.url)
    async with shop.worker(shop.services(callbacks=LOCAL), handlers=HANDLERS):
        await shop.seen.until_type("callback.dead_lettered")
    assert len(receiver.received) == 1
    assert "work.failed" not in shop.seen.types


class Rebinding(AbstractResolver):
    """A name that means this machine by the time it is connected to."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0),
        ]

    async def close(self) -> None:
        pass


async def test_a_name_that_resolves_into_our_network_is_never_connected_to(shop: Workshop, receiver: Receiver) -> None:
    url = receiver.url.replace("127.0.0.1", "hooks.example.com")
    await shop.say("Hello", callback_url=url)
    client = CallbackClient(Allowed(), resolver=Rebinding())
    async with shop.worker(shop.services(callbacks=client), handlers=HANDLERS):
        await shop.seen.until_type("callback.dead_lettered")
    assert receiver.received == []
    assert [failed.error for failed in shop.seen.bodies(CallbackFailed)] == [NOT_PUBLIC]


@pytest.mark.parametrize("host", ["127.0.0.1", "[::ffff:127.0.0.1]", "localhost"])
async def test_no_way_to_write_this_machine_is_connected_to(receiver: Receiver, host: str) -> None:
    url = receiver.url.replace("127.0.0.1", host)
    answer = await CallbackClient(Allowed()).post(Delivery("1-0", url, b"{}", "whsec_AA=="), 1)
    assert answer.error == NOT_PUBLIC
    assert receiver.received == []


async def test_a_host_that_is_excepted_is_connected_to_wherever_it_is(receiver: Receiver) -> None:
    url = receiver.url.replace("127.0.0.1", "hooks.internal")
    client = CallbackClient(Allowed.parse(["hooks.internal"]), resolver=Rebinding())
    assert (await client.post(Delivery("1-0", url, b"{}", "whsec_AA=="), 1)).is_accepted


async def test_a_receiver_may_ask_for_patience(receiver: Receiver) -> None:
    receiver.statuses, receiver.headers = [429], {"Retry-After": "7"}
    answer = await LOCAL.post(Delivery("1-0", receiver.url, b"{}", "whsec_AA=="), 1)
    assert (answer.status, answer.error, answer.after_s, answer.is_final) == (429, "HTTP 429", 7.0, False)


async def test_nobody_listening_is_an_attempt_like_others() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        answer = await LOCAL.post(Delivery("1-0", url, b"{}", "whsec_AA=="), 1)
    assert (answer.status, answer.is_final) == (None, False)
    assert answer.error == "ClientConnectorError"


def test_pauses_grow_over_hours() -> None:
    pauses = [callback.PAUSES.delay_ms(attempt, 0.0) for attempt in range(1, 8)]
    assert pauses == sorted(pauses)
    assert sum(pauses[:-1]) > 15 * 3_600_000
    assert callback.PAUSES.delay_ms(1, 0.0, after_s=60) == 60_000
    assert callback.HANDLER.policy.max_attempts == 7
