"""A terminal that goes (SIGHUP) ends a process as SIGTERM does, unless it was started with `nohup`."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from tests.e2e.test_faults import organization_and_key
from tests.support.listeners import until_listening
from tests.support.product import Command, free_port, wait_until_serving
from tests.support.redis_servers import RedisServer, lasting_server

DRAIN_S, STREAMS = 2.0, 20
"""Enough streams to be cut spread over most of the window."""


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with lasting_server() as server:
        yield server


@contextmanager
def running(redis: RedisServer, name: str, option: str) -> Iterator[tuple[Command, int]]:
    """A command that serves `/health/live` on the port that `option` names."""
    port = free_port()
    env = {"TRUNKLINE_REDIS_URL": redis.url, "TRUNKLINE_DRAIN_S": str(DRAIN_S)}
    command = Command(name, option, str(port), env=env)
    try:
        wait_until_serving(f"http://127.0.0.1:{port}", "/health/live")
        yield command, port
    finally:
        command.stop()


@contextmanager
def nohup() -> Iterator[None]:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_worker_that_loses_its_terminal_ends_well(redis: RedisServer) -> None:
    with running(redis, "worker", "--metrics-port") as (worker, _):
        worker.process.send_signal(signal.SIGHUP)
        assert worker.wait() == 0, worker.stderr


def test_an_edge_that_loses_its_terminal_drains_also_when_it_is_told_twice(redis: RedisServer) -> None:
    key = asyncio.run(organization_and_key(redis.url))
    with running(redis, "edge", "--port") as (edge, port), ExitStack() as stack:
        http = stack.enter_context(httpx.Client(headers={"X-Tenant-API-Key": key}))
        for _ in range(STREAMS):
            stream = http.stream("GET", f"http://127.0.0.1:{port}/v1/events/stream")
            assert stack.enter_context(stream).status_code == 200
        begun = time.monotonic()
        edge.process.send_signal(signal.SIGHUP)
        asyncio.run(until_listening(port, 0))
        edge.process.send_signal(signal.SIGHUP)
        assert edge.wait() == 0, edge.stderr
        assert time.monotonic() - begun > DRAIN_S / 2, "the second one broke the drain off"


def test_an_edge_under_nohup_outlives_its_terminal(redis: RedisServer) -> None:
    with nohup(), running(redis, "edge", "--port") as (edge, port):
        edge.process.send_signal(signal.SIGHUP)
        assert httpx.get(f"http://127.0.0.1:{port}/health/live").status_code == 200
        edge.process.send_signal(signal.SIGTERM)
        assert edge.wait() == 0, edge.stderr
