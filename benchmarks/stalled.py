"""Slow readers: ten clients stop reading while 100 MB are published. What that costs the process, what it costs the
other subscribers, and whether the ten get everything once they read again.
"""

from __future__ import annotations

import asyncio
import re
import socket
import statistics
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.report import Claim
from benchmarks.steal import Steal, calm, calmest
from eventstore.append import APPEND, Append, Appended
from eventstore.connection import Pipe, pool_for
from eventstore.events import Custom
from eventstore.log import Log
from eventstore.organizations import Organizations
from eventstore.schema import ConversationId, Event, OrgId
from tests.support.product import Command, free_port, wait_until_serving
from tests.support.redis_servers import RedisServer, fastest_binary

STALLED, READING = 10, 5
ROUNDS = 3
EVENT_BYTES = 40_000
RATE_HZ = 400
BEFORE_S, FEWEST_S = 6, 5
"""As long as the 100 MB take; and so many seconds of all rounds are looked at, however disturbed."""
ALLOWED_BYTES = 16_000_000
READ_AHEAD = 16 * 1024
LIMIT_S, POLL_S = 60, 0.05
BENCH = OrgId("bench")
POSITION = re.compile(rb"\nid: (\d+-\d+)\n")


class Second(NamedTuple):
    """What others took of it, and how late events came in it to those who read."""

    stolen: float
    p99_s: float


class Result(NamedTuple):
    """`grown_bytes` at the most, from before the stalled clients came until they had everything."""

    grown_bytes: int
    before: list[Second]
    during: list[Second]
    complete: int


class Reader:
    """A client that reads when it is told to; `ids` are those of all events, `delays_s` how late they came."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._key = key
        self._rest = b""
        self.ids: list[str] = []
        self.delays_s: list[float] = []

    async def open(self) -> None:
        own = socket.socket()
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_AHEAD)
        own.setblocking(False)
        await asyncio.get_running_loop().sock_connect(own, ("127.0.0.1", self._port))
        self._reader, self._writer = await asyncio.open_connection(sock=own, limit=READ_AHEAD)
        head = f"GET /v1/events/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Tenant-API-Key: {self._key}\r\n"
        self._writer.write(f"{head}Accept: text/event-stream\r\n\r\n".encode())
        await self._reader.readuntil(b"position")

    async def read_to(self, last: str | None = None) -> None:
        """Up to an event, or until cancelled."""
        while not self.ids or self.ids[-1] != last:
            piece = await self._reader.read(1 << 20)
            assert piece, "the stream broke off"
            now = time.time()
            self._rest += piece
            found = list(POSITION.finditer(self._rest))
            for match in found:
                self.ids.append(match[1].decode())
                self.delays_s.append(now - int(match[1].partition(b"-")[0]) / 1_000)
            self._rest = self._rest[found[-1].end() - 1 :] if found else self._rest[-64:]

    def close(self) -> None:
        self._writer.close()


def measure(megabytes: int = 100, rounds: int = ROUNDS) -> list[Claim]:
    results = calm(rounds, lambda: asyncio.run(stall(megabytes)))
    complete, grown = min(result.complete for result in results), max(result.grown_bytes for result in results)
    assert complete == STALLED, f"{STALLED - complete} clients missed something"
    before_ms, during_ms = _p99_ms(result.before for result in results), _p99_ms(result.during for result in results)
    return [
        Claim(
            f"{STALLED} stalled readers, {megabytes} MB",
            "MB that the process grows",
            grown / 1e6,
            "limit",
            ALLOWED_BYTES / 1e6,
            ALLOWED_BYTES / grown,
            1.0,
        ),
        Claim(
            f"{STALLED} stalled readers, {megabytes} MB",
            "ms p99 of the other subscribers",
            during_ms,
            "without them",
            before_ms,
            before_ms / during_ms,
            0.8,
        ),
    ]


async def stall(megabytes: int, before_s: int = BEFORE_S) -> Result:
    async with product() as (log, port, edge, key):
        readers, stalled = ([Reader(port, key) for _ in range(number)] for number in (READING, STALLED))
        await asyncio.gather(*(reader.open() for reader in readers))
        async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as tasks:
            reading = [tasks.create_task(reader.read_to()) for reader in readers]
            published, stolen = await _publish(log, before_s * RATE_HZ)
            before = await _seconds(readers, stolen, len(published))
            await asyncio.gather(*(reader.open() for reader in stalled))
            peak = _Peak(edge.process.pid)
            watching = tasks.create_task(peak.watch())
            published, stolen = await _publish(log, megabytes * 1_000_000 // EVENT_BYTES)
            during = await _seconds(readers, stolen, len(published))
            await asyncio.gather(*(reader.read_to(published[-1]) for reader in stalled))
            for task in (*reading, watching):
                task.cancel()
        for reader in (*readers, *stalled):
            reader.close()
        return Result(peak.grown_bytes, before, during, sum(reader.ids == published for reader in stalled))


def _p99_ms(rounds: Iterable[list[Second]]) -> float:
    """The median over the calm seconds: any other is decided by whoever had the machine."""
    return statistics.median(calmest([second for seconds in rounds for second in seconds], FEWEST_S)) * 1e3


async def _seconds(readers: list[Reader], stolen: list[float], published: int) -> list[Second]:
    """Of all that was published since it was asked for last, once it has come."""
    while min(len(reader.delays_s) for reader in readers) < published:  # noqa: ASYNC110 - nobody else waits for them
        await asyncio.sleep(POLL_S)
    seconds = []
    for place, share in enumerate(stolen):
        of_second = slice(place * RATE_HZ, (place + 1) * RATE_HZ)
        delays = [delay for reader in readers for delay in reader.delays_s[of_second]]
        seconds.append(Second(share, statistics.quantiles(delays, n=100)[98]))
    for reader in readers:
        reader.delays_s.clear()
    return seconds


class _Peak:
    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._first = resident_bytes(pid)
        self.grown_bytes = 1

    async def watch(self) -> None:
        while True:
            self.grown_bytes = max(self.grown_bytes, resident_bytes(self._pid) - self._first)
            await asyncio.sleep(POLL_S)


def resident_bytes(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


async def _publish(log: Log, count: int) -> tuple[list[str], list[float]]:
    """At a steady rate; their positions, and what others took of each second."""
    text, positions, stolen = "x" * EVENT_BYTES, list[str](), list[float]()
    clock = asyncio.get_running_loop().time
    begun, steal = clock(), Steal()
    for number in range(count):
        body = Custom(name="custom.bench", data={"text": text})
        written = await log.append(BENCH, Append(events=[Event(body, "system:bench", ConversationId("conv_bench"))]))
        assert isinstance(written, Appended), written
        positions.append(str(written.positions[0]))
        await asyncio.sleep(max(0.0, begun + (number + 1) / RATE_HZ - clock()))
        if (number + 1) % RATE_HZ == 0 or number + 1 == count:
            stolen.append(steal.share())
            steal = Steal()
    return positions, stolen


@asynccontextmanager
async def product() -> AsyncIterator[tuple[Log, int, Command, str]]:
    """A log, and the edge on it with its port and a key."""
    binary = fastest_binary()
    assert binary is not None
    async with AsyncExitStack() as owned:
        redis = RedisServer(binary).start()
        owned.callback(redis.stop)
        pipe = Pipe(pool_for(redis.url), [APPEND])
        owned.push_async_callback(pipe.close)
        organizations = Organizations(pipe)
        await organizations.ensure(BENCH, "Bench")
        key, port = await organizations.create_key(BENCH), free_port()
        env = {"TRUNKLINE_REDIS_URL": redis.url, "TRUNKLINE_RATE_LIMIT": "0"}
        edge = Command("edge", "--port", str(port), env=env)
        owned.callback(edge.stop)
        await asyncio.to_thread(wait_until_serving, f"http://127.0.0.1:{port}", "/health/live")
        yield Log(pipe), port, edge, key
