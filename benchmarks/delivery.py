"""Delivery: frames per second to the SSE subscribers of one conversation from one server process, against nchan.

Both servers have one core to themselves and the same client; the same JSON goes out with about the same envelope.
Trunkline's events come through Redis (which shares the client's core), nchan's by HTTP from the publisher.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import hiredis

from benchmarks import servers
from benchmarks.report import Claim
from benchmarks.subscribers import Subscribers
from eventstore.append import APPEND, Append, arguments
from eventstore.connection import Pipe, pool_for
from eventstore.events import Custom
from eventstore.schema import ConversationId, Event, OrgId

SUBSCRIBERS = (100,)
IN_FLIGHT = 4
ROUNDS, SECONDS = 5, 2.0
CONVERSATION = ConversationId("conv_bench")
DATA: dict[str, Any] = {"mark": "~", "text": "x" * 120}


def measure(counts: Sequence[int] = SUBSCRIBERS, rounds: int = ROUNDS, seconds: float = SECONDS) -> list[Claim]:
    if (missing := servers.nchan_missing()) is not None:
        return [Claim("delivery", f"skipped: {missing}")]
    with servers.on_client_core():
        return [_against_nchan(number, rounds, seconds) for number in counts]


def _against_nchan(number: int, rounds: int, seconds: float) -> Claim:
    with servers.redis_server() as redis_port, servers.edge(redis_port) as (port, key), servers.nchan() as nchan_port:
        ours = Subscribers(
            port, f"/v1/events/stream?conversation={CONVERSATION}", f"X-Tenant-API-Key: {key}\r\n", number
        )
        theirs = Subscribers(nchan_port, "/subscribe", "", number)
        publish_ours, publish_theirs = _redis_publisher(redis_port), _nchan_publisher(nchan_port)
        ours.settle()
        theirs.settle()
        mine, other = [], []
        for _ in range(rounds):
            mine.append(ours.run(publish_ours, in_flight=IN_FLIGHT, seconds=seconds))
            other.append(theirs.run(publish_theirs, in_flight=IN_FLIGHT, seconds=seconds))
        ours.close()
        theirs.close()
    return Claim(
        f"delivery to {number} subscribers",
        "SSE frames/s, 4 events in flight, one core",
        statistics.median(mine),
        "nchan",
        statistics.median(other),
        statistics.median(a / b for a, b in zip(mine, other, strict=True)),
        1.0,
    )


def _redis_publisher(port: int) -> Callable[[], None]:
    """Appends one event by the product's own script; replies are read in passing."""
    event = Event(Custom(name="custom.bench", data=DATA), "system:bench", CONVERSATION)
    key, values = arguments(OrgId("bench"), Append(events=[event]))
    command = hiredis.pack_command(("EVALSHA", APPEND.sha, 1, key, *values))  # type: ignore[arg-type]
    asyncio.run(_load(port))
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setblocking(False)

    def publish() -> None:
        _discard(connection)
        connection.send(command)

    return publish


async def _load(port: int) -> None:
    pipe = Pipe(pool_for(f"redis://127.0.0.1:{port}"), [APPEND])
    await pipe.call("PING")
    await pipe.close()


def _nchan_publisher(port: int) -> Callable[[], None]:
    body = (
        b'{"id":"1795228815953-0","number":1000,"type":"custom.bench","organization":"bench","conversation":"conv_bench",'
        b'"version":1000,"actor":"system:bench","run":"1795228815953-0","cause":null,"at":"2026-11-21T02:40:15.953Z",'
        b'"data":{"mark":"~","text":"%b"}}' % (b"x" * 120)
    )
    request = b"POST /publish HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setblocking(False)

    def publish() -> None:
        _discard(connection)
        connection.send(request)

    return publish


def _discard(connection: socket.socket) -> None:
    try:
        connection.recv(1 << 16)
    except BlockingIOError:
        return
