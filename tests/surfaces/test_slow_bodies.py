"""A request whose body comes slowly or never: it ends in time, so that nobody keeps connections by saying nothing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import pytest
from structlog.testing import capture_logs

from edges import bodies
from edges.pace import Pace
from tests.support.stack import ACME, Stack, stacked

BODY_S = 0.3
WITHOUT_KEY = (
    "/api/webhooks/twilio/sms/incoming",
    "/api/webhooks/vapi",
    "/api/webhooks/elevenlabs/conversation-initiation",
    "/api/webhooks/elevenlabs/post-call",
)
EVENTS = "/v1/events"
NO_LIMIT_OF_OURS_S = 8.0
"""aiohttp's own patience after an answer is ten seconds."""


@pytest.fixture
async def stack(redis_url: str) -> AsyncIterator[Stack]:
    async with stacked(redis_url, work=False, pace=Pace(body_s=BODY_S)) as stack:
        yield stack


def head(path: str, length: int, key: dict[str, str]) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: edge", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in key.items()]
    return "\r\n".join([*lines, "", ""]).encode()


@asynccontextmanager
async def connected(stack: Stack) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    address = urlsplit(stack.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        async with asyncio.timeout(NO_LIMIT_OF_OURS_S):
            yield reader, writer
    finally:
        writer.close()


async def drip(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b" ")
        await asyncio.sleep(0.02)


async def handed_to_aiohttp(stack: Stack) -> None:
    """As after a minute in which nothing was asked."""
    connections = stack.first.entrance.connections
    while not any(connection.received for connection in connections):  # noqa: ASYNC110 - nothing tells when
        await asyncio.sleep(0)
    for _ in range(2):
        for connection in tuple(connections):
            connection.rest()


@pytest.mark.parametrize("dripping", [False, True])
@pytest.mark.parametrize("path", [*WITHOUT_KEY, EVENTS, "/chat"])
async def test_a_body_that_does_not_arrive_is_408_and_its_connection_is_closed(
    stack: Stack, path: str, dripping: bool
) -> None:
    key = {} if path in WITHOUT_KEY else await stack.key()
    with capture_logs() as logs:
        async with connected(stack) as (reader, writer):
            writer.write(head(path, 1_000, key) + b"{")
            if path == EVENTS:
                await handed_to_aiohttp(stack)
            more = asyncio.create_task(drip(writer)) if dripping else None
            first = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(int(first.lower().partition(b"content-length: ")[2].split()[0]))
            with suppress(ConnectionError):  # what drips on meets a closed connection
                assert await reader.read() == b""
            if more is not None:
                more.cancel()
    assert first.startswith(b"HTTP/1.1 408 ")
    assert b"\r\nConnection: close" in first
    assert "too slowly" in str(json.loads(body))
    told = [(log["log_level"], log["path"]) for log in logs if log["event"] == "a body came too slowly"]
    assert told == [("info", path)]
    assert await stack.events(ACME) == []


async def test_a_slow_but_steady_body_is_taken(stack: Stack) -> None:
    event = {"type": "custom.said", "data": {"text": "x" * 20_000}}
    body = json.dumps({"events": [event]}).encode()
    pieces = [body[at : at + 2_000] for at in range(0, len(body), 2_000)]
    begun = time.monotonic()
    async with connected(stack) as (reader, writer):
        writer.write(head(EVENTS, len(body), await stack.key()))
        await handed_to_aiohttp(stack)
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(BODY_S / 5)
        assert b" 201 " in await reader.readline()
    assert time.monotonic() - begun > BODY_S
    assert len(await stack.events(ACME)) == 1


async def test_no_body_may_come_for_ever(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MOST_S", 2 * BODY_S)
    async with connected(stack) as (reader, writer):
        writer.write(head(EVENTS, 500_000, await stack.key()))
        more = asyncio.create_task(pour(writer))
        assert b" 408 " in await reader.readline()
        more.cancel()


async def pour(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b" " * (bodies.SLOWEST // 5))
        await asyncio.sleep(0.1)


def test_the_largest_body_has_time_on_a_bad_line() -> None:
    bad_line = 70_000 / 8
    assert bodies.MAX_BODY_BYTES / bad_line < bodies.MOST_S
    assert bad_line > bodies.SLOWEST
