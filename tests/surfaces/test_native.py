"""The native surface (CONTRACT 6): events as they are, appended and read in pages, streamed, and kept apart."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from edges.app_keys import Quota
from edges.dialects.native_pages import SCANNED_PAGES
from eventstore.events.replies import ReplyFailed
from eventstore.log import PAGE
from eventstore.schema import ConversationId, Event, Position
from tests.support.stack import ACME, DEMO, Stack, delta, said, stacked
from tests.support.stream_client import Frame, query

STREAM, EVENTS = "/v1/events/stream", "/v1/events"
SSE, NDJSON = "text/event-stream", "application/x-ndjson"
ANN = "tel:+14155550177"


@pytest.fixture
async def stack(redis_url: str) -> AsyncIterator[Stack]:
    async with stacked(redis_url, work=False) as running:
        yield running


def custom(n: int = 0, conversation: str | None = None, name: str = "custom.noted") -> dict[str, Any]:
    return {"type": name, "data": {"n": n}, **({"conversation": conversation} if conversation else {})}


async def post(stack: Stack, *events: dict[str, Any], **rest: Any) -> httpx.Response:
    async with stack.http() as http:
        return await http.post(EVENTS, json={"events": events, **rest})


async def page(stack: Stack, **parameters: str) -> list[dict[str, Any]]:
    async with stack.http() as http:
        response = await http.get(EVENTS, params=parameters)
    assert response.status_code == 200, response.text
    return list(response.json()["events"])


def ns(events: list[dict[str, Any]]) -> list[int]:
    return [event["data"]["n"] for event in events]


# The event


async def test_an_event_is_shown_to_the_letter(stack: Stack) -> None:
    posted = await post(stack, custom(1, ANN), custom(2))
    first, second = posted.json()["positions"]
    async with stack.open(STREAM + "?after=0") as client:
        _, *frames = await client.take(3)
    ms = Position.parse(first).ms
    conversation = frames[0].data["conversation"]
    assert re.fullmatch(r"conv_[a-z2-7]{32}", conversation)
    at = frames[0].data["at"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", at)
    assert at.endswith(f"{ms % 1000:03d}Z")
    assert b"".join(client.writes).decode().count(
        f'id: {first}\ndata: {{"id":"{first}","number":1,"type":"custom.noted","organization":"demo",'
        f'"conversation":"{conversation}","version":1,"actor":"client:development","run":"{first}","cause":null,'
        f'"at":"{at}","data":{{"n":1}}}}\n\n'
    ) == 1  # fmt: skip
    assert frames[1].data == {
        "id": second, "number": 2, "type": "custom.noted", "organization": "demo", "conversation": None,
        "version": None, "actor": "client:development", "run": second, "cause": None, "at": frames[1].data["at"],
        "data": {"n": 2},
    }  # fmt: skip


async def test_a_delta_has_no_number_and_no_version(stack: Stack) -> None:
    [run] = await stack.append(said())
    [token] = await stack.append(delta(run))
    async with stack.open(STREAM + "?after=0") as client:
        frame = (await client.take(3))[-1]
    assert frame.id == str(token)
    assert list(frame.data) == ["id", "type", "organization", "conversation", "actor", "run", "cause", "at", "data"]
    assert frame.data["run"] == str(run)


async def test_numbers_are_dense_for_the_organization_and_versions_for_the_conversation(stack: Stack) -> None:
    for n in range(6):
        await post(stack, custom(n, ["tel:+14155550101", "session:b"][n % 2]))
    events = await page(stack)
    assert [event["number"] for event in events] == [1, 2, 3, 4, 5, 6]
    assert [event["version"] for event in events] == [1, 1, 2, 2, 3, 3]


async def test_text_that_some_clients_take_for_line_ends_stays_on_one_line(stack: Stack) -> None:
    """httpx and requests split text lines at U+2028, U+2029 and U+0085, which JSON may hold as they are."""
    text = "a\u2028b\u2029c\u0085d\r\ne\x0bf\x1cg"
    await post(stack, {"type": "custom.noted", "data": {"text": text}})
    await post(stack, custom(name="custom.over"))
    for accept in (SSE, NDJSON):
        lines: list[str] = []
        async with (
            httpx.AsyncClient(timeout=5) as http,
            http.stream("GET", f"{stack.url}{STREAM}?after=0", headers={"Accept": accept}) as response,
        ):
            async for line in response.aiter_lines():
                lines.append(line.removeprefix("data: "))
                if "custom.over" in line:
                    break
        [shown] = [json.loads(line) for line in lines if '"custom.noted"' in line]
        assert shown["data"]["text"] == text


# Appending


async def test_a_batch_is_answered_with_its_positions_and_the_last_version(stack: Stack) -> None:
    posted = await post(stack, custom(1, ANN), custom(2), custom(3, ANN))
    assert posted.status_code == 201
    body = posted.json()
    assert body.keys() == {"positions", "version"}
    assert body["version"] == 2
    assert [event["id"] for event in await page(stack)] == body["positions"]
    assert "X-Run-Id" not in posted.headers, "nothing was started"


async def test_a_message_starts_a_run(stack: Stack) -> None:
    posted = await post(stack, {"type": "message.received", "conversation": ANN, "data": {"text": "Hello"}})
    [run] = posted.json()["positions"]
    assert posted.headers["X-Run-Id"] == run
    assert posted.headers["Location"] == f"/v1/runs/{run}/stream"
    [event] = await page(stack)
    assert (event["actor"], event["data"]["text"]) == ("customer", "Hello")
    assert event["data"]["message_id"].startswith("msg_")


@pytest.mark.parametrize("expected", [0, "absent"])
async def test_a_new_conversation_may_be_expected(stack: Stack, expected: object) -> None:
    assert (await post(stack, custom(1, ANN), expected_version=expected)).status_code == 201
    refused = await post(stack, custom(2, ANN), expected_version=expected)
    assert refused.status_code == 409
    problem = refused.json()
    assert (problem["code"], problem["version"]) == ("VERSION_CONFLICT", 1)
    assert problem["detail"] == f"expected_version: expected {expected}, the conversation is at 1"
    assert ns(await page(stack)) == [1]


async def test_an_existing_conversation_may_be_expected(stack: Stack) -> None:
    assert (await post(stack, custom(1, ANN), expected_version="exists")).status_code == 409
    await post(stack, custom(2, ANN))
    assert (await post(stack, custom(3, ANN), expected_version="exists")).json()["version"] == 2
    assert (await post(stack, custom(4, ANN), expected_version=1)).status_code == 409
    assert (await post(stack, custom(5, ANN), expected_version=2)).json()["version"] == 3
    assert ns(await page(stack)) == [2, 3, 5]


async def test_of_many_who_expect_one_version_one_writes(stack: Stack) -> None:
    posted = await asyncio.gather(*(post(stack, custom(n, ANN), expected_version=0) for n in range(10)))
    assert sorted(response.status_code for response in posted) == [201] + [409] * 9


@pytest.mark.parametrize(
    "events",
    [[custom(1)], [custom(1, ANN), custom(2, "session:other")], [custom(1, ANN), custom(2)]],
    ids=["none", "two", "one and none"],
)
async def test_an_expected_version_needs_exactly_one_conversation(stack: Stack, events: list[dict[str, Any]]) -> None:
    refused = await post(stack, *events, expected_version=0)
    assert (refused.status_code, refused.json()["code"]) == (422, "BAD_EXPECTED_VERSION")
    assert await page(stack) == []


REFUSED_TYPES = [
    "reply.completed", "reply.delta", "tool.completed", "tool.failed", "sms.sent", "sms.requested", "control.taken",
    "control.released", "contact.created", "work.parked", "custom", "custom.", "CUSTOM.x", "message", "log.sealed",
    "custom.a\nevent: gap", "custom.a\rdata: {}", "custom.a b", "custom.\u2028", "custom.x;2",
]  # fmt: skip


async def test_what_clients_may_not_say_is_refused_by_name_and_nothing_of_its_batch_is_written(stack: Stack) -> None:
    for name in REFUSED_TYPES:
        refused = await post(stack, custom(1, ANN), {"type": name, "conversation": ANN, "data": {}}, custom(2))
        assert refused.status_code == 422, name
        assert "events[1]" in refused.json()["detail"]
    assert await page(stack) == []


async def test_an_admin_tells_of_calls_that_a_system_of_its_own_has_carried(stack: Stack) -> None:
    told = [
        {"type": "call.initiated", "conversation": ANN, "data": {"call_sid": "own-1", "direction": "inbound"}},
        {"type": "call.ended", "conversation": ANN, "data": {"call_sid": "own-1", "outcome": "completed"}},
    ]
    assert (await post(stack, *told)).status_code == 201
    assert [(event["type"], event["data"]["provider"]) for event in await page(stack)] == [
        ("call.initiated", "client"),
        ("call.ended", "client"),
    ]
    for bad in ({"type": "call.failed"}, {"type": "call.requested"}, told[0] | {"conversation": None}):
        assert (await post(stack, {"conversation": ANN, "data": {}, **bad})).status_code == 422
    writer = await stack.key("events:write")
    async with stack.http(writer) as http:
        refused = await http.post(EVENTS, json={"events": told})
    assert (refused.status_code, refused.json()["code"]) == (422, "TYPE_REFUSED")


MALFORMED = [
    (b"{", 400, "INVALID_JSON"),
    (b'{"events":[{"type":"custom.a","data":{"x":NaN}}]}', 400, "INVALID_JSON"),
    (b'{"events":[{"type":"custom.a","data":{"x":1e999}}]}', 400, "INVALID_JSON"),
    (b'{"events":[{"type":"custom.a","data":{"x":"\\ud800"}}]}', 400, "INVALID_JSON"),
    (b'{"events":[{"type":"custom.a","data":{"x":"\xff"}}]}', 400, "INVALID_JSON"),
    (b'{"events":[{"type":"custom.a","data":' + b'{"x":' * 100 + b"1" + b"}" * 100 + b"}]}", 400, "INVALID_JSON"),
    (b'{"events":[{"type":"custom.a","data":' + b"[" * 50_000 + b"]" * 50_000 + b"}]}", 400, "INVALID_JSON"),
    (b"[]", 422, "INVALID_BODY"),
    (b"null", 422, "INVALID_BODY"),
    (b"{}", 422, "INVALID_BODY"),
    (b"", 422, "INVALID_BODY"),
    (b'{"events":[]}', 422, "INVALID_BODY"),
    (b'{"events":{}}', 422, "INVALID_BODY"),
    (b'{"events":[1]}', 422, "INVALID_BODY"),
    (b'{"events":[{"type":"custom.a","data":[]}]}', 422, "INVALID_BODY"),
    (b'{"events":[{"type":"custom.a","dta":{}}]}', 422, "INVALID_BODY"),
    (b'{"events":[{"type":"custom.a"}],"organizationId":"acme"}', 422, "INVALID_BODY"),
    (b'{"events":[{"type":"custom.a","conversation":"no-scheme"}]}', 422, "BAD_CONVERSATION"),
    (b'{"events":[{"type":"custom.a","conversation":"tel:banana"}]}', 422, "BAD_CONVERSATION"),
    (b'{"events":[{"type":"custom.a","conversation":"tel:+1555"}],"expected_version":"maybe"}', 422, "INVALID_BODY"),
    (b'{"events":[{"type":"custom.a","conversation":"session:a"}],"expected_version":true}', 422, "INVALID_BODY"),
    (b'{"events":[{"type":"message.received","data":{"text":"no conversation"}}]}', 422, "BAD_EVENT"),
    (b'{"events":[{"type":"message.received","conversation":"session:a","data":{"text":5}}]}', 422, "BAD_EVENT"),
    (b'{"events":[{"type":"tool.requested","data":{}}]}', 422, "BAD_EVENT"),
    (b'{"events":[{"type":"tool.requested","data":{"tool":"no_such"}}]}', 404, "TOOL_NOT_FOUND"),
    (b'{"events":[{"type":"tool.requested","data":{"tool":"get_location","deadline_s":1e9}}]}', 422, "BAD_EVENT"),
    (b'{"events":[' + b",".join([b'{"type":"custom.a"}'] * 501) + b"]}", 422, "INVALID_BODY"),
    (b'{"events":[{"type":"custom.a","data":{"x":"' + b"x" * 1_048_576 + b'"}}]}', 413, "PAYLOAD_TOO_LARGE"),
]  # fmt: skip


async def test_a_malformed_body_is_a_problem_and_leaves_no_event(stack: Stack) -> None:
    async with stack.http() as http:
        for body, status, code in MALFORMED:
            refused = await http.post(EVENTS, content=body)
            assert (refused.status_code, refused.json().get("code")) == (status, code), (body[:90], refused.text)
            assert refused.headers["Content-Type"] == "application/problem+json"
            assert {"type", "title", "status", "detail", "instance"} <= refused.json().keys()
            assert len(refused.text) < 1_000
    assert await page(stack) == []


async def test_what_json_can_hold_comes_back_as_it_was(stack: Stack) -> None:
    data = {
        "big": 2**53 - 1, "max": 2**64 - 1, "huge": 10**30, "negative": -(10**30), "float": 0.1,
        "text": "é\u0000\"\\/", "null": None,
        "nested": [[{"a": [True, False]}]], "": "empty", "type": "reply.completed", "id": "x",
    }  # fmt: skip
    posted = await post(stack, {"type": "custom.noted", "data": data})
    assert posted.status_code == 201, posted.text
    [event] = await page(stack)
    assert event["data"] == data
    assert event["type"] == "custom.noted"


async def test_an_idempotency_key_makes_one_batch(stack: Stack) -> None:
    async with stack.http({"Idempotency-Key": "k"}) as http:
        first, again = [await http.post(EVENTS, json={"events": [custom(1)]}) for _ in range(2)]
        other = await http.post(EVENTS, json={"events": [custom(2)]})
    assert first.json() == again.json()
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert ns(await page(stack)) == [1]


async def test_the_same_number_written_otherwise_is_the_same_conversation(stack: Stack) -> None:
    for n, text in enumerate(["tel:+14155550177", "tel:+1 (415) 555-0177", "tel: 14155550177", "tel:415-555-0177"]):
        await post(stack, custom(n, text))
    events = await page(stack, conversation="tel:+1-415-555-0177")
    assert ns(events) == [0, 1, 2, 3]
    conversation = ConversationId(events[0]["conversation"])
    assert await stack.log.address(DEMO, conversation) == "tel:+14155550177"


# Pages


async def filled(stack: Stack, count: int = 25) -> list[str]:
    events = [custom(n, [ANN, None, "session:b"][n % 3], ["custom.noted", "custom.other"][n % 2]) for n in range(count)]
    return list((await post(stack, *events)).json()["positions"])


@pytest.mark.parametrize(
    ("parameters", "wanted"),
    [
        ({}, range(25)),
        ({"conversation": ANN}, range(0, 25, 3)),
        ({"conversation": "session:b"}, range(2, 25, 3)),
        ({"types": "custom.other"}, range(1, 25, 2)),
        ({"types": "custom.o*,custom.n*"}, range(25)),
        ({"types": " custom.other , nothing.at-all"}, range(1, 25, 2)),
        ({"types": "reply.*"}, ()),
        ({"conversation": ANN, "types": "custom.other"}, range(3, 25, 6)),
        ({"limit": "4"}, range(4)),
        ({"conversation": "tel:+19999999999"}, ()),
        ({"conversation": "conv_of-nobody"}, ()),
        ({"after": "now"}, ()),
    ],
)
async def test_pages_are_filtered(stack: Stack, parameters: dict[str, str], wanted: range) -> None:
    await filled(stack)
    assert ns(await page(stack, **parameters)) == list(wanted)


async def test_a_page_begins_and_ends_where_it_is_told(stack: Stack) -> None:
    at = await filled(stack)
    assert ns(await page(stack, after=at[20])) == [21, 22, 23, 24]
    assert ns(await page(stack, before=at[4])) == [0, 1, 2, 3]
    assert ns(await page(stack, before=at[10], limit="3")) == [7, 8, 9]
    assert ns(await page(stack, before=at[10], limit="3", conversation=ANN)) == [3, 6, 9]
    assert ns(await page(stack, run=at[7])) == [7]
    assert ns(await page(stack, after=at[-1])) == []
    assert ns(await page(stack, before="0-0")) == []
    assert ns(await page(stack, after="9999999999999999-0")) == []


@pytest.mark.parametrize(
    "scope", [{}, {"conversation": ANN}, {"types": "custom.*,a&b=c>d"}, {"conversation": "session:b"}]
)
@pytest.mark.parametrize("direction", ["next", "prev"])
async def test_links_lead_through_everything_once(stack: Stack, scope: dict[str, str], direction: str) -> None:
    at = await filled(stack)
    start = {} if direction == "next" else {"before": f"{Position.parse(at[-1]).ms + 1}-0"}
    path: str | None = EVENTS + query(limit="4", **scope, **start)
    found: list[int] = []
    async with stack.http() as http:
        for _ in range(20):
            if path is None:
                break
            response = await http.get(path)
            new = ns(response.json()["events"])
            found = found + new if direction == "next" else new + found
            link = response.headers.get("Link")
            match = re.fullmatch(rf'<(/v1/events\?[!-~]*)>; rel="{direction}"', link) if link else None
            assert (match is None) == (link is None), link
            path = match[1] if match else None
    assert found == ns(await page(stack, **scope))


async def test_what_is_rare_is_looked_for_over_several_requests(stack: Stack) -> None:
    rare = await stack.append(said("custom.rare"))
    for _ in range(SCANNED_PAGES):
        await stack.say(PAGE)
    rare += await stack.append(said("custom.rare"))
    for direction, start in (("next", {}), ("prev", {"before": "9999999999999-0"})):
        path: str | None = EVENTS + query(types="custom.rare", **start)
        found: list[str] = []
        requests = 0
        async with stack.http() as http:
            while path is not None:
                response = await http.get(path)
                new = [event["id"] for event in response.json()["events"]]
                found = found + new if direction == "next" else new + found
                match = re.match(r"<(.*)>", response.headers.get("Link", ""))
                path, requests = match[1] if match else None, requests + 1
        assert found == [str(position) for position in rare]
        assert requests == 2, direction


async def test_a_page_after_a_place_that_was_trimmed_says_what_is_missing(stack: Stack) -> None:
    written = await stack.say(6)
    await stack.trim(written[3])
    async with stack.http() as http:
        for asked in ("0", written[1]):
            shown = (await http.get(EVENTS + query(after=asked))).json()
            assert shown["gap"] == {
                "type": "gap", "reason": "trimmed", "requested": asked, "first_available": written[3]
            }  # fmt: skip
            assert [event["id"] for event in shown["events"]] == written[3:]
        for path in (EVENTS, EVENTS + query(after=written[2]), EVENTS + query(after=written[4])):
            assert "gap" not in (await http.get(path)).json(), path


async def test_a_page_before_a_place_that_is_not_on_the_log_says_so(stack: Stack) -> None:
    written = await stack.say(6)
    await stack.tick()
    never = f"{Position.parse(written[5]).ms}-99"
    written += await stack.say()
    await stack.trim(written[3])
    async with stack.http() as http:
        for asked, reason, wanted in (
            (written[1], "trimmed", []),
            (never, "unknown", written[3:6]),
            ("9999999999999-0", "ahead", written[3:]),
        ):
            shown = (await http.get(EVENTS + query(before=asked))).json()
            assert shown["gap"] == {
                "type": "gap", "reason": reason, "requested": asked, "first_available": written[3]
            }  # fmt: skip
            assert [event["id"] for event in shown["events"]] == wanted
        assert "gap" not in (await http.get(EVENTS + query(before=written[4]))).json()


async def test_a_page_that_has_not_changed_is_not_sent_again(stack: Stack) -> None:
    await filled(stack, 3)
    async with stack.http() as http:
        first = await http.get(EVENTS)
        tag = first.headers["ETag"]
        assert first.headers["Cache-Control"] == "private, no-cache"
        for given in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = await http.get(EVENTS, headers={"If-None-Match": given})
            assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag), given
        assert (await http.get(EVENTS, headers={"If-None-Match": '"other"'})).status_code == 200
        await post(stack, custom(9))
        assert (await http.get(EVENTS, headers={"If-None-Match": tag})).status_code == 200


BAD_QUERIES = [
    ("limit", "0", 422), ("limit", "1001", 422), ("limit", "-1", 422), ("limit", "many", 422), ("limit", "²", 422),
    ("limit", "٣", 422), ("limit", "9" * 5_000, 422), ("limit", "1.5", 422), ("limit", "", 422),
    ("before", "banana", 400), ("before", "0", 400), ("run", "banana", 400), ("conversation", "banana", 422),
    ("conversation", "tel:banana", 422), ("conversation", "conv_" + "x" * 5_000, 200), ("types", "\x00\r\n[", 200),
    ("x\r\nSet-Cookie: a", "b\r\nc: d", 200), ("types", "*" * 1_000 + "a", 200),
]  # fmt: skip


async def test_a_bad_query_is_named_and_never_our_fault(stack: Stack) -> None:
    await filled(stack, 3)
    async with stack.http() as http:
        for name, value, status in BAD_QUERIES:
            path = f"{EVENTS}?{quote(name)}={quote(value)}" + ("" if name == "limit" else "&limit=1")
            response = await http.get(path)
            assert response.status_code == status, (name, value[:20], response.text[:300])
            assert "Set-Cookie" not in response.headers
            assert len(response.headers.get("Link", "")) < 8_000


# Streams


async def test_the_head_of_a_stream_is_to_the_letter(stack: Stack) -> None:
    async with stack.open(STREAM) as client:
        assert await client.next() == Frame({"type": "position"}, id="0-0")
    assert client.status == 200
    assert client.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert client.headers["cache-control"] == "no-cache, no-transform"
    assert client.headers["connection"] == "keep-alive"
    assert client.headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in client.headers
    assert client.retry_ms is not None
    assert 1_000 <= client.retry_ms <= 3_000
    assert client.writes[0].startswith(b"retry: ")


async def test_nothing_is_compressed_though_the_client_would_take_it(stack: Stack) -> None:
    async with stack.open(STREAM, {"Accept-Encoding": "gzip, br"}) as client:
        assert "content-encoding" not in client.headers
        await client.take(1)


async def test_retry_differs_from_connection_to_connection(stack: Stack) -> None:
    found = set()
    for _ in range(6):
        async with stack.open(STREAM) as client:
            await client.take(1)
            found.add(client.retry_ms)
    assert len(found) > 1


async def test_ndjson_is_one_object_a_line_with_its_id_first(stack: Stack) -> None:
    async with stack.open(STREAM, {"Accept": NDJSON}) as client:
        assert client.headers["content-type"] == NDJSON
        assert await client.next() == Frame({"id": "0-0", "type": "position"}, id="0-0")
        [run] = await stack.say()
        frame = await client.next()
        assert frame is not None
        assert (frame.id, next(iter(frame.data))) == (run, "id")
        assert await client.next() == Frame({"type": "heartbeat"})
    assert b"retry" not in b"".join(client.writes)
    assert all(write.endswith(b"\n") for write in client.writes)


async def test_a_quiet_stream_shows_that_it_lives(stack: Stack) -> None:
    async with stack.open(STREAM) as client:
        await client.take(1)
        for _ in range(3):
            await client.silence()
    assert client.writes[-1] == b": hb\n"


async def test_an_http_1_0_client_gets_plain_bytes(stack: Stack) -> None:
    written = await stack.say(3)
    for accept in (SSE, NDJSON):
        async with stack.open(STREAM + "?after=0", {"Accept": accept}, version="1.0") as client:
            frames = await client.take(4)
        assert [frame.id for frame in frames] == ["0-0", *written]
        assert "transfer-encoding" not in client.headers
        assert "content-length" not in client.headers
        assert client.headers.get("connection", "close") == "close"
    run = (await post(stack, custom(1))).json()["positions"][0]
    async with stack.open(f"/v1/runs/{run}/stream", version="1.0") as client:
        assert [frame.type for frame in await client.rest()] == ["custom.noted", "end"], "the connection ends with it"


async def test_filters_show_what_they_name_and_nothing_else(stack: Stack) -> None:
    await post(stack, custom(0, ANN))
    [run] = [Position.parse(text) for text in (await post(stack, custom(1, ANN))).json()["positions"]]
    conversation = (await page(stack))[0]["conversation"]
    await stack.append(delta(run, conversation=conversation), said(run=run, conversation=conversation))
    await stack.append_foreign(b"log.sealed")
    await post(stack, custom(2), custom(3, ANN, "custom.over"))
    cases = {
        "": ["custom.noted", "custom.noted", "reply.delta", "custom.said", "custom.noted", "custom.over"],
        "deltas=0": ["custom.noted", "custom.noted", "custom.said", "custom.noted", "custom.over"],
        f"conversation={conversation}": ["custom.noted", "custom.noted", "reply.delta", "custom.said", "custom.over"],
        f"conversation={quote(ANN)}": ["custom.noted", "custom.noted", "reply.delta", "custom.said", "custom.over"],
        f"conversation={ANN}": ["custom.noted", "custom.noted", "reply.delta", "custom.said", "custom.over"],
        "types=reply.*,custom.over": ["reply.delta", "custom.over"],
        "types=log.*,custom.over": ["log.sealed", "custom.over"],
        "types=*": [
            "custom.noted", "custom.noted", "reply.delta", "custom.said", "log.sealed", "custom.noted", "custom.over",
        ],
        f"run={run}&deltas=0": ["custom.noted", "custom.said"],
        f"run={run}&conversation={conversation}": ["custom.noted", "reply.delta", "custom.said"],
    }  # fmt: skip
    for given, wanted in cases.items():
        async with stack.open(f"{STREAM}?after=0&{given}") as client:
            await client.take(1)
            assert [frame.type for frame in await client.take(len(wanted))] == wanted, given


async def test_live_and_resumed_clients_are_filtered_alike(stack: Stack) -> None:
    paths = [f"?conversation={quote(ANN)}", "?types=custom.o*", "?deltas=0", "?named=1"]
    clients = [stack.open(STREAM + path) for path in paths]
    opened = [await client.__aenter__() for client in clients]
    try:
        starts = [(await client.take(1))[0].id for client in opened]
        await post(stack, custom(1, ANN), custom(2), custom(3, ANN, "custom.over"))
        for client, path, start in zip(opened, paths, starts, strict=True):
            live = [frame for frame in await client.until("custom.over") if frame.type != "position"]
            async with stack.open(STREAM + path, last=start) as again:
                resumed = [frame for frame in await again.until("custom.over") if frame.type != "position"]
            assert live == resumed
    finally:
        for client in opened:
            await client.__aexit__(None, None, None)


async def test_named_streams_name_every_frame_and_others_none(stack: Stack) -> None:
    await post(stack, custom(1), custom(2, name="custom.over"))
    async with stack.open(STREAM + "?after=0&named=1") as client:
        assert [frame.event for frame in await client.take(3)] == ["position", "custom.noted", "custom.over"]
    async with stack.open(STREAM + "?after=0") as client:
        assert [frame.event for frame in await client.take(3)] == [None, None, None]


@pytest.mark.parametrize("given", ["conversation=banana", "run=banana", "conversation=tel:banana"])
async def test_a_filter_that_cannot_be_is_refused_before_the_stream(stack: Stack, given: str) -> None:
    async with stack.open(f"{STREAM}?{given}") as client:
        assert client.status in (400, 422)
        assert "banana" in json.loads(await client.body())["detail"]


# Who may


SCOPES = [
    ("GET", STREAM, "events:read"),
    ("GET", EVENTS, "events:read"),
    ("POST", EVENTS, "events:write"),
    ("GET", "/api/sse/get_location", "tools:call"),
    ("POST", "/api/stream/get_location", "tools:call"),
    ("POST", "/api/ai/get_location", "tools:call"),
    ("GET", "/api/tools", "tools:call"),
]


@pytest.mark.parametrize("scope", ["events:read", "tools:call", "chat:write"])
async def test_who_may_start_a_run_may_follow_it(stack: Stack, scope: str) -> None:
    for path in ("/v1/runs/1-0", "/v1/runs/1-0/stream"):
        async with stack.open(path, await stack.key(scope)) as client:
            assert client.status == 404
        async with stack.open(path, await stack.key("events:write")) as client:
            assert client.status == 403


@pytest.mark.parametrize(
    ("type", "starts", "other"),
    [("tool.requested", "tools:call", "chat:write"), ("message.received", "chat:write", "tools:call")],
)
async def test_who_may_start_other_runs_may_not_follow_this_one(
    stack: Stack, type: str, starts: str, other: str
) -> None:
    data = {"tool": "get_location"} if type == "tool.requested" else {"text": "My number is 7"}
    async with stack.http(await stack.key()) as http:
        posted = await http.post(EVENTS, json={"events": [{"type": type, "conversation": ANN, "data": data}]})
    run = posted.headers["X-Run-Id"]
    for path in (f"/v1/runs/{run}", f"/v1/runs/{run}/stream"):
        for scope, status in ((starts, 200), ("events:read", 200), (other, 403)):
            async with stack.open(path, await stack.key(scope)) as client:
                assert client.status == status, (path, scope)


async def test_an_input_that_starts_no_work_is_completed_at_once(stack: Stack) -> None:
    run = (await post(stack, custom(name="custom.hello"))).json()["positions"][0]
    async with stack.http() as http:
        shown = (await http.get(f"/v1/runs/{run}")).json()
    assert (shown["state"], shown["ended"], shown["events"]) == ("completed", run, 1)


async def test_an_input_of_a_later_version_runs_until_it_is_ended(stack: Stack) -> None:
    """Whether it is work is unknown here; if it is and was parked, dropping it ends it."""
    await stack.say()
    run = Position.parse(await stack.append_foreign(b"future.thing"))
    async with stack.http() as http:
        shown = (await http.get(f"/v1/runs/{run}")).json()
        assert (shown["state"], shown["ended"]) == ("running", None)
        [end] = await stack.append(Event(ReplyFailed(code="DROPPED", detail="given up"), "system:worker", run=run))
        shown = (await http.get(f"/v1/runs/{run}")).json()
        assert (shown["state"], shown["ended"]) == ("failed", str(end))


async def test_every_route_wants_its_scope(stack: Stack) -> None:
    wrong = {scope: await stack.key(*({"events:read", "events:write", "tools:call"} - {scope})) for *_, scope in SCOPES}
    for method, path, scope in SCOPES:
        body = b"{}" if method == "POST" else None
        async with stack.open(path, wrong[scope], body=body) as client:
            assert client.status == 403, path
            assert scope in (await client.body()).decode()
        async with stack.open(path, {"X-Tenant-API-Key": "tl_x_y"}, body=body) as client:
            assert client.status == 401, path


async def test_a_revoked_keys_open_streams_end_within_five_seconds(stack: Stack) -> None:
    doomed, kept = await stack.key(), await stack.key()
    async with stack.open(STREAM, doomed) as first, stack.open(STREAM, kept) as second:
        await first.take(1)
        await second.take(1)
        await stack.organizations.revoke(ACME, doomed["X-Tenant-API-Key"].split("_")[1])
        async with asyncio.timeout(5):
            await first.until_cut()
        [new] = await stack.say(org=ACME)
        assert (await second.until(lambda frame: frame.id == new))[-1].id == new


async def test_an_organization_that_a_request_names_must_be_its_own(stack: Stack) -> None:
    key = await stack.key()
    for path in (STREAM, EVENTS, "/v1/runs/1-0", "/api/sse/get_location", "/api/stream/get_location"):
        async with stack.open(f"{path}?organizationId=demo", key) as client:
            assert client.status == 403, path
            assert (await client.body()).count(b"demo") <= 1
    async with stack.http(key) as http:
        assert (await http.get(EVENTS, params={"organizationId": "acme"})).status_code == 200


async def test_nothing_of_another_organization_can_be_reached(stack: Stack) -> None:
    """Not by position, run, conversation, address, key of idempotency or type."""
    secret = "the-secret-of-acme"
    theirs, mine = await stack.key(), None
    async with stack.http(theirs) as http:
        body = {"events": [{"type": "message.received", "conversation": ANN, "data": {"text": secret}}]}
        run = (await http.post(EVENTS, json=body, headers={"Idempotency-Key": "k"})).headers["X-Run-Id"]
        conversation = (await http.get(EVENTS)).json()["events"][0]["conversation"]
    await stack.tick()
    [own] = await stack.say()
    shown = b""
    async with stack.http(mine) as http:
        for path in (
            f"/v1/runs/{run}", f"/v1/runs/{run}/stream", f"/v1/runs/{run}/stream?dialect=tools",
            f"{EVENTS}?run={run}", f"{EVENTS}?conversation={conversation}", f"{EVENTS}?conversation={quote(ANN)}",
            f"{EVENTS}?before=9999999999999-0", EVENTS, f"{EVENTS}?after={run}", f"{EVENTS}?types=*",
        ):  # fmt: skip
            response = await http.get(path)
            assert response.status_code in (200, 404), path
            shown += response.content
        same_key = await http.post(EVENTS, json={"events": [custom(1, ANN)]}, headers={"Idempotency-Key": "k"})
        assert same_key.status_code == 201, "neither theirs again nor a conflict with it"
        assert (await page(stack, conversation=ANN))[0]["conversation"] != conversation, "ids differ by organization"
    for path in (STREAM, f"{STREAM}?run={run}", f"{STREAM}?conversation={conversation}", f"{STREAM}?types=*"):
        async with stack.open(path, last=run) as client:
            [told] = await client.take(1)
            assert (told.type, told.data["reason"], told.data["first_available"]) == ("gap", "unknown", own)
            await stack.append(said("custom.over"))
            await client.until(lambda frame: frame.type in ("position", "custom.over"))
            shown += b"".join(client.writes)
    assert secret.encode() not in shown
    assert b'"acme"' not in shown
    assert conversation.encode() not in shown.replace(f"conversation={conversation}".encode(), b"")


# Limits


async def test_requests_and_opens_tell_what_is_left_and_end_in_429(redis_url: str) -> None:
    quota = Quota(requests=2, opens=2, window_s=900)
    async with stacked(redis_url, work=False) as base, base.edge(development=False, quota=quota) as edge:
        key = await base.key()
        async with httpx.AsyncClient(base_url=edge.url, headers=key) as http:
            for left in ("1", "0"):
                response = await http.get(EVENTS)
                assert (response.headers["RateLimit-Limit"], response.headers["RateLimit-Remaining"]) == ("2", left)
            refused = await http.post(EVENTS, json={"events": [custom(1)]})
        assert refused.status_code == 429
        assert refused.json()["code"] == "RATE_LIMITED"
        assert 0 < int(refused.headers["Retry-After"]) <= 900
        async with base.open("/api/sse/get_location", key, edge=edge) as tool:
            assert tool.status == 429
            assert (await tool.body()).startswith(b"event: error\ndata: ")
        [position] = await base.say(org=ACME)
        for left in ("1", "0"):
            async with base.open(STREAM, key, edge=edge) as client:
                assert client.headers["ratelimit-remaining"] == left
                await client.take(1)
        async with base.open(STREAM, {**key, "Accept": SSE}, edge=edge) as later:
            assert later.status == 200
            await later.until_cut()
            assert later.retry_ms is not None
            assert 15_000 <= later.retry_ms <= 30_000
        async with base.open(STREAM, key, edge=edge) as plain:
            assert plain.status == 429
        for free in (position, str(Position.parse(position).before())):
            async with base.open(STREAM, key, last=free, edge=edge) as returned:
                assert (returned.status, (await returned.take(1))[0].type) == (200, "position")
        for costs in ("?after=0", "?after=2020-01-01T00:00:00Z"):
            async with base.open(STREAM + costs, key, edge=edge) as again:
                assert again.status == 429, "reading everything again is no return"


# Pages of other origins

ORIGIN = "https://app.example.com"
ALLOWED = "Authorization, Content-Type, Accept, Last-Event-ID, Idempotency-Key, X-Tenant-API-Key, apikey, x-client-info"


@pytest.fixture
async def cross(redis_url: str) -> AsyncIterator[Stack]:
    origins = (ORIGIN, "http://localhost:*")
    async with stacked(redis_url, work=False, cors_origins=origins, development=False) as running:
        yield running


@pytest.mark.parametrize("path", [STREAM, EVENTS, "/api/sse/get_location", "/v1/runs/1-0/stream"])
@pytest.mark.parametrize("origin", [ORIGIN, "http://localhost:3000"])
async def test_a_preflight_of_an_allowed_origin_is_granted(cross: Stack, path: str, origin: str) -> None:
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "Last-Event-ID",
    }
    async with cross.http(asked) as http:
        response = await http.options(path)
    assert response.status_code == 204
    assert response.headers["Access-Control-Allow-Origin"] == origin
    allowed = {name.strip().lower() for name in response.headers["Access-Control-Allow-Headers"].split(",")}
    assert {name.strip().lower() for name in ALLOWED.split(",")} <= allowed
    assert "POST" in response.headers["Access-Control-Allow-Methods"]
    assert "Origin" in response.headers["Vary"]


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "https://app.example.com.evil.example",
        "http://localhost",
        "null",
        "http://app.example.com",
    ],
)
async def test_other_origins_are_granted_nothing(cross: Stack, origin: str) -> None:
    key = await cross.key()
    async with cross.http({"Origin": origin, "Access-Control-Request-Method": "POST"}) as http:
        preflight = await http.options(EVENTS)
        answer = await http.get(EVENTS, headers=key)
    for response in (preflight, answer):
        assert not [name for name in response.headers if name.lower().startswith("access-control-")]
    assert preflight.status_code == 405


async def test_streams_and_errors_tell_allowed_origins_what_they_may_read(cross: Stack) -> None:
    headers = {**await cross.key(), "Origin": ORIGIN}
    async with cross.open(STREAM, headers) as client:
        await client.take(1)
    async with cross.open(EVENTS, {"Origin": ORIGIN}) as refused:
        assert refused.status == 401
    async with cross.open("/nothing/here", headers) as missing:
        assert missing.status == 404
    for response in (client, refused, missing):
        assert response.headers["access-control-allow-origin"] == ORIGIN
        exposed = {name.strip().lower() for name in response.headers["access-control-expose-headers"].split(",")}
        assert {"x-run-id", "location", "retry-after", "ratelimit-limit", "ratelimit-remaining"} <= exposed
        assert "access-control-allow-credentials" not in response.headers


# A log that a newer version has written to


async def test_unknown_event_types_are_passed_on(stack: Stack) -> None:
    await stack.say()
    await stack.append_foreign(b"future.thing;7", b'{"new":1}', b'{"who":"ann"}')
    async with stack.open(STREAM + "?after=0") as client:
        frame = (await client.take(3))[-1]
    assert (frame.type, frame.data["number"], frame.data["data"]) == ("future.thing", 2, {"new": 1, "who": "ann"})
    assert (await page(stack))[-1] == frame.data
