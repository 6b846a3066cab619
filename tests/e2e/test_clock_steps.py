"""The wall clock of Redis and of all processes is set back an hour, or on: work, streams and positions go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple
from uuid import uuid4

import httpx
import pytest

from eventstore import keys
from eventstore.connection import Pipe, pool_for
from eventstore.schema import OrgId, Position
from tests.e2e.test_faults import Client, organization_and_key
from tests.support import false_clock
from tests.support.false_clock import FalseClock
from tests.support.invariants import assert_invariants
from tests.support.product import Command, free_port, post_sms, twilio_sms, wait_until_serving
from tests.support.redis_servers import RedisServer, lasting_server
from tests.support.streams import in_order, text_shown
from tests.support.twilio_api import NUMBER, TwilioApi

ACME = OrgId("acme")
HOUR_S = 3_600
SOON_S = 25.0
"""Well above a lease and a retry's pause, and far below the step."""


class Stepped(NamedTuple):
    """One edge and its `workers`, which all have Redis' clock."""

    url: str
    headers: dict[str, str]
    redis: RedisServer
    clock: FalseClock
    workers: list[Command]
    start_worker: Callable[[], None]


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory, twilio_env: dict[str, str]) -> Iterator[Stepped]:
    if false_clock.library() is None:
        pytest.skip(false_clock.MISSING)
    clock, port = FalseClock(tmp_path_factory.mktemp("clock")), free_port()
    url = f"http://127.0.0.1:{port}"
    with ExitStack() as stack:
        redis = stack.enter_context(lasting_server(clock.environment))
        own = {"TRUNKLINE_REDIS_URL": redis.url, "TRUNKLINE_PUBLIC_BASE_URL": url, "TRUNKLINE_RATE_LIMIT": "40/15m"}
        env = {**twilio_env, **own, "TRUNKLINE_OFFLINE_DELAY_MS": "100", **clock.environment}

        workers: list[Command] = []

        def start_worker() -> None:
            workers.append(Command("worker", env=env))
            stack.callback(workers[-1].kill)

        key = asyncio.run(organization_and_key(redis.url, NUMBER))
        edge = Command("edge", "--port", str(port), env=env)
        stack.callback(edge.kill)
        start_worker()
        wait_until_serving(url)
        yield Stepped(url, {"X-Tenant-API-Key": key}, redis, clock, workers, start_worker)


@pytest.fixture(params=[-HOUR_S, HOUR_S], ids=["back", "on"])
def step_s(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def ask(fleet: Stepped, conversation: str, key: str = "") -> httpx.Response:
    event = {"type": "message.received", "conversation": conversation, "data": {"text": "What are your hours?"}}
    headers = {**fleet.headers, "Idempotency-Key": key or uuid4().hex}
    return httpx.post(f"{fleet.url}/v1/events", json={"events": [event]}, headers=headers)


def stream_of(fleet: Stepped, conversation: str, until: str = "reply.completed", after: str = "0") -> Client:
    return Client(f"{fleet.url}/v1/events/stream?conversation={conversation}&after={after}", fleet.headers, until)


def test_a_streamed_answer_goes_on_and_positions_keep_rising(stepped: Stepped, step_s: int) -> None:
    before = ask(stepped, f"session:{step_s}", key=f"k{step_s}")
    client = stream_of(stepped, f"session:{step_s}")
    client.wait_for(4)
    stepped.clock.step(step_s)
    shown = client.result(SOON_S)
    after = ask(stepped, f"session:{step_s}")
    assert text_shown(shown) == shown[-1]["data"]["text"]
    assert in_order([event["id"] for event in shown])
    last, following = Position.parse(shown[-1]["id"]), Position.parse(after.json()["positions"][0])
    assert last < following
    assert len(stream_of(stepped, f"session:{step_s}").result(SOON_S)) == len(shown)
    repeated = ask(stepped, f"session:{step_s}", key=f"k{step_s}")
    assert (repeated.json(), repeated.headers["Idempotency-Replayed"]) == (before.json(), "true")


def test_a_worker_that_dies_as_the_clock_steps_is_followed_within_a_lease(stepped: Stepped, step_s: int) -> None:
    conversation = f"session:orphan{step_s}"
    ask(stepped, conversation)
    client = stream_of(stepped, conversation)
    client.wait_for(4)
    stepped.workers[-1].kill()
    stepped.clock.step(step_s)
    stepped.start_worker()
    shown = client.result(SOON_S)
    assert [event["type"] for event in shown].count("reply.restarted") == 1
    assert text_shown(shown) == shown[-1]["data"]["text"]


def test_texts_are_answered_and_what_failed_is_tried_again_in_time(
    stepped: Stepped, twilio_api: TwilioApi, step_s: int
) -> None:
    """Whether the first attempt came through is for a later one to find out, after a pause of some seconds."""
    number = f"+1415555{2_000 + stepped.redis.port % 1_000 + step_s // HOUR_S}"
    twilio_api.next("take_and_drop")
    form = twilio_sms("What are your hours?", sid=f"SM{uuid4().hex}", sender=number)
    assert post_sms(stepped.url, form).status_code == 200
    client = stream_of(stepped, f"tel:%2B{number[1:]}", until="sms.sent")
    while "sms.started" not in [event["type"] for event in client.seen]:
        client.wait_for(1)
    stepped.clock.step(step_s)
    post_sms(stepped.url, twilio_sms("And on Sundays?", sid=f"SM{uuid4().hex}", sender=number))
    first = client.result(SOON_S)
    second = stream_of(stepped, f"tel:%2B{number[1:]}", until="sms.sent", after=first[-1]["id"]).result(SOON_S)
    assert [[event["type"] for event in each].count("sms.started") for each in (first, second)] == [1, 1]
    assert len(twilio_api.sent_to(number)) == 2


def test_budgets_are_there_again_after_their_window(stepped: Stepped) -> None:
    def say() -> int:
        return httpx.post(
            f"{stepped.url}/v1/events", json={"events": [{"type": "custom.said"}]}, headers=stepped.headers
        ).status_code

    while say() != 429:
        pass
    stepped.clock.step(-HOUR_S)
    assert say() == 201


async def test_what_is_left_is_whole(stepped: Stepped) -> None:
    """Whatever the tests above have done to it."""
    pipe = Pipe(pool_for(stepped.redis.url))
    async with asyncio.timeout(SOON_S):
        while int(await pipe.call("HGET", keys.of(ACME).meta, "q") or 0):  # noqa: ASYNC110 - other processes work
            await asyncio.sleep(0.05)
    await assert_invariants(pipe, ACME)
    await pipe.close()
