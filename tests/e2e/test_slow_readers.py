"""Clients that stop reading a real process: it grows by little, and they get everything once they read again."""

from __future__ import annotations

from benchmarks.stalled import ALLOWED_BYTES, STALLED, stall


async def test_stalled_readers_cost_little_memory_and_miss_nothing() -> None:
    result = await stall(30, before_s=1)
    assert result.complete == STALLED
    assert result.grown_bytes < ALLOWED_BYTES
    assert (len(result.before), len(result.during)) == (1, 2), "a p99 of each second, 400 events in each"
