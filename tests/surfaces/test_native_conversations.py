"""Conversations on the native surface (CONTRACT 6): lists, snapshots now and then, and streams that begin with one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from eventstore.events.contacts import ContactCreated
from eventstore.events.control import ControlTaken
from eventstore.events.messages import MessageReceived
from eventstore.events.replies import ReplyDelta, ReplyStarted
from eventstore.organizations import conversation_id
from eventstore.schema import Body, ConversationId, Event, Position
from tests.support.stack import DEMO, Stack, stacked
from tests.support.stream_client import query
from tests.support.workshop import Gate, Piece, ScriptedModel
from workers.model import StepDone, TextDelta

ANN, BEN = "tel:+14155550177", "session:ben"
ALL = "/v1/conversations"
SSE = {"Accept": "text/event-stream"}


@pytest.fixture
async def stack(redis_url: str) -> AsyncIterator[Stack]:
    async with stacked(redis_url, work=False) as running:
        yield running


@pytest.fixture
async def http(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with stack.http() as http:
        yield http


async def put(stack: Stack, address: str, *bodies: Body, run: Position | None = None) -> list[Position]:
    where = conversation_id((await stack.organizations.require(DEMO)).pepper, address)
    return await stack.append(*(Event(body, "customer", where, run) for body in bodies))


def said(text: str = "hello", name: str = "m1") -> MessageReceived:
    return MessageReceived(message_id=name, text=text)


def started(run: Position) -> ReplyStarted:
    return ReplyStarted(attempt=1, assistant="assistant", model="test", context_until=str(run))


async def get(http: httpx.AsyncClient, path: str, **parameters: str) -> Any:
    response = await http.get(path, params=parameters)
    assert response.status_code == 200, response.text
    return response.json()


async def post(http: httpx.AsyncClient, address: str, text: str, **headers: str) -> httpx.Response:
    return await http.post(f"{ALL}/{address}/messages", json={"text": text}, headers=headers)


async def test_a_conversation_is_what_was_said_in_it_by_id_and_by_address(
    stack: Stack, http: httpx.AsyncClient
) -> None:
    posted = await post(http, ANN, "Hello")
    by_address = await get(http, f"{ALL}/{ANN}")
    assert by_address == await get(http, f"{ALL}/{by_address['id']}")
    assert {name: by_address[name] for name in ("address", "state", "channel", "control", "unanswered")} == {
        "address": ANN,
        "state": "waiting",
        "channel": "chat",
        "control": None,
        "unanswered": 1,
    }
    [message] = by_address["messages"]
    assert (message["id"], message["text"], message["sent_by"]) == (posted.json()["message_id"], "Hello", "user")
    assert by_address["counts"] == {"user": 1, "agent": 0, "human_agent": 0}
    assert (await http.get(f"{ALL}/conv_nothing")).status_code == 404


async def test_a_conversation_can_be_seen_as_it_was(stack: Stack, http: httpx.AsyncClient) -> None:
    [first] = await put(stack, ANN, said("one", "m1"))
    await stack.tick()
    await put(stack, ANN, started(first), run=first)
    await put(stack, ANN, ReplyDelta(attempt=1, index=0, text="I thi"), run=first)
    [then] = await put(stack, ANN, ReplyDelta(attempt=1, index=1, text="nk"), run=first)
    await stack.tick()
    await put(stack, ANN, said("two", "m2"), ControlTaken(agent="7"))
    path = f"{ALL}/{ANN}"
    assert (await get(http, path))["state"] == "held"
    then_ = await get(http, path, at=str(then))
    assert ([each["text"] for each in then_["messages"]], then_["state"]) == (["one"], "answering")
    assert then_["open_replies"][0]["text"] == "I think"
    opened = await get(http, path, at=str(first))
    assert (opened["open_replies"], opened["last_activity"]) == ([], opened["messages"][0]["at"])
    assert await get(http, path, at=opened["last_activity"]) == opened
    assert (await http.get(path, params={"at": "2001-01-01"})).status_code == 404
    assert (await http.get(path, params={"at": "soon"})).status_code == 400


async def test_conversations_are_listed_newest_first_and_found_by_state_number_and_person(
    stack: Stack, http: httpx.AsyncClient
) -> None:
    await put(stack, ANN, said())
    await put(stack, BEN, said("Hi"), ControlTaken(agent="7", agent_name="Berta"))
    person = ContactCreated(contact_id="c1", first_name="Annabel", phone="+14155550177")
    await stack.append(Event(person, "test", ConversationId("conv_contacts")))

    async def listed(**parameters: str) -> list[str]:
        return [each["address"] or each["id"] for each in (await get(http, ALL, **parameters))["conversations"]]

    ann = (await get(http, f"{ALL}/{ANN}"))["id"]
    ben = (await get(http, f"{ALL}/{BEN}"))["id"]
    assert await listed() == [ben, ann]
    assert await listed(limit="1") == [ben]
    assert await listed(state="held") == [ben]
    assert await listed(state="waiting") == [ann]
    assert await listed(phone="+1 415 555 0177") == [ann]
    assert await listed(phone="+14155550177", state="held") == []
    assert await listed(q="annab") == [ann]
    assert await listed(q="nobody") == []
    [held] = (await get(http, ALL, state="held"))["conversations"]
    assert (held["control"]["agent"], held["last_message"]["text"]) == ("7", "Hi")
    assert [(await http.get(ALL, params=p)).status_code for p in ({"state": "x"}, {"limit": "0"}, {"phone": "x"})] == [
        422
    ] * 3


async def test_a_stream_begins_with_the_conversation_and_goes_on_with_its_events(
    stack: Stack, http: httpx.AsyncClient
) -> None:
    await put(stack, ANN, said("one"))
    async with stack.open(f"{ALL}/{ANN}/stream") as client:
        [snapshot] = await client.take(1)
        [later] = await put(stack, ANN, said("two"))
        await put(stack, BEN, said("elsewhere"))
        [event] = await client.take(1)
    assert list(snapshot.data) == ["type", "conversation"]
    whole = {**snapshot.data["conversation"], "position": None}
    assert whole == {**(await get(http, f"{ALL}/{ANN}", at=snapshot.id or "")), "position": None}
    assert (event.type, event.id) == ("message.received", str(later))


async def test_one_that_does_not_exist_yet_is_waited_for(stack: Stack) -> None:
    async with stack.open(f"{ALL}/{ANN}/stream", {"Accept": "application/x-ndjson"}) as client:
        [snapshot] = await client.take(1)
        [at] = await put(stack, ANN, said())
        [event] = await client.take(1)
    assert snapshot.data["conversation"]["messages"] == []
    assert (next(iter(snapshot.data)), event.id) == ("id", str(at))


async def test_a_late_joiner_gets_the_text_so_far_in_one_piece_and_the_rest_as_it_comes(
    stack: Stack, http: httpx.AsyncClient
) -> None:
    gate: Gate = asyncio.Event()
    words = [f"{n} " for n in range(40)]
    pieces: list[Piece] = [*map(TextDelta, words[:30]), gate, *map(TextDelta, words[30:]), StepDone("".join(words))]
    stack.model = ScriptedModel(pieces)
    async with stack.worker(), stack.open(f"{ALL}/{ANN}/stream") as early:
        run = (await post(http, ANN, "Count")).json()["run_id"]
        seen = ""
        while not seen.endswith(words[29]):
            [frame] = await early.take(1)
            seen += frame.data["data"]["text"] if frame.type == "reply.delta" else ""
        async with stack.open(f"{ALL}/{ANN}/stream") as late:
            [snapshot] = await late.take(1)
            gate.set()
            rest = await late.until("reply.completed")
    [reply] = snapshot.data["conversation"]["open_replies"]
    assert (reply["run"], reply["text"]) == (run, seen)
    tokens = "".join(frame.data["data"]["text"] for frame in rest if frame.type == "reply.delta")
    assert reply["text"] + tokens == rest[-1].data["data"]["text"] == "".join(words)
    assert Position.parse(rest[0].id or "") > Position.parse(snapshot.id or "")


async def test_who_returns_gets_no_snapshot_unless_there_is_a_gap(stack: Stack) -> None:
    await put(stack, ANN, said("one"))
    async with stack.open(f"{ALL}/{ANN}/stream") as client:
        [snapshot] = await client.take(1)
    [missed] = await put(stack, ANN, said("two"))
    async with stack.open(f"{ALL}/{ANN}/stream", last=snapshot.id) as client:
        frames = await client.until("message.received")
    assert ("snapshot" in [frame.type for frame in frames], frames[-1].id) == (False, str(missed))
    async with stack.open(f"{ALL}/{ANN}/stream" + query(after="1-1")) as client:
        assert [frame.type for frame in await client.take(2)] == ["gap", "snapshot"]


async def test_a_message_is_posted_once_by_its_key(stack: Stack, http: httpx.AsyncClient) -> None:
    first, again = [await post(http, ANN, "Hello", **{"Idempotency-Key": "k"}) for _ in range(2)]
    assert (first.status_code, first.json()["status"]) == (202, "accepted")
    assert first.headers["Location"] == f"/v1/runs/{first.json()['run_id']}/stream"
    assert first.json() == again.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (await post(http, "conv_unknown", "Hello")).status_code == 404
    assert (await post(http, ANN, " ")).status_code == 422


async def test_a_message_can_be_followed_to_its_answer(stack: Stack) -> None:
    async with stack.worker(), stack.open(f"{ALL}/{BEN}/messages", SSE, json={"text": "Hello"}) as client:
        frames = await client.rest()
    assert frames[0].type == "message.received"
    assert [frame.type for frame in frames[-2:]] == ["reply.completed", "end"]
