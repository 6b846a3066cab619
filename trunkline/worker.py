"""`trunkline worker`: one process that does work."""

from __future__ import annotations

from typing import NamedTuple

from trunkline.errors import StartError


class WorkerOptions(NamedTuple):
    """`shards` is the half-open range of shards to serve; None for all."""

    redis_url: str | None = None
    metrics_port: int | None = None
    shards: range | None = None


def run_worker(options: WorkerOptions) -> int:
    """Works until SIGINT or SIGTERM, hands back what it cannot finish; the exit code. Raises StartError.

    Beats in `Presence` under an owner that is new at every start, as soon as it takes work: `up` waits for that.
    """
    raise StartError(f"`trunkline worker` is not composed yet (asked for {options})")
