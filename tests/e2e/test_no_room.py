"""`trunkline edge` and `trunkline worker` on a Redis that has no room: what their clients see, and what is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import httpx
import pytest

from eventstore.connection import Pipe, pool_for
from eventstore.log import Log
from eventstore.schema import ORIGIN
from tests.e2e.test_faults import organization_and_key
from tests.support.invariants import assert_invariants
from tests.support.product import Command, free_port, wait_until_serving
from tests.support.redis_servers import lasting_server
from tests.support.stack import ACME
from tests.support.stream_client import StreamClient

LIMIT_S = 20.0
CAP = 30
"""Events: enough for an answer, whose events are results and never held back."""


class Product(NamedTuple):
    url: str
    headers: dict[str, str]
    pipe: Pipe
    http: httpx.AsyncClient

    async def ask(self, number: int) -> httpx.Response:
        data = {"text": "What are your hours?"}
        event = {"type": "message.received", "conversation": f"session:{number}", "data": data}
        return await self.http.post("/v1/events", json={"events": [event]}, headers={"Idempotency-Key": str(number)})

    def stream(self) -> StreamClient:
        return StreamClient("GET", f"{self.url}/v1/events/stream?after=0&deltas=0", self.headers, None, "1.1")


@pytest.fixture
async def product() -> AsyncIterator[Product]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with ExitStack() as stack:
        redis = stack.enter_context(lasting_server())
        headers = {"X-Tenant-API-Key": await organization_and_key(redis.url)}
        env = {"TRUNKLINE_REDIS_URL": redis.url, "TRUNKLINE_MAX_EVENTS": str(CAP)}
        for command in (Command("edge", "--port", str(port), env=env), Command("worker", env=env)):
            stack.callback(command.stop)
        await asyncio.to_thread(wait_until_serving, url)
        pipe = Pipe(pool_for(redis.url))
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=5) as http, asyncio.timeout(LIMIT_S):
            yield Product(url, headers, pipe, http)
        await assert_invariants(pipe, ACME)
        await pipe.close()


async def answers(client: StreamClient, count: int) -> list[dict[str, Any]]:
    """All that is shown up to so many answers."""
    seen: list[dict[str, Any]] = []
    while count:
        frame = await client.next()
        assert frame is not None, "the stream has ended"
        assert frame.type != "gap", frame
        seen.append(frame.data)
        count -= frame.type == "reply.completed"
    return seen


async def test_a_log_at_its_cap_refuses_questions_and_still_takes_their_answers(product: Product) -> None:
    async with product.stream() as client:
        taken = 0
        while (posted := await product.ask(taken)).status_code == 201:
            taken += 1
        assert (posted.status_code, posted.headers["Retry-After"]) == (503, "5")
        assert (await product.ask(0)).headers["Idempotency-Replayed"] == "true"
        seen = await answers(client, taken)
    on_log = await Log(product.pipe).read(ACME, ORIGIN, deltas=False)
    assert len(on_log) > CAP
    assert [event["id"] for event in seen if "id" in event] == [str(event.position) for event in on_log][: len(seen)]


async def test_a_full_memory_holds_questions_and_answers_back_until_there_is_room(product: Product) -> None:
    async with product.stream() as client:
        assert (await product.ask(0)).status_code == 201
        await product.pipe.call("CONFIG", "SET", "maxmemory", "1")
        refused = await product.ask(1)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert (await product.http.get("/v1/events")).status_code == 200
        await product.pipe.call("CONFIG", "SET", "maxmemory", "0")
        while (await product.ask(1)).status_code not in (200, 201):  # noqa: ASYNC110 - as a client comes again
            await asyncio.sleep(0.05)
        seen = await answers(client, 2)
    types = [event["type"] for event in seen]
    assert types.count("message.received") == 2
    assert "reply.failed" not in types
