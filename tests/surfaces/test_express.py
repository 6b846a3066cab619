"""The short way of `POST /v1/events`: the same answers and the same log as the ordinary one."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from edges.app_keys import Quota
from edges.bodies import MAX_BODY_BYTES
from edges.express import MAX_PIECES
from edges.in_flight import IN_FLIGHT
from edges.open_streams import STREAMS
from eventstore.schema import Recorded
from tests.support.stack import ACME, DEMO, Edge, Stack, stacked
from tests.support.tcp_proxy import TcpProxy

EVENTS = "/v1/events"
VARYING = {"date", "server", "content-length"}


def custom(**given: Any) -> dict[str, Any]:
    return {"type": "custom.said", "data": {"text": "zażółć"}, **given}


BODIES: dict[str, bytes | dict[str, Any]] = {
    "one": {"events": [custom()]},
    "several": {"events": [custom(), custom(conversation="tel:+15550101"), custom(conversation="tel:+15550102")]},
    "work": {"events": [{"type": "message.received", "conversation": "tel:+15550101", "data": {"text": "hello"}}]},
    "a tool": {"events": [{"type": "tool.requested", "data": {"tool": "get_location", "arguments": {}}}]},
    "a version that is not": {"events": [custom(conversation="tel:+15550103")], "expected_version": 7},
    "a conversation by its id": {"events": [custom(conversation="conv_a")]},
    "a conversation that is none": {"events": [custom(conversation="nobody")]},
    "a version of nothing": {"events": [custom()], "expected_version": 1},
    "no events": {"events": []},
    "nothing": b"",
    "no JSON": b'{"events": [',
    "no UTF-8": b'{"events": [{"type": "custom.\xff"}]}',
    "not an object": b"[]",
    "too deep": b'{"events": [{"type": "custom.x", "data": ' + b'{"a":' * 80 + b"1" + b"}" * 80 + b"}]}",
    "too large": b'{"events": [{"type": "custom.x", "data": {"a": "' + b"x" * MAX_BODY_BYTES + b'"}}]}',
    "an unknown member": {"events": [custom(lane="mine")]},
    "a type that is refused": {"events": [{"type": "reply.completed"}]},
}
TAKEN = {"one", "several", "work", "a tool", "a conversation by its id"}


@pytest.fixture
async def stack(redis_url: str) -> AsyncIterator[Stack]:
    """Two edges: the first has the short way, the second has not."""
    async with stacked(redis_url, work=False) as stack, stack.edge(short=False):
        yield stack


async def post(url: str, key: dict[str, str], body: bytes | dict[str, Any], **headers: str) -> httpx.Response:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with httpx.AsyncClient(base_url=url, headers=key) as http:
        return await http.post(EVENTS, content=raw, headers=headers)


def request(key: dict[str, str], *more: str, name: str = "one") -> bytes:
    """As bytes; `more` are further header lines."""
    body = json.dumps(BODIES[name]).encode()
    lines = [f"POST {EVENTS} HTTP/1.1", "Host: edge", f"Content-Length: {len(body)}", *more]
    lines += [f"{header}: {value}" for header, value in key.items()]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    try:
        async with asyncio.timeout(10):
            yield reader, writer
    finally:
        writer.close()


@asynccontextmanager
async def behind_proxy(redis_url: str) -> AsyncIterator[tuple[TcpProxy, Stack, Edge]]:
    """The edge reaches Redis through the proxy; the stack does not."""
    async with (
        TcpProxy(redis_url) as proxy,
        stacked(redis_url, work=False) as stack,
        stack.edge(proxy.url) as edge,
    ):
        yield proxy, stack, edge


async def answer(reader: asyncio.StreamReader) -> tuple[int, bool, dict[str, Any]]:
    """The next one on a connection: its status, whether it went the short way, its body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = re.search(r"(?i)content-length: (\d+)", head)
    assert length is not None
    body = json.loads(await reader.readexactly(int(length[1])))
    return int(head.split()[1]), "\nServer:" not in head, body


def went_short(response: httpx.Response) -> bool:
    """aiohttp's own responses name it."""
    return response.is_success and "Server" not in response.headers


def shown(response: httpx.Response) -> tuple[int, Any, dict[str, str]]:
    """All of an answer but the positions in it, and the time."""
    text = re.sub(r"[0-9]{13}-[0-9]+", "POSITION", response.text)
    headers = {n: re.sub(r"[0-9]{13}-[0-9]+", "POSITION", v) for n, v in response.headers.items() if n not in VARYING}
    return response.status_code, json.loads(text), headers


def written(event: Recorded) -> tuple[Any, ...]:
    return event.type, event.conversation is None, event.version, re.sub(rb"msg_[0-9a-f]{32}", b"", event.data)


@pytest.mark.parametrize("name", BODIES)
async def test_both_ways_answer_and_write_the_same(stack: Stack, name: str) -> None:
    answers = []
    for edge, org in zip(stack.edges, (ACME, DEMO), strict=True):
        answers.append(await post(edge.url, await stack.key(org=org), BODIES[name]))
    short, ordinary = answers
    assert shown(short) == shown(ordinary)
    assert (short.status_code == 201) == (name in TAKEN)
    assert went_short(short) == short.is_success
    assert not went_short(ordinary)
    assert [written(e) for e in await stack.events(ACME)] == [written(e) for e in await stack.events(DEMO)]


async def test_a_repetition_is_answered_as_one_and_another_body_refused(stack: Stack) -> None:
    key, url = await stack.key(), stack.url
    once = {"Idempotency-Key": "order-1"}
    answers = [await post(url, key, BODIES["one"], **once) for _ in range(2)]
    assert [answer.headers.get("Idempotency-Replayed") for answer in answers] == [None, "true"]
    assert answers[0].json() == answers[1].json()
    assert all(went_short(answer) for answer in answers)
    assert (await post(url, key, BODIES["several"], **once)).json()["code"] == "IDEMPOTENCY_KEY_REUSED"
    again = await post(stack.edges[1].url, key, BODIES["one"], **once)
    assert again.json() == answers[0].json(), "a key means the same on both ways"


async def test_whatever_is_special_takes_the_ordinary_way(stack: Stack) -> None:
    key, url = await stack.key(), stack.url
    assert went_short(await post(url, key, BODIES["one"]))
    bearer = {"Authorization": f"Bearer {key['X-Tenant-API-Key']}"}
    others = [
        await post(url, bearer, BODIES["one"]),
        await post(url, key, BODIES["one"], Origin="http://localhost:3000"),
        await post(url, {}, BODIES["one"]),
    ]
    assert [(answer.status_code, went_short(answer)) for answer in others] == [(201, False)] * 3
    reader = await post(url, await stack.key("events:read"), BODIES["one"])
    assert (reader.status_code, reader.json()["code"]) == (403, "FORBIDDEN")
    async with httpx.AsyncClient(headers=key) as http:
        chunked = await http.post(url + EVENTS, content=_in_pieces(json.dumps(BODIES["one"]).encode()))
        assert (chunked.status_code, went_short(chunked)) == (201, False)
        assert (await http.post(f"{url}{EVENTS}?organizationId=other", json=BODIES["one"])).status_code == 403


async def test_a_revoked_key_and_a_process_that_drains_end_the_short_way(stack: Stack) -> None:
    key, url = await stack.key("events:read", "events:write"), stack.url
    admin = await stack.key("admin")
    assert went_short(await post(url, key, BODIES["one"]))
    stack.first.app[STREAMS].draining = True
    leaving = await post(url, key, BODIES["one"])
    assert (leaving.status_code, leaving.headers["Connection"], went_short(leaving)) == (201, "close", False)
    stack.first.app[STREAMS].draining = False
    async with httpx.AsyncClient(base_url=url) as http:
        listed = (await http.get("/v1/api-keys", headers=admin)).json()["api_keys"]
        own = next(each["id"] for each in listed if sorted(each["scopes"]) == ["events:read", "events:write"])
        assert (await http.delete(f"/v1/api-keys/{own}", headers=admin)).status_code == 204
        assert (await http.post(EVENTS, json=BODIES["one"], headers=key)).status_code == 401


async def test_a_limit_on_requests_counts_each_once_on_both_ways(redis_url: str) -> None:
    async with stacked(redis_url, work=False, development=False, quota=Quota(requests=3)) as stack:
        key = await stack.key()
        bodies = [BODIES[name] for name in ("one", "no events", "several", "one")]
        answers = [await post(stack.url, key, body, **{"Idempotency-Key": "once"}) for body in bodies]
        assert [answer.status_code for answer in answers] == [201, 422, 422, 429]
        assert answers[2].json()["code"] == "IDEMPOTENCY_KEY_REUSED"
        assert [answer.headers["RateLimit-Remaining"] for answer in answers] == ["2", "1", "0", "0"]
        assert [went_short(answer) for answer in answers] == [True, False, False, False]
        assert answers[0].headers["RateLimit-Policy"] == answers[3].headers["RateLimit-Policy"]
        assert len(await stack.events(ACME)) == 1


async def test_a_connection_stays_on_the_short_way_until_something_else_is_asked(stack: Stack) -> None:
    key = await stack.key()
    async with httpx.AsyncClient(base_url=stack.url, headers=key) as http:
        posts = [await http.post(EVENTS, json=BODIES["one"]) for _ in range(3)]
        assert all(went_short(posted) for posted in posts)
        assert len((await http.get(EVENTS)).json()["events"]) == 3
        assert not went_short(await http.post(EVENTS, json=BODIES["one"]))
        assert len(await stack.events(ACME)) == 4


@pytest.mark.parametrize("pieces", [2, 5, 200])
async def test_a_request_in_pieces_is_taken_once(stack: Stack, pieces: int) -> None:
    whole = request(await stack.key())
    step = -(-len(whole) // pieces)
    async with connected(stack.url) as (reader, writer):
        writer.write(whole[:40])
        for at in range(40, len(whole), step):
            writer.write(whole[at : at + step])
            await writer.drain()
            await asyncio.sleep(0.002)  # else the kernel joins them
        status, short, _ = await answer(reader)
    assert (status, short) == (201, pieces < MAX_PIECES)
    assert len(await stack.events(ACME)) == 1


async def test_requests_that_do_not_wait_for_answers_get_them_in_their_order(stack: Stack) -> None:
    key = await stack.key()
    for together in (True, False):
        async with connected(stack.url) as (reader, writer):
            for i in range(5):
                writer.write(request(key, f"Idempotency-Key: {together}-{i}"))
                if not together:
                    await asyncio.sleep(0)
            answers = [await answer(reader) for _ in range(5)]
            assert [status for status, _, _ in answers] == [201] * 5
            positions = [body["positions"][0] for _, _, body in answers]
            assert positions == [str(event.position) for event in (await stack.events(ACME))[-5:]]


async def test_what_comes_while_an_answer_is_on_its_way_is_answered_after_it(redis_url: str) -> None:
    async with behind_proxy(redis_url) as (proxy, stack, edge), connected(edge.url) as (reader, writer):
        key = await stack.key()
        proxy.delay_s = 0.2
        writer.write(request(key))
        while not edge.app[IN_FLIGHT].count:  # noqa: ASYNC110 - nothing tells when
            await asyncio.sleep(0)
        writer.write(request(key) + request(key))
        assert [(await answer(reader))[:2] for _ in range(3)] == [(201, True), (201, False), (201, False)]
        writer.write(request(key))
        assert (await answer(reader))[:2] == (201, False)
        assert len(await stack.events(ACME)) == 4


@pytest.mark.parametrize("first", [1, 20, 48])
async def test_what_comes_in_the_same_packet_is_not_lost(stack: Stack, first: int) -> None:
    following = b"GET /health/live HTTP/1.1\r\nHost: edge\r\n\r\n"
    async with connected(stack.url) as (reader, writer):
        writer.write(request(await stack.key()) + following[:first])
        assert (await answer(reader))[:2] == (201, False)
        writer.write(following[first:])
        assert b" 200 " in await reader.readline()


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 7",),
        ("Transfer-Encoding: chunked",),
        ("Content-Encoding: gzip",),
        ("Idempotency-Key: ",),
        ("Idempotency-Key: \udcff",),
        ("Idempotency-Key: ä",),
        ("Sec-WebSocket-Key1: a",),
        ("X-Encoded: \xe9",),
        ("X-Tenant-API-Key: another",),
        (f"Idempotency-Key: {'a' * 256}",),
        (f"X-Long: {'a' * 9_000}",),
        ("Bad Name: x",),
        ("X-Folded: a\r\n b",),
        ("X-Bare: a\nX-Line: b",),
        ("X-Nul: \0",),
    ],
)
async def test_what_a_parser_may_stumble_over_is_for_aiohttp(stack: Stack, lines: tuple[str, ...]) -> None:
    answers = []
    for edge, org in zip(stack.edges, (ACME, DEMO), strict=True):
        async with connected(edge.url) as (reader, writer):
            writer.write(request(await stack.key(org=org), *lines))
            answers.append(await reader.readline())
    assert answers[0] == answers[1]
    assert answers[0].startswith((b"HTTP/1.1 201", b"HTTP/1.1 4", b"HTTP/1.0 4"))
    assert len(await stack.events(ACME)) == len(await stack.events(DEMO))


async def test_blanks_around_a_value_are_not_part_of_it(stack: Stack) -> None:
    key = await stack.key()
    async with connected(stack.url) as (reader, writer):
        positions = set()
        for line in ("Idempotency-Key:one", "Idempotency-Key: \tone", "Idempotency-Key: one \t"):
            writer.write(request(key, line))
            status, short, body = await answer(reader)
            assert (status, short) == (201, True)
            positions.add(body["positions"][0])
        assert len(positions) == 1


async def test_a_connection_that_is_to_be_closed_is(stack: Stack) -> None:
    async with connected(stack.url) as (reader, writer):
        writer.write(request(await stack.key(), "Connection: close"))
        assert b"\r\nConnection: close\r\n" in await reader.read()


async def test_a_request_without_host_is_none(stack: Stack) -> None:
    async with connected(stack.url) as (reader, writer):
        writer.write(request(await stack.key()).replace(b"Host: edge\r\n", b""))
        assert b" 400 " in await reader.readline()


async def test_who_asks_nothing_for_a_while_is_handed_to_aiohttp(stack: Stack) -> None:
    key, edge = await stack.key(), stack.first
    async with connected(edge.url) as (reader, writer):
        writer.write(request(key))
        assert (await answer(reader))[:2] == (201, True)
        half = request(key)[:100]
        for connection in tuple(edge.entrance.connections):
            connection.rest()
        writer.write(request(key))
        assert (await answer(reader))[:2] == (201, True), "it asked something since the last look"
        writer.write(half)
        await writer.drain()
        while not any(each.received for each in edge.entrance.connections):  # noqa: ASYNC110 - nothing tells when
            await asyncio.sleep(0)
        for _ in range(2):
            for connection in tuple(edge.entrance.connections):
                connection.rest()
        assert not edge.entrance.connections
        writer.write(request(key)[100:])
        assert (await answer(reader))[:2] == (201, False)
    assert len(await stack.events(ACME)) == 3


@pytest.mark.parametrize("keyed", [True, False])
async def test_a_lost_reply_of_the_log_never_writes_twice(redis_url: str, keyed: bool) -> None:
    """Without a key nobody can know whether it was written: the client is told, and nothing is tried again."""
    more = ["Idempotency-Key: once"] if keyed else []
    async with behind_proxy(redis_url) as (proxy, stack, edge), connected(edge.url) as (reader, writer):
        key = await stack.key()
        writer.write(request(key, "Idempotency-Key: before"))
        assert (await answer(reader))[:2] == (201, True)
        proxy.fail_next("cut_reply", holding=b"EVALSHA")
        writer.write(request(key, *more))
        status, short, body = await answer(reader)
        assert proxy.faults_hit == 1
        assert (status, short) == ((201, True) if keyed else (503, False))
        assert keyed or body["code"] == "LOG_UNAVAILABLE"
        assert len(await stack.events(ACME)) == 2


async def _in_pieces(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), 10):
        yield body[at : at + 10]
        await asyncio.sleep(0)
