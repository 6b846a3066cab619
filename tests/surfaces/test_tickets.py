"""Tickets: what EventSource and WebSocket open a stream with, once, and again only from where they were."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import jwt
import pytest

from edges.app_keys import Caps
from edges.auth import Caller
from edges.jwt import LEEWAY_S, JwtSettings
from edges.open_streams import OpenStreams
from edges.pace import Pace
from eventstore import keys
from eventstore.connection import Pipe
from eventstore.organizations import Organizations
from eventstore.tickets import AGAIN_S, OPEN_S, Grant, Opened, Tickets
from tests.support.stack import ACME, Stack, stacked
from tests.support.stream_client import StreamClient

ROUTE = "/v1/events/stream"
SECRET = "a secret that the issuer shares, of 32 or more"


@pytest.fixture
async def stack(redis_url: str) -> AsyncIterator[Stack]:
    async with stacked(redis_url, work=False, development=False, jwt=JwtSettings(SECRET)) as stack:
        yield stack


async def ticket(stack: Stack, headers: Mapping[str, str], route: str = ROUTE, **filter: str) -> Any:
    async with stack.http(headers) as http:
        made = await http.post("/v1/stream-tickets", json={"route": route, "filter": filter})
        assert made.status_code == 201, made.text
        return made.json()


async def status(stack: Stack, url: str, headers: Mapping[str, str] | None = None) -> int:
    async with stack.http(headers) as http, http.stream("GET", url) as response:
        return response.status_code


async def opened(client: StreamClient) -> str:
    """The id that the stream opens with."""
    [frame] = await client.take(1)
    assert frame.type == "position"
    assert frame.id is not None
    return frame.id


async def test_a_ticket_opens_its_stream_with_the_rights_of_its_credential(stack: Stack) -> None:
    made = await ticket(stack, await stack.key("events:read"), types="custom.*")
    assert made["open_within_s"] == OPEN_S
    async with stack.open(made["url"]) as client:
        await opened(client)
        await stack.say(1, org=ACME)
        await client.until("custom.said")


async def test_a_ticket_never_opens_more_than_its_credential_may(stack: Stack) -> None:
    made = await ticket(stack, await stack.key("chat:write"))
    assert await status(stack, made["url"]) == 403


async def test_a_used_ticket_is_taken_again_only_with_a_position(stack: Stack) -> None:
    made = await ticket(stack, await stack.key())
    async with stack.open(made["url"]) as client:
        at = await opened(client)
    assert await status(stack, made["url"]) == 401
    await stack.say(1, org=ACME)
    async with stack.open(made["url"], last=at) as client:
        await client.until("custom.said")
    async with stack.open(f"{made['url']}&last_event_id={at}") as client:
        await client.until("custom.said")


@pytest.mark.parametrize(
    ("route", "query"),
    [
        (ROUTE, "types=custom.*"),
        (ROUTE, "types=reply.*&conversation=conv_a"),
        (ROUTE, ""),
        ("/v1/events", "types=reply.*"),
    ],
)
async def test_a_ticket_opens_nothing_else_and_is_not_spent_by_the_attempt(
    stack: Stack, route: str, query: str
) -> None:
    made = await ticket(stack, await stack.key(), types="reply.*")
    assert await status(stack, f"{route}?{query}&ticket={made['ticket']}") == 401
    assert await status(stack, f"{ROUTE}?after=now&ticket={made['ticket']}&types=reply.*") == 200


async def test_a_ticket_for_a_number_opens_it_however_its_plus_is_written(stack: Stack) -> None:
    feed, key = "/api/stream/conversation/7", await stack.key()
    for plus in ("+", "%2B", "%20"):
        made = await ticket(stack, key, feed, phoneNumber="+14155550177", load="true")
        assert await status(stack, f"{feed}?load=true&phoneNumber={plus}14155550177&ticket={made['ticket']}") == 200


async def test_a_ticket_is_for_streams_and_makes_no_tickets(stack: Stack) -> None:
    made = await ticket(stack, await stack.key(), "/v1/events")
    async with stack.http() as http:
        assert (await http.post(made["url"], json={"events": [{"type": "custom.x"}]})).status_code == 401
        assert (
            await http.post(f"/v1/stream-tickets?ticket={made['ticket']}", json={"route": ROUTE})
        ).status_code == 401


async def test_a_ticket_has_a_short_time_to_be_opened_and_lives_on_once_it_is(stack: Stack) -> None:
    made = await ticket(stack, await stack.key())
    [name] = await stack.pipe.call("KEYS", keys.ticket("*"))
    assert made["ticket"].encode() not in name, "kept as a hash"
    assert 0 < await stack.pipe.call("PTTL", name) <= OPEN_S * 1_000
    assert await status(stack, made["url"]) == 200
    assert await stack.pipe.call("PTTL", name) > 11 * 3_600_000
    await stack.pipe.call("DEL", name)
    assert await status(stack, made["url"], {"Last-Event-ID": "0"}) == 401


async def test_a_ticket_is_not_spent_by_an_opening_for_which_there_is_no_room(stack: Stack) -> None:
    """An EventSource is told to come back with what it has: no header, no position, the same ticket."""
    headers, event_source = await stack.key(), {"Accept": "text/event-stream"}
    made = await ticket(stack, headers)
    impatient = Pace(come_back_ms=(1, 2))
    async with stack.edge(development=False, caps=Caps(streams=1), pace=impatient) as full:
        async with stack.open(ROUTE, headers, edge=full) as other:
            await opened(other)
            for _ in range(2):
                async with stack.open(made["url"], event_source, edge=full) as refused:
                    await refused.until_cut()
            async with stack.http() as http:
                assert (await http.get(full.url + made["url"])).status_code == 503, "no EventSource"
        async with stack.open(made["url"], event_source) as client:
            at = await opened(client)
        [name] = await stack.pipe.call("KEYS", keys.ticket("*") + "[^n]")
        assert await stack.pipe.call("PTTL", name) > 11 * 3_600_000
    assert await status(stack, made["url"]) == 401
    assert await status(stack, made["url"], {"Last-Event-ID": at}) == 200


async def test_what_is_given_back_has_time_to_be_opened_again_and_no_more(stack: Stack) -> None:
    headers = await stack.key()
    made = await ticket(stack, headers)
    [name] = await stack.pipe.call("KEYS", keys.ticket("*"))
    await stack.pipe.call("PEXPIRE", name, 900)
    async with stack.edge(development=False, caps=Caps(streams=0)) as full, stack.http() as http:
        assert (await http.get(full.url + made["url"])).status_code == 503
    assert Pace().come_back_ms[1] < await stack.pipe.call("PTTL", name) <= AGAIN_S * 1_000


async def test_a_ticket_in_use_is_not_given_back_by_what_another_credential_is_refused(stack: Stack) -> None:
    headers = await stack.key()
    made = await ticket(stack, headers)
    async with stack.open(made["url"]) as client, stack.edge(development=False, caps=Caps(streams=0)) as full:
        await opened(client)
        async with stack.http() as http:
            for sent in (headers, {}, {"Last-Event-ID": "0"}):
                assert (await http.get(full.url + made["url"], headers=sent)).status_code in (401, 503)
        assert await status(stack, made["url"]) == 401


async def test_the_newest_connection_replaces_the_older_one_here_and_in_another_process(stack: Stack) -> None:
    made = await ticket(stack, await stack.key())
    async with stack.edge(development=False) as other, stack.open(made["url"]) as first:
        at = await opened(first)
        async with stack.open(made["url"], last=at) as second:
            await first.until_cut()
            async with stack.open(made["url"], last=at, edge=other) as third:
                await second.until_cut()
                await stack.say(1, org=ACME)
                await third.until("custom.said")


class Connected:
    def __init__(self) -> None:
        self.is_open = True

    def close(self) -> None:
        self.is_open = False

    abort = close


async def test_an_opening_that_took_longer_than_a_later_one_ends_itself(pipe: Pipe) -> None:
    streams = OpenStreams(Organizations(pipe), Tickets(pipe))
    first, second = Connected(), Connected()
    grant = Grant(ACME, "key", [], "binding", 0)
    callers = [Caller(ACME, frozenset(), "key", ticket=Opened("ticket", nth, grant)) for nth in (1, 2)]
    with streams.opened(callers[1], second), streams.opened(callers[0], first):
        assert (first.is_open, second.is_open) == (False, True)


async def test_the_streams_of_a_revoked_key_end_also_those_of_its_tickets(stack: Stack) -> None:
    made = await ticket(stack, await stack.key())
    async with stack.open(made["url"]) as client:
        at = await opened(client)
        [listed] = await stack.organizations.list_keys(ACME)
        await Organizations(stack.pipe).revoke(ACME, listed.key_id)
        await client.until_cut()
    async with asyncio.timeout(5):
        while await status(stack, made["url"], {"Last-Event-ID": at}) != 401:
            await stack.tick()


async def test_a_stream_that_a_token_opened_ends_with_it(stack: Stack) -> None:
    expiry = time.time() - LEEWAY_S + 3.0
    token = jwt.encode({"sub": "u", "org": "acme", "scope": "events:read", "exp": expiry}, SECRET, "HS256")
    headers = {"Authorization": f"Bearer {token}"}
    made = await ticket(stack, headers)
    async with stack.open(ROUTE, headers) as client, stack.open(made["url"]) as by_ticket:
        await opened(client)
        await opened(by_ticket)
        await client.until_cut()
        await by_ticket.until_cut()


async def test_a_ticket_opens_a_websocket(stack: Stack) -> None:
    made = await ticket(stack, await stack.key(), "/ws/chat", session_id="one")
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(stack.url + made["url"]) as socket:
            assert not socket.closed
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(stack.url + made["url"])
        assert refused.value.status == 401


async def test_a_ticket_is_in_no_error_and_no_event(stack: Stack) -> None:
    made = await ticket(stack, await stack.key())
    async with stack.http() as http:
        response = await http.get(f"{ROUTE}?types=x&ticket={made['ticket']}")
        assert made["ticket"] not in response.text
    assert await stack.events(ACME) == []


async def test_a_ticket_needs_a_credential(stack: Stack) -> None:
    async with stack.http() as http:
        assert (await http.post("/v1/stream-tickets", json={"route": ROUTE})).status_code == 401
        for route in ("", "v1/events/stream", "//evil.example/", "http://evil.example/"):
            refused = await http.post("/v1/stream-tickets", json={"route": route}, headers=await stack.key())
            assert refused.status_code == 422, route
