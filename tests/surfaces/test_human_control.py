"""Human control (document 002): who speaks, told by the surface, and silence of the assistant from then on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jwt
import pytest

from edges.jwt import JwtSettings
from eventstore.schema import OrgId, Position
from tests.support import twilio_api
from tests.support.product import twilio_sms
from tests.support.stack import ACME, DEMO, Stack, stacked
from tests.support.twilio_api import ACCOUNT, NUMBER, TOKEN
from tests.support.workshop import Gate, ScriptedModel, says
from workers.clients.sms import SmsProvider
from workers.clients.twilio import Connections, Twilio, TwilioAccount
from workers.model import StepDone, TextDelta

PHONE = "+14155550177"
CONTROL = "/api/conversations/human-control"
INCOMING = "/api/webhooks/twilio/sms/incoming"
SECRET = "a secret that the issuer shares, of 32 or more"
ANN, BEN = {"agentId": "7", "agentName": "Ann"}, {"agentId": "8", "agentName": "Ben"}


@pytest.fixture
async def stack(redis_url: str) -> AsyncIterator[Stack]:
    async with stacked(redis_url, work=False) as running:
        await running.organizations.map_number(DEMO, NUMBER)
        yield running


@pytest.fixture
async def http(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with stack.http() as http:
        yield http


async def ask(http: httpx.AsyncClient, what: str, agent: dict[str, str], **more: str) -> httpx.Response:
    return await http.post(f"{CONTROL}/{what}", json={"phoneNumber": PHONE, **agent, **more})


async def status(http: httpx.AsyncClient, of: str = PHONE) -> dict[str, Any]:
    response = await http.get(f"{CONTROL}/status/{of}")
    assert response.status_code == 200, response.text
    return dict(response.json())


async def text(http: httpx.AsyncClient, words: str, sid: str = "SM1") -> None:
    assert (await http.post(INCOMING, data=twilio_sms(words, sid=sid, sender=PHONE))).status_code == 200


async def log_of(stack: Stack) -> list[str]:
    return [event.type for event in await stack.events()]


# The answers


async def test_joining_tells_who_speaks_since_when_and_what_waits(stack: Stack, http: httpx.AsyncClient) -> None:
    await text(http, "Is anybody there?")
    response = await ask(http, "join", ANN)
    body = response.json()
    assert response.status_code == 200
    assert list(body) == ["success", "phoneNumber", "agentId", "agentName", "since", "queued"]
    assert (body["success"], body["phoneNumber"], body["agentId"], body["agentName"]) == (True, PHONE, "7", "Ann")
    [queued] = body["queued"]
    assert list(queued) == ["id", "content", "sentBy", "messageType", "timestamp"]
    assert (queued["id"], queued["content"], queued["sentBy"]) == ("SM1", "Is anybody there?", "user")
    held = await status(http)
    assert held == {
        "success": True,
        "humanControl": True,
        "agentId": "7",
        "agentName": "Ann",
        "since": body["since"],
        "queued": body["queued"],
    }


async def test_the_same_agent_may_join_again(http: httpx.AsyncClient) -> None:
    first, again = [(await ask(http, "join", ANN)) for _ in range(2)]
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()


async def test_another_agent_is_told_who_holds_it(http: httpx.AsyncClient) -> None:
    await ask(http, "join", ANN)
    for refused in (
        await ask(http, "join", BEN),
        await ask(http, "leave", BEN),
        await ask(http, "send-message", BEN, message="Hi"),
    ):
        body = refused.json()
        assert (refused.status_code, body["success"], body["error"]["code"]) == (409, False, "HELD")
        assert "Ann" in body["error"]["message"]


async def test_who_has_not_joined_neither_writes_nor_leaves(http: httpx.AsyncClient) -> None:
    for refused in (await ask(http, "leave", ANN), await ask(http, "send-message", ANN, message="Hi")):
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "NOT_HELD")


async def test_leaving_tells_what_the_assistant_is_left_with(http: httpx.AsyncClient) -> None:
    joined = (await ask(http, "join", ANN)).json()
    await text(http, "Hello?")
    left = (await ask(http, "leave", {"agentId": "7"})).json()
    assert (left["since"], left["agentName"]) == (joined["since"], "Ann")
    assert [message["content"] for message in left["queued"]] == ["Hello?"]
    nobody = {"humanControl": False, "agentId": None, "agentName": None, "since": None}
    assert await status(http) == {"success": True, **nobody, "queued": left["queued"]}


async def test_of_a_number_that_never_wrote_nothing_is_known(http: httpx.AsyncClient) -> None:
    nobody = {"humanControl": False, "agentId": None, "agentName": None, "since": None}
    assert await status(http, "%2B14155550999") == {"success": True, **nobody, "queued": []}


@pytest.mark.parametrize(
    "body",
    [
        {"phoneNumber": PHONE},
        {"phoneNumber": "nobody", "agentId": "7"},
        {"agentId": "7"},
        {"phoneNumber": PHONE, "agentId": "7\0", "message": "Hello"},
        {"phoneNumber": PHONE, "agentId": "7\n8", "message": "Hello"},
        {"phoneNumber": PHONE, "agentId": "7", "message": " "},
        {"phoneNumber": PHONE, "agentId": "7", "message": "x" * 1_601},
    ],
)
async def test_what_is_missing_or_wrong_is_named_in_the_documents_shape(
    http: httpx.AsyncClient, body: dict[str, str]
) -> None:
    response = await http.post(f"{CONTROL}/send-message", json=body)
    assert response.status_code == 422
    assert response.json()["success"] is False
    assert set(response.json()["error"]) == {"message", "code"}


async def test_who_may_only_read_takes_nothing_over(stack: Stack) -> None:
    async with stack.http(await stack.key("events:read")) as http:
        assert (await ask(http, "join", ANN)).status_code == 403
        assert (await http.get(f"{CONTROL}/status/{PHONE}")).status_code == 200


async def test_a_token_of_their_own_says_who_the_agent_is(redis_url: str) -> None:
    claims = {"sub": "user-9", "org": "demo", "scope": "control:write", "exp": int(time.time()) + 60}
    token = {"Authorization": f"Bearer {jwt.encode(claims, SECRET, 'HS256')}"}
    async with stacked(redis_url, work=False, jwt=JwtSettings(SECRET)) as stack, stack.http(token) as http:
        joined = await ask(http, "join", {"agentId": "somebody else", "agentName": "Ann"})
        assert (joined.status_code, joined.json()["agentId"]) == (200, "user-9")
        assert (await http.post(f"{CONTROL}/leave", json={"phoneNumber": PHONE})).json()["agentId"] == "user-9"
        assert {event.actor for event in await stack.events()} == {"agent:user-9"}


async def test_another_organization_has_conversations_of_its_own(stack: Stack, http: httpx.AsyncClient) -> None:
    await ask(http, "join", ANN)
    async with stack.http(await stack.key("control:write")) as elsewhere:
        assert (await ask(elsewhere, "join", BEN)).status_code == 200
        assert (await ask(elsewhere, "join", BEN, organizationId="demo")).status_code == 403
    assert len(await stack.events(ACME)) == 1


async def test_a_request_repeated_with_its_key_is_answered_as_before_and_done_once(
    stack: Stack, http: httpx.AsyncClient
) -> None:
    body = {"phoneNumber": PHONE, **ANN}
    for step in ("join", "send-message", "leave"):
        sent = {**body, "message": "Hello"} if step == "send-message" else body
        first, again = [
            await http.post(f"{CONTROL}/{step}", json=sent, headers={"Idempotency-Key": "k"}) for _ in range(2)
        ]
        assert (first.status_code, again.status_code) == (200, 200)
        assert again.headers["Idempotency-Replayed"] == "true"
        assert first.json() == again.json()
    other = await http.post(f"{CONTROL}/join", json={**body, "agentId": "9"}, headers={"Idempotency-Key": "k"})
    assert (other.status_code, other.json()["error"]["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert await log_of(stack) == ["control.taken", "sms.requested", "control.released"]


# Of two exactly one


async def join(http: httpx.AsyncClient, body: dict[str, str]) -> httpx.Response:
    """By a client that comes again when it is told to: Redis may have been silent for a moment."""
    once = {"Idempotency-Key": f"{body['agentId']} {body['phoneNumber']}"}
    while (answer := await http.post(f"{CONTROL}/join", json=body, headers=once)).status_code == 503:  # noqa: ASYNC110
        await asyncio.sleep(float(answer.headers["Retry-After"]))
    return answer


@pytest.mark.parametrize("edges", [1, 2])
async def test_of_two_agents_who_join_at_the_same_instant_exactly_one_wins_every_time(stack: Stack, edges: int) -> None:
    async with stack.edge() as second, stack.http() as one, httpx.AsyncClient(base_url=second.url, verify=False) as two:
        other = two if edges == 2 else one
        for turn in range(100):
            body = {"phoneNumber": f"+1415556{turn:04d}"}
            both = await asyncio.gather(join(one, body | ANN), join(other, body | BEN))
            assert sorted(response.status_code for response in both) == [200, 409]
            winner, loser = sorted(both, key=lambda response: response.status_code)
            assert winner.json()["agentName"] in loser.json()["error"]["message"]
    assert await log_of(stack) == ["control.taken"] * 100


# Silence


@pytest.fixture
async def twilio(stack: Stack) -> AsyncIterator[twilio_api.TwilioApi]:
    """Workers that start from now on send by Twilio's stand-in, through its SDK."""
    connections = Connections()
    async with twilio_api.twilio_api() as api:
        client = Twilio(TwilioAccount(ACCOUNT, TOKEN, NUMBER, api.url), connections)

        async def sms(org: OrgId) -> SmsProvider | None:
            return client

        stack.work["sms"] = sms
        yield api
        await connections.close()


async def test_of_an_answer_in_flight_not_a_token_is_heard_after_the_join_and_no_text_leaves(
    stack: Stack, http: httpx.AsyncClient, twilio: twilio_api.TwilioApi
) -> None:
    gate: Gate = asyncio.Event()
    words = [TextDelta(f"word {n} ") for n in range(200)]
    stack.model = ScriptedModel([*words[:20], gate, *words[20:], StepDone("".join(w.text for w in words))], says("Yes"))
    feed = f"/v1/conversations/tel:{PHONE}/stream"
    async with stack.worker(), stack.open(feed) as client:
        await text(http, "Tell me a story")
        await client.until("reply.delta")
        joined = await ask(http, "join", ANN)
        gate.set()
        await client.until("reply.cancelled")
        assert joined.status_code == 200
        await ask(http, "send-message", ANN, message="Ann here")
        await client.until("sms.sent")
    events = await stack.events()
    [taken] = [event.position for event in events if event.type == "control.taken"]
    spoken = [e.type for e in events if e.position > taken and e.actor.startswith(("assistant:", "system:worker"))]
    assert spoken == ["reply.cancelled"]
    assert [message["body"] for message in twilio.messages] == ["Ann here"]


async def test_leaving_hands_back_what_is_open_and_it_is_answered_once(
    stack: Stack, http: httpx.AsyncClient, twilio: twilio_api.TwilioApi
) -> None:
    stack.model = ScriptedModel(says("We open at nine"))
    await ask(http, "join", ANN)
    async with stack.worker(), stack.open(f"/v1/conversations/tel:{PHONE}/stream") as client:
        await text(http, "When do you open?", "SM1")
        await text(http, "On Monday?", "SM2")
        await client.until("reply.deferred")
        await ask(http, "leave", ANN)
        await client.until("sms.sent")
    assert [message["body"] for message in twilio.messages] == ["We open at nine"]
    assert (await status(http))["queued"] == []


async def test_a_keyword_waits_for_nobody(stack: Stack, http: httpx.AsyncClient) -> None:
    await ask(http, "join", ANN)
    async with stack.worker(), stack.open(f"/v1/conversations/tel:{PHONE}/stream") as client:
        await text(http, "STOP")
        await client.until("reply.deferred")
        assert (await ask(http, "leave", ANN)).json()["queued"] == []
        await client.until("reply.deferred")
    [conversation] = (await http.get("/v1/conversations")).json()["conversations"]
    assert conversation["state"] == "quiet"


async def test_an_id_that_names_no_conversation_cannot_be_joined(stack: Stack, http: httpx.AsyncClient) -> None:
    response = await http.post(f"{CONTROL}/join", json={"phoneNumber": "conv_nobody", **ANN})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "CONVERSATION_NOT_FOUND")
    assert await log_of(stack) == []


@pytest.mark.parametrize("gap_s", [0.0, 0.05])
async def test_three_texts_in_a_row_get_one_answer_that_has_seen_all_three(
    stack: Stack, http: httpx.AsyncClient, twilio: twilio_api.TwilioApi, gap_s: float
) -> None:
    """With a worker that is idle and takes the first one at once."""
    model = stack.model = ScriptedModel(says("A red bike, gladly"))
    stack.work["settle_s"] = 0.25
    async with stack.worker(), stack.open(f"/v1/conversations/tel:{PHONE}/stream") as client:
        for number, words in enumerate(("Hello", "I want a bike", "A red one")):
            await text(http, words, f"SM{number}")
            await asyncio.sleep(gap_s)
        seen: list[str] = []
        while seen.count("reply.deferred") < 2 or "sms.sent" not in seen:
            seen += [frame.type for frame in await client.take(1)]
    assert seen.count("reply.completed") == 1
    assert [message["body"] for message in twilio.messages] == ["A red bike, gladly"]
    [request] = model.requests
    assert len(request.messages) == 3


# Chats


async def test_in_a_held_chat_the_persons_message_is_the_answer(stack: Stack, http: httpx.AsyncClient) -> None:
    chat = {"phoneNumber": "session:abc", **ANN}
    async with stack.worker(), stack.http() as agent:
        assert (await agent.post(f"{CONTROL}/join", json=chat)).json()["phoneNumber"] == "session:abc"
        async with stack.open(
            "/v1/conversations/session:abc/messages", {"Accept": "text/event-stream"}, json={"text": "Anybody?"}
        ) as client:
            await client.until("reply.awaited")
            assert [m["content"] for m in (await status(agent, "session:abc"))["queued"]] == ["Anybody?"]
            sent = await agent.post(f"{CONTROL}/send-message", json={**chat, "message": "Ann here"})
            frames = await client.rest()
    assert sent.json()["queued"] == []
    assert [frame.type for frame in frames] == ["message.sent", "reply.deferred", "end"]
    assert frames[0].data["data"]["text"] == "Ann here"
    assert frames[1].data["data"]["message_id"] == frames[0].data["data"]["message_id"]


async def test_two_messages_of_the_agent_at_once_end_a_run_once(stack: Stack, http: httpx.AsyncClient) -> None:
    chat = {"phoneNumber": "session:abc", **ANN}
    await http.post(f"{CONTROL}/join", json=chat)
    async with stack.worker(), stack.open("/v1/conversations/session:abc/stream") as client:
        posted = await http.post("/v1/conversations/session:abc/messages", json={"text": "Anybody?"})
        await client.until("reply.awaited")
        both = await asyncio.gather(
            *(http.post(f"{CONTROL}/send-message", json={**chat, "message": words}) for words in ("One", "Two"))
        )
    assert [response.status_code for response in both] == [200, 200]
    run = Position.parse(posted.json()["run_id"])
    assert [e.type for e in await stack.log.read_run(DEMO, run)].count("reply.deferred") == 1
    assert (await log_of(stack)).count("message.sent") == 2


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/chat", {"message": "Anybody?", "session_id": "abc"}),
        ("/functions/v1/health-agent", {"message": "Anybody?", "user": "abc"}),
    ],
)
async def test_who_waits_for_one_body_gets_the_answer_that_is_given_when_the_person_has_left(
    stack: Stack, http: httpx.AsyncClient, path: str, asked: dict[str, str]
) -> None:
    stack.model = ScriptedModel(says("I am back"))
    async with stack.worker():
        chat = "session:abc"
        if path != "/chat":
            session = (await http.post(path, json={"user": "abc"})).json()["session"]["id"]
            chat = f"health:{session}"
        await http.post(f"{CONTROL}/join", json={"phoneNumber": chat, **ANN})
        async with stack.open(f"/v1/conversations/{chat}/stream") as client:
            asking = asyncio.create_task(http.post(path, json=asked))
            await client.until("reply.awaited")
            await http.post(f"{CONTROL}/leave", json={"phoneNumber": chat, **ANN})
            answered = await asking
    assert answered.status_code == 200
    assert answered.json()["response"] == "I am back"
