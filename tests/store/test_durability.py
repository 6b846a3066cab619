"""An append counts only once it is as durable as was asked for; a Redis that would lose events is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from eventstore.append import Append, Appended
from eventstore.connection import Pipe, pool_for
from eventstore.durability import Barrier, barrier_for
from eventstore.errors import StoreMisconfigured, StoreUnavailable
from eventstore.events import Custom
from eventstore.log import Log
from eventstore.schema import Event, OrgId
from tests.support.redis_servers import RedisServer, fastest_binary
from tests.support.store import blocked_client

ACME = OrgId("acme")
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


async def test_an_append_is_acknowledged_once_a_replica_has_it(own_pipe: Pipe) -> None:
    binary = fastest_binary()
    assert binary is not None
    master, replica = RedisServer(binary, tcp=True).start(), RedisServer(binary, tcp=True).start()
    pipe, replica_pipe = Pipe(pool_for(master.url)), Pipe(pool_for(replica.url))
    try:
        host, port = master.url.removeprefix("redis://").removesuffix("/0").split(":")
        await replica_pipe.call("REPLICAOF", host, port)
        while int(await pipe.call("WAIT", 1, 1_000)) < 1:
            pass
        log = Log(pipe)
        log.wait_for(Barrier(pipe, ("WAIT", 1, 5_000)))
        outcomes = await asyncio.gather(*(log.append(ACME, ONE) for _ in range(20)))
        assert all(isinstance(outcome, Appended) for outcome in outcomes)
        assert len(await Log(replica_pipe).read(ACME, outcomes[0].positions[0].before())) == 20  # type: ignore[union-attr]
    finally:
        await pipe.close()
        await replica_pipe.close()
        master.stop()
        replica.stop()
