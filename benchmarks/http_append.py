"""Intake: JSON event by HTTP -> durable -> 201 over 64 keep-alive connections, against an empty aiohttp handler that
reads the same body; and the signed Twilio webhook beside it. Servers on one core, client and Redis on the other.
"""

from __future__ import annotations

import json
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from select import EPOLLIN, epoll
from urllib.parse import urlencode
from uuid import uuid4

from benchmarks import servers
from benchmarks.report import Claim
from benchmarks.steal import calm
from tests.support.product import signed, twilio_sms
from tests.support.twilio_api import ACCOUNT, NUMBER, TOKEN

CONNECTIONS = 64
ROUNDS, SECONDS = 20, 0.5
"""Many short turns: what the machine does meanwhile changes from second to second, and decides about single ones."""
EVENTS, WEBHOOKS = 20_000, 4_000
"""Requests that are prepared for a turn: more than are answered."""
EMPTY = """
import asyncio, sys
from aiohttp import web
from trunkline.process import run
async def handler(request):
    await request.read()
    return web.Response(status=201)
async def main():
    app = web.Application(); app.router.add_post('/v1/events', handler)
    runner = web.AppRunner(app, access_log=None); await runner.setup()
    await web.TCPSite(runner, '127.0.0.1', int(sys.argv[1])).start()
    await asyncio.Event().wait()
run(main())
"""
TWILIO = {"TWILIO_ACCOUNT_SID": ACCOUNT, "TWILIO_AUTH_TOKEN": TOKEN, "TWILIO_PHONE_NUMBER": NUMBER}


def measure(rounds: int = ROUNDS, seconds: float = SECONDS) -> list[Claim]:
    with (
        servers.on_client_core(),
        servers.redis_server() as redis_port,
        servers.edge(redis_port, env=TWILIO) as (port, key, _),
        _empty() as empty,
    ):
        turns = calm(
            rounds,
            lambda: (
                _drive(port, [_event(key) for _ in range(EVENTS)], seconds),
                _drive(empty, [_event(key) for _ in range(EVENTS)], seconds),
                _drive(port, [_webhook(port) for _ in range(WEBHOOKS)], seconds),
            ),
        )
    ours, theirs, webhooks = zip(*turns, strict=True)
    peer = "empty aiohttp handler"
    median = statistics.median
    return [
        Claim(
            "event by HTTP to durable 201", f"requests/s, {CONNECTIONS} connections", median(ours), peer,
            median(theirs), median(a / b for a, b in zip(ours, theirs, strict=True)), 0.8,
        ),
        Claim(
            "signed Twilio webhook to durable 200", f"requests/s, {CONNECTIONS} connections", median(webhooks), peer,
            median(theirs), median(a / b for a, b in zip(webhooks, theirs, strict=True)),
        ),
    ]  # fmt: skip


@contextmanager
def _empty() -> Iterator[int]:
    port = servers.free_port()
    with servers.child([*servers.pinned(servers.SERVER_CORE), sys.executable, "-c", EMPTY, str(port)]):
        servers.wait_for(port)
        yield port


def _event(key: str) -> bytes:
    body = json.dumps({"events": [{"type": "custom.bench", "data": {"text": "x" * 245}}]}).encode()
    head = (
        f"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Tenant-API-Key: {key}\r\n"
        f"Content-Type: application/json\r\nIdempotency-Key: {uuid4().hex}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _webhook(port: int) -> bytes:
    path = "/api/webhooks/twilio/sms/incoming"
    form = twilio_sms("How are you?", sid=f"SM{uuid4().hex}")
    body = urlencode(form).encode()
    headers = "".join(f"{n}: {v}\r\n" for n, v in signed(f"http://127.0.0.1:{port}{path}", form).items())
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _drive(port: int, requests: list[bytes], seconds: float) -> float:
    """One request after the other on every connection; answers per second. Any status but 2xx is an error."""
    poll = epoll()
    sockets: dict[int, socket.socket] = {}
    for _ in range(CONNECTIONS):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets[connection.fileno()] = connection
        poll.register(connection.fileno(), EPOLLIN)
    begun = time.perf_counter()
    for connection in sockets.values():
        connection.sendall(requests.pop())
    answered = 0
    while (elapsed := time.perf_counter() - begun) < seconds and requests:
        for fd, _ in poll.poll(1.0):
            answer = sockets[fd].recv(65536)
            if not answer.startswith(b"HTTP/1.1 20"):
                raise RuntimeError(f"unexpected answer: {answer[:200]!r}")
            answered += 1
            if requests:
                sockets[fd].sendall(requests.pop())
    for connection in sockets.values():
        connection.close()
    return answered / elapsed
