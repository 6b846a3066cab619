"""`DELETE /v1/runs/{id}`: what is under way ends within a second, what waits is not begun, what is over stays so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from eventstore import keys
from eventstore.schema import Position
from tests.support.stack import DEMO, Stack, said, stacked
from workers.errors import TryAgain
from workers.model import ModelRequest, StepDone, TextDelta

EVENTS = "/v1/events"


class Talker:
    """A model that talks until it is stopped; `stopped` says that it was."""

    name = "talker"

    def __init__(self) -> None:
        self.stopped = asyncio.Event()
        self.busy = False

    async def stream(self, request: ModelRequest) -> AsyncGenerator[TextDelta | StepDone]:
        if self.busy:
            raise TryAgain("overloaded", after_s=60)
        try:
            while True:
                yield TextDelta("la ")
                await asyncio.sleep(0.005)
        finally:
            self.stopped.set()


async def ask(stack: Stack, text: str = "Sing", type: str = "message.received", **data: Any) -> str:
    event = {"type": type, "data": data or {"text": text}}
    if type == "message.received":
        event["conversation"] = "tel:+14155550177"
    async with stack.http() as http:
        posted = await http.post(EVENTS, json={"events": [event]})
    assert posted.status_code == 201, posted.text
    return str(posted.headers["X-Run-Id"])


async def test_an_answer_under_way_ends_within_a_second(stack: Stack) -> None:
    talker = stack.model = Talker()
    run = await ask(stack)
    async with stack.open(f"/v1/runs/{run}/stream") as client, stack.http() as http:
        await client.take(3)
        deleted = await http.delete(f"/v1/runs/{run}")
        async with asyncio.timeout(1):
            await talker.stopped.wait()
        frames = await client.rest()
        again = await http.delete(f"/v1/runs/{run}")
        state = (await http.get(f"/v1/runs/{run}")).json()
    assert deleted.status_code == 202
    assert deleted.headers["X-Run-Id"] == run
    assert (deleted.json()["id"], deleted.json()["state"]) == (run, "cancelling")
    types = [frame.data["type"] for frame in frames]
    assert types[-2:] == ["reply.cancelled", "end"]
    assert types.count("run.cancel_requested") == 1
    assert frames[-2].data["data"] == {"reason": "request"}
    assert (again.status_code, again.json()) == (200, state)
    assert state["state"] == "cancelled"


async def test_asking_twice_is_asking_once(redis_url: str) -> None:
    async with stacked(redis_url, work=False) as stack, stack.http() as http:
        run = await ask(stack)
        first, second = await http.delete(f"/v1/runs/{run}"), await http.delete(f"/v1/runs/{run}")
        assert (first.status_code, second.status_code) == (202, 202)
        assert [event.type for event in await stack.events()].count("run.cancel_requested") == 1


async def test_what_waits_is_not_begun(redis_url: str) -> None:
    async with stacked(redis_url, work=False) as stack, stack.http() as http:
        answer = await ask(stack)
        tool = await ask(stack, type="tool.requested", tool="get_location", arguments={})
        for run in (answer, tool):
            assert (await http.delete(f"/v1/runs/{run}")).status_code == 202
        async with stack.worker():
            for run in (answer, tool):
                async with stack.open(f"/v1/runs/{run}/stream") as client:
                    await client.rest()
        ends = {str(event.run): event for event in await stack.events() if str(event.run) in (answer, tool)}
    assert ends[answer].type == "reply.cancelled"
    assert ends[tool].type == "tool.failed"
    assert b'"code":"CANCELLED"' in ends[tool].data
    assert not stack.tools.called


async def test_a_run_that_pauses_before_a_retry_ends_now(stack: Stack) -> None:
    talker = stack.model = Talker()
    talker.busy = True
    run = await ask(stack)
    async with stack.open(f"/v1/runs/{run}/stream") as client, stack.http() as http:
        await client.take(2)
        async with asyncio.timeout(2):
            while not await stack.pipe.call("ZCARD", keys.of(DEMO).delay):  # noqa: ASYNC110 - nothing tells when
                await asyncio.sleep(0.01)
            await http.delete(f"/v1/runs/{run}")
            assert (await client.rest())[-2].data["type"] == "reply.cancelled"


async def test_what_is_over_cannot_be_cancelled(stack: Stack) -> None:
    run = await ask(stack, "Hello")
    noted = (await stack.append(said()))[0]
    async with stack.open(f"/v1/runs/{run}/stream") as client, stack.http() as http:
        await client.rest()
        deleted = await http.delete(f"/v1/runs/{run}")
        assert (deleted.status_code, deleted.json()["code"]) == (409, "RUN_OVER")
        assert "completed" in deleted.json()["detail"]
        assert (await http.delete(f"/v1/runs/{noted}")).status_code == 409
    assert "run.cancel_requested" not in [event.type for event in await stack.events()]


async def test_only_runs_of_the_own_organization_can_be_cancelled_and_only_by_writers(stack: Stack) -> None:
    stack.model = Talker()
    run = await ask(stack)
    async with stack.http() as http:
        assert (await http.delete("/v1/runs/1-0")).json()["code"] == "RUN_NOT_FOUND"
        assert (await http.delete(f"/v1/runs/{Position(1, 0)}")).status_code == 404
        assert (await http.delete("/v1/runs/nonsense")).status_code == 400
        stranger = await stack.key("events:write")
        assert (await http.delete(f"/v1/runs/{run}", headers=stranger)).status_code == 404
        reader = await stack.key("events:read", org=DEMO)
        assert (await http.delete(f"/v1/runs/{run}", headers=reader)).status_code == 403
        chatter = await stack.key("chat:write", org=DEMO)
        assert (await http.delete(f"/v1/runs/{run}", headers=chatter)).status_code == 202
