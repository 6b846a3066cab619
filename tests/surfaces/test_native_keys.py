"""API keys and usage on the native surface, and what an organization may have at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from edges.app_keys import Caps
from eventstore.events.messages import MessageReceived
from eventstore.events.replies import ReplyCompleted, Usage
from eventstore.events.sms import SmsSent
from eventstore.schema import ConversationId, Event, Position
from tests.support.stack import ACME, DEMO, Stack, said, stacked

SSE = {"Accept": "text/event-stream"}


@pytest.fixture
async def stack(redis_url: str) -> AsyncIterator[Stack]:
    async with stacked(redis_url, work=False, development=False, caps=Caps(streams=2, pending=2)) as stack:
        yield stack


async def test_a_key_is_shown_once_works_and_ends(stack: Stack) -> None:
    async with stack.http(await stack.key("admin")) as http:
        made = await http.post("/v1/api-keys", json={"scopes": ["events:read"], "name": "shop"})
        assert made.status_code == 201
        key = made.json()
        listed = (await http.get("/v1/api-keys")).json()["api_keys"]
        assert [(k["id"], k["name"], k["scopes"]) for k in listed if k["name"]] == [
            (key["id"], "shop", ["events:read"])
        ]
        assert key["api_key"] not in (await http.get("/v1/api-keys")).text
        own = {"X-Tenant-API-Key": key["api_key"]}
        assert (await http.get("/v1/events", headers=own)).status_code == 200
        assert (await http.delete(f"/v1/api-keys/{key['id']}")).status_code == 204
        assert (await http.get("/v1/events", headers=own)).status_code == 401
        assert (await http.delete(f"/v1/api-keys/{key['id']}")).status_code == 404


@pytest.mark.parametrize("body", [{}, {"scopes": []}, {"scopes": ["root"]}, {"scopes": ["admin"], "org": "demo"}])
async def test_a_key_that_makes_no_sense_is_refused(stack: Stack, body: dict[str, Any]) -> None:
    async with stack.http(await stack.key("admin")) as http:
        assert (await http.post("/v1/api-keys", json=body)).status_code == 422


async def test_only_admin_makes_keys_and_only_its_own_organizations(stack: Stack) -> None:
    every_other = ("events:read", "events:write", "tools:call", "chat:write", "control:write")
    async with stack.http(await stack.key(*every_other)) as http:
        assert (await http.post("/v1/api-keys", json={"scopes": ["events:read"]})).status_code == 403
    demo = await stack.key("admin", org=DEMO)
    async with stack.http(demo) as http:
        [theirs, *_] = await stack.organizations.list_keys(ACME)
        assert (await http.delete(f"/v1/api-keys/{theirs.key_id}")).status_code == 404
        assert [key["scopes"] for key in (await http.get("/v1/api-keys")).json()["api_keys"]] == [["admin"]]


async def test_usage_counts_what_was_used_by_day(stack: Stack) -> None:
    where, day_ms = ConversationId("conv_a"), 86_400_000
    answer = ReplyCompleted(
        message_id="m", attempt=1, model="x", text="hi", usage=Usage(input_tokens=10, output_tokens=5, cost_usd=0.25)
    )
    sent = SmsSent(intent_id="i", message_id="m", sent_by="assistant", provider="outbox", to="+1", text="hi")
    [run] = await stack.append_at(
        1_763_596_800_000, Event(MessageReceived(message_id="q", text="hello?"), "customer", where), org=ACME
    )  # 2025-11-20
    done = [Event(body, "assistant:a", where, run=run, cause=run) for body in (answer, sent)]
    await stack.append_at(1_763_596_800_001, *done, org=ACME)
    await stack.append_at(1_763_596_800_000 + day_ms, said(), org=ACME)
    async with stack.http(await stack.key("events:read")) as http:
        found = (await http.get("/v1/usage")).json()
        assert (found["from"], found["to"]) == ("2025-10-23", "2025-11-21")
        assert [(day["day"], day["events"], day["runs"]) for day in found["days"]] == [
            ("2025-11-20", 3, 1), ("2025-11-21", 1, 0),
        ]  # fmt: skip
        total = found["total"]
        assert (total["events"], total["replies"], total["sms"], total["calls"]) == (4, 1, 1, 0)
        assert (total["input_tokens"], total["output_tokens"], total["cost_usd"]) == (10, 5, 0.25)
        only = (await http.get("/v1/usage?from=2025-11-21&to=2025-11-21")).json()
        assert only["total"]["events"] == 1
        for wrong in ("from=yesterday", "from=2025-11-22&to=2025-11-21", "from=2020-01-01&to=2025-11-21"):
            assert (await http.get(f"/v1/usage?{wrong}")).status_code == 422, wrong
    async with stack.http(await stack.key("events:read", org=(await stack.organizations.ensure("x", "X")).id)) as http:
        assert (await http.get("/v1/usage?to=2025-11-21")).json()["days"] == []


async def test_an_organization_has_only_so_many_streams_open_and_others_are_not_affected(stack: Stack) -> None:
    headers = await stack.key()
    async with stack.open("/v1/events/stream", headers), stack.open("/v1/events/stream", headers) as second:
        await second.take(1)
        async with stack.open("/v1/events/stream", {**headers, **SSE}) as third:
            assert third.status == 200
            await third.until_cut()
            assert third.retry_ms is not None
            assert third.retry_ms >= 15_000
        async with stack.http(headers) as http:
            refused = await http.post("/api/sse/get_location", json={})
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "15")
            assert await stack.events(ACME) == [], "what cannot be shown is not begun"
        async with stack.open("/v1/events/stream", await stack.key(org=DEMO)) as other:
            await other.take(1)
    await stack.no_stream_open()
    async with stack.open("/v1/events/stream", headers) as again:
        await again.take(1)


async def test_unfinished_work_is_capped_but_an_input_that_is_known_gets_its_answer(stack: Stack) -> None:
    ask = {"events": [{"type": "tool.requested", "data": {"tool": "get_location"}}]}
    async with stack.http(await stack.key()) as http:
        first = await http.post("/v1/events", json=ask, headers={"Idempotency-Key": "1"})
        assert (await http.post("/v1/events", json=ask)).status_code == 201
        refused = await http.post("/v1/events", json=ask)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        again = await http.post("/v1/events", json=ask, headers={"Idempotency-Key": "1"})
        assert again.json() == first.json()
        assert (await http.post("/v1/events", json={"events": [{"type": "custom.x"}]})).status_code == 201
        assert Position.parse(first.json()["positions"][0])
