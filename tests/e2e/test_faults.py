"""Processes killed in the middle of their work: nothing is lost, doubled or misordered."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from httpx_sse import ServerSentEvent

from eventstore.connection import Pipe, pool_for
from eventstore.organizations import Organizations
from tests.support.product import Command, Up, free_port, post_sms, twilio_sms, wait_until_serving
from tests.support.redis_servers import RedisServer, lasting_server
from tests.support.streams import Event, events, follow, ids, in_order, text_shown, without_positions


class Fleet:
    """One edge and two workers on a Redis of their own."""

    def __init__(self, redis: RedisServer, key: str) -> None:
        self.redis = redis
        self.headers = {"X-Tenant-API-Key": key}
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.start_edge()
        self.workers = [self._worker(), self._worker()]

    def start_edge(self) -> None:
        self.edge = Command("edge", "--port", str(self._port), env=self._env)

    def mend(self) -> None:
        """Starts again what a test has ended."""
        if self.edge.process.poll() is not None:
            self.start_edge()
        self.workers = [each if each.process.poll() is None else self._worker() for each in self.workers]
        wait_until_serving(self.url)

    def stop(self) -> None:
        for worker in self.workers:
            worker.stop()
        assert self.edge.stop() == 0, self.edge.stderr

    def _worker(self) -> Command:
        return Command("worker", env=self._env)

    @property
    def _env(self) -> dict[str, str]:
        return {"TRUNKLINE_OFFLINE_DELAY_MS": "100", "TRUNKLINE_REDIS_URL": self.redis.url}


@pytest.fixture(scope="module")
def running() -> Iterator[Fleet]:
    with ExitStack() as stack:
        redis = stack.enter_context(lasting_server())
        fleet = Fleet(redis, asyncio.run(organization_and_key(redis.url)))
        stack.callback(fleet.stop)
        yield fleet


@pytest.fixture
def fleet(running: Fleet) -> Fleet:
    running.mend()
    return running


async def organization_and_key(url: str, *numbers: str) -> str:
    pipe = Pipe(pool_for(url))
    organizations = Organizations(pipe)
    acme = await organizations.ensure("acme", "Acme")
    for number in numbers:
        await organizations.map_number(acme.id, number)
    key = await organizations.create_key(acme.id)
    await pipe.close()
    return key


def ask(fleet: Fleet, conversation: str, text: str = "Please tell me about your opening hours") -> None:
    body = {"events": [{"type": "message.received", "conversation": conversation, "data": {"text": text}}]}
    httpx.post(f"{fleet.url}/v1/events", json=body, headers=fleet.headers).raise_for_status()


def data(events: list[ServerSentEvent]) -> list[Event]:
    return without_positions([json.loads(event.data) for event in events])


class Client:
    """An SSE client that reconnects with Last-Event-ID for as long as it has not seen what it waits for."""

    def __init__(self, url: str, headers: dict[str, str], until: str) -> None:
        self.seen: list[dict[str, Any]] = []
        self.progressed = threading.Semaphore(0)
        self._url, self._headers, self._until = url, headers, until
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        last: dict[str, str] = {}
        while not self.seen or self.seen[-1]["type"] != self._until:
            with suppress(httpx.HTTPError):
                for event in events(self._url, {**self._headers, **last}):
                    last = {"Last-Event-ID": event.id}
                    self.seen += without_positions([json.loads(event.data)])
                    self.progressed.release()
                    if self.seen and self.seen[-1]["type"] == self._until:
                        return

    def wait_for(self, count: int) -> None:
        for _ in range(count):
            assert self.progressed.acquire(timeout=30), f"only {len(self.seen)} events came"

    def result(self, limit_s: float = 60.0) -> list[dict[str, Any]]:
        self._thread.join(limit_s)
        assert not self._thread.is_alive(), f"the stream did not end: {[e['type'] for e in self.seen]}"
        return self.seen


def test_the_other_worker_finishes_when_the_working_one_is_killed_in_mid_answer(fleet: Fleet) -> None:
    stream = f"{fleet.url}/v1/events/stream?conversation=session:kill&after=0"
    ask(fleet, "session:kill")
    client = Client(stream, fleet.headers, "reply.completed")
    client.wait_for(6)
    working = next(worker for worker in fleet.workers if holds_a_lane(fleet, worker))
    working.kill()
    shown = client.result()
    types = [event["type"] for event in shown]
    assert types.count("reply.restarted") == 1
    assert types.count("reply.completed") == 1
    assert text_shown(shown) == shown[-1]["data"]["text"]
    assert ids(shown) == ids(data(follow(stream, headers=fleet.headers)))
    assert in_order(ids(shown))


def holds_a_lane(fleet: Fleet, worker: Command) -> bool:
    """By what the lane's record says: its owner is named after the process."""
    import redis

    client = redis.Redis.from_url(fleet.redis.url)
    owners = [client.hget(key, "o") or b"" for key in client.scan_iter("tl:*:l:*:m")]
    client.close()
    return any(str(worker.process.pid).encode() in owner for owner in owners)


def test_a_stopped_worker_hands_its_lane_over_and_leaves_no_trace_when_it_wakes(fleet: Fleet) -> None:
    stream = f"{fleet.url}/v1/events/stream?conversation=session:stop&after=0"
    ask(fleet, "session:stop")
    client = Client(stream, fleet.headers, "reply.completed")
    client.wait_for(6)
    working = next(worker for worker in fleet.workers if holds_a_lane(fleet, worker))
    os.kill(working.process.pid, signal.SIGSTOP)
    shown = client.result()
    os.kill(working.process.pid, signal.SIGCONT)
    ask(fleet, "session:stop", "And where are you?")  # goes through the same lane after the zombie woke up
    again = data(follow(stream, headers=fleet.headers, until=second_answer()))
    assert [event["type"] for event in again].count("reply.completed") == 2
    assert ids(again)[: len(shown)] == ids(shown)
    assert text_shown(shown) == shown[-1]["data"]["text"]


def second_answer() -> Any:
    answers = []

    def until(event: Event) -> bool:
        answers.extend([event] if event["type"] == "reply.completed" else [])
        return len(answers) == 2

    return until


def test_streams_go_on_when_redis_is_killed_and_started_again(fleet: Fleet) -> None:
    stream = f"{fleet.url}/v1/events/stream?conversation=session:redis&after=0"
    client = Client(stream, fleet.headers, "reply.completed")
    client.wait_for(0)
    ask(fleet, "session:redis")
    client.wait_for(5)
    fleet.redis.kill()
    refused = httpx.post(
        f"{fleet.url}/v1/events", json={"events": [{"type": "custom.x"}]}, headers=fleet.headers, timeout=1.5
    )
    ready = httpx.get(f"{fleet.url}/health/ready", timeout=5)
    fleet.redis.restart()
    shown = client.result()
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert refused.elapsed.total_seconds() < 1
    assert ready.status_code == 503
    assert text_shown(shown) == shown[-1]["data"]["text"]
    assert ids(shown) == ids(data(follow(stream, headers=fleet.headers)))
    assert len(set(ids(shown))) == len(shown)


def test_the_edge_killed_under_open_streams_loses_nothing(fleet: Fleet) -> None:
    stream = f"{fleet.url}/v1/events/stream?conversation=session:edge&after=0"
    ask(fleet, "session:edge")
    client = Client(stream, fleet.headers, "reply.completed")
    client.wait_for(5)
    fleet.edge.kill()
    fleet.start_edge()
    shown = client.result()
    assert ids(shown) == ids(data(follow(stream, headers=fleet.headers)))
    assert text_shown(shown) == shown[-1]["data"]["text"]


def test_the_redis_of_up_killed_under_open_streams_is_started_again(data_dir: Path) -> None:
    up = Up(data_dir, env={"TRUNKLINE_OFFLINE_DELAY_MS": "100"})
    try:
        stream = f"{up.url}/v1/events/stream?conversation=tel:%2B15550107777&after=0"
        client = Client(stream, {}, "reply.completed")
        form = twilio_sms("What are your opening hours?", sid=f"SM{uuid4().hex}", sender="+15550107777")
        assert post_sms(up.url, form).status_code == 200  # unsigned as far as `up` is concerned: no secret is set
        client.wait_for(5)
        os.kill(redis_pid(up), signal.SIGKILL)
        shown = client.result()
        assert text_shown(shown) == shown[-1]["data"]["text"]
        assert in_order(ids(shown))
    finally:
        assert up.stop() == 0, up.stderr


def redis_pid(up: Up) -> int:
    import redis

    client = redis.Redis.from_url(up.facts["redis_url"])
    info: Any = client.info("server")
    client.close()
    return int(info["process_id"])
