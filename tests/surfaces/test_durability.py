"""An answer that says "recorded" comes after what TRUNKLINE_DURABILITY asks for, and in time if that does not come."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

import httpx
import pytest

from eventstore import keys
from eventstore.connection import Pipe, pool_for
from eventstore.schema import Recorded
from tests.support.parking import park
from tests.support.product import Command, twilio_sms
from tests.support.redis_servers import RedisServer, fastest_binary
from tests.support.sentinels import in_step
from tests.support.stack import ACME, DEMO, Stack, stacked
from tests.support.twilio_api import NUMBER

WEBHOOK = "/api/webhooks/twilio/sms/incoming"
IN_TIME_S = 1.0


class Pair(NamedTuple):
    """A stack whose inputs have to be on the replica before they count."""

    stack: Stack
    replica: RedisServer


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    binary = fastest_binary()
    assert binary is not None
    master = RedisServer(binary, "--repl-diskless-sync-delay", "0", tcp=True).start()
    replica = RedisServer(binary, "--replicaof", "127.0.0.1", str(master.port), tcp=True).start()
    try:
        await in_step(master)
        async with stacked(master.url, work=False, durability="replica") as stack:
            await stack.organizations.map_number(DEMO, NUMBER)
            yield Pair(stack, replica)
    finally:
        replica.stop()
        master.stop()


async def received(stack: Stack) -> list[Recorded]:
    return [event for event in await stack.events() if event.type == "message.received"]


async def test_a_webhook_is_answered_once_the_replica_has_its_event(pair: Pair) -> None:
    replica = Pipe(pool_for(pair.replica.url))
    async with pair.stack.http() as http:
        for number in range(20):
            posted = await http.post(WEBHOOK, data=twilio_sms("hello", sid=f"SM{number:032x}"))
            assert posted.status_code == 200
            assert await replica.call("XLEN", keys.of(DEMO).log) == number + 1
    await replica.close()


async def test_a_replica_that_hangs_makes_producers_come_again_and_counts_nothing_twice(pair: Pair) -> None:
    """The event stands on the master, so even the repetition waits for the replica, and then finds it there."""
    form = twilio_sms("hello", sid="SM" + "1" * 32)
    async with pair.stack.http() as http:
        pair.replica.pause()
        answers = await asyncio.gather(*(timed(http, form) for _ in range(5)))
        for answer, seconds in [*answers, await timed(http, form)]:
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
            assert seconds < IN_TIME_S
        pair.replica.resume()
        assert (await timed(http, form))[0].status_code == 200
    assert len(await received(pair.stack)) == 1


async def test_a_report_that_tells_nothing_new_is_answered_once_the_replica_has_what_was_known(pair: Pair) -> None:
    call = {"id": "call_1", "phoneCallProviderId": "CA" + "1" * 32, "type": "inboundPhoneCall"}
    caller = {"customer": {"number": "+14155552671"}, "phoneNumber": {"number": NUMBER}}
    report = {"message": {"type": "end-of-call-report", "call": call, "endedReason": "customer-ended-call", **caller}}
    async with pair.stack.http() as http:
        pair.replica.pause()
        answers = [await http.post("/api/webhooks/vapi", json=report) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [503] * 4
        assert "call.ended" in {event.type for event in await pair.stack.events()}
        pair.replica.resume()
        assert (await http.post("/api/webhooks/vapi", json=report)).status_code == 200


async def test_a_key_is_made_and_revoked_once_the_replica_knows(pair: Pair) -> None:
    async with pair.stack.http() as http:
        made = (await http.post("/v1/api-keys", json={"scopes": ["events:read"]})).json()
        pair.replica.pause()
        assert (await http.post("/v1/api-keys", json={"scopes": ["events:read"]})).status_code == 503
        revoked = [await http.delete(f"/v1/api-keys/{made['id']}") for _ in range(2)]
        assert [answer.status_code for answer in revoked] == [503] * 2
        pair.replica.resume()
        assert (await http.delete(f"/v1/api-keys/{made['id']}")).status_code == 404


async def test_a_consumer_is_opened_and_moved_once_the_replica_knows(pair: Pair) -> None:
    position = (await pair.stack.say(1))[0]
    await pair.stack.say(1)
    wanted = {"Accept": "application/x-ndjson"}
    async with pair.stack.http() as http:
        async with http.stream("GET", "/v1/events/stream?consumer=old", headers=wanted) as opened:
            assert opened.status_code == 200
        pair.replica.pause()
        async with asyncio.timeout(5 * IN_TIME_S):
            answers = [
                await http.get("/v1/events/stream?consumer=new", headers=wanted),
                await http.post("/v1/consumers/old", json={"position": position}),
                await http.post("/v1/consumers/old/reset", json={"position": "0"}),
                *[await http.delete("/v1/consumers/old") for _ in range(2)],
            ]
        assert [answer.status_code for answer in answers] == [503] * 5
        pair.replica.resume()
        assert (await http.delete("/v1/consumers/old")).status_code == 404
        assert (await http.post("/v1/consumers/new", json={"position": position})).status_code == 200


async def test_commands_end_well_once_the_replica_knows(pair: Pair) -> None:
    async def ran(*arguments: str) -> tuple[int, str, str]:
        env = {
            "TRUNKLINE_REDIS_URL": pair.stack.redis_url,
            "TRUNKLINE_DURABILITY": "replica",
            "TRUNKLINE_SECRET_KEY": "k" * 32,
        }
        command = Command(*arguments, env=env)
        return await asyncio.to_thread(command.wait), command.stdout, command.stderr

    code, made, _ = await ran("key", "create", ACME, "--json")
    key = json.loads(made)["api_key"]
    assert code == 0
    await pair.stack.organizations.add_webhook(ACME, "old")
    for lane in ("a", "b"):
        await park(pair.stack, lane)
    pair.replica.pause()
    changes = [
        ("key", "create", ACME), ("key", "revoke", ACME, key), ("webhook", "add", ACME, "new"),
        ("webhook", "remove", ACME, "old"), ("org", "create", "Another"),
        ("org", "number", "add", ACME, "+14155550123"),
        ("org", "set", ACME, "TWILIO_PHONE_NUMBER=+14155550124"), ("org", "callback-secret", ACME),
        ("redrive", ACME, "a"), ("drop", ACME, "b"),
    ]  # fmt: skip
    for change, (code, answer, error) in zip(changes, await asyncio.gather(*(ran(*c) for c in changes)), strict=True):
        assert (code, answer) == (2, ""), change
        assert "not confirmed" in error, (change, error)
    pair.replica.resume()
    _, _, error = await ran("key", "revoke", ACME, key)
    assert "has no key" in error


async def timed(http: httpx.AsyncClient, form: dict[str, str]) -> tuple[httpx.Response, float]:
    begun = time.monotonic()
    return await http.post(WEBHOOK, data=form), time.monotonic() - begun


async def test_reads_and_streams_do_not_wait_for_the_replica(pair: Pair) -> None:
    async with pair.stack.http() as http, pair.stack.open("/v1/events/stream?after=0") as client:
        pair.replica.pause()
        begun = time.monotonic()
        waiting = asyncio.create_task(timed(http, twilio_sms("hello", sid="SM" + "2" * 32)))
        while (frame := await client.next()) is not None and frame.type != "message.received":
            pass
        assert (await http.get("/v1/events")).status_code == 200
        assert time.monotonic() - begun < 0.4
        assert not waiting.done()
        assert (await waiting)[0].status_code == 503
        pair.replica.resume()
