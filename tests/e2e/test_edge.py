"""What whoever runs `trunkline edge` is told by it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.support.product import Command
from tests.support.redis_servers import RedisServer, lasting_server

PROCESSES = 2
LIMIT_S = 20.0


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with lasting_server() as server:
        yield server


@contextmanager
def running(redis: RedisServer, *options: str) -> Iterator[Command]:
    edge = Command("edge", "--port", "0", *options, env={"TRUNKLINE_REDIS_URL": redis.url})
    try:
        yield edge
    finally:
        edge.stop()


def serving(edge: Command, count: int) -> list[dict[str, Any]]:
    """What its processes say when they serve, once so many of them do."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        lines = [json.loads(line) for line in edge.stderr.splitlines() if line.endswith("}")]
        if len(said := [line for line in lines if line["event"] == "the edge serves"]) >= count:
            return said
        time.sleep(0.02)
    raise AssertionError(edge.stderr)


def test_each_process_says_that_it_serves_and_where(redis: RedisServer) -> None:
    with running(redis, "--processes", str(PROCESSES)) as edge:
        said = serving(edge, PROCESSES)
        assert {line["level"] for line in said} == {"info"}
        assert len({line["pid"] for line in said}) == PROCESSES
        assert edge.process.pid in {line["pid"] for line in said}
        [url] = {line["url"] for line in said}
        assert httpx.get(f"{url}/health/live").status_code == 200
        assert edge.stop() == 0, edge.stderr
        assert edge.stdout == ""
