"""Leader leases: one at a time, fenced for ever; and who is alive."""

from __future__ import annotations

import asyncio

import pytest

from eventstore.connection import Pipe
from eventstore.leases import Lease, Leases
from eventstore.presence import CACHE_S, FORGET_MS, Presence, Present
from tests.support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


def leases(pipe: Pipe, clock: Clock, owner: str) -> Leases:
    return Leases(pipe, owner, ttl_ms=10_000, now_ms=clock)


async def held(leases: Leases) -> Lease:
    lease = await leases.acquire("sealer")
    assert lease is not None
    return lease


async def test_of_many_only_one_leads(pipe: Pipe, clock: Clock) -> None:
    taken = await asyncio.gather(*(leases(pipe, clock, f"p{n}").acquire("sealer") for n in range(20)))
    assert sum(lease is not None for lease in taken) == 1


async def test_a_lease_is_kept_while_it_is_renewed(pipe: Pipe, clock: Clock) -> None:
    one, other = leases(pipe, clock, "one"), leases(pipe, clock, "other")
    lease = await held(one)
    for _ in range(5):
        clock.advance(9_999)
        assert await one.renew(lease)
        assert await other.acquire("sealer") is None


async def test_a_silent_leader_is_followed_by_one_with_a_greater_fence(pipe: Pipe, clock: Clock) -> None:
    one, other = leases(pipe, clock, "one"), leases(pipe, clock, "other")
    old = await held(one)
    clock.advance(10_000)
    new = await held(other)
    assert new.fence > old.fence
    assert not await one.renew(old)
    assert not await one.release(old)
    assert await other.renew(new)


async def test_a_leader_that_slept_cannot_renew_what_has_run_out(pipe: Pipe, clock: Clock) -> None:
    one = leases(pipe, clock, "one")
    old = await held(one)
    clock.advance(10_000)
    assert not await one.renew(old)
    assert (await held(one)).fence > old.fence
    assert not await one.renew(old)


async def test_a_leader_that_died_as_the_clock_was_set_back_is_followed_all_the_same(pipe: Pipe, clock: Clock) -> None:
    old = await held(leases(pipe, clock, "one"))
    clock.advance(-3_600_000)
    assert (await held(leases(pipe, clock, "other"))).fence > old.fence


async def test_a_released_lease_is_free_at_once_and_its_fence_goes_on(pipe: Pipe, clock: Clock) -> None:
    one, other = leases(pipe, clock, "one"), leases(pipe, clock, "other")
    lease = await held(one)
    assert await one.release(lease)
    assert (await held(other)).fence == lease.fence + 1


async def test_asking_again_after_a_lost_reply_gives_the_same_lease(pipe: Pipe, clock: Clock) -> None:
    one, other = leases(pipe, clock, "one"), leases(pipe, clock, "other")
    lease = await held(one)
    clock.advance(9_999)
    assert await held(one) == lease
    clock.advance(9_999)
    assert await other.acquire("sealer") is None


async def test_another_renews_and_releases_nothing_whatever_it_knows(pipe: Pipe, clock: Clock) -> None:
    one, other = leases(pipe, clock, "one"), leases(pipe, clock, "other")
    lease = await held(one)
    assert not await other.renew(lease)
    assert not await other.release(lease)
    assert await one.renew(lease)


async def test_jobs_are_led_apart(pipe: Pipe, clock: Clock) -> None:
    one, other = leases(pipe, clock, "one"), leases(pipe, clock, "other")
    assert await one.acquire("sealer")
    assert await other.acquire("archiver")


async def test_a_worker_is_alive_until_its_word_runs_out(pipe: Pipe, clock: Clock) -> None:
    presence = Presence(pipe, now_ms=clock)
    await presence.beat("w2", {"model": "offline"}, ttl_s=10)
    await presence.beat("w1", {}, ttl_s=5)
    assert await presence.alive() == [Present("w1", {}), Present("w2", {"model": "offline"})]
    clock.advance(5_000)
    assert [present.owner for present in await presence.alive()] == ["w2"]
    await presence.leave("w2")
    assert await presence.alive() == []


async def test_who_fell_silent_as_the_clock_was_set_back_is_not_alive_for_that_long(pipe: Pipe, clock: Clock) -> None:
    presence = Presence(pipe, now_ms=clock)
    await presence.beat("dead", {})
    clock.advance(-3_600_000)
    await presence.beat("alive", {})
    assert [present.owner for present in await presence.alive()] == ["alive"]


async def test_the_long_dead_are_forgotten(pipe: Pipe, clock: Clock) -> None:
    presence = Presence(pipe, now_ms=clock)
    await presence.beat("w1", {}, ttl_s=10)
    clock.advance(FORGET_MS + 10_001)
    await presence.alive()
    clock.advance(-FORGET_MS - 10_001)
    assert await presence.alive() == []


async def test_streams_that_ask_at_once_cost_one_look(pipe: Pipe, clock: Clock) -> None:
    presence = Presence(pipe, now_ms=clock, clock=lambda: clock() / 1_000)
    assert not await presence.any_alive()
    await presence.beat("w1", {})
    assert not await presence.any_alive()
    clock.advance(int(CACHE_S * 1_000))
    assert await presence.any_alive()


async def test_while_redis_is_away_nobody_is_declared_dead(pipe: Pipe) -> None:
    away = pipe.beside()
    await away.close()
    assert await Presence(away).any_alive()
