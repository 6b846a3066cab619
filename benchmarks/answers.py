"""Answers: how long a model's delta takes to a client's socket, for one answer and for a hundred at once.

A stand-in for the model's API writes 50 tokens a second to each stream, every token the moment at which it was written.
One worker, one edge and Redis share this machine's cores with the stand-in and the client.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import select
import socket
import statistics
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from benchmarks import servers
from benchmarks.report import Claim
from benchmarks.steal import calm

TOKENS_PER_S = 50
TICK_S = 1 / TOKENS_PER_S
KEY = "sk-ant-bench"
STAMP = re.compile(rb"<(\d+)>")
TARGET_MS = 5.0
READ_BYTES = 1 << 18
SETTLE_S = 1.0
ROUNDS = 3


class Round(NamedTuple):
    """Of the tokens' delays, in milliseconds; by how much the last second's median is above the first's."""

    median: float
    p99: float
    falls_behind: float


def measure(counts: Sequence[int] = (1, 100), rounds: int = ROUNDS, seconds: float = 5.0) -> list[Claim]:
    return [claim for count in counts for claim in _claims(count, _rounds(count, rounds, seconds))]


def _rounds(count: int, rounds: int, seconds: float) -> list[Round]:
    with (
        servers.redis_server() as redis_port,
        _source(seconds) as source,
        servers.edge(redis_port) as (port, key, _),
        _worker(redis_port, source),
    ):
        sessions = itertools.count()
        return calm(
            rounds, lambda: _answers(port, key, list(itertools.islice(sessions, count)), int(seconds * TOKENS_PER_S))
        )


def _claims(count: int, rounds: Sequence[Round]) -> list[Claim]:
    what = f"delta to socket, {count} at once, {TOKENS_PER_S} tokens/s each"
    median, p99, falls_behind = (statistics.median(values) for values in zip(*rounds, strict=True))
    ratio, target = (TARGET_MS / median, 1.0) if count == 1 else (None, None)
    return [
        Claim(f"{what}: median", "ms", median, "limit", TARGET_MS if count == 1 else None, ratio, target),
        Claim(f"{what}: 99 of 100", "ms", p99),
        Claim(f"{what}: last second's median less the first's", "ms", falls_behind),
    ]


def _answers(port: int, key: str, sessions: Sequence[int], tokens: int) -> Round:
    poll = select.epoll()
    streams: dict[int, socket.socket] = {}
    rest: dict[int, bytes] = {}
    for session in sessions:
        stream = _open(port, key, _ask(port, key, session))
        streams[stream.fileno()], rest[stream.fileno()] = stream, b""
        poll.register(stream.fileno(), select.EPOLLIN)
    delays: list[float] = []
    deadline = time.monotonic() + tokens / TOKENS_PER_S + 20
    while len(delays) < len(sessions) * tokens and time.monotonic() < deadline:
        for number, _ in poll.poll(0.1):
            data = rest[number] + streams[number].recv(READ_BYTES)
            now = time.monotonic_ns()
            whole, _, rest[number] = data.rpartition(b"\n")
            for line in whole.split(b"\n"):
                if b"reply.delta" in line:
                    delays += [(now - int(stamp)) / 1e6 for stamp in STAMP.findall(line)]
    if len(delays) < len(sessions) * tokens:
        raise RuntimeError(f"only {len(delays)} of {len(sessions) * tokens} tokens came")
    poll.close()
    for stream in streams.values():
        stream.close()
    second = len(sessions) * TOKENS_PER_S
    return Round(
        statistics.median(delays),
        statistics.quantiles(delays, n=100)[98],
        statistics.median(delays[-second:]) - statistics.median(delays[:second]),
    )


def _ask(port: int, key: str, session: int) -> str:
    event = {"type": "message.received", "conversation": f"session:{session}", "data": {"text": "Count"}}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/events",
        json.dumps({"events": [event]}).encode(),
        {"X-Tenant-API-Key": key, "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return str(response.headers["X-Run-Id"])


def _open(port: int, key: str, run: str) -> socket.socket:
    stream = socket.create_connection(("127.0.0.1", port), timeout=10)
    head = f"GET /v1/runs/{run}/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Tenant-API-Key: {key}\r\n"
    stream.sendall(f"{head}Accept: text/event-stream\r\n\r\n".encode())
    return stream


@contextmanager
def _worker(redis_port: int, source: int) -> Iterator[None]:
    command = [sys.executable, "-m", "trunkline", "worker", "--redis-url", f"redis://127.0.0.1:{redis_port}/0"]
    env = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{source}"}
    with servers.child(command, env=env):
        yield


@contextmanager
def _source(seconds: float) -> Iterator[int]:
    port = servers.free_port()
    with servers.child([sys.executable, "-m", "benchmarks.answers", str(port), str(seconds)]):
        servers.wait_for(port)
        yield port


class Source:
    """The model's API as far as this needs it: every token at its time, however slowly it is read."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        assert length is not None
        await reader.readexactly(int(length[1]))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        usage = {"input_tokens": 1, "output_tokens": 1}
        _event(writer, "message_start", message={"id": "msg_1", "role": "assistant", "content": [], "usage": usage})
        _event(writer, "content_block_start", index=0, content_block={"type": "text", "text": ""})
        await asyncio.sleep(SETTLE_S)
        loop = asyncio.get_running_loop()
        due = loop.time()
        for _ in range(self._tokens):
            due += TICK_S
            await asyncio.sleep(max(0.0, due - loop.time()))
            text = f"<{time.monotonic_ns()}>"
            _event(writer, "content_block_delta", index=0, delta={"type": "text_delta", "text": text})
        _event(writer, "content_block_stop", index=0)
        _event(writer, "message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": self._tokens})
        _event(writer, "message_stop")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        writer.close()


def _event(writer: asyncio.StreamWriter, type: str, **data: object) -> None:
    event = f"event: {type}\ndata: {json.dumps({'type': type, **data})}\n\n".encode()
    writer.write(b"%x\r\n%b\r\n" % (len(event), event))


async def _serve(port: int, seconds: float) -> None:
    server = await asyncio.start_server(Source(int(seconds * TOKENS_PER_S)).answer, "127.0.0.1", port, backlog=1_000)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
