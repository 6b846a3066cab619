"""VAPI's server messages: four kinds are answered, those that tell of a call are recorded, the rest is taken."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from edges.app_keys import Quota
from edges.auth import DEMO
from edges.webhooks import twilio
from edges.webhooks.vapi import ROUTES, outcome_of
from eventstore import codec
from eventstore.events.calls import CallEnded, CallStatusReported, CallTurnRecorded
from eventstore.organizations import conversation_id
from eventstore.provider_settings import ProviderSettings
from eventstore.schema import OrgId
from tests.support.edge_app import Edge, names_of, serving
from tests.support.stack import Stack, stacked

FIXTURES = Path(__file__).parents[1] / "fixtures" / "vapi"
VECTORS: list[dict[str, Any]] = json.loads((FIXTURES / "auth_vectors.json").read_text())
PATH = "/api/webhooks/vapi"
SECRET = "vapi-hmac-secret"
CONFIGURED = ProviderSettings(vapi_webhook_secret=SECRET)
TOLD = {"X-Vapi-Secret": SECRET}
CALL = "CA3f2b3c4d5e6f708192a3b4c5d6e7f809"
CUSTOMER, OURS = "+14155552671", "+14155550100"


def example(name: str, **changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((FIXTURES / name).read_text())
    body["message"] |= changes
    return body


def report(**changes: Any) -> dict[str, Any]:
    """The end of a call as VAPI's OpenAPI has it."""
    said = [
        {"role": "system", "message": "You are the front desk.", "secondsFromStart": 0},
        {"role": "bot", "message": "Front desk, hello.", "secondsFromStart": 1.2},
        {"role": "user", "message": "Can I try it on Saturday?", "secondsFromStart": 3.5},
        {"role": "tool_calls", "toolCalls": []},
    ]
    given = {
        "endedReason": "customer-ended-call",
        "artifact": {"messages": said, "transcript": "…"},
        "analysis": {"summary": "A test ride on Saturday."},
        "durationSeconds": 61.6,
    }
    body = example("status_update_ended.json", type="end-of-call-report", **given, **changes)
    del body["message"]["status"]
    return body


async def post(edge: Edge, body: dict[str, Any], headers: dict[str, str] = TOLD) -> Any:
    response = await edge.client.post(PATH, json=body, headers=headers)
    assert response.status == 200
    return await response.json()


async def bodies(edge: Edge, kind: type[Any]) -> list[Any]:
    return [body for event in await edge.events() if isinstance(body := codec.decode(event), kind)]


def signed(body: bytes, at: str, algorithm: str = "sha256", payload: bytes = b"%b.%b") -> bytes:
    return hmac.digest(SECRET.encode(), payload % (at.encode(), body), algorithm)


# Who is asking


def seconds() -> str:
    return str(int(time.time()))


BODY = json.dumps(example("status_update_ringing.json")).encode()
GOOD: dict[str, Callable[[], dict[str, str]]] = {
    "legacy secret": lambda: TOLD,
    "bearer": lambda: {"Authorization": f"Bearer {SECRET}"},
    "hmac in hex, seconds": lambda: {"x-timestamp": seconds(), "x-signature": signed(BODY, seconds()).hex()},
    "milliseconds": lambda: {
        "x-timestamp": seconds() + "123",
        "x-signature": signed(BODY, seconds() + "123").hex(),
    },
    "base64": lambda: {
        "x-timestamp": seconds(),
        "x-signature": base64.b64encode(signed(BODY, seconds())).decode(),
    },
    "prefixed sha512": lambda: {
        "x-timestamp": seconds(),
        "x-signature": "sha512=" + signed(BODY, seconds(), "sha512").hex(),
    },
    "sha1": lambda: {"x-timestamp": seconds(), "x-signature": signed(BODY, seconds(), "sha1").hex()},
}
BAD: dict[str, Callable[[], dict[str, str]]] = {
    "nothing": dict,
    "another secret": lambda: {"X-Vapi-Secret": "other"},
    "an empty secret": lambda: {"X-Vapi-Secret": ""},
    "another token": lambda: {"Authorization": "Bearer other"},
    "basic": lambda: {"Authorization": f"Basic {SECRET}"},
    "another body": lambda: {"x-timestamp": seconds(), "x-signature": signed(b"{}", seconds()).hex()},
    "six minutes old": lambda: {
        "x-timestamp": str(int(time.time()) - 360),
        "x-signature": signed(BODY, str(int(time.time()) - 360)).hex(),
    },
    "six minutes ahead": lambda: {
        "x-timestamp": str(int(time.time()) + 360),
        "x-signature": signed(BODY, str(int(time.time()) + 360)).hex(),
    },
    "no time": lambda: {"x-signature": signed(BODY, "").hex()},
    "no digest": lambda: {"x-timestamp": seconds(), "x-signature": "%%%"},
}


@pytest.mark.parametrize("good", GOOD)
async def test_every_way_that_vapi_proves_itself_is_accepted(good: str) -> None:
    async with serving(*ROUTES, providers=CONFIGURED) as edge:
        response = await edge.client.post(PATH, data=BODY, headers=GOOD[good]())
        assert (response.status, await response.json()) == (200, {})
        assert await edge.events()


@pytest.mark.parametrize("bad", BAD)
async def test_what_the_secret_does_not_vouch_for_is_401_counted_and_leaves_no_event(bad: str) -> None:
    labels = {"source": "vapi", "outcome": "bad_signature"}
    before = REGISTRY.get_sample_value("trunkline_webhooks_total", labels) or 0
    async with serving(*ROUTES, providers=CONFIGURED, development=True) as edge:
        response = await edge.client.post(PATH, data=BODY, headers=BAD[bad]())
        assert response.status == 401
        assert await edge.events() == []
    assert REGISTRY.get_sample_value("trunkline_webhooks_total", labels) == before + 1


def test_the_documented_hmac_vector_is_ours() -> None:
    vector = VECTORS[2]
    made = signed(vector["body"].encode(), vector["headers"]["x-timestamp"])
    assert (vector["secretKey"], made.hex()) == (SECRET, vector["headers"]["x-signature"])


async def test_the_plan_of_a_signature_is_configuration() -> None:
    plan = ProviderSettings(
        vapi_webhook_secret=SECRET,
        vapi_signature_header="X-Own",
        vapi_timestamp_header="X-At",
        vapi_signed_payload="v0:{timestamp}:{body}",
    )
    async with serving(*ROUTES, providers=plan) as edge:
        at = seconds()
        headers = {"X-At": at, "X-Own": signed(BODY, at, payload=b"v0:%b:%b").hex()}
        assert (await edge.client.post(PATH, data=BODY, headers=headers)).status == 200


async def test_without_a_secret_only_a_developer_may_post() -> None:
    async with serving(*ROUTES) as edge:
        assert (await edge.client.post(PATH, data=BODY)).status == 503
    async with serving(*ROUTES, development=True) as edge:
        assert (await edge.client.post(PATH, data=BODY)).status == 200


async def test_the_called_number_selects_the_organization() -> None:
    async with serving(*ROUTES, providers=CONFIGURED) as edge:
        acme = OrgId("acme")
        await edge.organizations.ensure(acme, "Acme")
        assert (await edge.client.post(PATH, data=BODY, headers=TOLD)).status == 404
        await edge.organizations.map_number(acme, OURS)
        await edge.providers.change(acme, {"vapi_webhook_secret": "acme's"})
        assert (await edge.client.post(PATH, data=BODY, headers=TOLD)).status == 401
        await post(edge, example("status_update_ringing.json"), {"X-Vapi-Secret": "acme's"})
        assert names_of(await edge.events(acme)) == ["call.initiated", "call.status_reported"]
        assert await edge.events() == []


# What is told of a call


async def test_a_call_is_told_from_ringing_to_its_summary_and_ends_once() -> None:
    async with serving(*ROUTES, providers=CONFIGURED) as edge:
        for name in ("ringing", "in_progress", "ended", "ended"):
            assert await post(edge, example(f"status_update_{name}.json")) == {}
        assert await post(edge, report()) == {}
        assert await post(edge, report()) == {}
        events = await edge.events()
        assert names_of(events) == [
            "call.initiated",
            *["call.status_reported"] * 3,
            "call.ended",
            *["call.turn_recorded"] * 2,
            "call.summarized",
        ]
        organization = await edge.organizations.require(DEMO)
        conversation = conversation_id(organization.pepper, f"tel:{CUSTOMER}")
        assert {(event.run, event.conversation) for event in events} == {(events[0].position, conversation)}
        (ended,) = await bodies(edge, CallEnded)
        assert (ended.call_sid, ended.outcome, ended.reason) == (CALL, "completed", "customer-ended-call")
        reports = await bodies(edge, CallStatusReported)
        assert [each.status for each in reports] == ["ringing", "in-progress", "ended"]


async def test_a_report_alone_tells_the_whole_call() -> None:
    async with serving(*ROUTES, providers=CONFIGURED) as edge:
        await post(edge, report())
        (ended,) = await bodies(edge, CallEnded)
        assert (ended.duration_s, ended.summary) == (62, "A test ride on Saturday.")
        turns = await bodies(edge, CallTurnRecorded)
        assert [(turn.role, turn.text, turn.at_s) for turn in turns] == [
            ("assistant", "Front desk, hello.", 1.2),
            ("user", "Can I try it on Saturday?", 3.5),
        ]


async def test_turns_that_were_told_live_are_not_told_again_by_the_report() -> None:
    async with serving(*ROUTES, providers=CONFIGURED) as edge:
        final = example("transcript_final.json")
        for body in (final, final, example("transcript_final.json", transcript="Or Sunday?", timestamp=2)):
            await post(edge, body)
        final = example("transcript_final.json", type='transcript[transcriptType="final"]', transcript="Bye")
        del final["message"]["transcriptType"]
        await post(edge, final)
        await post(edge, example("transcript_final.json", transcriptType="partial", transcript="Can I"))
        await post(edge, report())
        turns = await bodies(edge, CallTurnRecorded)
        assert [turn.text for turn in turns] == ["Can I try it on Saturday?", "Or Sunday?", "Bye"]
        assert len({turn.message_id for turn in turns}) == 3


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        ("customer-ended-call", "completed"),
        ("assistant-ended-call", "completed"),
        ("silence-timed-out", "completed"),
        ("voicemail", "completed"),
        ("customer-busy", "busy"),
        ("customer-did-not-answer", "no-answer"),
        ("manually-canceled", "canceled"),
        ("pipeline-error-openai-llm-failed", "failed"),
        ("call.in-progress.error-vapifault-worker-died", "failed"),
        ("", "completed"),
    ],
)
def test_hundreds_of_reasons_are_five_outcomes(reason: str, outcome: str) -> None:
    assert outcome_of(reason) == outcome


@pytest.mark.parametrize(
    "message",
    [
        example("conversation_update.json")["message"],
        json.loads(VECTORS[2]["body"])["message"],
        {"type": "speech-update", "call": {"id": "1"}},
        {"type": "status-update", "call": {"id": "1"}},
        {"type": "transcript", "call": {"id": "1"}},
        {"type": "hang"},
        {"type": 7},
        {},
        None,
    ],
    ids=str,
)
async def test_what_tells_of_no_call_is_taken_and_leaves_nothing(message: object) -> None:
    async with serving(*ROUTES, providers=CONFIGURED) as edge:
        response = await edge.client.post(PATH, json={"message": message}, headers=TOLD)
        assert (response.status, await response.json()) == (200, {})
        assert await edge.events() == []


async def test_a_web_call_has_a_conversation_of_its_own() -> None:
    async with serving(*ROUTES, providers=CONFIGURED) as edge:
        await post(edge, {"message": {"type": "end-of-call-report", "call": {"id": "web_1", "type": "webCall"}}})
        events = await edge.events()
        assert names_of(events) == ["call.initiated", "call.ended"]
        organization = await edge.organizations.require(DEMO)
        assert events[0].conversation == conversation_id(organization.pepper, "call:web_1")


@pytest.mark.parametrize(("body", "status"), [(b"{", 400), (b"\xff{}", 400), (b"[]", 422)])
async def test_half_bodies_are_refused(body: bytes, status: int) -> None:
    async with serving(*ROUTES, providers=CONFIGURED) as edge:
        assert (await edge.client.post(PATH, data=body, headers=TOLD)).status == status


# What is answered


async def test_a_new_call_gets_the_configured_assistant_with_all_that_is_known() -> None:
    chosen = ProviderSettings(vapi_webhook_secret=SECRET, vapi_assistant_id="a1b2")
    async with serving(*ROUTES, *twilio.ROUTES, providers=chosen) as edge:
        answer = await post(edge, example("assistant_request.json"))
        assert answer["assistantId"] == "a1b2"
        variables = answer["assistantOverrides"]["variableValues"]
        assert len(variables) == 9
        assert (variables["organization_name"], variables["caller_type"]) == ("Demo", "new_lead")
        assert answer == await post(edge, example("assistant_request.json"))
        assert names_of(await edge.events()) == ["call.initiated", "call.context_given"]


async def test_without_a_configured_assistant_ours_is_described() -> None:
    async with serving(*ROUTES, providers=CONFIGURED) as edge:
        answer = await post(edge, example("assistant_request.json"))
        assert "assistantId" not in answer
        system = answer["assistant"]["model"]["messages"][0]
        assert (system["role"], bool(system["content"])) == ("system", True)
        assert "Demo" in answer["assistant"]["firstMessage"]


async def test_a_call_is_transferred_to_the_configured_number_or_not_at_all() -> None:
    request = example("assistant_request.json", type="transfer-destination-request")
    async with serving(*ROUTES, providers=CONFIGURED) as edge:
        assert (await post(edge, request)).keys() == {"error"}
    desk = ProviderSettings(vapi_webhook_secret=SECRET, vapi_transfer_number="+15550111")
    async with serving(*ROUTES, providers=desk) as edge:
        assert await post(edge, request) == {"destination": {"type": "number", "number": "+15550111"}}


async def test_the_knowledge_base_has_no_documents() -> None:
    async with serving(*ROUTES, providers=CONFIGURED) as edge:
        assert await post(edge, example("assistant_request.json", type="knowledge-base-request")) == {"documents": []}


async def test_tool_calls_are_run_and_answered_in_order(stack: Stack) -> None:
    body = json.loads((FIXTURES / "tool_calls_request.json").read_text())
    calls = [
        {"id": "one", "function": {"name": "search_contacts", "arguments": {"query": "john"}}},
        {"id": "two", "function": {"name": "no_such_tool", "arguments": {}}},
        {"id": "three", "arguments": {}},
    ]
    body["message"] |= {"toolCallList": calls}
    await stack.organizations.map_number(DEMO, OURS)
    async with stack.http() as client:
        answer = await client.post(PATH, json=body)
    assert answer.status_code == 200
    first, second, third = answer.json()["results"]
    assert (first["toolCallId"], json.loads(first["result"])["total"]) == ("one", 1)
    assert (second["toolCallId"], "error" in second) == ("two", True)
    assert (third["toolCallId"], "error" in third) == ("three", True)


async def test_what_vapi_asks_for_does_not_count_against_the_rate_limit(redis_url: str) -> None:
    calls = [{"id": str(n), "name": "get_location", "arguments": {}} for n in range(3)]
    body = {"message": {"type": "tool-calls", "toolCallList": calls, "phoneNumber": {"number": OURS}}}
    async with (
        stacked(redis_url, development=False, providers=CONFIGURED, quota=Quota(requests=1)) as stack,
        stack.http(TOLD) as client,
    ):
        await stack.organizations.map_number(DEMO, OURS)
        answer = await client.post(PATH, json=body)
    assert all("result" in result for result in answer.json()["results"]), answer.text
    assert "RateLimit-Limit" not in answer.headers
