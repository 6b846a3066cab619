"""When work is tried again."""

from __future__ import annotations

from workers.retry import Backoff, Policy


def test_the_pause_doubles_up_to_its_cap() -> None:
    backoff = Backoff(base_ms=100, cap_ms=1_000)
    assert [backoff.delay_ms(attempts, 0.999_999) for attempts in (1, 2, 3, 4, 5, 50)] == [99, 199, 399, 799, 999, 999]


def test_jitter_takes_anything_from_nothing_to_the_whole_pause() -> None:
    assert Backoff(100, 1_000).delay_ms(3, 0.0) == 0
    assert Backoff(100, 1_000).delay_ms(3, 0.5) == 200


def test_many_attempts_do_not_overflow() -> None:
    assert Backoff(1, 60_000).delay_ms(10_000, 0.5) == 30_000


def test_the_last_attempt_is_the_one_the_policy_names() -> None:
    policy = Policy(3, "fail")
    assert [policy.is_exhausted(attempts) for attempts in (1, 2, 3)] == [False, False, True]


def test_an_attempt_beyond_the_last_follows_crashes_only() -> None:
    policy = Policy(3, "park")
    assert not policy.is_overdrawn(3)
    assert policy.is_overdrawn(4)
