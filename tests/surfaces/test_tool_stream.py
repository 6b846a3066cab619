"""Tools (document 000): its examples as data, and what holds when clients repeat, leave, return or make mistakes."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from projections.tool_catalog import TOOL_SPECS
from tests.support.stack import ACME, Stack, stacked
from tests.support.stream_client import Cut, Frame, StreamClient, query

VAPI = Path(__file__).parents[1] / "fixtures" / "vapi"
SSE, NDJSON = "text/event-stream", "application/x-ndjson"
JOHN = {
    "id": "contact_123", "firstName": "John", "lastName": "Doe", "name": "John Doe", "phone": "+1234567890",
    "email": "john@example.com", "tags": ["lead", "vip"],
}  # fmt: skip
RUN_DEADLINE_S = 18.0


def named(frames: list[Frame]) -> list[str | None]:
    return [frame.event for frame in frames]


def without(data: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in names}


def metadata_of(frame: Frame) -> Any:
    return frame.data["metadata"]


# What the document prints


async def test_sse_frames_are_those_of_the_document(stack: Stack) -> None:
    async with stack.open("/api/sse/search_contacts?query=john") as stream:
        frames = await stream.rest()
    assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert named(frames) == ["connected", "processing", "authenticated", "executing", "result", "complete"]
    assert [frame.type for frame in frames] == named(frames), "the document's Node client reads `type`"
    data = [without(frame.data, "type") for frame in frames]
    assert data[0] == {"status": "connected", "message": "SSE stream established"}
    assert data[1] == {"status": "processing", "tool": "search_contacts"}
    assert data[2] == {"status": "authenticated"}
    assert data[3] == {"status": "executing", "tool": "search_contacts"}
    assert data[4].keys() == {"success", "data", "metadata"}
    assert data[4]["success"] is True
    assert data[4]["data"]["total"] == 1
    assert without(data[4]["data"]["contacts"][0], "createdAt", "updatedAt") == JOHN
    assert metadata_of(frames[4]).keys() == {"tool", "run", "duration_ms"}
    assert data[5] == {"status": "complete", "message": "Request completed successfully"}


async def test_ndjson_frames_are_those_of_the_document(stack: Stack) -> None:
    async with stack.open("/api/stream/search_contacts", json={"query": "john"}) as stream:
        frames = await stream.rest()
    assert stream.headers["content-type"] == NDJSON
    data = [without(frame.data, "id") for frame in frames]
    assert data[0] == {"type": "start", "status": "connected", "message": "Stream initialized"}
    assert data[1] == {"type": "status", "status": "authenticating", "tool": "search_contacts"}
    assert data[2] == {"type": "authenticated"}
    assert data[3] == {"type": "executing", "tool": "search_contacts"}
    assert data[4].keys() == {"type", "success", "data", "metadata"}
    assert (data[4]["type"], data[4]["success"], data[4]["data"]["total"]) == ("result", True, 1)
    assert data[5] == {"type": "complete", "status": "success", "message": "Request completed"}


@pytest.mark.parametrize("surface", ["sse", "stream"])
async def test_only_the_last_frame_of_an_event_carries_its_id_and_they_leave_together(
    stack: Stack, surface: str
) -> None:
    async with stack.open(f"/api/{surface}/get_location") as stream:
        frames = await stream.rest()
    assert [frame.id is not None for frame in frames] == [False, False, True, True, False, True]
    run, started, done = (str(event.position) for event in (await stack.events())[-3:])
    assert [frame.id for frame in frames if frame.id] == [run, started, done]
    assert run.encode() in stream.writes[0], "the first write holds the id of the input"
    for write in stream.writes:
        assert (b"connected" in write) == (run.encode() in write.replace(b'"run":"' + run.encode(), b""))
        assert (b'"result"' in write) == (b'"complete"' in write)


@pytest.mark.parametrize("surface", ["sse", "stream"])
async def test_a_response_names_its_run_and_where_to_follow_it(stack: Stack, surface: str) -> None:
    async with stack.open(f"/api/{surface}/get_location") as stream:
        frames = await stream.rest()
    run = stream.headers["x-run-id"]
    assert frames[2].id == run
    assert metadata_of(frames[4])["run"] == run
    assert stream.headers["location"] == f"/v1/runs/{run}/stream"


async def test_a_large_result_also_comes_in_chunks(stack: Stack) -> None:
    items = [{"n": n} for n in range(250)]
    stack.tools.answers["search_contacts"] = {"contacts": items, "total": 250}
    for path in ("/api/sse/search_contacts", "/api/stream/search_contacts"):
        async with stack.open(path) as stream:
            frames = await stream.rest()
        chunks = [frame for frame in frames if frame.type == "result_chunk"]
        assert [chunk.data["index"] for chunk in chunks] == [0, 1, 2]
        assert [item for chunk in chunks for item in chunk.data["items"]] == items
        result = next(frame for frame in frames if frame.type == "result")
        assert result.data["data"] == {"contacts": items, "total": 250}
        assert [frame.id for frame in frames[4:-1]] == [None] * 4


async def test_a_failure_is_an_error_frame_and_a_clean_end(stack: Stack) -> None:
    async with stack.open("/api/sse/get_contact_by_phone?phone=%2B15550009999") as stream:
        *_, last = await stream.rest()
    assert last.event == "error"
    assert last.data == {"type": "error", "error": "Contact not found", "statusCode": 404, "code": "NOT_FOUND"}
    async with stack.open("/api/stream/get_contact_by_phone?phone=%2B15550009999") as stream:
        *_, last = await stream.rest()
    assert without(last.data, "id") == {"type": "error", "error": "Contact not found", "code": "NOT_FOUND"}
    assert last.id is not None


# Formats


@pytest.mark.parametrize(
    ("accept", "body", "content_type"),
    [
        (SSE, {"query": "john"}, "text/event-stream; charset=utf-8"),
        (NDJSON, {"query": "john"}, NDJSON),
        ("*/*", {"query": "john", "streaming": True, "streamFormat": "sse"}, "text/event-stream; charset=utf-8"),
        ("*/*", {"query": "john", "streamFormat": "ndjson"}, NDJSON),
        ("application/json", {"query": "john", "streaming": True}, "application/json; charset=utf-8"),
    ],
)
async def test_the_ai_route_answers_in_the_callers_format(
    stack: Stack, accept: str, body: dict[str, Any], content_type: str
) -> None:
    async with stack.http() as http:
        response = await http.post("/api/ai/search_contacts", json=body, headers={"Accept": accept})
    assert response.status_code == 200
    assert response.headers["Content-Type"] == content_type
    assert "contact_123" in response.text
    asked = [event for event in await stack.events() if event.type == "tool.requested"]
    assert json.loads(asked[-1].personal)["arguments"] == {"query": "john"}, "control keys are no arguments"


async def test_the_ai_route_answers_plain_clients_with_one_json_body(stack: Stack) -> None:
    async with stack.http() as http:
        response = await http.get("/api/ai/get_contact_by_phone?phone=+1234567890")
        missing = await http.get("/api/ai/get_contact_by_phone?phone=%2B15550009999")
    answer = response.json()
    assert answer.keys() == {"success", "data", "metadata"}
    assert answer["data"]["id"] == "contact_123"
    assert answer["metadata"]["run"] == response.headers["X-Run-Id"]
    assert missing.status_code == 404
    assert missing.json() == {"success": False, "error": "Contact not found", "code": "NOT_FOUND"}
    assert response.headers["Cache-Control"] == missing.headers["Cache-Control"] == "no-store"


async def test_a_tool_that_has_more_to_say_than_its_result_still_ends_a_json_answer(stack: Stack) -> None:
    """send_sms appends the message's intent in one step with, and after, its result."""
    body = {"contactId": "contact_123", "message": "Hello"}
    async with stack.http({"Idempotency-Key": "once"}) as http:
        first = await http.post("/api/ai/send_sms", json=body)
        again = await http.post("/api/ai/send_sms", json=body)
    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()
    assert again.headers["Idempotency-Replayed"] == "true"


async def test_a_vapi_configuration_that_asks_for_sse_gets_it(stack: Stack) -> None:
    async with stack.open("/api/ai/get_contact_by_phone?streamFormat=sse&phone=+1234567890") as stream:
        frames = await stream.rest()
    assert named(frames)[-2:] == ["result", "complete"]


# Arguments


async def test_a_phone_number_whose_plus_became_a_space_is_found(stack: Stack) -> None:
    async with stack.open("/api/sse/get_contact_by_phone?phone=+1234567890") as stream:
        result = (await stream.until("result"))[-1]
    assert result.data["data"]["id"] == "contact_123"


async def test_control_keys_of_a_query_are_no_arguments(stack: Stack) -> None:
    path = "/api/sse/search_contacts?query=john&limit=5&stream=true&streaming=1&streamFormat=sse&dialect=x&after=now"
    async with stack.open(path) as stream:
        await stream.rest()
    asked = next(event for event in await stack.events() if event.type == "tool.requested")
    assert json.loads(asked.personal)["arguments"] == {"query": "john", "limit": "5"}


async def test_no_body_at_all_is_no_arguments(stack: Stack) -> None:
    async with stack.open("/api/stream/get_location", body=b"") as stream:
        assert (await stream.rest())[-1].type == "complete"


SURFACES = ("sse", "stream", "ai")


@pytest.mark.parametrize(
    ("tool", "body", "status", "code", "says"),
    [
        ("no_such_tool", b"{}", 404, "TOOL_NOT_FOUND", "'no_such_tool'"),
        ("get_contact_by_phone", b'{"phone":"banana"}', 422, "INVALID_ARGUMENTS", "'banana'"),
        ("get_contact_by_phone", b"{}", 422, "INVALID_ARGUMENTS", "phone"),
        ("search_contacts", b'{"limit":100000}', 422, "INVALID_ARGUMENTS", "100000"),
        ("search_contacts", b"{", 400, "INVALID_JSON", ""),
        ("search_contacts", b"[]", 422, "INVALID_BODY", "array"),
        ("search_contacts", b'{"limit":NaN}', 400, "INVALID_JSON", ""),
        ("search_contacts", b"[" * 100_000, 400, "INVALID_JSON", ""),
        ("search_contacts", b'{"query":"%b"}' % (b"x" * 1_048_576), 413, "PAYLOAD_TOO_LARGE", "1048576"),
    ],
)
async def test_what_cannot_be_run_is_refused_in_the_surfaces_own_frame_and_leaves_no_event(
    stack: Stack, tool: str, body: bytes, status: int, code: str, says: str
) -> None:
    before = len(await stack.events())
    for surface in SURFACES:
        async with stack.open(f"/api/{surface}/{tool}", body=body) as stream:
            raw = (await stream.body()).decode()
        assert stream.status == status
        assert raw.startswith("event: error\ndata: ") == (surface == "sse")
        error = json.loads(raw.removeprefix("event: error\ndata: "))
        assert error.get("statusCode", status) == status
        assert error["code"] == code
        assert says in error["error"]
    assert len(await stack.events()) == before


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("headers", [{"X-Tenant-API-Key": "ghl_mcp_wrong"}, {"Authorization": "Bearer tl_no"}])
async def test_a_bad_key_is_a_status_with_an_error_frame(stack: Stack, surface: str, headers: dict[str, str]) -> None:
    async with stack.open(f"/api/{surface}/search_contacts?query=john", headers) as stream:
        raw = (await stream.body()).decode()
    assert stream.status == 401
    shown = raw.partition("data: ")[2] if surface == "sse" else raw
    assert json.loads(shown)["error"] == "Invalid API key"


async def test_the_tools_are_listed_with_what_they_take_and_do(stack: Stack) -> None:
    async with stack.http() as http:
        listed = (await http.get("/api/tools")).json()["tools"]
    assert {"search_contacts", "get_contact_by_phone", "create_contact", "send_sms", "get_location"} <= {
        tool["name"] for tool in listed
    }
    for tool in listed:
        assert tool.keys() == {"name", "description", "effect", "parameters"}
        assert tool["effect"] in ("read", "write")
        assert tool["parameters"]["type"] == "object"


async def test_every_tool_answers_what_the_contract_says(stack: Stack) -> None:
    """In the order in which an assistant would use them: later calls take what earlier ones gave."""
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date().isoformat()
    answered: set[str] = set()

    async def call(tool: str, **arguments: Any) -> Any:
        response = await http.post(f"/api/ai/{tool}", json=arguments)
        assert response.status_code == 200, response.text
        answered.add(tool)
        return response.json()["data"]

    async with stack.http() as http:
        contact = await call("create_contact", name="Ann Lee", phone="+14155550001", email="ann@example.org")
        assert contact.keys() == {*JOHN, "createdAt", "updatedAt", "new"}
        assert (await call("search_contacts", query="ann lee"))["total"] == 1
        assert (await call("get_contact_by_phone", phone="+14155550001"))["id"] == contact["id"]
        for tool, text in (("send_sms", {"message": "Hi"}), ("send_email", {"subject": "Hi", "html": "<p>Hi</p>"})):
            sent = await call(tool, contactId=contact["id"], **text)
            assert (sent.keys(), sent["status"]) == ({"messageId", "status"}, "queued")
        slots = (await call("get_free_slots", startDate=tomorrow, endDate=tomorrow))[tomorrow]["slots"]
        booked = await call("create_appointment", contactId=contact["id"], startTime=slots[0], title="Visit")
        assert (booked["startTime"], booked["contactId"]) == (slots[0], contact["id"])
        again = {"contactId": contact["id"], "startTime": slots[0]}
        taken = await http.post("/api/ai/create_appointment", json=again)
        assert (taken.status_code, taken.json()["code"]) == (409, "SLOT_TAKEN")
        deal = await call("create_opportunity", contactId=contact["id"], name="Bike", monetaryValue=2200)
        won = await call("update_opportunity_status", opportunityId=deal["id"], status="won")
        assert (deal["status"], won["status"], won["id"]) == ("open", "won", deal["id"])
        assert (await call("get_location"))["name"] == "Demo Dental"
        john = {"contactId": "contact_123"}
        assert (await call("fetch_preapproved_offer", **john))["preApprovedLimit"] == 25_000
        assert (await call("get_credit_score", **john))["eligible"]
        assert (await call("verify_kyc", **john))["verified"]
        assert (await call("underwrite_loan", **john, amount=10_000, tenureMonths=36))["decision"] == "approved"
        assert (await call("generate_sanction_letter", **john))["letter"].startswith("Dear John Doe")
    assert answered == {spec.name for spec in TOOL_SPECS}


# VAPI


def envelope(name: str) -> Any:
    return json.loads((VAPI / name).read_text())


@pytest.mark.parametrize(
    "sample",
    [
        "tool_calls_request.json",
        "tool_calls_request_arguments_string.json",
        "tool_calls_request_flat_arguments.json",
        "tool_calls_request_parameters.json",
    ],
)
async def test_every_shape_of_vapis_tool_calls_is_answered_in_vapis_shape(stack: Stack, sample: str) -> None:
    body = envelope(sample)
    async with stack.http() as http:
        response = await http.post("/api/ai/some_default", json=body, headers={"Accept": SSE})
    assert response.status_code == 200
    [result] = response.json()["results"]
    assert result.keys() == {"toolCallId", "name", "result"}
    assert result["toolCallId"] == body["message"]["toolCallList"][0]["id"]
    assert result["name"] == "get_contact_by_phone"
    assert json.loads(result["result"])["name"] == "Maria Ruiz"
    assert "\n" not in result["result"]


async def test_only_the_wrapped_list_of_vapi_is_enough(stack: Stack) -> None:
    body = envelope("tool_calls_request.json")
    del body["message"]["toolCallList"], body["message"]["toolCalls"]
    async with stack.http() as http:
        [result] = (await http.post("/api/ai/x", json=body)).json()["results"]
    assert (result["toolCallId"], "error" in result) == ("toolu_01DTPAzUm5Gk3zxrpJ969oMF", False)


def calls(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"message": {"type": "tool-calls", "toolCallList": list(entries)}}


async def test_vapi_gets_one_result_per_call_in_order_whatever_fails(stack: Stack) -> None:
    body = calls(
        {"id": "1", "name": "get_location", "arguments": {}},
        {"id": "2", "name": "no_such_tool", "arguments": {}},
        {"id": "3", "name": "get_contact_by_phone", "arguments": {"phone": "banana"}},
        {"id": "4", "name": "get_contact_by_phone", "arguments": "{broken"},
        {"id": "5", "name": "get_contact_by_phone", "arguments": {"phone": "+15550009999"}},
        {"id": "6", "arguments": {}},
        {"id": "7", "name": "send_sms", "arguments": {"contactId": "contact_123", "message": "two\nlines"}},
        {"id": "8", "name": "get_location", "arguments": "[" * 3_000},
    )
    async with stack.http() as http:
        response = await http.post("/api/ai/get_location", json=body)
    results = response.json()["results"]
    assert [result["toolCallId"] for result in results] == list("12345678")
    assert ["error" in result for result in results] == [False, True, True, True, True, False, False, True]
    assert results[4] == {"toolCallId": "5", "name": "get_contact_by_phone", "error": "Contact not found"}
    assert results[5]["name"] == "get_location", "the route's tool is the default"
    assert all("\n" not in result.get("result", result.get("error")) for result in results)


async def test_vapi_gets_a_result_for_every_call_also_beyond_the_limit(stack: Stack) -> None:
    body = calls(*({"id": str(n), "name": "get_location", "arguments": {}} for n in range(40)))
    async with stack.http() as http:
        results = (await http.post("/api/ai/x", json=body)).json()["results"]
    assert [result["toolCallId"] for result in results] == [str(n) for n in range(40)]
    assert ["error" in result for result in results] == [False] * 32 + [True] * 8


async def test_a_repeated_vapi_call_runs_once(stack: Stack) -> None:
    body = calls({"id": "c1", "name": "send_sms", "arguments": {"contactId": "contact_123", "message": "Hi"}})
    async with stack.http() as http:
        first, again = await asyncio.gather(*(http.post("/api/ai/send_sms", json=body) for _ in range(2)))
    assert first.json() == again.json()
    assert [event.type for event in await stack.events()].count("sms.requested") == 1


async def test_a_vapi_envelope_needs_a_credential_like_everything_else(stack: Stack) -> None:
    async with stack.http({"X-Tenant-API-Key": "wrong"}) as http:
        assert (await http.post("/api/ai/x", json=calls())).status_code == 401


# Repeating


async def test_the_same_key_and_body_get_the_same_run_again(stack: Stack) -> None:
    path, body = "/api/stream/create_contact", {"firstName": "Ada", "phone": "+14155550123"}
    async with stack.open(path, {"Idempotency-Key": "k1"}, json=body) as stream:
        first = await stream.rest()
    assert "idempotency-replayed" not in stream.headers
    async with stack.open(path, {"Idempotency-Key": "k1"}, json=body) as repeated:
        again = await repeated.rest()
    assert repeated.headers["idempotency-replayed"] == "true"
    assert repeated.headers["x-run-id"] == stream.headers["x-run-id"]
    assert again == first
    async with stack.open(path, {"Idempotency-Key": "k1"}, json={**body, "firstName": "Eve"}) as refused:
        error = json.loads(await refused.body())
    assert (refused.status, error["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")


async def test_a_client_that_cannot_send_headers_gives_its_key_in_the_query(stack: Stack) -> None:
    path = "/api/sse/create_contact?name=Ada&phone=%2B14155550123&idempotency_key=k1"
    runs = set()
    for _ in range(2):
        async with stack.open(path) as stream:
            await stream.rest()
        runs.add(stream.headers["x-run-id"])
    assert len(runs) == 1


async def test_a_write_by_get_is_one_call_while_it_is_fresh_and_a_read_is_not(stack: Stack) -> None:
    write = "/api/sse/send_sms?contactId=contact_123&message=Hello"
    runs: dict[str, set[str]] = {}
    for path in (write, write, write + "!", "/api/sse/get_location", "/api/sse/get_location"):
        async with stack.open(path) as stream:
            await stream.rest()
        runs.setdefault(path, set()).add(stream.headers["x-run-id"])
    assert [len(runs[path]) for path in (write, write + "!", "/api/sse/get_location")] == [1, 1, 2]
    remembered = await stack.pipe.call("KEYS", "*idem*")
    lives = [await stack.pipe.call("PTTL", key) for key in remembered]
    assert len(lives) == 2
    assert all(0 < life <= 10_000 for life in lives), "ten seconds, no longer"


async def test_a_write_by_post_without_a_key_is_a_call_of_its_own(stack: Stack) -> None:
    async with stack.http() as http:
        for _ in range(2):
            await http.post("/api/ai/send_sms", json={"contactId": "contact_123", "message": "Hello"})
    assert [event.type for event in await stack.events()].count("sms.requested") == 2


# Leaving and returning


async def test_a_client_that_leaves_does_not_stop_the_work(stack: Stack) -> None:
    gate = stack.tools.hold("get_location")
    async with stack.open("/api/sse/get_location") as stream:
        await stream.until("executing")
        run = stream.headers["x-run-id"]
    gate.set()
    async with stack.open(f"/v1/runs/{run}/stream?dialect=tools") as again:
        frames = await again.rest()
    assert named(frames)[-2:] == ["result", "complete"]


REPEATED = {"query": "john", "limit": 5}


async def started(stack: Stack, headers: dict[str, str] | None = None) -> tuple[StreamClient, list[Frame]]:
    async with stack.open("/api/stream/search_contacts", headers, json=REPEATED) as stream:
        frames = await stream.rest()
    return stream, frames


async def test_the_same_request_with_a_last_event_id_goes_on_where_it_was(stack: Stack) -> None:
    first, frames = await started(stack)
    count = len(await stack.events())
    for cut in (2, 3):
        reordered = {"limit": 5, "query": "john"}
        async with stack.open("/api/stream/search_contacts", json=reordered, last=frames[cut].id) as stream:
            rest = await stream.rest()
        assert rest == frames[cut + 1 :]
        assert stream.headers["x-run-id"] == first.headers["x-run-id"]
    async with stack.open("/api/stream/search_contacts", json=REPEATED, last=frames[-1].id) as over:
        assert over.status == 204
    assert len(await stack.events()) == count, "nothing was started"


@pytest.mark.parametrize("how", ["header", "query", "header, with after", "query, with after"])
async def test_a_get_that_returns_re_attaches_wherever_it_says_so(stack: Stack, how: str) -> None:
    async with stack.open("/api/sse/search_contacts?query=john") as stream:
        frames = await stream.rest()
    seen = frames[2].id or ""
    path = "/api/sse/search_contacts?query=john" + ("&after=0" if "after" in how else "")
    if how.startswith("query"):
        path, last = f"{path}&last_event_id={seen}", None
    else:
        last = seen
    async with stack.open(path, last=last) as again:
        rest = await again.rest()
    assert rest == frames[3:]
    assert again.headers["x-run-id"] == stream.headers["x-run-id"]


async def test_another_body_with_that_position_is_422(stack: Stack) -> None:
    _, frames = await started(stack)
    count = len(await stack.events())
    async with stack.open("/api/stream/search_contacts", json={"query": "maria"}, last=frames[2].id) as stream:
        error = json.loads(await stream.body())
    assert (stream.status, error["code"]) == (422, "RUN_MISMATCH")
    async with stack.open("/api/stream/get_location", json={}, last=frames[2].id) as other:
        assert other.status == 422
    assert len(await stack.events()) == count


async def test_another_credential_cannot_re_attach(stack: Stack) -> None:
    mine, other = await stack.key(), await stack.key()
    _, frames = await started(stack, mine)
    async with stack.open("/api/stream/search_contacts", other, json=REPEATED, last=frames[2].id) as stream:
        assert stream.status == 422
    async with stack.open("/api/stream/search_contacts", json=REPEATED, last=frames[2].id) as foreign:
        assert [frame.type for frame in await foreign.rest()] == ["gap"], "another organization knows no such run"


@pytest.mark.parametrize("surface", ["sse", "stream"])
@pytest.mark.parametrize(
    ("last", "reason"), [("0", "unknown"), ("1-0", "unknown"), ("9999999999999-0", "ahead"), ("inside", "unknown")]
)
async def test_a_position_that_leads_to_no_run_is_a_gap_and_a_clean_end_never_work(
    stack: Stack, surface: str, last: str, reason: str
) -> None:
    before = await stack.events()
    if last == "inside":
        last = f"{before[0].position.ms}-{before[0].position.seq + 500}"
        await stack.say()
        before = await stack.events()
    async with stack.open(f"/api/{surface}/get_location", json={}, last=last) as stream:
        [gap] = await stream.rest()
    assert without(gap.data, "id") == {
        "type": "gap", "reason": reason, "requested": last, "first_available": str(before[0].position),
    }  # fmt: skip
    assert gap.id == str(before[0].position.before())
    assert gap.event == ("gap" if surface == "sse" else None)
    assert await stack.events() == before


@pytest.mark.parametrize("last", ["banana", "1", "-1-0", "1-0-0", "1-0;DROP", "٣-٤", "99999999999999999-0"])
async def test_a_malformed_position_is_400_and_no_work(stack: Stack, last: str) -> None:
    before = await stack.events()
    async with stack.open(f"/api/sse/get_location{query(last_event_id=last)}") as stream:
        assert stream.status == 400
    assert await stack.events() == before


# The run, for everybody else


@pytest.mark.parametrize(
    ("dialect", "accept", "names"),
    [
        (None, SSE, ["connected", "processing", "authenticated", "executing", "result", "complete"]),
        ("tools", SSE, ["connected", "processing", "authenticated", "executing", "result", "complete"]),
        ("tools", NDJSON, ["start", "status", "authenticated", "executing", "result", "complete"]),
        ("native", SSE, ["tool.requested", "tool.started", "tool.completed", "end"]),
        ("native", NDJSON, ["tool.requested", "tool.started", "tool.completed", "end"]),
    ],
)
async def test_a_run_can_be_followed_again_in_every_dialect(
    stack: Stack, dialect: str | None, accept: str, names: list[str]
) -> None:
    async with stack.open("/api/sse/get_location") as stream:
        await stream.rest()
    path = stream.headers["location"] + (f"?dialect={dialect}" if dialect else "")
    async with stack.open(path, {"Accept": accept}) as again:
        frames = await again.rest()
    assert [frame.type for frame in frames] == names
    assert again.headers["x-run-id"] == stream.headers["x-run-id"]
    async with stack.open(path, {"Accept": accept}, last=frames[-1].id) as over:
        assert over.status == 204
    first = next(frame.id for frame in frames if frame.id)
    async with stack.open(path, {"Accept": accept}, last=first) as later:
        assert (await later.rest())[-1] == frames[-1]


async def test_an_unknown_dialect_or_run_is_named(stack: Stack) -> None:
    async with stack.open("/api/sse/get_location") as stream:
        await stream.rest()
    executing = (await stack.events())[-2].position
    async with stack.http() as http:
        wrong = await http.get(stream.headers["location"] + "?dialect=klingon")
        assert (wrong.status_code, "klingon" in wrong.text) == (422, True)
        for chat in ("staff", "health", "loan"):
            unfit = await http.get(stream.headers["location"] + f"?dialect={chat}")
            assert (unfit.status_code, unfit.json()["code"]) == (422, "BAD_DIALECT")
        for run in ("1-0", str(executing), "9999999999999-0"):
            for path in (f"/v1/runs/{run}", f"/v1/runs/{run}/stream"):
                assert (await http.get(path)).status_code == 404, path
        assert (await http.get("/v1/runs/banana/stream")).status_code == 400
        state = (await http.get(f"/v1/runs/{stream.headers['x-run-id']}")).json()
    assert (state["state"], state["type"], state["events"]) == ("completed", "tool.requested", 3)


async def test_a_run_that_was_asked_for_natively_is_shown_natively(stack: Stack) -> None:
    async with stack.http() as http:
        body = {"events": [{"type": "tool.requested", "data": {"tool": "get_location"}}]}
        posted = await http.post("/v1/events", json=body)
    assert posted.status_code == 201
    async with stack.open(posted.headers["Location"]) as stream:
        assert [frame.type for frame in await stream.rest()][-2:] == ["tool.completed", "end"]


# When it does not come to a result


async def test_a_tool_that_is_too_slow_ends_as_a_timeout(stack: Stack) -> None:
    """The deadline counts from the request, by the log's clock: the request is put on the log as 17.9 s old."""
    stack.tools.hold("get_location")
    seconds, micros = await stack.pipe.call("TIME")
    old = int(seconds) * 1_000 + int(micros) // 1_000 - int(RUN_DEADLINE_S * 1_000) + 100
    run = await stack.request_tool("get_location", at_ms=old, org=ACME)
    path = f"/v1/runs/{run}/stream?dialect=tools"
    async with stack.open(path, await stack.key()) as stream:
        *_, last = await stream.rest()
    assert last.event == "error"
    assert (last.data["statusCode"], last.data["code"]) == (504, "TIMEOUT")
    async with stack.open(path, {**await stack.key(), "Accept": NDJSON}) as ndjson:
        *_, last = await ndjson.rest()
    assert without(last.data, "id", "error") == {"type": "error", "code": "TIMEOUT"}


async def test_a_stream_nobody_will_answer_breaks_off_and_the_work_is_done_later(redis_url: str) -> None:
    async with stacked(redis_url, work=False) as stack:
        async with stack.open("/api/sse/get_location") as stream:
            frames = await stream.until_cut()
        assert named(frames) == ["connected", "processing", "authenticated"]
        async with stack.worker(), stack.open("/api/sse/get_location", last=frames[-1].id) as again:
            rest = await again.rest()
        assert named(rest) == ["executing", "result", "complete"]
        assert again.headers["x-run-id"] == stream.headers["x-run-id"]


async def test_a_slow_tool_is_waited_for_with_heartbeats(stack: Stack) -> None:
    gate = stack.tools.hold("get_location")
    async with (
        stack.open("/api/sse/get_location") as sse,
        stack.open("/api/stream/get_location") as ndjson,
    ):
        await sse.until("executing")
        await ndjson.until("executing")
        await sse.silence()
        await sse.silence()
        assert (await ndjson.take(2))[-1] == Frame({"type": "heartbeat"})
        gate.set()
        assert named(await sse.rest()) == ["result", "complete"]
        assert [frame.type for frame in await ndjson.rest() if frame.type != "heartbeat"] == ["result", "complete"]


async def test_an_edge_that_stops_breaks_streams_off_without_an_end(redis_url: str) -> None:
    async with stacked(redis_url) as stack:
        gate = stack.tools.hold("get_location")
        async with stack.edge() as second:
            stream = stack.open("/api/sse/get_location", edge=second)
            await stream.__aenter__()
            frames = await stream.until("executing")
        with pytest.raises(Cut):
            await stream.rest()
        await stream.__aexit__(None, None, None)
        gate.set()
        async with stack.open("/api/sse/get_location", last=frames[-1].id) as again:
            assert named(await again.rest()) == ["result", "complete"]
