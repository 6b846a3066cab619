"""The end of streams that is not theirs: rotation, a process that stops, and one that has no room."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aiohttp
import pytest

from edges.app import drain
from edges.app_keys import Caps
from edges.open_streams import STREAMS
from tests.support.stack import QUICK, Stack, stacked
from tests.support.stream_client import Cut, StreamClient
from workers.offline import OfflineModel

EVERYTHING = "/v1/events/stream"
RUN, QUERY = "/api/stream/search_contacts", {"query": "john"}
SSE = {"Accept": "text/event-stream"}


@pytest.fixture
async def stack(redis_url: str) -> AsyncIterator[Stack]:
    async with stacked(redis_url) as stack:
        yield stack


async def cut_after_s(client: StreamClient) -> float:
    begun = time.monotonic()
    await client.until_cut()
    return time.monotonic() - begun


async def test_a_drain_spreads_the_ends_of_subscriptions_over_its_window(stack: Stack) -> None:
    async with AsyncExitStack() as opened:
        clients = [await opened.enter_async_context(stack.open(EVERYTHING)) for _ in range(20)]
        begun = time.monotonic()
        draining = asyncio.create_task(drain(stack.first.app, 1.0))
        ends = await asyncio.gather(*map(cut_after_s, clients))
        await draining
        assert time.monotonic() - begun < 1.0
        in_order = sorted(ends)
        assert in_order[-5] - in_order[4] > 0.25, "they would all come back at once"


async def test_a_run_may_end_within_the_window_and_the_drain_waits_no_longer(stack: Stack) -> None:
    gate = stack.tools.hold("search_contacts")
    async with stack.open(RUN, json=QUERY) as running, stack.open(EVERYTHING) as idle:
        await running.take(1)
        draining = asyncio.create_task(drain(stack.first.app, 8.0))
        await idle.until_cut()
        gate.set()
        assert (await running.rest())[-1].type == "complete"
        async with asyncio.timeout(2):
            await draining


async def test_what_does_not_end_in_time_is_cut(stack: Stack) -> None:
    stack.tools.hold("search_contacts")
    async with stack.open(RUN, json=QUERY) as running:
        await running.take(1)
        await drain(stack.first.app, 0.2)
        await stack.first.app.shutdown()
        with pytest.raises(Cut):
            await running.rest()


async def test_a_draining_process_opens_no_streams_and_answers_the_rest(stack: Stack) -> None:
    stack.first.app[STREAMS].draining = True
    async with stack.open(EVERYTHING, SSE) as later:
        assert (later.status, await later.until_cut()) == (200, [])
        assert later.retry_ms is not None
        assert 15_000 <= later.retry_ms <= 30_000
    async with stack.http() as http:
        refused = await http.post(RUN, json=QUERY)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert not [event for event in await stack.events() if event.type == "tool.requested"], "no work was started"
        answered = await http.get("/v1/events")
        assert (answered.status_code, answered.headers["Connection"]) == (200, "close")
        assert (await http.get("/health/ready")).status_code == 503


async def types_of(socket: aiohttp.ClientWebSocketResponse) -> list[str]:
    """Of what comes until it is closed."""
    return [message.json()["type"] async for message in socket]


async def test_an_idle_socket_goes_at_once_and_a_busy_one_after_its_answer(redis_url: str) -> None:
    async with (
        stacked(redis_url) as stack,
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{stack.url}/ws/chat?session_id=idle") as idle,
        http.ws_connect(f"{stack.url}/ws/chat?session_id=busy") as busy,
    ):
        stack.model = OfflineModel(20)
        await busy.send_json({"message": "Hello"})
        await busy.receive(5)
        draining = asyncio.create_task(drain(stack.first.app, 8.0))
        _, heard = await asyncio.gather(types_of(idle), types_of(busy))
        assert (idle.close_code, busy.close_code) == (1001, 1001)
        assert heard[-1] == "done"
        async with asyncio.timeout(2):
            await draining


async def test_streams_without_an_end_are_rotated_and_runs_are_not(redis_url: str) -> None:
    async with stacked(redis_url, pace=QUICK._replace(lifetime_s=1.0, heartbeat_s=10.0)) as stack:
        gate = stack.tools.hold("search_contacts")
        async with stack.open(RUN, json=QUERY) as running, stack.open(EVERYTHING) as endless:
            assert 0.7 < await cut_after_s(endless) < 3.0
            gate.set()
            assert await running.rest()


async def test_the_last_places_are_for_those_who_return(redis_url: str) -> None:
    async with stacked(redis_url, work=False, caps=Caps(process=20)) as stack, AsyncExitStack() as opened:
        [last] = await stack.say()
        for _ in range(19):
            await (await opened.enter_async_context(stack.open(EVERYTHING, SSE))).take(1)
        async with stack.open(EVERYTHING, SSE) as fresh:
            assert await fresh.until_cut() == []
        async with stack.http() as http:
            full = await http.post(RUN, json=QUERY)
            assert (full.status_code, full.headers["Retry-After"]) == (503, "15")
        async with stack.open(EVERYTHING, SSE, last=last) as returning:
            await returning.take(1)
            async with stack.open(EVERYTHING, SSE, last=last) as too_many:
                assert await too_many.until_cut() == []
