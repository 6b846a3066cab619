"""Append: the full script from Python, 64 in flight, against redis-benchmark driving the same script and arguments.

Unique idempotency keys, 256 bytes of payload, append-only file fsynced every second. Both drive one server, in turns.
"""

from __future__ import annotations

import asyncio
import csv
import io
import itertools
import shutil
import statistics
import subprocess
import time
from typing import Any

from benchmarks import servers
from benchmarks.report import Claim
from benchmarks.steal import calm
from eventstore.append import APPEND, Append, Idempotency, arguments, fingerprint
from eventstore.connection import Pipe, pool_for
from eventstore.events import Custom
from eventstore.log import Log
from eventstore.schema import ConversationId, Event, OrgId
from trunkline.process import run

IN_FLIGHT = 64
ROUNDS, CALLS = 5, 20_000
ORG, CONVERSATION = OrgId("bench"), ConversationId("conv_bench")
DATA: dict[str, Any] = {"text": "x" * 245}
BODY = fingerprint("the same body every time")


def measure(rounds: int = ROUNDS, calls: int = CALLS) -> list[Claim]:
    if shutil.which("redis-benchmark") is None:
        return [Claim("append", "skipped: redis-benchmark is not installed")]
    with servers.redis_server(core=servers.CLIENT_CORE) as port:
        number = itertools.count()
        both = calm(rounds, lambda: (run(_ours(port, calls, next(number))), _redis_benchmark(port, calls)))
    ours, theirs = zip(*both, strict=True)
    return [
        Claim(
            "append through the full script",
            f"appends/s, {IN_FLIGHT} in flight, AOF everysec",
            statistics.median(ours),
            "redis-benchmark, same script and arguments",
            statistics.median(theirs),
            statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
            0.7,
        )
    ]


def _request(key: str) -> Append:
    event = Event(Custom(name="custom.bench", data=DATA), "system:bench", CONVERSATION)
    return Append(events=[event], idempotency=Idempotency(key, BODY))


async def _ours(port: int, calls: int, round_: int) -> float:
    pipe = Pipe(pool_for(f"redis://127.0.0.1:{port}"), [APPEND])
    log = Log(pipe)

    async def one(worker: int) -> None:
        for call in range(calls // IN_FLIGHT):
            await log.append(ORG, _request(f"{round_}-{worker}-{call}"))

    await pipe.call("PING")
    begun = time.perf_counter()
    await asyncio.gather(*(one(worker) for worker in range(IN_FLIGHT)))
    elapsed = time.perf_counter() - begun
    await pipe.close()
    return calls // IN_FLIGHT * IN_FLIGHT / elapsed


def _redis_benchmark(port: int, calls: int) -> float:
    key, framed = arguments(ORG, _request("__rand_int__"))
    values = framed.values()
    # A digest of printable bytes: the command line cannot carry a raw one. Its length is the same.
    values[-1] = b"d" * 32
    command = [
        "redis-benchmark", "-p", str(port), "-c", str(IN_FLIGHT), "-n", str(calls), "-r", "1000000000", "--csv",
        "EVALSHA", APPEND.sha, "1", key, *(value.decode() for value in values),
    ]  # fmt: skip
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = list(csv.reader(io.StringIO(output)))
    return float(rows[-1][1])
