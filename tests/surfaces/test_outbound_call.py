"""Calling a customer (002): a run that ends with the call, unless a person holds the conversation."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from eventstore import codec
from eventstore.events.calls import CallRequested
from eventstore.organizations import conversation_id
from eventstore.schema import ConversationId
from projections import control
from tests.support.stack import ACME, DEMO, Stack

PATH = "/api/conversations/outbound-call"
CUSTOMER = "+14155552671"


async def ask(stack: Stack, body: Any, headers: dict[str, str] | None = None) -> httpx.Response:
    async with stack.http(headers) as client:
        return await client.post(PATH, json=body)


async def requested(stack: Stack) -> list[CallRequested]:
    return [body for event in await stack.events() if isinstance(body := codec.decode(event), CallRequested)]


async def customers_conversation(stack: Stack) -> ConversationId:
    return conversation_id((await stack.organizations.require(DEMO)).pepper, f"tel:{CUSTOMER}")


async def test_a_call_is_accepted_as_a_run_that_ends_with_it(stack: Stack) -> None:
    answer = await ask(stack, {"phoneNumber": "+1 (415) 555-2671", "leadId": "lead_9"})
    assert answer.status_code == 202
    run = answer.headers["X-Run-Id"]
    assert answer.headers["Location"] == f"/v1/runs/{run}/stream"
    assert answer.json() == {
        "success": True,
        "run_id": run,
        "status": "accepted",
        "phoneNumber": CUSTOMER,
        "leadId": "lead_9",
    }
    async with stack.open(answer.headers["Location"], last=run) as stream:
        frames = await stream.rest()
    assert [frame.type for frame in frames] == ["call.started", "call.initiated", "call.ended", "end"]
    [asked] = await requested(stack)
    assert (asked.to, asked.lead, asked.epoch) == (CUSTOMER, "lead_9", 0)
    conversation = await customers_conversation(stack)
    assert {event.conversation for event in await stack.events() if event.type.startswith("call.")} == {conversation}


async def test_a_lead_is_called_at_its_own_number(stack: Stack) -> None:
    assert (await ask(stack, {"leadId": "contact_123"})).json()["phoneNumber"] == "+1234567890"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "NO_PHONE_NUMBER"),
        ({"leadId": "nobody"}, 422, "NO_PHONE_NUMBER"),
        ({"phoneNumber": "call me"}, 422, "BAD_PHONE_NUMBER"),
        ({"phoneNumber": []}, 422, "INVALID_BODY"),
        ({"phoneNumber": CUSTOMER, "organizationId": "acme"}, 403, "WRONG_ORGANIZATION"),
    ],
)
async def test_a_request_that_names_nobody_is_refused(stack: Stack, body: Any, status: int, code: str) -> None:
    answer = await ask(stack, body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.json()["success"] is False
    assert await requested(stack) == []


async def test_nobody_calls_into_a_conversation_that_a_person_holds(stack: Stack) -> None:
    conversation = await customers_conversation(stack)
    before = await ask(stack, {"phoneNumber": CUSTOMER}, {"Idempotency-Key": "before"})
    await control.take(stack.log, DEMO, conversation, control.Take("7", "Ann"))
    answer = await ask(stack, {"phoneNumber": CUSTOMER})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "HELD")
    repeated = await ask(stack, {"phoneNumber": CUSTOMER}, {"Idempotency-Key": "before"})
    assert (repeated.status_code, repeated.json()) == (202, before.json())
    await control.release(stack.log, DEMO, conversation, control.Release("7"))
    assert (await ask(stack, {"phoneNumber": CUSTOMER})).status_code == 202


async def test_the_same_request_again_is_the_same_call(stack: Stack) -> None:
    once = {"Idempotency-Key": "k1"}
    first, second = [await ask(stack, {"phoneNumber": CUSTOMER}, once) for _ in range(2)]
    assert first.headers["X-Run-Id"] == second.headers["X-Run-Id"]
    assert second.headers["Idempotency-Replayed"] == "true"
    assert (await ask(stack, {"phoneNumber": "+14155550123"}, once)).status_code == 422
    assert len(await requested(stack)) == 1


async def test_calling_needs_a_right_to_speak(stack: Stack) -> None:
    reader = await stack.key("events:read")
    assert (await ask(stack, {"phoneNumber": CUSTOMER}, reader)).status_code == 403
    assert (await ask(stack, {"phoneNumber": CUSTOMER}, {"X-Tenant-API-Key": "wrong"})).status_code == 401
    assert (await ask(stack, {"phoneNumber": CUSTOMER}, await stack.key("control:write"))).status_code == 202
    assert [event for event in await stack.events(ACME) if event.type == "call.requested"]
