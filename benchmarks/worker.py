"""One worker process that does nothing with customers' messages, with every guarantee on: leases, fences, attempts,
order per lane, and an end in the step that hands out the lane's next item.

Beside it the worker of every tutorial (XREADGROUP, XACK, redis-py), and as a limit redis-benchmark ending one item a
call. Work is appended beforehand. Worker on one core, Redis on the other. CPU is told besides: others may be at work.
"""

from __future__ import annotations

import csv
import io
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import redis

from benchmarks import servers
from benchmarks.noop_worker import TEXTBOOK_GROUP, TEXTBOOK_STREAM
from benchmarks.report import Claim
from benchmarks.steal import calm
from eventstore import keys
from eventstore.append import APPEND, Append, Disposal, arguments
from eventstore.connection import Pipe, pool_for
from eventstore.events.messages import MessageReceived
from eventstore.lanes import LANES, Lanes, Taken
from eventstore.log import Log
from eventstore.schema import ConversationId, Event, OrgId
from trunkline.process import run

ORG = OrgId("bench")
ROUNDS, ITEMS = 5, 20_000
COUNTS = (20_000, 1_000, 8)
"""A message of each of so many customers; more conversations than there are places; and so few that each waits."""
BATCH = 500
POLL_S, DRAIN_S = 0.005, 120.0
REQUIRED = 10_000
UNIT = "items/s by one worker, AOF everysec"


class Spent(NamedTuple):
    """Items a second, and microseconds of CPU for one: the worker's and Redis' own."""

    rate: float
    worker_us: float
    redis_us: float


class Round(NamedTuple):
    """One by `COUNTS`, and beside them the textbook's and the limit (items a second), where that can be measured."""

    ours: Sequence[Spent]
    textbook: Spent
    limit: float | None


def measure(rounds: int = ROUNDS, items: int = ITEMS) -> list[Claim]:
    measured = calm(rounds, lambda: _round(items))
    textbook = [each.textbook for each in measured]
    claims = [
        claim for i, lanes in enumerate(COUNTS) for claim in _claims(lanes, [r.ours[i] for r in measured], textbook)
    ]
    limited = [(each.ours[-1].rate, each.limit) for each in measured if each.limit is not None]
    if not limited:
        return [*claims, Claim("no-op items", "limit skipped: redis-benchmark is not installed")]
    ours, limit = zip(*limited, strict=True)
    return [
        *claims,
        Claim(
            f"no-op items of {COUNTS[-1]} lanes", UNIT, statistics.median(ours), "redis-benchmark, one item a call",
            statistics.median(limit), statistics.median(a / b for a, b in limited),
        ),
    ]  # fmt: skip


def _round(items: int) -> Round:
    ours = [_drained("trunkline", items, partial(_prepare, items, lanes), _unfinished) for lanes in COUNTS]
    textbook = _drained("textbook", items, partial(_publish, items), _unacknowledged)
    return Round(ours, textbook, _finishing(items) if shutil.which("redis-benchmark") is not None else None)


def _claims(lanes: int, ours: Sequence[Spent], textbook: Sequence[Spent]) -> list[Claim]:
    name, median = f"no-op items of {lanes:,} lanes", statistics.median
    rate = median(spent.rate for spent in ours)
    cost = [median(cpu) for cpu in ((s.worker_us for s in ours), (s.redis_us for s in ours))]
    theirs = [median(cpu) for cpu in ((s.worker_us for s in textbook), (s.redis_us for s in textbook))]
    return [
        Claim(name, UNIT, rate, "required", REQUIRED, rate / REQUIRED, 1),
        Claim(
            name, UNIT, rate, "textbook worker, at least once", median(spent.rate for spent in textbook),
            median(a.rate / b.rate for a, b in zip(ours, textbook, strict=True)),
        ),
        Claim(f"{name}: worker's CPU", "µs an item", cost[0], "textbook worker's", theirs[0], theirs[0] / cost[0]),
        Claim(f"{name}: Redis' CPU", "µs an item", cost[1], "textbook worker's", theirs[1], theirs[1] / cost[1]),
    ]  # fmt: skip


def _drained(kind: str, items: int, prepare: Callable[[int], None], left: Callable[[redis.Redis], int]) -> Spent:
    """How a new worker process works off what has been prepared."""
    with servers.redis_server() as port:
        prepare(port)
        client = redis.Redis(port=port)
        server = int(client.info("server")["process_id"])
        with _worker(kind, port) as worker:
            before = servers.cpu_ns(worker.pid), servers.cpu_ns(server)
            begun = time.perf_counter()
            assert worker.stdin is not None
            worker.stdin.write(b"go\n")
            worker.stdin.flush()
            while left(client) > 0:
                if time.perf_counter() - begun > DRAIN_S:
                    raise TimeoutError(f"{left(client)} of {items} items are left after {DRAIN_S} s")
                time.sleep(POLL_S)
            elapsed = time.perf_counter() - begun
            after = servers.cpu_ns(worker.pid), servers.cpu_ns(server)
            spent = [(end - start) / items / 1_000 for start, end in zip(before, after, strict=True)]
    return Spent(items / elapsed, *spent)


@contextmanager
def _worker(kind: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        *servers.pinned(servers.SERVER_CORE), sys.executable, "-m", "benchmarks.noop_worker", kind,
        f"redis://127.0.0.1:{port}/0",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the {kind} worker did not start")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)


def _prepare(items: int, lanes: int, port: int) -> None:
    run(_append(port, items, lanes))


async def _append(port: int, items: int, lanes: int) -> None:
    """Messages, evenly over the lanes, as they come in: not one lane after the other."""
    pipe = Pipe(pool_for(f"redis://127.0.0.1:{port}"), [APPEND])
    log = Log(pipe)
    for first in range(0, items, BATCH):
        await log.append(ORG, Append(events=[_message(place, place % lanes) for place in range(first, first + BATCH)]))
    await pipe.close()


def _message(place: int, lane: int) -> Event:
    conversation = ConversationId(f"conv_{lane:016x}")
    body = MessageReceived(
        message_id=f"m-{place}", channel="chat", text="x" * 100, sender="+14155552671", to="+14155550100"
    )
    return Event(body, "customer", conversation, lane=conversation)


def _unfinished(client: redis.Redis) -> int:
    return int(client.hget(keys.of(ORG).meta, "q") or 0)


def _publish(items: int, port: int) -> None:
    client = redis.Redis(port=port)
    client.xgroup_create(TEXTBOOK_STREAM, TEXTBOOK_GROUP, "0", mkstream=True)
    with client.pipeline(transaction=False) as pipeline:
        for place in range(items):
            pipeline.xadd(TEXTBOOK_STREAM, {"id": f"m-{place}", "text": "x" * 100})
        pipeline.execute()


def _unacknowledged(client: redis.Redis) -> int:
    [group] = client.xinfo_groups(TEXTBOOK_STREAM)
    last = client.xinfo_stream(TEXTBOOK_STREAM)["last-generated-id"]
    return int(group["pending"]) if group["last-delivered-id"] == last else 1


def _finishing(items: int) -> float:
    """One lane with all the items. Each call ends whichever is next: it names none, as a worker does."""
    with servers.redis_server() as port:
        key, values = run(_one_lane(port, items))
        command = [
            "redis-benchmark", "-p", str(port), "-c", "64", "-n", str(items - 1), "--csv",
            "EVALSHA", APPEND.sha, "1", key, *(str(value) for value in values),
        ]  # fmt: skip
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return float(list(csv.reader(io.StringIO(output)))[-1][1])


async def _one_lane(port: int, items: int) -> tuple[str, list[str]]:
    await _append(port, items, 1)
    pipe = Pipe(pool_for(f"redis://127.0.0.1:{port}"), [APPEND, LANES])
    taken = await Lanes(pipe, "bench").take(ORG, f"conv_{0:016x}")
    assert isinstance(taken, Taken)
    await pipe.close()
    key, values = arguments(ORG, Append(held=taken.held._replace(head=None), disposal=Disposal("finish")))
    return key, [value.decode() for value in values.values()]
