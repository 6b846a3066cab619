"""The product on a Redis Cluster whose slots move, and on a master that dies under Sentinel's eyes."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from eventstore import keys
from eventstore.connection import Pipe, pool_for
from eventstore.log import Log
from eventstore.organizations import DEFAULT
from eventstore.schema import ORIGIN, OrgId
from tests.support.clusters import Cluster, masters
from tests.support.product import Up
from tests.support.redis_servers import RedisServer, system_binary
from tests.support.sentinels import in_step, watched
from tests.support.streams import follow, ids, in_order, without_positions

LIMIT_S = 30.0
QUESTION = {"type": "message.received", "conversation": "session:0", "data": {"text": "What are your hours?"}}
NAMED = {"Idempotency-Key": "0"}


@pytest.fixture
def binary() -> str:
    found = system_binary()
    if found is None:
        pytest.skip("no redis-server on PATH")
    return found


async def started(data_dir: Path, url: str) -> Up:
    return await asyncio.to_thread(Up, data_dir, env={"TRUNKLINE_REDIS_URL": url, "TRUNKLINE_OFFLINE_DELAY_MS": "20"})


async def ask(url: str, number: int) -> None:
    """Until it is taken, by a client that names its input."""
    event = {"type": "message.received", "conversation": f"session:{number}", "data": {"text": "What are your hours?"}}
    async with httpx.AsyncClient(timeout=5) as http:
        while True:
            posted = await http.post(
                f"{url}/v1/events", json={"events": [event]}, headers={"Idempotency-Key": str(number)}
            )
            if posted.status_code == 201:
                return
            assert (posted.status_code, posted.headers["Retry-After"]) == (503, "1"), posted.text


async def answered_once(url: str, questions: int) -> None:
    """Every question has one answer, and a stream shows what is on the log."""
    for number in range(questions):
        stream = f"{url}/v1/events/stream?conversation=session:{number}&after=0"
        shown = without_positions([event.json() for event in await asyncio.to_thread(follow, stream)])
        types = [event["type"] for event in shown]
        assert (types.count("message.received"), types.count("reply.completed")) == (1, 1)
        assert in_order(ids(shown))


async def test_questions_are_answered_while_slots_of_a_cluster_move(data_dir: Path, binary: str) -> None:
    with masters(binary) as (nodes, bus_ports):
        cluster = Cluster(nodes)
        await cluster.form(bus_ports)
        up = await started(data_dir, cluster.url)
        async with asyncio.timeout(LIMIT_S):
            moving = asyncio.create_task(cluster.move(keys.of(OrgId(up.facts["organization"])).log, pause_s=0.01))
            await asyncio.gather(*(ask(up.url, number) for number in range(5)))
            await moving
            await cluster.move(keys.STORE, pause_s=0.01)
            await answered_once(up.url, 5)
        await cluster.close()
        assert await asyncio.to_thread(up.stop) == 0, up.stderr


async def test_answers_outlive_the_master_and_go_on_with_the_next(data_dir: Path, binary: str) -> None:
    async with watched(binary) as pair:
        up = await started(data_dir, pair.url)
        async with asyncio.timeout(LIMIT_S):
            await ask(up.url, 0)
            await answered_once(up.url, 1)
            await pair.settled()
            pair.master.kill()
            await ask(up.url, 1)
            await answered_once(up.url, 2)
        assert await asyncio.to_thread(up.stop) == 0, up.stderr


async def test_edge_and_worker_wait_for_as_many_replicas_as_are_wanted(data_dir: Path, binary: str) -> None:
    """One of two hangs: the edge says so each time, and the worker does not go on before it is back."""
    with ExitStack() as stack:
        master = RedisServer(binary, "--repl-diskless-sync-delay", "0", tcp=True).start()
        stack.callback(master.stop)
        follower = "--replicaof", "127.0.0.1", str(master.port)
        replicas = [RedisServer(binary, *follower, tcp=True).start() for _ in range(2)]
        for replica in replicas:
            stack.callback(replica.stop)
        await in_step(master, replicas=2)
        wanted = {"TRUNKLINE_DURABILITY": "replica", "TRUNKLINE_REPLICAS": "2", "TRUNKLINE_REDIS_URL": master.url}
        up = await asyncio.to_thread(Up, data_dir, env=wanted)
        stack.callback(up.stop)
        replicas[1].pause()
        async with httpx.AsyncClient(timeout=5) as http:
            for _ in range(3):
                posted = await http.post(f"{up.url}/v1/events", json={"events": [QUESTION]}, headers=NAMED)
                assert posted.status_code == 503
        assert "reply.completed" not in await types_on(master.url)
        replicas[1].resume()
        await answered_once(up.url, 1)
        types = await types_on(master.url)
        assert types.count("reply.started") == 1
        assert not {"reply.restarted", "work.failed"} & set(types)


async def types_on(url: str) -> list[str]:
    pipe = Pipe(pool_for(url))
    try:
        return [event.type for event in await Log(pipe).read(DEFAULT, ORIGIN)]
    finally:
        await pipe.close()
