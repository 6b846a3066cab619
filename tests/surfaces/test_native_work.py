"""Parked work on the native surface: what could not be done waits for a person, and only for one with scope admin."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from eventstore.events.custom import Custom
from eventstore.schema import ConversationId, Event, Position
from tests.support.parking import message, park
from tests.support.stack import ACME, DEMO, Stack, stacked


@pytest.fixture
async def stack(redis_url: str) -> AsyncIterator[Stack]:
    async with stacked(redis_url, work=False, development=False) as stack:
        yield stack


async def test_parked_lanes_are_listed_page_by_page_from_the_oldest(stack: Stack) -> None:
    for lane in ("send:a", "b", "tool:c"):
        await park(stack, lane, behind=2)
        await stack.tick()
    async with stack.http(await stack.key("admin")) as http:
        first = await http.get("/v1/work/parked?limit=2")
        assert [lane["lane"] for lane in first.json()["parked"]] == ["send:a", "b"]
        rest = await http.get(first.links["next"]["url"])
        [last] = rest.json()["parked"]
        assert "next" not in rest.links
        assert (last["lane"], last["type"], last["behind"]) == ("tool:c", "message.received", 2)
        assert (last["attempts"], last["error"]) == (1, "TypeError at sms.py:12")
        assert last["since"].endswith("Z")
        assert (await http.get("/v1/work/parked?limit=0")).status_code == 422
        assert (await http.get("/v1/work/parked?after=gone")).status_code == 404


async def test_one_lane_is_shown_with_its_item_and_what_waits_behind_it(stack: Stack) -> None:
    item = await park(stack, "l", behind=2)
    async with stack.http(await stack.key("admin")) as http:
        shown = (await http.get("/v1/work/parked/l")).json()
        assert (shown["item"], shown["event"]["id"], shown["event"]["data"]["text"]) == (str(item), str(item), "hello")
        assert [event["data"]["text"] for event in shown["waiting"]] == ["later 0", "later 1"]
        missing = await http.get("/v1/work/parked/other")
        assert (missing.status_code, missing.json()["code"]) == (404, "LANE_NOT_PARKED")


@pytest.mark.parametrize(("verb", "status"), [("redrive", "redriven"), ("drop", "dropped")])
async def test_a_decision_is_an_event_of_the_items_run_and_is_made_once(stack: Stack, verb: str, status: str) -> None:
    item = await park(stack, "l")
    async with stack.http(await stack.key("admin")) as http:
        decided = await http.post(f"/v1/work/parked/l/{verb}", json={"item": str(item)})
        assert decided.status_code == 202
        assert decided.json() == {"lane": "l", "item": str(item), "status": status}
        assert decided.headers["X-Run-Id"] == str(item)
        last = (await stack.log.read_run(ACME, item))[-1]
        assert (last.type, json.loads(last.data)["item"]) == (f"work.{status}", str(item))
        assert last.actor.startswith("client:")
        assert (await http.post(f"/v1/work/parked/l/{verb}")).status_code == 404
        assert (await http.get("/v1/work/parked")).json() == {"parked": []}


async def test_a_decision_about_an_item_that_was_looked_at_is_not_made_about_another(stack: Stack) -> None:
    await park(stack, "l")
    async with stack.http(await stack.key("admin")) as http:
        refused = await http.post("/v1/work/parked/l/drop", json={"item": "1-0"})
        assert (refused.status_code, refused.json()["code"]) == (409, "MOVED_ON")
        assert len((await http.get("/v1/work/parked")).json()["parked"]) == 1


async def test_only_admin_of_the_same_organization_sees_parked_work(stack: Stack) -> None:
    await park(stack, "l")
    every_other = ("events:read", "events:write", "tools:call", "chat:write", "control:write")
    async with stack.http(await stack.key(*every_other)) as http:
        for method, path in [("GET", ""), ("GET", "/l"), ("POST", "/l/redrive"), ("POST", "/l/drop")]:
            assert (await http.request(method, f"/v1/work/parked{path}")).status_code == 403
    async with stack.http(await stack.key("admin", org=DEMO)) as http:
        assert (await http.get("/v1/work/parked")).json() == {"parked": []}
        assert (await http.post("/v1/work/parked/l/drop")).status_code == 404


async def test_a_stream_that_waits_for_parked_work_ends_when_it_is_dropped(stack: Stack) -> None:
    """An item that nothing here can do stops its lane; another lane goes on."""
    poison = Event(Custom(name="custom.from_the_future"), "customer", ConversationId("conv_a"), lane="conv_a")
    async with stack.worker():
        [item] = await stack.append(poison, org=ACME)
        [behind] = await stack.append(message("conv_a"), org=ACME)
        [elsewhere] = await stack.append(message("conv_b"), org=ACME)
        key = await stack.key("admin")
        await ended(stack, elsewhere, key)
        async with stack.http(key) as http:
            [parked] = (await http.get("/v1/work/parked")).json()["parked"]
            assert (parked["lane"], parked["type"]) == ("conv_a", "custom.from_the_future")
            assert (await http.post("/v1/work/parked/conv_a/drop")).status_code == 202
        await ended(stack, behind, key)
        assert (await stack.log.read_run(ACME, item))[-1].type == "reply.failed"


async def ended(stack: Stack, run: Position, key: dict[str, str]) -> list[dict[str, Any]]:
    """The run's stream, read to its end."""
    async with stack.http({**key, "Accept": "application/x-ndjson"}) as http:
        text = (await http.get(f"/v1/runs/{run}/stream")).text
    frames = [json.loads(line) for line in text.splitlines() if line]
    assert frames[-1]["type"] == "end"
    return frames
