"""Delivery: frames per second, and how late they are, to all subscribers of one conversation from one server process.

Every server has one core to itself, and one after the other they have the same client on the other core. The same JSON
goes out with about the same envelope. Trunkline's events come through Redis (which shares the client's core), those of
the others straight from the publisher.

1. Four events in flight, against nchan (the C module for nginx) and an epoll server in C that only copies bytes.
2. Bursts: 64 events in flight, so that more are there at every wake-up.
3. Trunkline's own wires against each other.
4. The usual ways to write it today.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial, reduce
from statistics import median
from typing import NamedTuple

from benchmarks import servers
from benchmarks.peers import BARE, NCHAN, USUAL, Peer
from benchmarks.publisher import Publisher
from benchmarks.report import Claim
from benchmarks.steal import calm
from benchmarks.subscribers import MARK, SSE, Subscribers, Turn
from eventstore.append import APPEND, Append, arguments
from eventstore.connection import Pipe, pool_for
from eventstore.events import Custom
from eventstore.resp import evalsha
from eventstore.schema import ConversationId, Event, OrgId

TARGETS = {100: 1.0, 1_000: 1.2, 5_000: 1.2}
"""Of nchan's frames, by the number of subscribers; the others are the same for all."""
P99_LIMIT, BARE_TARGET, BURST_TARGET = 1.2, 0.8, 3.5
OTHERS = 1_000
"""Subscribers in bursts, of each wire, and of the usual ways to write it."""
IN_FLIGHT, BURST = 4, 64
ROUNDS, SECONDS = 5, 1.0
FEW, SPLIT = 100, 4
"""With so few subscribers a turn is a fourth as long, and they have rounds in between everything else: what the machine
is doing decides about single turns, and whether it is fast or slow just then, for minutes, about the ratio."""
QUIET_S = 0.2
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


class Wire(NamedTuple):
    name: str
    accept: str = SSE
    headers: str = ""


SSE_WIRE = Wire("SSE")
OTHER_WIRES = (Wire("NDJSON", "application/x-ndjson"), Wire("WebSocket", headers=UPGRADE))


class Side(NamedTuple):
    """One of those who are compared: its subscribers, and who sends them events."""

    subscribers: Subscribers
    publisher: Callable[[], Publisher]

    def turn(self, in_flight: int, seconds: float) -> Turn:
        """On a connection of its own: some servers close those that say nothing while others have their turn."""
        with closing(self.publisher()) as publish:
            return self.subscribers.run(publish, in_flight=in_flight, seconds=seconds)


class Stage(NamedTuple):
    """The product that is measured, and for how long at a time."""

    redis_port: int
    port: int
    key: str
    rounds: int
    seconds: float
    patience: float = 1.0

    @contextmanager
    def ours(self, number: int, wire: Wire = SSE_WIRE) -> Iterator[Side]:
        conversation = ConversationId(f"conv_{wire.name}")
        path, headers = f"/v1/events/stream?conversation={conversation}", f"X-Tenant-API-Key: {self.key}\r\n"
        subscribers = Subscribers(self.port, path, headers + wire.headers, number, accept=wire.accept)
        with _open(Side(subscribers, partial(Publisher, self.redis_port, _append_command(conversation)))) as side:
            yield side

    def turns(self, sides: Sequence[Side], in_flight: int = IN_FLIGHT) -> list[list[Turn]]:
        """By side, which take turns."""
        rounds = calm(self.rounds, lambda: [side.turn(in_flight, self.seconds) for side in sides], self.patience)
        return [list(turns) for turns in zip(*rounds, strict=True)]

    def against(self, peers: Sequence[Peer], number: int, in_flight: int = IN_FLIGHT) -> Iterator[Match]:
        """Those that are installed, all in turn."""
        present = [peer for peer in peers if peer.missing() is None]
        with ExitStack() as open_, self.ours(number) as ours:
            sides = [open_.enter_context(_theirs(peer, number)) for peer in present]
            mine, *others = self.turns([ours, *sides], in_flight)
        for peer, theirs in zip(present, others, strict=True):
            yield Match(peer.name, f"{number:,} subscribers", f"{in_flight} events in flight", mine, theirs)


class Match(NamedTuple):
    """Our turns, and somebody's beside them."""

    peer: str
    to: str
    load: str
    ours: Sequence[Turn]
    theirs: Sequence[Turn]

    def and_then(self, later: Match) -> Match:
        """The same match, gone on with."""
        return self._replace(ours=[*self.ours, *later.ours], theirs=[*self.theirs, *later.theirs])

    def frames(self, target: float | None) -> Claim:
        ours, theirs = [turn.frames_per_s for turn in self.ours], [turn.frames_per_s for turn in self.theirs]
        what, unit = f"delivery to {self.to}", f"frames/s, {self.load}, one core"
        return Claim(what, unit, median(ours), self.peer, median(theirs), _ratio(ours, theirs), target)

    def p99(self, limit: float) -> Claim:
        ours, theirs = [turn.p99_ms for turn in self.ours], [turn.p99_ms for turn in self.theirs]
        what, unit = f"delivery to {self.to}", f"ms p99 from publication to the client's read, {self.load}"
        return Claim(what, unit, median(ours), self.peer, median(theirs), _ratio(ours, theirs), limit=limit)


def measure(
    targets: dict[int, float] = TARGETS, others: int = OTHERS, rounds: int = ROUNDS, seconds: float = SECONDS
) -> list[Claim]:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with servers.on_client_core(), servers.redis_server() as redis_port, servers.edge(redis_port) as (port, key, _):
        asyncio.run(_load(redis_port))
        stage = Stage(redis_port, port, key, rounds, seconds)
        many = [_fan_out(stage.against([NCHAN, BARE], n), target) for n, target in targets.items() if n > FEW]
        bursts = (match.frames(BURST_TARGET) for match in stage.against([NCHAN], others, BURST))
        usual = (match.frames(None) for match in stage.against(USUAL, others))
        claims = _between(stage, targets, [*many, bursts, _wires(stage, others), usual])
    return claims + [
        Claim("delivery", f"skipped: {why}", peer=peer.name)
        for peer in (NCHAN, BARE, *USUAL)
        if (why := peer.missing()) is not None
    ]


def _between(stage: Stage, targets: dict[int, float], others: Sequence[Iterable[Claim]]) -> list[Claim]:
    """The claims about few subscribers, who are looked at before each of the others, and then the others'."""
    look = stage._replace(
        rounds=stage.rounds * SPLIT // 2, seconds=stage.seconds / SPLIT, patience=stage.patience / len(others)
    )
    few = {number: list[list[Match]]() for number in targets if number <= FEW}
    claims = list[Claim]()
    for other in others:
        for number, looks in few.items():
            looks.append(list(look.against([NCHAN, BARE], number)))
        claims += other
    for number, looks in reversed(few.items()):
        whole = (reduce(Match.and_then, of_one_peer) for of_one_peer in zip(*looks, strict=True))
        claims = [*_fan_out(whole, targets[number]), *claims]
    return claims


def _fan_out(matches: Iterable[Match], target: float) -> Iterator[Claim]:
    for match in matches:
        yield match.frames(target if match.peer == NCHAN.name else BARE_TARGET)
        if match.peer == NCHAN.name:
            yield match.p99(P99_LIMIT)


def _wires(stage: Stage, number: int) -> Iterator[Claim]:
    with ExitStack() as open_:
        sides = [open_.enter_context(stage.ours(number, wire)) for wire in (SSE_WIRE, *OTHER_WIRES)]
        sse, *others = stage.turns(sides)
    for wire, turns in zip(OTHER_WIRES, others, strict=True):
        to, load = f"{number:,} {wire.name} subscribers", f"{IN_FLIGHT} events in flight"
        yield Match("SSE", to, load, turns, sse).frames(0.8)


@contextmanager
def _theirs(peer: Peer, number: int) -> Iterator[Side]:
    with peer.start() as port:
        subscribers = Subscribers(port, peer.path, "", number)
        with _open(Side(subscribers, partial(peer.publisher, port))) as side:
            yield side


@contextmanager
def _open(side: Side) -> Iterator[Side]:
    side.subscribers.settle(QUIET_S)
    try:
        yield side
    finally:
        side.subscribers.close()


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def _append_command(conversation: ConversationId) -> bytes:
    """One event by the product's own script."""
    data = {"mark": MARK.decode(), "text": "x" * 120}
    event = Event(Custom(name="custom.bench", data=data), "system:bench", conversation)
    key, values = arguments(OrgId("bench"), Append(events=[event]))
    return evalsha(APPEND.sha, (key,), values)


async def _load(port: int) -> None:
    """Has Redis know the script."""
    pipe = Pipe(pool_for(f"redis://127.0.0.1:{port}"), [APPEND])
    await pipe.call("PING")
    await pipe.close()
