"""What the other users of a shared machine take while something is measured: `steal` in proc(5)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

STAT = Path("/proc/stat")
CALM = 0.02
"""So little of the CPU time that was asked for may go to others."""
PAUSE_S, PATIENCE_S = 3.0, 180.0
"""After each disturbed round, since others have enough only after a while; and all that disturbed rounds may cost."""


class Steal:
    """Counts from when it is made."""

    def __init__(self) -> None:
        self._begun = _used_and_stolen()

    def share(self) -> float:
        """Of the CPU time that was asked for, by whomever: 0 to 1. 0 as well where the system does not count it."""
        used, stolen = (now - then for now, then in zip(_used_and_stolen(), self._begun, strict=True))
        return stolen / max(used + stolen, 1)


def calm(rounds: int, measure: Callable[[], T], patience: float = 1.0) -> list[T]:
    """The results of so many rounds. One that was disturbed is made up for by another; when this share of the patience
    is at its end the calmest count. What was measured plays no part in that."""
    measured, lost_s, most_s = list[tuple[float, T]](), 0.0, patience * PATIENCE_S
    while len(measured) < rounds or (lost_s < most_s and sum(share <= CALM for share, _ in measured) < rounds):
        steal, begun = Steal(), time.monotonic()
        result = measure()
        share = steal.share()
        measured.append((share, result))
        if share > CALM:
            time.sleep(PAUSE_S)
            lost_s += time.monotonic() - begun
    return calmest(measured, rounds)


def calmest(measured: Sequence[tuple[float, T]], fewest: int) -> list[T]:
    """All that was measured in calm, by the share that others took; at least so many, from the calmest on."""
    in_calm = sum(share <= CALM for share, _ in measured)
    return [result for _, result in sorted(measured, key=itemgetter(0))[: max(fewest, in_calm)]]


def _used_and_stolen() -> tuple[int, int]:
    """In ticks since the start, of all cores."""
    if not STAT.exists():
        return 0, 0
    user, nice, system, _, _, irq, softirq, stolen = map(int, STAT.read_text().split(maxsplit=9)[1:9])
    return user + nice + system + irq + softirq, stolen
