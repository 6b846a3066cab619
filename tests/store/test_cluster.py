"""A Redis Cluster whose slots move under load: nothing is lost, doubled or reordered, and nobody has to be told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from eventstore import keys
from eventstore.append import APPEND, Append, Idempotency
from eventstore.connection import Pipe
from eventstore.durability import barrier_for
from eventstore.errors import StoreMisconfigured, StoreUnavailable
from eventstore.lanes import LANES, Lanes
from eventstore.log import Log
from eventstore.schema import ORIGIN, OrgId, Position, Recorded, Sibling
from eventstore.servers import check_kind, pipe_to
from tests.store.conftest import RECENT, binary_of
from tests.support.clusters import Cluster, masters
from tests.support.invariants import assert_invariants
from tests.support.redis_servers import RedisServer
from tests.support.stack import ACME, DEMO, Stack, stacked
from tests.support.store import blocked_client, delta, fact, written

ORGS = [OrgId(f"org-{number}") for number in range(12)]


@pytest.fixture(scope="module", params=RECENT)
def servers(request: pytest.FixtureRequest) -> Iterator[tuple[list[RedisServer], list[int]]]:
    with masters(binary_of(request.param)) as nodes:
        yield nodes


@pytest.fixture
async def cluster(servers: tuple[list[RedisServer], list[int]]) -> AsyncIterator[Cluster]:
    """Empty; slots stay where the last test left them."""
    nodes, bus_ports = servers
    cluster = Cluster(nodes)
    await cluster.form(bus_ports)
    for pipe in cluster.pipes:
        await pipe.call("FLUSHALL")
    yield cluster
    await cluster.close()


@pytest.fixture
async def pipe(cluster: Cluster) -> AsyncIterator[Pipe]:
    pipe = pipe_to(cluster.url, (APPEND, LANES))
    yield pipe
    await pipe.close()


async def test_every_organization_is_found_from_one_nodes_address(pipe: Pipe, cluster: Cluster) -> None:
    log = Log(pipe)
    for org in ORGS:
        written(await log.append(org, Append(events=[fact()])))
    assert [len(await log.read(org, ORIGIN)) for org in ORGS] == [1] * len(ORGS)
    assert len({await cluster.owner(keys.of(org).log) for org in ORGS}) == 3


async def test_workers_hear_the_doorbells_of_all_nodes(pipe: Pipe, cluster: Cluster) -> None:
    log, lanes, blocking = Log(pipe), Lanes(pipe, "worker-1"), pipe_to(cluster.url, timeout_s=5)
    try:
        await lanes.join()
        waiting = asyncio.create_task(lanes.wait(blocking, count=5, block_ms=1_000))
        heard = list[OrgId]()
        for org in ORGS:
            written(await log.append(org, Append(events=[fact(lane="l")])))
        async with asyncio.timeout(10):
            while len(heard) < len(ORGS):
                heard += [bell.org for bell in await waiting]
                waiting = asyncio.create_task(lanes.wait(blocking, count=5, block_ms=1_000))
        waiting.cancel()
        assert sorted(heard) == sorted(ORGS)
    finally:
        await blocking.close()


async def test_who_follows_a_log_gets_both_streams_of_one_append_in_order(pipe: Pipe, cluster: Cluster) -> None:
    """A wait that an append ends brings one of its streams only."""
    log, org, blocking = Log(pipe), ORGS[0], pipe_to(cluster.url, timeout_s=5)
    try:
        following = asyncio.ensure_future(anext(log.tail(org, ORIGIN, blocking, block_ms=4_000)))
        await blocked_client(cluster.pipes[await cluster.owner(keys.of(org).log)])
        positions = written(await log.append(org, Append(events=[fact(), delta(Sibling(0)), fact()]))).positions
        assert [event.position for event in await following] == positions
    finally:
        await blocking.close()


async def test_a_slot_that_moves_under_appends_loses_doubles_and_tears_nothing(pipe: Pipe, cluster: Cluster) -> None:
    """Every append makes new keys (a run's index, its idempotency key), so that each could be torn half-way."""
    log, over = Log(pipe), asyncio.Event()
    acknowledged: list[Position] = []
    held_back = 0

    async def produce(producer: int) -> None:
        nonlocal held_back
        number = 0
        while not over.is_set():
            number += 1
            key = Idempotency(f"{producer}-{number}", "body")
            request = Append(events=[fact(lane=f"l{producer}"), fact(lane=f"l{producer}")], idempotency=key)
            for _ in range(100):
                try:
                    outcome = await log.append(ACME, request)
                except StoreUnavailable:  # said so, and written nothing
                    held_back += 1
                    continue
                acknowledged.extend(outcome.positions)  # type: ignore[union-attr]
                break
            else:
                raise AssertionError("the slot never came to rest")

    async with asyncio.TaskGroup() as group:
        producers = [group.create_task(produce(number)) for number in range(6)]
        for _ in range(3):
            before = len(acknowledged)
            while len(acknowledged) < before + 100:  # noqa: ASYNC110 - producers are not told of each other
                await asyncio.sleep(0.01)
            assert await cluster.move(keys.of(ACME).log, pause_s=0.001) > 20
        over.set()
        await asyncio.wait(producers)
    stored = [event.position for event in await everything(log, ACME)]
    assert sorted(acknowledged) == stored
    await assert_invariants(await cluster.home(keys.of(ACME).log), ACME)


async def test_an_append_to_a_moving_slot_says_so_in_time_and_writes_nothing(pipe: Pipe, cluster: Cluster) -> None:
    log = Log(pipe)
    written(await log.append(ACME, Append(events=[fact()])))
    key = keys.of(ACME).log
    moving = asyncio.create_task(cluster.move(key, pause_s=0.3))
    await asyncio.sleep(0.1)
    async with asyncio.timeout(0.9):
        with pytest.raises(StoreUnavailable, match=r"TRYAGAIN|ASK"):
            await log.append(ACME, Append(events=[fact()]))
    await moving
    assert written(await log.append(ACME, Append(events=[fact()]))).first_number == 2


async def test_answers_stream_on_while_their_slots_move(cluster: Cluster) -> None:
    """Inputs by HTTP, answers by a worker, subscribers by SSE; the slots of both and of the directory move."""
    count, followers = 24, 6
    async with stacked(cluster.url) as stack, stack.http() as http:
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            readers = [tasks.create_task(follow(stack, count)) for _ in range(followers)]
            tasks.create_task(move_all(cluster))
            for number in range(count):
                await send(http, number)
        shown = [reader.result() for reader in readers]
        events = await everything(stack.log, DEMO)
    received = [event for event in events if event.type == "message.received"]
    completed = [event for event in events if event.type == "reply.completed"]
    assert len(received) == len(completed) == count
    assert {event.run for event in completed} == {event.position for event in received}
    facts = [str(event.position) for event in events if event.number is not None]
    for seen in shown:
        last = facts.index(seen[-1])
        assert [position for position in seen if position in facts] == facts[facts.index(seen[0]) : last + 1]
    await assert_invariants(await cluster.home(keys.of(DEMO).log), DEMO)


async def move_all(cluster: Cluster) -> None:
    for key in (keys.of(DEMO).log, keys.STORE, keys.of(DEMO).log):
        await cluster.move(key, pause_s=0.002)


async def send(http: httpx.AsyncClient, number: int) -> None:
    event = {"type": "message.received", "conversation": f"session:{number}", "data": {"text": "What are your hours?"}}
    for _ in range(100):
        posted = await http.post("/v1/events", json={"events": [event]}, headers={"Idempotency-Key": str(number)})
        if posted.status_code in (200, 201):
            return
        assert (posted.status_code, posted.headers["Retry-After"]) == (503, "1"), posted.text
    raise AssertionError("the slot never came to rest")


async def follow(stack: Stack, answers: int) -> list[str]:
    """The ids that one subscriber was shown, up to the last answer, however often it had to come back."""
    seen: list[str] = []
    while True:
        async with stack.open("/v1/events/stream?after=0", last=seen[-1] if seen else None) as client:
            if client.status != 200:
                continue
            try:
                while (frame := await client.next()) is not None:
                    assert frame.type != "gap", frame
                    if frame.type in ("position", "heartbeat"):
                        continue
                    assert frame.id is not None
                    seen.append(frame.id)
                    answers -= frame.type == "reply.completed"
                    if not answers:
                        return seen
            except Exception:  # cut: it comes back to where it was
                continue


async def everything(log: Log, org: OrgId) -> list[Recorded]:
    events = list(await log.read(org, ORIGIN, deltas=False))
    while page := await log.read(org, events[-1].position, deltas=False):
        events += page
    return events


async def test_an_eviction_policy_is_found_on_whichever_node_has_it(pipe: Pipe, cluster: Cluster) -> None:
    assert await barrier_for(pipe, "local") is None
    await cluster.pipes[2].call("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    try:
        with pytest.raises(StoreMisconfigured, match="volatile-lru"):
            await barrier_for(pipe, "local")
    finally:
        await cluster.pipes[2].call("CONFIG", "SET", "maxmemory-policy", "noeviction")


async def test_a_node_addressed_as_a_single_server_is_refused(cluster: Cluster) -> None:
    with pytest.raises(StoreMisconfigured, match=r"redis\+cluster"):
        await check_kind(cluster.pipes[0])


async def test_an_append_that_was_not_confirmed_is_not_sent_again(pipe: Pipe, cluster: Cluster) -> None:
    log = Log(pipe)
    log.wait_for(await barrier_for(pipe, "replica"))
    home = await cluster.home(keys.of(ACME).log)
    appending = asyncio.create_task(log.append(ACME, Append(events=[fact()])))
    await home.call("CLIENT", "UNBLOCK", await blocked_client(home), "ERROR")  # as when a master becomes a replica
    with pytest.raises(StoreUnavailable, match="not confirmed: UNBLOCKED"):
        await appending
    assert len(await log.read(ACME, ORIGIN)) == 1


async def test_a_master_that_hangs_holds_back_its_own_organizations_only(cluster: Cluster) -> None:
    """Until the others declare it dead; then the whole cluster waits for it, as its default is."""
    pipe = pipe_to(cluster.url, (APPEND, LANES), timeout_s=0.5)
    log = Log(pipe)
    written(await log.append(ACME, Append(events=[fact()])))
    owner = await cluster.owner(keys.of(ACME).log)
    elsewhere = [org for org in ORGS if await cluster.owner(keys.of(org).log) != owner]
    node = cluster.nodes[owner]
    node.pause()
    try:
        async with asyncio.timeout(3):
            with pytest.raises(StoreUnavailable):
                await log.append(ACME, Append(events=[fact()]))
        async with asyncio.timeout(1):
            for org in elsewhere:
                written(await log.append(org, Append(events=[fact()])))
    finally:
        node.resume()
    async with asyncio.timeout(10):
        while True:
            try:
                written(await log.append(ACME, Append(events=[fact()])))
                break
            except StoreUnavailable:
                continue
    await pipe.close()
