"""The feed of document 002, to the byte of CONTRACT 3: snapshot, tail, and nothing lost or doubled between them."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from edges.dialects.conversation_feed import FEED
from edges.ring import Entry
from edges.subscriptions import Filter, Format
from edges.wire import SSE
from eventstore.events.calls import CallEnded, CallInitiated
from eventstore.events.contacts import ContactCreated
from eventstore.events.control import ControlReleased, ControlTaken
from eventstore.events.messages import MessageReceived, MessageSent
from eventstore.events.replies import ReplyCompleted, ReplyDelta, ReplyRestarted, ReplyStarted
from eventstore.events.sms import SmsFailed, SmsRequested, SmsSent, SmsStatusChanged, SmsUncertain
from eventstore.organizations import conversation_id
from eventstore.schema import Body, ConversationId, Event, Position
from projections.projection import timestamp
from tests.support.facts import recorded
from tests.support.product import twilio_sms
from tests.support.stack import DEMO, Stack, stacked
from tests.support.stream_client import Frame, StreamClient, query
from tests.support.twilio_api import NUMBER
from tests.support.workshop import ScriptedModel
from workers.model import StepDone, TextDelta

PHONE, LEAD = "+14155550177", "lead 7/ä"
FEED_OF = "/api/stream/conversation/lead_7"
INCOMING, STATUS = "/api/webhooks/twilio/sms/incoming", "/api/webhooks/twilio/sms/status"
ALL = {"type", "organizationId", "phoneNumber", "leadId", "timestamp"}


@pytest.fixture
async def stack(redis_url: str) -> AsyncIterator[Stack]:
    async with stacked(redis_url, work=False) as running:
        await running.organizations.map_number(DEMO, NUMBER)
        yield running


async def conversation(stack: Stack, phone: str = PHONE) -> ConversationId:
    return conversation_id((await stack.organizations.require(DEMO)).pepper, f"tel:{phone}")


async def put(stack: Stack, *bodies: Body, run: Position | None = None, actor: str = "test") -> list[Position]:
    where = await conversation(stack)
    return await stack.append(*(Event(body, actor, where, run) for body in bodies))


def sms(number: int = 1, text: str = "hello") -> MessageReceived:
    return MessageReceived(message_id=f"SM{number}", channel="sms", text=text)


def feed(stack: Stack, lead: str = "lead_7", last: str | None = None, **parameters: str) -> StreamClient:
    asked = query(**{"phoneNumber": PHONE, "load": "true", "organizationId": "demo", **parameters})
    return stack.open(f"/api/stream/conversation/{lead}{asked}", {"Accept": "text/event-stream"}, last=last)


def members(frame: Frame) -> dict[str, Any]:
    """What a frame has beside the members of all frames, which are checked."""
    assert frame.data.keys() >= ALL
    assert (frame.data["organizationId"], frame.data["phoneNumber"]) == ("demo", PHONE)
    return {name: value for name, value in frame.data.items() if name not in ALL - {"type"}}


SHOWN: list[tuple[Body, dict[str, Any]]] = [
    (sms(1, "Hi <b>"), {"type": "sms_received", "message": "Hi <b>", "messageId": "SM1"}),
    (
        SmsSent(intent_id="i", message_id="m", sent_by="assistant", provider="outbox", to=PHONE, text="Hello"),
        {"type": "sms_sent", "message": "Hello", "messageId": "m", "sentBy": "agent"},
    ),
    (
        SmsSent(intent_id="i", message_id="m", sent_by="agent", provider="outbox", to=PHONE, text="Hello"),
        {"type": "sms_sent", "message": "Hello", "messageId": "m", "sentBy": "human_agent"},
    ),
    (
        SmsStatusChanged(message_id="m", intent_id="i", status="delivered"),
        {"type": "message_status", "messageId": "m", "status": "delivered"},
    ),
    (
        SmsStatusChanged(message_id="m", intent_id="i", status="undelivered", error_code="30003"),
        {"type": "message_status", "messageId": "m", "status": "undelivered", "errorCode": "30003"},
    ),
    (
        SmsFailed(intent_id="i", message_id="m", code="21610", detail="refused"),
        {"type": "message_status", "messageId": "m", "status": "failed", "errorCode": "21610"},
    ),
    (
        SmsUncertain(intent_id="i", message_id="m", detail="lost"),
        {"type": "message_status", "messageId": "m", "status": "unknown"},
    ),
    (
        CallInitiated(call_sid="CA1", direction="outbound", provider="twilio"),
        {"type": "call_initiated", "callSid": "CA1", "direction": "outbound"},
    ),
    (
        CallEnded(call_sid="CA1", provider="elevenlabs", outcome="completed", duration_s=42, summary="Wants a bike"),
        {
            "type": "call_ended",
            "callSid": "CA1",
            "durationSeconds": 42,
            "outcome": "completed",
            "summary": "Wants a bike",
        },
    ),
    (
        CallEnded(call_sid="CA2", provider="twilio", outcome="busy"),
        {"type": "call_ended", "callSid": "CA2", "durationSeconds": 0, "outcome": "busy"},
    ),
    (
        ControlTaken(agent="7", agent_name="Berta"),
        {"type": "human_control_started", "agentId": "7", "agentName": "Berta"},
    ),
    (
        SmsRequested(intent_id="i", message_id="m", sent_by="agent", to=PHONE, text="Berta here", agent_name="Berta"),
        {
            "type": "human_message_sent",
            "message": "Berta here",
            "messageId": "m",
            "agentId": "7",
            "agentName": "Berta",
        },
    ),
    (
        MessageSent(message_id="m", agent="7", agent_name="Berta", text="Berta here"),
        {
            "type": "human_message_sent",
            "message": "Berta here",
            "messageId": "m",
            "agentId": "7",
            "agentName": "Berta",
        },
    ),
    (
        ControlReleased(agent="7", agent_name="Berta", reason="idle"),
        {"type": "human_control_ended", "agentId": "7", "agentName": "Berta"},
    ),
]


async def test_each_event_is_shown_by_its_frame_and_nothing_else_by_any(stack: Stack) -> None:
    async with feed(stack, load="false") as client:
        await client.take(1)
        written = await put(stack, *(body for body, _ in SHOWN), actor="agent:7")
        quiet = SmsRequested(intent_id="i", message_id="m", sent_by="assistant", to=PHONE, text="Hello")
        last = await put(stack, quiet, sms(2))
        frames = await client.take(len(SHOWN) + 1)
    assert [members(frame) for frame in frames[:-1]] == [shown for _, shown in SHOWN]
    assert [frame.id for frame in frames] == [str(at) for at in (*written, last[-1])]
    assert [frame.data["timestamp"] for frame in frames[:-1]] == [timestamp(at) for at in written]
    assert {frame.event for frame in frames} == {None}


async def test_an_answer_is_shown_token_by_token_and_begun_again_where_it_was_restarted(stack: Stack) -> None:
    [run] = await put(stack, sms())
    reply: list[Body] = [
        ReplyStarted(attempt=1, assistant="assistant", model="test", context_until=str(run)),
        ReplyDelta(attempt=1, index=0, text="Goo"),
        ReplyRestarted(attempt=2, text="Let me see. "),
        ReplyRestarted(attempt=3),
        ReplyDelta(attempt=3, index=0, text="Good day"),
        ReplyCompleted(message_id="m", attempt=3, model="test", text="Good day"),
    ]
    async with feed(stack, load="false") as client:
        await client.take(1)
        written = await put(stack, *reply, run=run)
        frames = await client.until("ai_message")
    about = {"run": str(run)}
    assert [members(frame) for frame in frames] == [
        {"type": "ai_message_started", **about, "attempt": 1},
        {"type": "ai_token", **about, "content": "Goo"},
        {"type": "ai_message_started", **about, "attempt": 2},
        {"type": "ai_token", **about, "content": "Let me see. "},
        {"type": "ai_message_started", **about, "attempt": 3},
        {"type": "ai_token", **about, "content": "Good day"},
        {"type": "ai_message", **about, "message": "Good day", "messageId": "m"},
    ]
    assert [frame.id for frame in frames if frame.id] == [str(at) for at in written]


# Snapshot, then tail


async def test_history_comes_first_with_its_position_and_who_speaks(stack: Stack) -> None:
    await put(stack, sms(1), sms(2, "anybody?"))
    [taken] = await put(stack, ControlTaken(agent="7", agent_name="Berta"))
    async with feed(stack) as client:
        [history] = await client.take(1)
        [later] = await put(stack, sms(3))
        [live] = await client.take(1)
    shown = members(history)
    assert shown["type"] == "conversation_history"
    assert [list(message) for message in shown["messages"]] == [
        ["id", "content", "sentBy", "messageType", "timestamp"]
    ] * 2
    assert [message["content"] for message in shown["messages"]] == ["hello", "anybody?"]
    assert {(message["sentBy"], message["messageType"]) for message in shown["messages"]} == {("user", "text")}
    assert shown["humanControl"] == {"agentId": "7", "agentName": "Berta", "since": timestamp(taken)}
    assert Position.parse(history.id or "") >= taken
    assert (live.id, members(live)["messageId"]) == (str(later), "SM3")


async def test_of_a_conversation_that_does_not_exist_yet_the_history_is_empty(stack: Stack) -> None:
    async with feed(stack) as client:
        [history] = await client.take(1)
        await put(stack, sms(1))
        [live] = await client.take(1)
    assert members(history) == {"type": "conversation_history", "messages": [], "humanControl": None}
    assert members(live)["messageId"] == "SM1"


async def test_nothing_is_lost_or_doubled_between_history_and_tail(stack: Stack) -> None:
    """Twenty clients come while two hundred messages do."""
    count, over = 200, "SM200"
    written = [asyncio.Event() for _ in range(count)]

    async def write() -> None:
        for number, told in enumerate(written, 1):
            await put(stack, sms(number))
            told.set()

    async def read(since: int) -> list[str]:
        await written[since].wait()
        async with feed(stack, lead=f"lead_{since % 3}") as client:
            [history] = await client.take(1)
            seen = [message["id"] for message in history.data["messages"]]
            while not seen or seen[-1] != over:
                [frame] = await client.take(1)
                seen += [frame.data["messageId"]] if frame.type == "sms_received" else []
        return seen

    chance = random.Random(7)
    seen, _ = await asyncio.gather(asyncio.gather(*(read(chance.randrange(count)) for _ in range(20))), write())
    everything = [f"SM{number}" for number in range(1, count + 1)]
    assert all(each == everything[-len(each) :] for each in seen)
    assert len({len(each) for each in seen}) > 1


async def test_who_comes_in_mid_answer_sees_all_of_it(stack: Stack) -> None:
    gate = asyncio.Event()
    stack.model = ScriptedModel([TextDelta("Once upon"), gate, TextDelta(" a time"), StepDone("Once upon a time")])
    async with stack.worker(), feed(stack, load="false") as first, stack.http() as http:
        await first.take(1)
        await http.post(INCOMING, data=twilio_sms("A story", sid="SM1", sender=PHONE))
        await first.until("ai_token")
        async with feed(stack) as late:
            history, started, so_far = await late.take(3)
            gate.set()
            rest = await late.until("ai_message")
    assert [message["content"] for message in history.data["messages"]] == ["A story"]
    assert (started.type, started.id, so_far.id) == ("ai_message_started", None, None)
    tokens = [so_far, *(frame for frame in rest if frame.type == "ai_token")]
    assert "".join(frame.data["content"] for frame in tokens) == rest[-1].data["message"] == "Once upon a time"


async def test_only_the_last_fifty_messages_are_history(stack: Stack) -> None:
    await put(stack, *(sms(number) for number in range(1, 61)))
    async with feed(stack) as client:
        [history] = await client.take(1)
    assert [history.data["messages"][at]["id"] for at in (0, -1)] == ["SM11", "SM60"]
    assert len(history.data["messages"]) == 50


# Positions


async def test_a_client_that_returns_gets_what_it_missed_and_no_history(stack: Stack) -> None:
    await put(stack, sms(1))
    async with feed(stack) as client:
        [history] = await client.take(1)
    [missed] = await put(stack, sms(2))
    async with feed(stack, last=history.id) as client:
        frames = await client.until("sms_received")
    assert [frame.type for frame in frames if frame.type != "position"] == ["sms_received"]
    assert frames[-1].id == str(missed)


async def test_a_position_that_cannot_be_honoured_is_a_gap_and_history_again(stack: Stack) -> None:
    await put(stack, sms(1))
    async with feed(stack, last="1-1") as client:
        gap, history = await client.take(2)
    assert members(gap)["type"] == "gap"
    assert (gap.event, gap.data["reason"], gap.data["requested"]) == (None, "unknown", "1-1")
    assert [message["id"] for message in history.data["messages"]] == ["SM1"]


async def test_without_load_the_stream_opens_with_its_position(stack: Stack) -> None:
    [at] = await put(stack, sms(1))
    async with feed(stack, load="false") as client:
        [opening] = await client.take(1)
    assert (members(opening), opening.id) == ({"type": "position"}, str(at))


async def test_on_a_quiet_feed_the_position_moves_on_with_the_log(stack: Stack) -> None:
    async with feed(stack) as client:
        await client.take(1)
        [elsewhere] = await stack.say()
        [moved] = await client.take(1)
    assert (members(moved), moved.id) == ({"type": "position"}, elsewhere)


# Whose conversation


async def test_each_client_sees_its_own_lead_though_frames_are_shared(stack: Stack) -> None:
    async with feed(stack, lead="lead%207%2F%C3%A4") as one, feed(stack, lead="contact_1") as other:
        await one.take(1), await other.take(1)
        await put(stack, sms(1))
        leads = [(await client.take(1))[0].data["leadId"] for client in (one, other)]
    assert leads == [LEAD, "contact_1"]


def test_frames_are_rendered_once_however_many_leads_there_are() -> None:
    entry = Entry(recorded(1, sms()))
    formats = [Format(FEED, SSE, False, own=b',"leadId":"%d"' % lead) for lead in range(3)]
    written = [each.packed(each.shown([entry], Filter().accepts).payload) for each in formats]
    leads = [json.loads(text.partition(b"data: ")[2])["leadId"] for text in written]
    assert leads == ["0", "1", "2"]
    assert len(entry.encoded) == 1


@pytest.mark.parametrize("written", ["%2B14155550177", "+14155550177", "(415)%20555-0177", "whatsapp:%2B14155550177"])
async def test_a_number_is_the_same_however_it_is_written(stack: Stack, written: str) -> None:
    await put(stack, sms(1))
    async with stack.open(f"{FEED_OF}?phoneNumber={written}&load=true") as client:
        [history] = await client.take(1)
    assert history.data["phoneNumber"] == PHONE
    assert len(history.data["messages"]) == 1


async def test_without_a_number_it_is_that_of_the_contact(stack: Stack) -> None:
    await put(stack, sms(1))
    ann = ContactCreated(contact_id="lead_7", first_name="Ann", phone=PHONE)
    await stack.append(Event(ann, "test", ConversationId("conv_contacts")))
    async with stack.open(f"{FEED_OF}?load=true") as client:
        [history] = await client.take(1)
    assert (history.data["phoneNumber"], history.data["leadId"]) == (PHONE, "lead_7")
    assert len(history.data["messages"]) == 1


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ("", 422, "NO_PHONE_NUMBER"),
        ("?phoneNumber=somebody", 422, "BAD_PHONE_NUMBER"),
        ("?phoneNumber=%2B14155550177&organizationId=acme", 403, "WRONG_ORGANIZATION"),
        ("?phoneNumber=%2B14155550177&after=yesterday", 400, "MALFORMED_POSITION"),
    ],
)
async def test_refusals_have_the_documents_shape(stack: Stack, asked: str, status: int, code: str) -> None:
    async with stack.http() as http:
        response = await http.get(FEED_OF + asked)
    body = response.json()
    assert (response.status_code, body["success"], body["error"]["code"]) == (status, False, code)
    assert set(body["error"]) == {"message", "code"}


async def test_another_conversation_is_not_heard(stack: Stack) -> None:
    async with feed(stack) as client:
        await client.take(1)
        elsewhere = await conversation(stack, "+14155550178")
        await stack.append(Event(sms(1), "customer", elsewhere))
        await put(stack, sms(2))
        frames = await client.until("sms_received")
    assert frames[-1].data["messageId"] == "SM2"


# Statuses


async def test_a_status_never_goes_back_however_reports_arrive(stack: Stack) -> None:
    sender = "+14155550100"
    async with stack.worker(), feed(stack) as client, stack.http() as http:
        await client.take(1)
        await http.post(INCOMING, data=twilio_sms("Hello", sid="SM1", sender=PHONE))
        sent = (await client.until("sms_sent"))[-1]
        [intent] = [e for e in await stack.events() if e.type == "sms.requested"]
        callback = f"{STATUS}?intent={json.loads(intent.data)['intent_id']}"
        for said in ("sending", "delivered", "sent", "delivered", "read", "failed"):
            form = {"MessageSid": "SMout", "MessageStatus": said, "To": PHONE, "From": sender, "AccountSid": "AC"}
            assert (await http.post(callback, data=form)).status_code == 200
        await http.post(INCOMING, data=twilio_sms("Thanks", sid=uuid4().hex, sender=PHONE))
        frames = await client.until(lambda frame: frame.data.get("status") == "read")
    statuses = [frame.data["status"] for frame in frames if frame.type == "message_status"]
    assert statuses == ["sending", "delivered", "read"]
    assert {f.data["messageId"] for f in frames if f.type == "message_status"} == {sent.data["messageId"]}
