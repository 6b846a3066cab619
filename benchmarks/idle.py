"""Connections that wait: what each takes of the process's memory, and how long a drain with 5,000 of them takes."""

from __future__ import annotations

import asyncio
import resource
import time

from benchmarks.report import Claim
from benchmarks.stalled import product, resident_bytes
from benchmarks.subscribers import Subscribers

FIRST, MORE, LAST = 1_000, 2_000, 2_000
ALLOWED_KIB = 14.0
WINDOW_S = 8.0
PATH = "/v1/events/stream?conversation=conv_bench"


def measure() -> list[Claim]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    each_kib, drained_s = asyncio.run(_idle())
    limit = ALLOWED_KIB / each_kib
    return [
        Claim("idle SSE connection", "KiB of the process", each_kib, "limit", ALLOWED_KIB, limit, 1.0),
        Claim("drain with 5,000 streams", "seconds", drained_s, "window", WINDOW_S, WINDOW_S / drained_s, 1.0),
    ]


async def _idle() -> tuple[float, float]:
    async with product() as (_, port, edge, key):
        opened = [_opened(port, key, FIRST)]
        before = resident_bytes(edge.process.pid)
        opened.append(_opened(port, key, MORE))
        each_kib = (resident_bytes(edge.process.pid) - before) / MORE / 1024
        opened.append(_opened(port, key, LAST))
        begun = time.monotonic()
        code = await asyncio.to_thread(edge.stop)
        drained_s = time.monotonic() - begun
        assert code == 0, edge.stderr
        for some in opened:
            some.close()
        return each_kib, drained_s


def _opened(port: int, key: str, number: int) -> Subscribers:
    some = Subscribers(port, PATH, f"X-Tenant-API-Key: {key}\r\n", number)
    some.settle()
    return some
