"""Calls as Twilio and ElevenLabs tell of them: one call whoever tells, and an answer while the telephone rings."""

from __future__ import annotations

import asyncio
import hmac
import io
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from prometheus_client import REGISTRY
from twilio.request_validator import RequestValidator
from yarl import URL

from edges.app_keys import ENGINE
from edges.auth import DEMO
from edges.in_flight import IN_FLIGHT
from edges.pace import Pace
from edges.webhooks import elevenlabs, twilio
from eventstore import codec
from eventstore.append import Append, Appended
from eventstore.events.calls import (
    CallContextGiven,
    CallEnded,
    CallInitiated,
    CallRequested,
    CallStarted,
    CallStatusReported,
    CallSummarized,
)
from eventstore.events.contacts import ContactCreated
from eventstore.events.messages import MessageReceived
from eventstore.organizations import conversation_id
from eventstore.provider_settings import ProviderSettings
from eventstore.schema import ConversationId, Event, OrgId, Position
from projections import conversations
from projections.calls import CALLS
from tests.support.edge_app import Edge, names_of, serving

FIXTURES = Path(__file__).parents[1] / "fixtures"
ROUTES = (*twilio.ROUTES, *elevenlabs.ROUTES)
VECTORS: list[dict[str, Any]] = json.loads((FIXTURES / "twilio/voice_signature_vectors.json").read_text())
TOKEN = VECTORS[0]["auth_token"]
BASE = "https://api.example.com"
POST_CALL_VECTOR: dict[str, str] = json.loads((FIXTURES / "elevenlabs/signature_vectors.json").read_text())[0]
HEADER_SECRET = "whsec_of_the_initiation"
SECRET = POST_CALL_VECTOR["secret"]
CONFIGURED = ProviderSettings(
    twilio_auth_token=TOKEN,
    twilio_shared_key=TOKEN,
    elevenlabs_conversation_initiation_webhook_secret=HEADER_SECRET,
    elevenlabs_post_call_webhook_secret=SECRET,
)
STATUS = "/api/webhooks/twilio/voice/status"
INITIATION = "/api/webhooks/elevenlabs/conversation-initiation"
POST_CALL = "/api/webhooks/elevenlabs/post-call"
CUSTOMER, OURS = "+14155552671", "+14155550100"
OUTBOUND, INBOUND = "CA4f2b3c4d5e6f708192a3b4c5d6e7f809", "CA3f2b3c4d5e6f708192a3b4c5d6e7f809"
NINE = {
    "conversation_context",
    "customer_name",
    "organization_name",
    "lead_status",
    "previous_summary",
    "organization_id",
    "caller_type",
    "has_conversation_history",
    "total_messages",
}


def form(name: str, **changes: str) -> dict[str, str]:
    return {**dict(parse_qsl((FIXTURES / "twilio" / name).read_text(), keep_blank_values=True)), **changes}


def example(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((FIXTURES / "elevenlabs" / name).read_text())
    return value


async def report(edge: Edge, name: str, **changes: str) -> int:
    fields = form(name, **changes)
    headers = {"X-Twilio-Signature": RequestValidator(TOKEN).compute_signature(BASE + STATUS, fields)}
    response = await edge.client.post(STATUS, data=urlencode(fields).encode(), headers=headers)
    return response.status


def signed(body: bytes, *, at: float | None = None, secret: str = SECRET) -> dict[str, str]:
    moment = int(time.time() if at is None else at)
    digest = hmac.new(secret.encode(), b"%d." % moment + body, "sha256").hexdigest()
    return {"ElevenLabs-Signature": f"t={moment},v0={digest}"}


async def tell(edge: Edge, message: object, headers: dict[str, str] | None = None) -> int:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    headers = signed(body) if headers is None else headers
    response = await edge.client.post(POST_CALL, data=io.BytesIO(body), headers=headers)
    return response.status


async def initiate(edge: Edge, **changes: str) -> dict[str, str]:
    body = example("conversation_initiation_request.json") | changes
    response = await edge.client.post(INITIATION, json=body, headers={"X-Webhook-Secret": HEADER_SECRET})
    assert response.status == 200
    answer = await response.json()
    assert answer["type"] == "conversation_initiation_client_data"
    variables: dict[str, str] = answer["dynamic_variables"]
    assert variables.keys() == NINE
    assert all(isinstance(value, str) for value in variables.values())
    return variables


async def bodies(edge: Edge, kind: type[Any], org: OrgId = DEMO) -> list[Any]:
    return [body for event in await edge.events(org) if isinstance(body := codec.decode(event), kind)]


async def customers_conversation(edge: Edge) -> ConversationId:
    return conversation_id((await edge.organizations.require(DEMO)).pepper, f"tel:{CUSTOMER}")


async def append(edge: Edge, *events: Event) -> Position:
    written = await edge.log.append(DEMO, Append(events=events))
    assert isinstance(written, Appended)
    return written.positions[0]


def count(source: str, outcome: str) -> float:
    return REGISTRY.get_sample_value("trunkline_webhooks_total", {"source": source, "outcome": outcome}) or 0.0


# Twilio


@pytest.mark.parametrize("kind", ["X-Twilio-Signature", "sha256_shared_key_signature"])
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["file"])
async def test_what_twilio_signs_of_a_call_is_accepted_as_it_comes(vector: dict[str, Any], kind: str) -> None:
    headers = {"X-Twilio-Signature": vector[kind]}
    if kind != "X-Twilio-Signature":
        scheme = "X-Twilio-Webhooks-Signature-Settings"
        headers[scheme] = vector[scheme]
    raw = (FIXTURES / "twilio" / vector["file"]).read_bytes()
    async with serving(*ROUTES, providers=CONFIGURED, public_url=BASE) as edge:
        response = await edge.client.post(URL(STATUS, encoded=True), data=raw, headers=headers)
        assert (response.status, response.content_type) == (200, "text/xml")
        assert await edge.events()
        forged = await edge.client.post(STATUS, data=raw + b"&x=1", headers=headers)
        assert forged.status == 401


async def test_a_call_begins_once_is_reported_and_ends_once() -> None:
    async with serving(*ROUTES, providers=CONFIGURED, public_url=BASE) as edge:
        for _ in range(2):
            assert await report(edge, "voice_status_ringing.form") == 200
            assert await report(edge, "voice_status_completed.form") == 200
        events = await edge.events()
        assert names_of(events) == ["call.initiated", *["call.status_reported"] * 2, "call.ended"]
        began, _, _, ended = [codec.decode(event) for event in events]
        assert began == CallInitiated(
            call_sid=OUTBOUND, direction="outbound", provider="twilio", number=OURS, customer=CUSTOMER
        )
        assert ended == CallEnded(call_sid=OUTBOUND, provider="twilio", outcome="completed", duration_s=62)
        assert {event.run for event in events} == {events[0].position}
        assert {event.conversation for event in events} == {await customers_conversation(edge)}
        assert b"4155552671" not in b"".join(event.data for event in events)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
async def test_reports_in_any_order_lead_to_the_same_end(order: tuple[int, ...]) -> None:
    reports = [("initiated", "0"), ("ringing", "1"), ("in-progress", "2"), ("completed", "3")]
    async with serving(*ROUTES, providers=CONFIGURED, public_url=BASE) as edge:
        for place in order:
            status, sequence = reports[place]
            changes = {"CallStatus": status, "SequenceNumber": sequence}
            assert await report(edge, "voice_status_completed.form", **changes) == 200
        call = await (await edge.client.app[ENGINE].level(DEMO, CALLS)).get(OUTBOUND)
        assert call is not None
        assert (call.status, call.sequence, call.outcome) == ("completed", 3, "completed")
        assert len(await bodies(edge, CallEnded)) == 1


@pytest.mark.parametrize("status", ["busy", "no-answer", "failed", "canceled"])
async def test_a_call_that_nobody_took_ends_with_what_became_of_it(status: str) -> None:
    async with serving(*ROUTES, providers=CONFIGURED, public_url=BASE) as edge:
        await report(edge, "voice_status_completed.form", CallStatus=status, CallDuration="0")
        (ended,) = await bodies(edge, CallEnded)
        assert (ended.outcome, ended.duration_s) == (status, 0)


async def test_twenty_reports_at_once_end_a_call_once() -> None:
    async with serving(*ROUTES, providers=CONFIGURED, public_url=BASE) as edge:
        sequences = [{"SequenceNumber": str(number)} for number in range(5)] * 4
        answers = await asyncio.gather(*(report(edge, "voice_status_completed.form", **each) for each in sequences))
        assert set(answers) == {200}
        assert len(await bodies(edge, CallInitiated)) == len(await bodies(edge, CallEnded)) == 1
        assert len(await bodies(edge, CallStatusReported)) == 5


async def test_a_call_by_a_withheld_number_shares_no_conversation() -> None:
    async with serving(*ROUTES, providers=CONFIGURED, public_url=BASE) as edge:
        for sid, caller in (("CA1", "anonymous"), ("CA2", "anonymous"), ("CA3", "+266696687"), ("CA4", "+266696687")):
            changes = {"CallSid": sid, "From": caller, "CallStatus": "completed"}
            assert await report(edge, "voice_incoming.form", **changes) == 200
        assert len({event.conversation for event in await edge.events()}) == 4


async def test_bad_reports_of_calls_leave_nothing() -> None:
    async with serving(*ROUTES, providers=CONFIGURED, public_url=BASE) as edge:
        before = count("twilio", "bad_signature")
        assert (await edge.client.post(STATUS, data=form("voice_status_ringing.form"))).status == 401
        assert count("twilio", "bad_signature") == before + 1
        assert await report(edge, "voice_status_ringing.form", CallSid="") == 422
        edge.redis.connected = False
        assert await report(edge, "voice_status_ringing.form") == 503
        edge.redis.connected = True
        await edge.organizations.ensure("acme", "Acme")
        assert await report(edge, "voice_status_ringing.form") == 404
        assert await edge.events() == []
    async with serving(*ROUTES, public_url=BASE) as edge:
        assert await report(edge, "voice_status_ringing.form") == 503


# One call, several producers


async def test_the_first_report_of_a_requested_call_joins_its_run() -> None:
    async with serving(*ROUTES, providers=CONFIGURED, public_url=BASE) as edge:
        conversation = await customers_conversation(edge)
        run = await append(edge, Event(CallRequested(call_id="c1", epoch=0, to=CUSTOMER), "client:1", conversation))
        await append(edge, Event(CallStarted(call_id="c1"), "system:call", conversation, run))
        await report(edge, "voice_status_ringing.form")
        await report(edge, "voice_status_completed.form")
        assert {event.run for event in await edge.events()} == {run}
        (began,) = await bodies(edge, CallInitiated)
        assert began.call_id == "c1"


async def test_the_transcript_of_a_call_that_twilio_ended_adds_to_it() -> None:
    async with serving(*ROUTES, providers=CONFIGURED, public_url=BASE) as edge:
        await report(edge, "voice_incoming.form", CallStatus="completed", CallDuration="61")
        assert await tell(edge, example("post_call_transcription.json")) == 200
        assert names_of(await edge.events()) == [
            "call.initiated",
            "call.status_reported",
            "call.ended",
            *["call.turn_recorded"] * 3,
            "call.summarized",
        ]
        (summarized,) = await bodies(edge, CallSummarized)
        assert summarized.summary.startswith("Maria asked whether")
        assert len({event.run for event in await edge.events()}) == 1


async def test_a_summary_is_kept_whoever_reports_the_end_at_the_same_moment() -> None:
    async with serving(*ROUTES, providers=CONFIGURED, public_url=BASE) as edge:
        for number in range(10):
            message = example("post_call_transcription.json")
            message["data"]["conversation_id"] = f"conv_{number}"
            message["data"]["metadata"]["phone_call"]["call_sid"] = f"CA{number}"
            ended = {"CallSid": f"CA{number}", "CallStatus": "completed"}
            reported = report(edge, "voice_incoming.form", **ended)
            assert set(await asyncio.gather(reported, tell(edge, message))) == {200}
        told = [*await bodies(edge, CallEnded), *await bodies(edge, CallSummarized)]
        assert sorted(each.call_sid for each in told if each.summary) == [f"CA{number}" for number in range(10)]


async def test_a_transcript_is_spoken_messages_of_the_customers_conversation_and_ends_the_call() -> None:
    async with serving(*ROUTES, providers=CONFIGURED, public_url=BASE) as edge:
        conversation = await customers_conversation(edge)
        text = MessageReceived(message_id="SM1", channel="sms", text="Hello?")
        await append(edge, Event(text, "customer", conversation))
        assert await tell(edge, example("post_call_transcription.json")) == 200
        await report(edge, "voice_incoming.form", CallStatus="completed")
        events = await edge.events()
        (ended,) = await bodies(edge, CallEnded)
        assert (ended.provider, ended.outcome, ended.duration_s) == ("elevenlabs", "completed", 62)
        assert ended.reason == "Call ended by remote party"
        assert ended.summary == "Maria asked whether the red gravel bike is in stock and booked a test ride."
        document = conversations.fold([event for event in events if event.conversation == conversation])
        assert document is not None
        assert [(message.channel, message.sent_by, message.text) for message in document.messages] == [
            ("sms", "user", "Hello?"),
            ("voice", "agent", "Hi Maria, calling about the gravel bike?"),
            ("voice", "user", "Yes, can I try it on Saturday?"),
            ("voice", "agent", "Ten o'clock is free. Shall I book it?"),
        ]
        assert [message.text for message in document.unanswered] == ["Hello?"], "what was said was answered there"


async def test_a_post_call_message_that_comes_twice_is_recorded_once() -> None:
    async with serving(*ROUTES, providers=CONFIGURED, public_url=BASE) as edge:
        before = count("elevenlabs", "duplicate")
        assert await tell(edge, example("post_call_transcription.json")) == 200
        events = await edge.events()
        assert await tell(edge, example("post_call_transcription.json")) == 200
        assert await edge.events() == events
        assert count("elevenlabs", "duplicate") == before + 1


async def test_a_call_that_could_not_begin_ends_the_call_that_twilio_knows() -> None:
    async with serving(*ROUTES, providers=CONFIGURED, public_url=BASE) as edge:
        assert await tell(edge, example("call_initiation_failure_twilio.json")) == 200
        await report(edge, "voice_status_completed.form", CallStatus="busy", CallDuration="0")
        (ended,) = await bodies(edge, CallEnded)
        assert (ended.call_sid, ended.provider, ended.outcome) == (OUTBOUND, "elevenlabs", "busy")
        (began,) = await bodies(edge, CallInitiated)
        assert (began.direction, began.number, began.customer) == ("outbound", OURS, CUSTOMER)


# ElevenLabs, after the call


async def test_the_signature_of_the_documented_vector_is_ours() -> None:
    body = json.dumps(example("post_call_transcription.json"), separators=(",", ":")).encode()
    at = POST_CALL_VECTOR["value"].partition(",")[0].removeprefix("t=")
    assert signed(body, at=int(at))["ElevenLabs-Signature"] == POST_CALL_VECTOR["value"]


def _joined(*headers: dict[str, str]) -> dict[str, str]:
    first, *others = (header["ElevenLabs-Signature"] for header in headers)
    return {"ElevenLabs-Signature": ",".join([first, *(other.partition(",")[2] for other in others)])}


GOOD: dict[str, Callable[[bytes], dict[str, str]]] = {
    "29 minutes old": lambda body: signed(body, at=time.time() - 29 * 60),
    "29 minutes ahead": lambda body: signed(body, at=time.time() + 29 * 60),
    "while secrets rotate": lambda body: _joined(signed(body, secret="old"), signed(body)),
    "with spaces": lambda body: {"ElevenLabs-Signature": signed(body)["ElevenLabs-Signature"].replace(",", " , ")},
}
BAD: dict[str, Callable[[bytes], dict[str, str]]] = {
    "missing": lambda body: {},
    "another secret": lambda body: signed(body, secret="other"),
    "another body": lambda body: signed(body + b" "),
    "31 minutes old": lambda body: signed(body, at=time.time() - 31 * 60),
    "31 minutes ahead": lambda body: signed(body, at=time.time() + 31 * 60),
    "no time": lambda body: {"ElevenLabs-Signature": signed(body)["ElevenLabs-Signature"].partition(",")[2]},
    "a time in words": lambda body: {"ElevenLabs-Signature": "t=now,v0=00"},
    "no signature": lambda body: {"ElevenLabs-Signature": f"t={int(time.time())}"},
    "not ascii": lambda body: {"ElevenLabs-Signature": f"t={int(time.time())},v0=ü"},
    "of the future's kind": lambda body: {
        "ElevenLabs-Signature": signed(body)["ElevenLabs-Signature"].replace("v0", "v1")
    },
}


@pytest.mark.parametrize("good", GOOD)
async def test_a_clock_that_is_off_and_a_rotated_secret_are_accepted(good: str) -> None:
    body = json.dumps(example("post_call_transcription.json")).encode()
    async with serving(*ROUTES, providers=CONFIGURED) as edge:
        assert await tell(edge, body, GOOD[good](body)) == 200
        assert await edge.events()


@pytest.mark.parametrize("bad", BAD)
async def test_what_elevenlabs_has_not_signed_is_401_counted_and_leaves_no_event(bad: str) -> None:
    body = json.dumps(example("post_call_transcription.json")).encode()
    async with serving(*ROUTES, providers=CONFIGURED, development=True) as edge:
        before = count("elevenlabs", "bad_signature")
        assert await tell(edge, body, BAD[bad](body)) == 401
        assert count("elevenlabs", "bad_signature") == before + 1
        assert await edge.events() == []


async def test_audio_is_taken_in_pieces_checked_and_never_recorded() -> None:
    async def in_pieces(body: bytes) -> Any:
        for start in range(0, len(body), 100_000):
            yield body[start : start + 100_000]

    async with serving(*ROUTES, providers=CONFIGURED) as edge:
        for size in (1_000, 2_000_000, elevenlabs.MAX_JSON_BYTES + 1):
            audio = example("post_call_audio.json")
            audio["data"]["full_audio"] = "A" * size
            body = json.dumps(audio).encode()
            response = await edge.client.post(POST_CALL, data=in_pieces(body), headers=signed(body))
            assert response.status == 200
            forged = await edge.client.post(POST_CALL, data=in_pieces(body), headers=signed(b"x"))
            assert forged.status == 401
        assert await edge.events() == []


async def test_bodies_on_disk_have_a_bound_in_sum_and_their_room_comes_back() -> None:
    body = json.dumps(example("post_call_audio.json") | {"pad": "A" * 2_000_000}).encode()
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> Any:
        yield body[:-1]
        arrived.set()
        await go_on.wait()
        yield body[-1:]

    async with serving(*ROUTES, providers=CONFIGURED) as edge:
        in_flight = edge.client.app[IN_FLIGHT]
        others = in_flight.spooled = elevenlabs.MAX_SPOOLED_BYTES - 3_000_000
        first = asyncio.create_task(edge.client.post(POST_CALL, data=slowly(), headers=signed(body)))
        async with asyncio.timeout(5):
            await arrived.wait()
            while in_flight.spooled < others + len(body) - 1:  # noqa: ASYNC110 - nothing of the product tells when
                await asyncio.sleep(0.01)
        refused = await edge.client.post(POST_CALL, data=io.BytesIO(body), headers=signed(body))
        assert (refused.status, (await refused.json())["error"]["code"]) == (503, "NO_ROOM")
        assert refused.headers["Retry-After"]
        assert await tell(edge, example("post_call_transcription.json")) == 200, "small ones find room"
        go_on.set()
        assert (await first).status == 200
        assert await tell(edge, body) == 200
        assert in_flight.spooled == others


async def test_a_body_that_does_not_arrive_gives_its_room_back() -> None:
    async def stuck() -> Any:
        yield b" " * 1_000
        await asyncio.Event().wait()

    async with serving(*ROUTES, providers=CONFIGURED, pace=Pace(body_s=0.2)) as edge:
        response = await edge.client.post(POST_CALL, data=stuck(), headers=signed(b""))
        assert response.status == 408
        assert edge.client.app[IN_FLIGHT].spooled == 0


async def test_only_audio_may_be_large() -> None:
    async with serving(*ROUTES, providers=CONFIGURED) as edge:
        large = json.dumps({"type": "post_call_transcription", "data": {"x": "y" * elevenlabs.MAX_JSON_BYTES}}).encode()
        assert await tell(edge, large) == 413
        assert (await edge.client.post(INITIATION, data=io.BytesIO(b" " * 2_000_000))).status == 413


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ({"conversation_id": "conv_1"}, ["call.initiated", "call.ended"]),
        ({"conversation_id": "1", "transcript": None, "metadata": 7, "analysis": []}, ["call.initiated", "call.ended"]),
        (
            {"conversation_id": "conv_1", "transcript": [{"role": "user", "message": "hi"}, {"message": None}, 5]},
            ["call.initiated", "call.turn_recorded", "call.ended"],
        ),
    ],
    ids=["bare", "other types", "odd turns"],
)  # fmt: skip
async def test_a_post_call_message_may_lack_almost_everything(data: dict[str, Any], names: list[str]) -> None:
    async with serving(*ROUTES, providers=CONFIGURED) as edge:
        assert await tell(edge, {"type": "post_call_transcription", "data": data}) == 200
        assert names_of(await edge.events()) == names


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"\xff{}", 400),
        (b"[]", 422),
        (b'{"type":"post_call_transcription"}', 422),
        (b'{"type":"something new","data":{}}', 200),
        (b"{}", 200),
    ],
)
async def test_half_bodies_and_unknown_kinds(body: bytes, status: int) -> None:
    async with serving(*ROUTES, providers=CONFIGURED) as edge:
        assert await tell(edge, body) == status
        assert await edge.events() == []


# ElevenLabs, while the telephone rings


async def test_an_unknown_caller_is_a_new_lead() -> None:
    async with serving(*ROUTES, providers=CONFIGURED) as edge:
        assert await initiate(edge) == {
            "conversation_context": "",
            "customer_name": "",
            "organization_name": "Demo",
            "lead_status": "New Lead",
            "previous_summary": "",
            "organization_id": "demo",
            "caller_type": "new_lead",
            "has_conversation_history": "false",
            "total_messages": "0",
        }
        began, given = [codec.decode(event) for event in await edge.events()]
        assert began == CallInitiated(
            call_sid=INBOUND, direction="inbound", provider="elevenlabs", number=OURS, customer=CUSTOMER
        )
        assert isinstance(given, CallContextGiven)
        assert given.variables["caller_type"] == "new_lead"


async def test_a_known_caller_is_told_apart_with_texts_and_calls_in_one_history() -> None:
    async with serving(*ROUTES, providers=CONFIGURED, public_url=BASE) as edge:
        conversation = await customers_conversation(edge)
        maria = ContactCreated(contact_id="c1", first_name="Maria", last_name="Ruiz", phone=CUSTOMER)
        await append(edge, Event(maria, "system:test"))
        assert (await initiate(edge))["lead_status"] == "Existing Lead"
        await append(
            edge, Event(MessageReceived(message_id="1", channel="sms", text="Is\nit there?"), "customer", conversation)
        )
        await tell(edge, example("post_call_transcription.json"))
        variables = await initiate(edge, call_sid="CA_next")
        today = time.strftime("%Y-%m-%d", time.gmtime())
        assert variables == {
            "conversation_context": f"SMS {today} customer: Is it there?\n"
            f"Call {today} assistant: Hi Maria, calling about the gravel bike?\n"
            f"Call {today} customer: Yes, can I try it on Saturday?\n"
            f"Call {today} assistant: Ten o'clock is free. Shall I book it?",
            "customer_name": "Maria Ruiz",
            "organization_name": "Demo",
            "lead_status": "Returning Customer",
            "previous_summary": "Maria asked whether the red gravel bike is in stock and booked a test ride.",
            "organization_id": "demo",
            "caller_type": "existing_lead",
            "has_conversation_history": "true",
            "total_messages": "4",
        }


async def test_all_three_producers_of_an_inbound_call_are_one_run() -> None:
    async with serving(*ROUTES, providers=CONFIGURED, public_url=BASE) as edge:
        await initiate(edge)
        await report(edge, "voice_incoming.form", CallStatus="in-progress")
        await tell(edge, example("post_call_transcription.json"))
        await report(edge, "voice_incoming.form", CallStatus="completed")
        events = await edge.events()
        assert len({(event.run, event.conversation) for event in events}) == 1
        assert len(await bodies(edge, CallInitiated)) == len(await bodies(edge, CallEnded)) == 1


async def test_the_same_question_again_is_answered_again_and_recorded_once() -> None:
    async with serving(*ROUTES, providers=CONFIGURED) as edge:
        assert await initiate(edge) == await initiate(edge)
        assert names_of(await edge.events()) == ["call.initiated", "call.context_given"]


async def test_the_called_number_selects_the_organization_and_its_own_secret() -> None:
    async with serving(*ROUTES, providers=CONFIGURED) as edge:
        acme = OrgId("acme")
        await edge.organizations.ensure(acme, "Acme")
        await edge.organizations.map_number(acme, OURS)
        own = {
            "elevenlabs_conversation_initiation_webhook_secret": "acme's",
            "elevenlabs_conversation_initiation_webhook_header": "X-Acme",
        }
        await edge.providers.change(acme, own)
        body = example("conversation_initiation_request.json")
        demos = await edge.client.post(INITIATION, json=body, headers={"X-Webhook-Secret": HEADER_SECRET})
        assert demos.status == 401
        acmes = await edge.client.post(INITIATION, json=body, headers={"X-Acme": "acme's"})
        assert (await acmes.json())["dynamic_variables"]["organization_name"] == "Acme"
        assert names_of(await edge.events(acme)) == ["call.initiated", "call.context_given"]
        unmapped = await edge.client.post(INITIATION, json={**body, "called_number": "+15550199"})
        assert unmapped.status == 404
        assert await edge.events() == []


async def test_without_a_log_the_caller_is_answered_in_time_with_defaults() -> None:
    async with serving(*ROUTES, providers=CONFIGURED) as edge:
        before = count("elevenlabs", "unavailable")
        edge.redis.connected = False
        began = time.monotonic()
        variables = await initiate(edge)
        assert time.monotonic() - began < 0.5
        assert (variables["caller_type"], variables["organization_name"]) == ("new_lead", "Demo")
        assert count("elevenlabs", "unavailable") == before + 1


async def test_a_log_that_takes_nothing_more_does_not_cost_the_caller() -> None:
    async with serving(*ROUTES, providers=CONFIGURED, max_facts=1) as edge:
        conversation = await customers_conversation(edge)
        await append(edge, Event(MessageReceived(message_id="1", text="hi"), "customer", conversation))
        assert (await initiate(edge))["total_messages"] == "1"


async def test_a_wrong_secret_of_the_initiation_is_401_and_none_is_503() -> None:
    body = example("conversation_initiation_request.json")
    async with serving(*ROUTES, providers=CONFIGURED) as edge:
        for headers in ({}, {"X-Webhook-Secret": "other"}, {"X-Webhook-Secret": ""}):
            assert (await edge.client.post(INITIATION, json=body, headers=headers)).status == 401
        assert await edge.events() == []
    async with serving(*ROUTES) as edge:
        assert (await edge.client.post(INITIATION, json=body)).status == 503
        assert await tell(edge, example("post_call_transcription.json")) == 503
    async with serving(*ROUTES, development=True) as edge:
        assert (await edge.client.post(INITIATION, json=body)).status == 200
        assert await tell(edge, example("post_call_transcription.json"), {}) == 200
