"""How often a model that takes nothing is asked again: each time is an event on the log."""

from __future__ import annotations

import pytest

from workers.answering import BUSY_FOR_S, busy_backoff


@pytest.mark.parametrize("limit_s", [120.0, BUSY_FOR_S])
def test_a_wait_has_few_tries_and_uses_most_of_its_time(limit_s: float) -> None:
    backoff, waited_ms, tries = busy_backoff(limit_s), 0, 1
    while (pause_ms := backoff.delay_ms(tries, 0.5)) + waited_ms <= limit_s * 1_000:
        waited_ms, tries = waited_ms + pause_ms, tries + 1
    assert tries <= 18
    assert waited_ms >= limit_s * 1_000 * 0.8
    assert backoff.delay_ms(1, 1.0) <= 500, "a hiccup is waited for no longer than before"
