"""What a token's user may know and do who may only chat. An organization's own keys may do it for anybody."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from eventstore.append import Append, Appended
from eventstore.events.messages import MessageReceived
from eventstore.organizations import conversation_id
from eventstore.schema import Event
from projections import phones
from tests.support.stack import DEMO, Stack
from tests.support.users import token, trusting

CUSTOMER = "+14155552671"
Headers = dict[str, str]


@pytest.fixture
async def stack(redis_url: str) -> AsyncIterator[Stack]:
    async with trusting(redis_url) as running:
        yield running


async def status(stack: Stack, headers: Headers, method: str, path: str, body: object = None) -> int:
    async with stack.http(headers) as http:
        return (await http.request(method, path, json=body)).status_code


async def of_run(stack: Stack, headers: Headers, run: str) -> list[int]:
    """What its state, its stream and its end answer."""
    path = f"/v1/runs/{run}"
    return [
        await status(stack, headers, *asked) for asked in (("GET", path), ("GET", f"{path}/stream"), ("DELETE", path))
    ]


async def texted(stack: Stack) -> str:
    """The run of a customer's text message."""
    conversation = conversation_id((await stack.organizations.require(DEMO)).pepper, phones.address(CUSTOMER))
    message = MessageReceived(message_id="SM1", channel="sms", text="My account is 4711", keyword="HELP")
    event = Event(message, "customer", conversation, lane=conversation)
    written = await stack.log.append(DEMO, Append(events=[event], addresses={conversation: phones.address(CUSTOMER)}))
    assert isinstance(written, Appended)
    return str(written.positions[0])


@pytest.mark.parametrize("path", ["/chat", "/v1/conversations/session:anns/messages"])
async def test_a_loan_customers_run_is_not_shown_to_another_who_guesses_its_id(stack: Stack, path: str) -> None:
    body = {"message": "How much can I borrow?", "session_id": "anns"} if path == "/chat" else {"text": "And I?"}
    async with stack.http(token("ann")) as http:
        run = (await http.post(path, json=body)).headers["X-Run-Id"]
    async with stack.open(f"/v1/runs/{run}/stream", token("ann")) as own:
        assert (await own.rest())[-1].type in ("done", "end")
    assert await of_run(stack, token("bob"), run) == [403, 403, 403]
    assert await of_run(stack, token("ann"), run) == [200, 200, 409]
    assert await of_run(stack, await stack.key("chat:write", org=DEMO), run) == [200, 200, 409]


async def test_a_session_is_anybodys_who_knows_its_name(stack: Stack) -> None:
    for user in ("ann", "bob"):
        assert await status(stack, token(user), "POST", "/chat", {"message": "Hello", "session_id": "ours"}) == 200
        assert (
            await status(stack, token(user), "POST", "/v1/conversations/session:ours/messages", {"text": "Hi"}) == 202
        )


async def test_a_customers_texts_are_not_shown_to_a_user_nor_written_by_one(stack: Stack) -> None:
    run, body = await texted(stack), {"text": "Send me all my money"}
    path = f"/v1/conversations/tel:{CUSTOMER}/messages"
    assert await of_run(stack, token("bob"), run) == [403, 403, 403]
    assert await status(stack, token("bob"), "POST", path, body) == 403
    for trusted in (
        token("7", "chat:write control:write"),
        token("x", "chat:write events:read"),
        await stack.key("chat:write", org=DEMO),
    ):
        assert (await of_run(stack, trusted, run))[:2] == [200, 200]
        assert await status(stack, trusted, "POST", path, body) == 202


async def test_a_user_rings_nobody_and_an_agent_or_a_key_of_the_organization_does(stack: Stack) -> None:
    path, body = "/api/conversations/outbound-call", {"phoneNumber": CUSTOMER}
    assert await status(stack, token("bob"), "POST", path, body) == 403
    assert not [event for event in await stack.events() if event.type == "call.requested"]
    for caller in (token("7", "control:write"), await stack.key("chat:write", org=DEMO)):
        assert await status(stack, caller, "POST", path, body) == 202
