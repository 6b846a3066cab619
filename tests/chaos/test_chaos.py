"""A storm of a few seconds over the whole product, and one that its checks must not survive. `make chaos` has longer
ones."""

from __future__ import annotations

import pytest

from tests.chaos.schedule import LASTS_S, schedule
from tests.chaos.storm import Storm, weather

SEED, SECONDS = 2151, 4.0
STORMS = 3

pytestmark = [pytest.mark.redis, pytest.mark.slow]


async def test_nothing_is_lost_doubled_or_reordered_whatever_breaks() -> None:
    report = await weather(Storm(SEED, SECONDS))
    assert not report.violations, "\n".join([*map(str, report.steps), *report.violations])
    assert report.figures["texts that left"] > 0
    assert report.happened["reply.completed"] > 0
    assert report.happened["tool.completed"] > 0


async def test_a_textbook_worker_is_caught_doubling_or_reordering_in_the_same_storm() -> None:
    """On a busy machine it may be lucky: the faults are the same each time, what they hit is not."""
    for _ in range(STORMS):
        report = await weather(Storm(SEED, SECONDS, workers="textbook"))
        if any("2 outcomes" in sentence or "out of order" in sentence for sentence in report.violations):
            return
    pytest.fail(f"nothing of it was found: {report}")


def test_a_seed_breaks_the_same_things_at_the_same_moments_and_everything_once() -> None:
    steps = schedule(SEED, SECONDS)
    assert steps == schedule(SEED, SECONDS)
    assert steps != schedule(SEED + 1, SECONDS)
    assert {step.fault for step in steps} == LASTS_S.keys()
