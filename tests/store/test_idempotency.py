"""What is repeated after a lost reply, or by many at once, happens once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from eventstore import keys
from eventstore.append import (
    APPEND,
    FINISH,
    Append,
    Appended,
    Disposal,
    Duplicate,
    Fenced,
    Idempotency,
    KeyReused,
    Outcome,
    fingerprint,
)
from eventstore.connection import Pipe, pool_for
from eventstore.errors import StoreUnavailable
from eventstore.lanes import LANES, Lanes
from eventstore.log import Log
from eventstore.schema import ORIGIN
from tests.support.invariants import assert_invariants
from tests.support.redis_servers import RedisServer
from tests.support.store import ACME, ANN, SHARDS, Store, delta, fact, taken, written
from tests.support.tcp_proxy import Fault, TcpProxy

KEY = Idempotency("key-1", "body-1")


class Line(NamedTuple):
    """A log behind a line that loses things."""

    proxy: TcpProxy
    log: Log
    lanes: Lanes


@pytest.fixture
async def line(redis_url: str) -> AsyncIterator[Line]:
    async with TcpProxy(redis_url) as proxy:
        pipe = Pipe(pool_for(proxy.url), (APPEND, LANES), timeout_s=0.3)
        lanes = Lanes(pipe, "worker-1", shards=SHARDS)
        await lanes.join()
        yield Line(proxy, Log(pipe), lanes)
        await assert_invariants(pipe)
        await pipe.close()


async def lost_then_repeated(line: Line, fault: Fault, request: Append) -> Outcome:
    """The caller hears nothing of the first try and sends the same again."""
    line.proxy.fail_next(fault)
    with pytest.raises(StoreUnavailable):
        await line.log.append(ACME, request)
    return await line.log.append(ACME, request)


FAULTS: tuple[Fault, ...] = ("cut_request", "cut_reply", "swallow_reply")


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_keyed_append_is_written_once(line: Line, fault: Fault) -> None:
    outcome = await lost_then_repeated(line, fault, Append(events=[fact(lane="l"), fact()], idempotency=KEY))
    assert isinstance(outcome, Appended if fault == "cut_request" else Duplicate)
    assert (outcome.first_number, outcome.versions) == (1, [1, 2])
    assert [event.position for event in await line.log.read(ACME, ORIGIN)] == outcome.positions


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_delta_is_written_once(line: Line, fault: Fault) -> None:
    written(await line.log.append(ACME, Append(events=[fact(lane="l")])))
    lane = taken(await line.lanes.take(ACME, "l"))
    request = Append(events=[delta(lane.position)], held=lane.held._replace(sequence=1))
    outcome = await lost_then_repeated(line, fault, request)
    assert isinstance(outcome, Appended if fault == "cut_request" else Duplicate)
    assert len(await line.log.read(ACME, ORIGIN)) == 2


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("queued", [1, 2, 3])
async def test_a_result_is_written_and_its_item_finished_once(line: Line, fault: Fault, queued: int) -> None:
    items = written(await line.log.append(ACME, Append(events=[fact(lane="l")] * queued))).positions
    lane = taken(await line.lanes.take(ACME, "l"))
    outcome = await lost_then_repeated(line, fault, Append(events=[fact()], held=lane.held, disposal=FINISH))
    assert isinstance(outcome, Appended if fault == "cut_request" else Fenced)
    if isinstance(outcome, Fenced):
        assert outcome.why == ("lane" if queued == 1 else "head")
    assert len(await line.log.read(ACME, ORIGIN)) == queued + 1
    left = await line.log.pipe.call("LRANGE", keys.of(ACME).lane("l")[1], 0, -1)
    assert left == [str(item).encode() for item in items[1:]]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("disposal", [Disposal("retry", 60_000), Disposal("park"), Disposal("release")])
async def test_giving_a_lane_back_happens_once(line: Line, fault: Fault, disposal: Disposal) -> None:
    written(await line.log.append(ACME, Append(events=[fact(lane="l")])))
    lane = taken(await line.lanes.take(ACME, "l"))
    outcome = await lost_then_repeated(line, fault, Append(events=[fact()], held=lane.held, disposal=disposal))
    assert isinstance(outcome, Appended if fault == "cut_request" else Fenced)
    assert await line.log.version(ACME, ANN) == 2


@pytest.mark.parametrize("fault", FAULTS)
async def test_an_expected_version_makes_repetition_harmless_too(line: Line, fault: Fault) -> None:
    await lost_then_repeated(line, fault, Append(events=[fact()], expected=0))
    assert await line.log.version(ACME, ANN) == 1


async def test_one_of_many_who_send_the_same_input_at_once_writes_it(store: Store) -> None:
    outcomes = await asyncio.gather(*[store.append(fact(lane="l"), idempotency=KEY) for _ in range(20)])
    assert sum(isinstance(outcome, Appended) for outcome in outcomes) == 1
    positions = [outcome.positions for outcome in outcomes if isinstance(outcome, Appended | Duplicate)]
    assert positions == [positions[0]] * 20
    assert await store.doorbells() == ["l"]


async def test_a_key_reused_at_once_has_one_winner(store: Store) -> None:
    outcomes = await asyncio.gather(
        *[store.append(fact(), idempotency=Idempotency("key-1", f"body-{body}")) for body in range(10)]
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Appended", *["KeyReused"] * 9]
    assert isinstance(outcomes[-1], KeyReused | Appended)


async def ping_until_it_fails(pipe: Pipe) -> None:
    while True:
        await pipe.call("PING")


async def test_an_answer_remembered_survives_the_servers_death(own_server: RedisServer) -> None:
    pipe = Pipe(pool_for(own_server.url), (APPEND, LANES))
    log = Log(pipe)
    original = written(await log.append(ACME, Append(events=[fact()], idempotency=KEY)))
    own_server.restart()
    with pytest.raises(StoreUnavailable):  # the old connection may not have noticed yet
        await ping_until_it_fails(pipe)
    again = await log.append(ACME, Append(events=[fact()], idempotency=KEY))
    assert again == Duplicate(original.positions, 1, [1])
    await pipe.close()


def test_a_fingerprint_tells_lists_of_parts_apart() -> None:
    lists = [("ab", "c"), ("a", "bc"), ("abc",), ("", "abc"), ("abc", ""), ("a", "b", "c"), ("3:abc",), ()]
    assert len({fingerprint(*parts) for parts in lists}) == len(lists)
