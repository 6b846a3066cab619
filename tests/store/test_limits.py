"""Budgets: exact, shared by all processes, and refilled when their window is over."""

from __future__ import annotations

import asyncio

import pytest

from eventstore import keys
from eventstore.connection import Pipe
from eventstore.limits import Budget, Limits
from eventstore.schema import OrgId
from tests.support.clock import Clock

ACME = OrgId("acme")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limits(pipe: Pipe, clock: Clock) -> Limits:
    return Limits(pipe, now_ms=clock)


async def test_exactly_the_limit_is_allowed(limits: Limits) -> None:
    budgets = await asyncio.gather(*(limits.spend(ACME, "requests", "key", 100) for _ in range(150)))
    assert sum(budget.allowed for budget in budgets) == 100
    assert sorted(budget.remaining for budget in budgets if budget.allowed) == list(range(100))


async def test_two_processes_share_a_budget(pipe: Pipe, limits: Limits, clock: Clock) -> None:
    other = Limits(pipe, now_ms=clock)
    assert (await limits.spend(ACME, "requests", "key", 2)).allowed
    assert (await other.spend(ACME, "requests", "key", 2)).allowed
    assert not (await limits.spend(ACME, "requests", "key", 2)).allowed


async def test_a_window_begins_with_its_first_call_and_refills_at_its_end(limits: Limits, clock: Clock) -> None:
    assert await limits.spend(ACME, "requests", "key", 2, window_s=900) == Budget(True, 2, 1, 900)
    clock.advance(300_500)
    assert await limits.spend(ACME, "requests", "key", 2, window_s=900) == Budget(True, 2, 0, 600)
    assert await limits.spend(ACME, "requests", "key", 2, window_s=900) == Budget(False, 2, 0, 600)
    clock.advance(599_499)
    assert await limits.spend(ACME, "requests", "key", 2, window_s=900) == Budget(False, 2, 0, 1)
    clock.advance(1)
    assert await limits.spend(ACME, "requests", "key", 2, window_s=900) == Budget(True, 2, 1, 900)


async def test_refused_calls_do_not_prolong_the_wait(limits: Limits, clock: Clock) -> None:
    await limits.spend(ACME, "requests", "key", 1, window_s=10)
    for _ in range(9):
        clock.advance(1_000)
        assert not (await limits.spend(ACME, "requests", "key", 1, window_s=10)).allowed
    clock.advance(1_000)
    assert (await limits.spend(ACME, "requests", "key", 1, window_s=10)).allowed


async def test_a_cost_is_taken_whole_or_not_at_all(limits: Limits) -> None:
    assert (await limits.spend(ACME, "sms", "conv_1", 10, cost=8)).remaining == 2
    assert await limits.spend(ACME, "sms", "conv_1", 10, cost=3) == Budget(False, 10, 2, 900)
    assert await limits.spend(ACME, "sms", "conv_1", 10, cost=2) == Budget(True, 10, 0, 900)


async def test_to_ask_costs_nothing_and_begins_no_window(limits: Limits, clock: Clock) -> None:
    assert await limits.spend(ACME, "sms", "conv_1", 2, window_s=60, cost=0) == Budget(True, 2, 2, 60)
    clock.advance(30_000)
    assert await limits.spend(ACME, "sms", "conv_1", 2, window_s=60) == Budget(True, 2, 1, 60)
    assert await limits.spend(ACME, "sms", "conv_1", 2, window_s=60, cost=0) == Budget(True, 2, 1, 60)
    assert await limits.spend(ACME, "sms", "conv_1", 1, window_s=60, cost=0) == Budget(False, 1, 0, 60)


async def test_buckets_subjects_and_organizations_are_apart(limits: Limits) -> None:
    assert (await limits.spend(ACME, "requests", "key", 1)).allowed
    assert (await limits.spend(ACME, "opens", "key", 1)).allowed
    assert (await limits.spend(ACME, "requests", "other", 1)).allowed
    assert (await limits.spend(OrgId("zeta"), "requests", "key", 1)).allowed


async def test_a_clock_set_back_starts_a_new_window_instead_of_a_long_one(limits: Limits, clock: Clock) -> None:
    await limits.spend(ACME, "requests", "key", 1)
    clock.advance(-86_400_000)
    assert await limits.spend(ACME, "requests", "key", 1) == Budget(True, 1, 0, 900)


async def test_a_budget_that_is_over_leaves_redis_by_itself(pipe: Pipe) -> None:
    await Limits(pipe).spend(ACME, "requests", "key", 5, window_s=60)
    assert 59_000 < await pipe.call("PTTL", keys.of(ACME).limit("requests:key")) <= 60_000
