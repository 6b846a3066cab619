"""`/health/*` of `trunkline worker --metrics-port`: what an orchestrator is told of a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import httpx
import pytest

from tests.support.product import Command, free_port, wait_until_serving
from tests.support.redis_servers import RedisServer, lasting_server
from tests.support.stack import Stack, stacked

LIMIT_S = 20.0
QUESTION = {"type": "message.received", "conversation": "session:1", "data": {"text": "What are your hours?"}}


class Observed(NamedTuple):
    redis: RedisServer
    worker: Command
    stack: Stack
    http: httpx.AsyncClient
    """To the worker."""

    async def ready(self, status: int) -> httpx.Response:
        """The first answer with that status."""
        while (answer := await self.http.get("/health/ready")).status_code != status:
            assert answer.status_code in (200, 503), answer.text
            await asyncio.sleep(0.02)
        return answer


@pytest.fixture
async def observed() -> AsyncIterator[Observed]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with lasting_server() as redis:
        env = {"TRUNKLINE_REDIS_URL": redis.url, "TRUNKLINE_OFFLINE_DELAY_MS": "200"}
        worker = Command("worker", "--metrics-port", str(port), env=env)
        try:
            await asyncio.to_thread(wait_until_serving, url)
            async with (
                stacked(redis.url, work=False) as stack,
                httpx.AsyncClient(base_url=url, timeout=5) as http,
                asyncio.timeout(LIMIT_S),
            ):
                yield Observed(redis, worker, stack, http)
        finally:
            worker.stop()


async def test_a_worker_is_ready_while_redis_is_there(observed: Observed) -> None:
    ready = (await observed.ready(200)).json()
    assert (ready["status"], ready["dependencies"]["redis"]["state"]) == ("ready", "ok")
    assert ready["dependencies"]["workers"] == {"state": "ok", "alive": 1}
    assert ready["models"] == ["offline"]
    observed.redis.kill()
    unready = (await observed.ready(503)).json()
    assert unready["dependencies"]["redis"] == {"state": "unavailable"}
    assert (await observed.http.get("/health/live")).status_code == 200
    observed.redis.start()
    await observed.ready(200)


async def test_a_worker_that_stops_is_not_ready_while_its_answer_ends(observed: Observed) -> None:
    async with observed.stack.http() as http, observed.stack.open("/v1/events/stream?after=0") as client:
        (await http.post("/v1/events", json={"events": [QUESTION]})).raise_for_status()
        while (frame := await client.next()) is not None and frame.type != "reply.delta":
            pass
    observed.worker.process.terminate()
    assert (await observed.ready(503)).json()["dependencies"]["workers"]["state"] == "ok"
    assert await asyncio.to_thread(observed.worker.wait) == 0, observed.worker.stderr
