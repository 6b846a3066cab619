"""An append counts only once it is as durable as was asked for; a Redis that would lose events is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from eventstore.append import Append, Appended, Duplicate, Idempotency
from eventstore.connection import Pipe, pool_for
from eventstore.durability import LIMIT_S, barrier_for
from eventstore.errors import StoreMisconfigured, StoreUnavailable
from eventstore.events import Custom
from eventstore.log import Log
from eventstore.schema import ConversationId, Event, OrgId
from projections import control
from tests.store.conftest import PRESENT, binary_of
from tests.support.redis_servers import RedisServer, fastest_binary
from tests.support.sentinels import in_step
from tests.support.store import blocked_client

ACME, ANN = OrgId("acme"), ConversationId("conv_ann")
ONE = Append(events=[Event(Custom(name="custom.kept"), "test")])


@pytest.fixture
async def own_pipe() -> AsyncIterator[Pipe]:
    """To a server that this test may set up as it likes."""
    binary = fastest_binary()
    if binary is None:
        pytest.skip("no redis-server on this machine")
    server = RedisServer(binary, appendonly=True).start()
    pipe = Pipe(pool_for(server.url))
    yield pipe
    await pipe.close()
    server.stop()


async def test_a_redis_that_evicts_is_refused(own_pipe: Pipe) -> None:
    await own_pipe.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with pytest.raises(StoreMisconfigured, match="allkeys-lru"):
        await barrier_for(own_pipe, "local")


async def test_writes_on_disk_before_their_reply_need_no_waiting(own_pipe: Pipe) -> None:
    assert await barrier_for(own_pipe, "aof") is None


async def test_a_disk_that_nothing_is_written_to_is_nothing_to_wait_for(own_pipe: Pipe) -> None:
    await own_pipe.call("CONFIG", "SET", "appendonly", "no")
    assert await barrier_for(own_pipe, "local") is None
    with pytest.raises(StoreMisconfigured, match="appendonly yes"):
        await barrier_for(own_pipe, "aof")


async def test_waiting_for_the_disk_is_refused_where_redis_cannot(own_pipe: Pipe) -> None:
    await own_pipe.call("CONFIG", "SET", "appendfsync", "everysec")
    with pytest.raises(StoreMisconfigured, match="appendfsync always"):
        await barrier_for(own_pipe, "aof")


async def test_an_append_without_a_replica_is_not_acknowledged(own_pipe: Pipe) -> None:
    log = Log(own_pipe)
    log.wait_for(await barrier_for(own_pipe, "replica"))
    with pytest.raises(StoreUnavailable, match="not confirmed"):
        await log.append(ACME, ONE)


async def test_an_append_whose_master_is_demoted_meanwhile_is_not_acknowledged(own_pipe: Pipe) -> None:
    log = Log(own_pipe)
    log.wait_for(await barrier_for(own_pipe, "replica"))
    appending = asyncio.create_task(log.append(ACME, ONE))
    await blocked_client(own_pipe)
    await own_pipe.call("REPLICAOF", "127.0.0.1", 1)
    with pytest.raises(StoreUnavailable, match="not confirmed: UNBLOCKED"):
        await appending


@pytest.fixture
async def pair() -> AsyncIterator[tuple[RedisServer, RedisServer]]:
    """A master and its replica, of the newest kind: since 7.2 a read is nothing that WAIT waits for."""
    binary, at_once = binary_of(PRESENT[-1]), ("--repl-diskless-sync-delay", "0")
    master = RedisServer(binary, *at_once, tcp=True).start()
    replica = RedisServer(binary, "--replicaof", "127.0.0.1", str(master.port), tcp=True).start()
    await in_step(master)
    yield master, replica
    replica.stop()
    master.stop()


@pytest.fixture
async def pipes(pair: tuple[RedisServer, RedisServer]) -> AsyncIterator[list[Pipe]]:
    """Of two processes, to the master."""
    pipes = [Pipe(pool_for(pair[0].url)) for _ in range(2)]
    yield pipes
    for pipe in pipes:
        await pipe.close()


async def waiting_log(pipe: Pipe, replicas: int = 1, limit_s: float = LIMIT_S) -> Log:
    log = Log(pipe)
    log.wait_for(await barrier_for(pipe, "replica", replicas, limit_s))
    return log


async def test_an_append_is_acknowledged_once_a_replica_has_it(
    pair: tuple[RedisServer, RedisServer], pipes: list[Pipe]
) -> None:
    log, replica = await waiting_log(pipes[0], limit_s=5), Pipe(pool_for(pair[1].url))
    outcomes = await asyncio.gather(*(log.append(ACME, ONE) for _ in range(20)))
    assert all(isinstance(outcome, Appended) for outcome in outcomes)
    assert len(await Log(replica).read(ACME, outcomes[0].positions[0].before())) == 20  # type: ignore[union-attr]
    await replica.close()


async def test_a_repetition_waits_for_the_replica_whichever_process_has_written(
    pair: tuple[RedisServer, RedisServer], pipes: list[Pipe]
) -> None:
    keyed = Append(events=ONE.events, idempotency=Idempotency("key", "body"))
    logs = [await waiting_log(pipe) for pipe in pipes]
    pair[1].pause()
    for log in logs:
        with pytest.raises(StoreUnavailable, match="not confirmed"):
            await log.append(ACME, keyed)
    pair[1].resume()
    assert isinstance(await (await waiting_log(pipes[1], limit_s=10)).append(ACME, keyed), Duplicate)


async def test_an_agent_has_a_conversation_once_the_replica_has_it(
    pair: tuple[RedisServer, RedisServer], pipes: list[Pipe]
) -> None:
    pair[1].pause()
    for pipe in pipes:
        with pytest.raises(StoreUnavailable, match="not confirmed"):
            await control.take(await waiting_log(pipe), ACME, ANN, control.Take("ann", "Ann"))
    pair[1].resume()
    taken = await control.take(await waiting_log(pipes[1], limit_s=10), ACME, ANN, control.Take("ann", "Ann"))
    assert isinstance(taken, control.AlreadyTheirs)


async def test_as_many_replicas_have_to_confirm_as_were_asked_for(
    pair: tuple[RedisServer, RedisServer], pipes: list[Pipe]
) -> None:
    with pytest.raises(StoreUnavailable, match="not confirmed"):
        await (await waiting_log(pipes[0], replicas=2)).append(ACME, ONE)


async def test_replicas_that_need_not_confirm_are_warned_of(
    pair: tuple[RedisServer, RedisServer], pipes: list[Pipe]
) -> None:
    other = RedisServer(binary_of(PRESENT[-1]), "--replicaof", "127.0.0.1", str(pair[0].port), tcp=True).start()
    async with asyncio.timeout(10):
        while b"connected_slaves:2" not in await pipes[0].call("INFO", "replication"):
            pass
    with capture_logs() as said:
        await barrier_for(pipes[0], "replica", 1)
        await barrier_for(pipes[0], "replica", 2)
    other.stop()
    assert [line["following"] for line in said if "promote" in line["event"]] == [2]


async def test_whoever_has_the_time_waits_for_a_replica_that_was_away(
    pair: tuple[RedisServer, RedisServer], pipes: list[Pipe]
) -> None:
    log = await waiting_log(pipes[0], limit_s=10)
    pair[1].pause()
    appending = asyncio.create_task(log.append(ACME, ONE))
    with pytest.raises(StoreUnavailable, match="not confirmed"):
        await (await waiting_log(pipes[1])).append(ACME, ONE)
    pair[1].resume()
    assert isinstance(await appending, Appended)
