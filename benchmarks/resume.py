"""Resume: what it costs to come back, and whether the number of organizations makes anybody's events dearer.

1. One client, 10,000 events behind in an organization of 200,000, whose conversation has 200 of them (all behind it),
   180 tokens and some fifty events of others between each two: from its request to its last event.
2. A thousand clients that come back in the same second, each to a conversation of its own: until the last has its last
   event.
3. The edge's CPU time per frame with 100 and with 10,000 organizations that each have a subscriber.

The edge has a core to itself, Redis and the clients share the other one.
"""

from __future__ import annotations

import asyncio
import itertools
import select
import socket
import statistics
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import jwt

from benchmarks import servers
from benchmarks.report import Claim
from benchmarks.steal import calm
from eventstore.append import APPEND, Append, Appended
from eventstore.connection import Pipe, pool_for
from eventstore.events import Custom
from eventstore.events.replies import ReplyDelta
from eventstore.log import Log
from eventstore.organizations import Organizations
from eventstore.schema import ConversationId, Event, OrgId, Position
from trunkline.process import run

CONVERSATIONS, RUNS, RUN = 1_000, 20, 10
"""Every conversation has so many runs of so many events: a question, tokens, and the answer's end."""
BEHIND = CONVERSATIONS * RUN
LONG, LONG_RUN, LONG_RUNS = ConversationId("conv_long"), 20, 10
"""It all happens while the last runs of the others do: one event of its own for every `BETWEEN` of theirs."""
BETWEEN = CONVERSATIONS * RUN // (LONG_RUN * LONG_RUNS)
BENCH = OrgId("bench")
RESUMES, STORMS = 20, 5
"""So many single ones before each storm: a short time would be one state of a machine that others use too."""
ORGANIZATIONS = (100, 10_000)
FRAMES, IN_FLIGHT, ROUNDS = 2_500, 50, 12
SECRET = "a secret of the benchmark, of 32 bytes or more"
POSITION, EVENT = b'"type":"position"', b'"at":"'
READ_BYTES = 1 << 18
LIMIT_S = 300.0


def measure(organizations: Sequence[int] = ORGANIZATIONS, runs: int = RUNS) -> list[Claim]:
    with servers.on_client_core():
        with servers.redis_server() as redis_port, servers.edge(redis_port) as (port, key, _):
            behind = run(_filled(redis_port, runs))
            one = [_request(key, LONG, behind)]
            thousand = [_request(key, _conversation(i), behind) for i in range(CONVERSATIONS)]
            rounds = calm(STORMS, lambda: _round(port, one, thousand))
        singles = [ms for each, _ in rounds for ms in each]
        storms = [took_s for _, took_s in rounds]
        return [
            _within("resume 10,000 events behind, 200 of them its own", "ms, median", statistics.median(singles), 5.0),
            _within(
                "1,000 clients resume at once",
                "s until the last is caught up, one core",
                statistics.median(storms),
                1.0,
            ),
            _organizations(organizations),
        ]


def _round(port: int, one: Sequence[bytes], thousand: Sequence[bytes]) -> tuple[list[float], float]:
    """Milliseconds of each of several that return alone; seconds of a storm."""
    singles = [_resumed(port, one, LONG_RUN * LONG_RUNS) * 1_000 for _ in range(RESUMES)]
    return singles, _resumed(port, thousand, RUN)


def _resumed(port: int, requests: Sequence[bytes], frames: int) -> float:
    clients = Clients(port, EVENT)
    took_s = clients.caught_up(requests, frames)
    clients.close()
    return took_s


def _organizations(numbers: Sequence[int], rounds: int = ROUNDS) -> Claim:
    with ExitStack() as open_:
        crowds = [open_.enter_context(_crowd(number)) for number in numbers]
        costs = calm(rounds, lambda: [crowd.round() for crowd in crowds])
    few, many = (statistics.median(each) for each in zip(*costs, strict=True))
    ratio = statistics.median(a / b for a, b in costs)
    name = f"cost per event and subscriber, {numbers[1]:,} organizations"
    return Claim(name, "µs of the edge's CPU", many, f"{numbers[0]:,} organizations", few, ratio, 1 / 1.2)


def _within(name: str, unit: str, ours: float, limit: float) -> Claim:
    return Claim(name, unit, ours, "limit", limit, limit / ours, 1.0)


@contextmanager
def _crowd(number: int) -> Iterator[Crowd]:
    with servers.redis_server() as redis_port:
        orgs = run(_made(redis_port, number))
        with servers.edge(redis_port, env={"TRUNKLINE_JWT_SECRET": SECRET}) as (port, _, pid):
            clients = Clients(port, POSITION)
            clients.caught_up([_live_request(org) for org in orgs], 1)
            clients.mark = EVENT
            yield Crowd(redis_port, pid, itertools.cycle(orgs), clients)
            clients.close()


class Crowd(NamedTuple):
    """An edge, and organizations with a subscriber each, which have their turn one after the other."""

    redis_port: int
    edge_pid: int
    orgs: Iterator[OrgId]
    clients: Clients

    def round(self) -> float:
        """Microseconds of the edge's per frame."""
        before = servers.cpu_ns(self.edge_pid)
        run(self._publish())
        return (servers.cpu_ns(self.edge_pid) - before) / FRAMES / 1e3

    async def _publish(self) -> None:
        """What is sent has arrived before more is: else the few would be read several events at once, and the many one
        by one."""
        pipe = Pipe(pool_for(f"redis://127.0.0.1:{self.redis_port}"), [APPEND])
        data, conversation = {"text": "x" * 120}, ConversationId("conv_bench")
        event = Event(Custom(name="custom.bench", data=data), "system:bench", conversation)
        log = Log(pipe)
        for _ in range(FRAMES // IN_FLIGHT):
            expected = self.clients.seen + IN_FLIGHT
            to = itertools.islice(self.orgs, IN_FLIGHT)
            await asyncio.gather(*(log.append(org, Append(events=[event])) for org in to))
            self.clients.wait_for(expected)
        await pipe.close()


async def _made(port: int, number: int) -> list[OrgId]:
    pipe = Pipe(pool_for(f"redis://127.0.0.1:{port}"))
    organizations = Organizations(pipe)
    made = [await organizations.create(f"org-{i}", f"Organization {i}") for i in range(number)]
    await pipe.close()
    return [organization.id for organization in made if organization is not None]


async def _filled(port: int, runs: int) -> Position:
    """Fills the log; where a client stands that is 10,000 events behind."""
    pipe = Pipe(pool_for(f"redis://127.0.0.1:{port}"), [APPEND])
    log, everybody = Log(pipe), [_conversation(i) for i in range(CONVERSATIONS)]
    behind = Position(0, 0)
    for _ in range(runs - 1):
        await _end(_run(log, everybody, RUN, CONVERSATIONS))
    behind = (await log.bounds(BENCH)).clock
    own = _runs_of_the_long_one(log)
    async for _ in _run(log, everybody, RUN, BETWEEN):
        await anext(own)
    await pipe.close()
    return behind


async def _end(writing: AsyncIterator[None]) -> None:
    async for _ in writing:
        pass


async def _runs_of_the_long_one(log: Log) -> AsyncIterator[None]:
    for _ in range(LONG_RUNS):
        async for _ in _run(log, [LONG], LONG_RUN, 1):
            yield


async def _run(log: Log, conversations: Sequence[ConversationId], length: int, at_once: int) -> AsyncIterator[None]:
    """One run in each conversation, side by side; stops after each append."""
    asked = list[Position]()
    for step in range(length):
        for first in range(0, len(conversations), at_once):
            some, of = conversations[first : first + at_once], asked[first : first + at_once]
            if step == 0:
                asked += await _append(log, [_fact(conversation) for conversation in some])
            elif step < length - 1:
                await _append(log, [_delta(*each, step) for each in zip(some, of, strict=True)])
            else:
                await _append(log, [_fact(*each) for each in zip(some, of, strict=True)])
            yield


async def _append(log: Log, events: Sequence[Event]) -> list[Position]:
    outcome = await log.append(BENCH, Append(events=events))
    assert isinstance(outcome, Appended), outcome
    return list(outcome.positions)


def _fact(conversation: ConversationId, of: Position | None = None) -> Event:
    return Event(Custom(name="custom.bench", data={"text": "x" * 120}), "system:bench", conversation, of)


def _delta(conversation: ConversationId, of: Position, index: int) -> Event:
    return Event(ReplyDelta(attempt=1, index=index, text="token "), "assistant:bench", conversation, of)


def _conversation(index: int) -> ConversationId:
    return ConversationId(f"conv_{index}")


def _request(key: str, conversation: ConversationId, behind: Position) -> bytes:
    return _get(f"/v1/events/stream?conversation={conversation}", f"X-Tenant-API-Key: {key}\r\nLast-Event-ID: {behind}")


def _live_request(org: OrgId) -> bytes:
    claims = {"sub": "bench", "org": org, "scope": "events:read", "exp": int(time.time()) + 600}
    return _get("/v1/events/stream", f"Authorization: Bearer {jwt.encode(claims, SECRET, 'HS256')}")


def _get(path: str, header: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n{header}\r\n\r\n".encode()


class Clients:
    """Many sockets on one epoll, which count a mark that every frame of interest holds once: `seen` of all of them."""

    def __init__(self, port: int, mark: bytes) -> None:
        self._port = port
        self.mark = mark
        self._poll = select.epoll()
        self._buffer = bytearray(READ_BYTES)
        self._open: dict[int, tuple[socket.socket, bytes]] = {}
        self.seen = 0

    def caught_up(self, requests: Sequence[bytes], frames: int) -> float:
        """Opens a stream for each, and reads until all have had so many frames; the seconds that took."""
        begun = time.perf_counter()
        for request in requests:
            connection = socket.create_connection(("127.0.0.1", self._port))
            connection.sendall(request)
            connection.setblocking(False)
            self._open[connection.fileno()] = (connection, b"")
            self._poll.register(connection.fileno(), select.EPOLLIN)
        self.wait_for(len(requests) * frames)
        return time.perf_counter() - begun

    def wait_for(self, seen: int) -> None:
        deadline = time.monotonic() + LIMIT_S
        while self.seen < seen:
            self.read(1.0)
            if time.monotonic() > deadline:
                raise RuntimeError(f"{seen - self.seen} of {seen} frames did not arrive")

    def read(self, timeout_s: float) -> None:
        buffer, view, kept = self._buffer, memoryview(self._buffer), len(self.mark) - 1
        for fd, _ in self._poll.poll(timeout_s, 1_000):
            connection, rest = self._open[fd]
            begin = len(rest)
            buffer[:begin] = rest
            end = begin + connection.recv_into(view[begin:])
            if end == begin:
                raise RuntimeError("a stream broke off")
            self.seen += buffer.count(self.mark, 0, end)
            self._open[fd] = connection, bytes(view[max(0, end - kept) : end])  # a mark may lie across two reads

    def close(self) -> None:
        for connection, _ in self._open.values():
            connection.close()
        self._poll.close()
