"""When what breaks, decided by a seed alone: the same seed breaks the same things at the same moments."""

from __future__ import annotations

import random
from typing import Literal, NamedTuple

from eventstore.lanes import LEASE_MS

Fault = Literal[
    "kill_worker",
    "stop_worker",
    "kill_edge",
    "stop_edge",
    "kill_redis",
    "stop_redis",
    "cut_request",
    "cut_reply",
    "swallow_reply",
    "delay",
]

OUTLIVES_LEASE_S = LEASE_MS / 1_000 + 1.5
LASTS_S: dict[Fault, tuple[float, float]] = {
    "kill_worker": (0.0, 1.0),
    "stop_worker": (OUTLIVES_LEASE_S, OUTLIVES_LEASE_S + 2),
    "kill_edge": (0.0, 1.0),
    "stop_edge": (0.5, 4.0),
    "kill_redis": (0.1, 1.5),
    "stop_redis": (0.2, 3.5),
    "cut_request": (0.0, 0.0),
    "cut_reply": (0.0, 0.0),
    "swallow_reply": (0.0, 0.0),
    "delay": (0.3, 2.0),
}
"""Between breaking and healing. A reply that was swallowed is missed for as long as the product waits for one."""
EVERY_S = 0.7
"""One fault on average; one of each kind at least, however short the run."""
STOPS_AT_S = 1.2
DELAY_S = 0.15


class Step(NamedTuple):
    """`target` picks one of the processes that the fault can hit."""

    at_s: float
    fault: Fault
    target: int
    lasts_s: float

    def __str__(self) -> str:
        return f"{self.at_s:6.2f} s  {self.fault} {self.target} for {self.lasts_s:.1f} s"


def schedule(seed: int, seconds: float) -> list[Step]:
    """All faults begin within the run; a worker is stopped early, so that it wakes up while there is work."""
    chance = random.Random(seed)
    faults: list[Fault] = [fault for fault in LASTS_S if fault != "stop_worker"]
    faults += chance.choices([*LASTS_S], k=max(0, int(seconds / EVERY_S) - len(faults) - 1))
    steps = [Step(chance.uniform(0.5, seconds), fault, *_aim(chance, fault)) for fault in faults]
    return sorted([Step(STOPS_AT_S, "stop_worker", *_aim(chance, "stop_worker")), *steps])


def _aim(chance: random.Random, fault: Fault) -> tuple[int, float]:
    return chance.randrange(4), round(chance.uniform(*LASTS_S[fault]), 2)
