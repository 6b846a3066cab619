"""What whoever runs `trunkline edge` is told by it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from eventstore.connection import Pipe, pool_for
from eventstore.presence import Presence
from tests.e2e.test_faults import organization_and_key
from tests.support.listeners import until_listening
from tests.support.product import Command, free_port
from tests.support.redis_servers import RedisServer, lasting_server

PROCESSES = 2
LIMIT_S = 20.0
REQUESTS = 20
STREAMS = 20
"""Enough to be cut spread over most of a drain's window."""


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with lasting_server() as server:
        yield server


@contextmanager
def running(redis: RedisServer, *options: str) -> Iterator[Command]:
    edge = Command("edge", "--port", "0", *options, env={"TRUNKLINE_REDIS_URL": redis.url, "TRUNKLINE_DRAIN_S": "2"})
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


def free_ports() -> int:
    """The first of `PROCESSES` ports in a row."""
    while True:
        first = free_port()
        try:
            for port in range(first, first + PROCESSES):
                socket.create_server(("", port)).close()
        except (OSError, OverflowError):
            continue
        return first


def requests_of(port: int) -> int:
    """How many a process has answered to clients."""
    shown = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    return sum(int(float(count)) for count in re.findall(r"(?m)^trunkline_http_requests_total\{.*\} (.*)$", shown))


def test_each_process_shows_its_own_metrics_also_when_it_was_started_again(redis: RedisServer) -> None:
    first = free_ports()
    ports = range(first, first + PROCESSES)
    with running(redis, "--processes", str(PROCESSES), "--metrics-port", str(first)) as edge:
        said = serving(edge, PROCESSES)
        for _ in range(REQUESTS):  # each on a connection of its own: the kernel picks the process
            httpx.get(f"{said[0]['url']}/v1/events")
        assert sum(requests_of(port) for port in ports) == REQUESTS
        [sibling] = {line["pid"] for line in said} - {edge.process.pid}
        first_ones = requests_of(ports[0])
        os.kill(sibling, signal.SIGKILL)
        serving(edge, PROCESSES + 1)
        assert [requests_of(port) for port in ports] == [first_ones, 0]


async def say_that_a_worker_is_alive(redis: RedisServer) -> None:
    pipe = Pipe(pool_for(redis.url))
    await Presence(pipe).beat("worker", {})
    await pipe.close()


def test_a_process_that_drains_shows_so_on_its_own_port(redis: RedisServer) -> None:
    key, metrics_port = asyncio.run(organization_and_key(redis.url)), free_port()
    own = f"http://127.0.0.1:{metrics_port}"
    with running(redis, "--metrics-port", str(metrics_port)) as edge, ExitStack() as stack:
        [said] = serving(edge, 1)
        http = stack.enter_context(httpx.Client(headers={"X-Tenant-API-Key": key}))
        for _ in range(STREAMS):
            stack.enter_context(http.stream("GET", f"{said['url']}/v1/events/stream"))
        asyncio.run(say_that_a_worker_is_alive(redis))
        assert httpx.get(f"{own}/health/ready").status_code == 200
        edge.process.send_signal(signal.SIGTERM)
        asyncio.run(until_listening(httpx.URL(said["url"]).port or 0, 0))
        assert httpx.get(f"{own}/health/ready").status_code == 503
        assert "trunkline_subscribers" in httpx.get(f"{own}/metrics").text
        assert edge.wait() == 0, edge.stderr


def test_a_metrics_port_in_use_is_refused_in_one_line_also_that_of_a_sibling(redis: RedisServer) -> None:
    first = free_ports()
    with (
        socket.create_server(("", first + 1)),
        running(redis, "--processes", str(PROCESSES), "--metrics-port", str(first)) as edge,
    ):
        assert edge.wait() == 2
        assert f"port {first + 1}: another program uses it; choose another one with --metrics-port" in edge.stderr
        assert edge.stderr.count("\n") == 1


def test_metrics_ports_end_with_the_last_port_there_is(redis: RedisServer) -> None:
    with running(redis, "--processes", str(PROCESSES), "--metrics-port", "65535") as edge:
        assert edge.wait() == 2
        assert edge.stderr.startswith("trunkline: --metrics-port 65535")
