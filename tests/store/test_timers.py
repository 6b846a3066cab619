"""Jobs: done once for each planned time, whoever ticks, and never against somebody who is at work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from eventstore import codec, keys
from eventstore.append import Append
from eventstore.connection import Pipe, pool_for
from eventstore.errors import StoreError
from eventstore.events.calls import CallEnded, CallInitiated
from eventstore.events.control import ControlReleased
from eventstore.events.messages import MessageSent
from eventstore.leases import LEASE, Leases
from eventstore.log import Log
from eventstore.organizations import Organizations
from eventstore.schema import ORIGIN, Event, OrgId
from tests.support.workshop import ACME, ANN, BEN, Workshop
from workers.idle_agents import release_idle
from workers.jobs import JOBS
from workers.silent_calls import LONGEST_MS, end_silent
from workers.timers import Job, Timers, follow_clock
from workers.work import Services

IDLE_S = 60.0


@pytest.fixture
async def pipe(redis_url: str) -> AsyncIterator[Pipe]:
    pipe = Pipe(pool_for(redis_url), (LEASE,))
    yield pipe
    await pipe.close()


def timers(pipe: Pipe, services: Services, owner: str, *jobs: Job) -> Timers:
    return Timers(services, Organizations(pipe), Leases(pipe, owner), jobs)


def later(services: Services, seconds: float) -> int:
    return services.now_ms() + int(seconds * 1_000)


# Idle agents


async def test_an_agent_who_writes_nothing_is_released_and_what_is_open_is_answered(shop: Workshop) -> None:
    services = shop.services(agent_idle_s=IDLE_S)
    await shop.say("Is anybody there?", channel="sms")
    await shop.take_control()
    assert await release_idle(services, ACME, later(services, IDLE_S - 1)) == 0
    assert await release_idle(services, ACME, later(services, IDLE_S + 1)) == 1
    assert (await shop.log.control(ACME, ANN)).agent == ""
    async with shop.worker(services):
        await shop.seen.until_type("sms.sent")
    [released] = shop.seen.bodies(ControlReleased)
    assert (released.agent, released.reason) == ("7", "idle")


async def test_an_agent_who_wrote_lately_stays(shop: Workshop) -> None:
    services = shop.services(agent_idle_s=IDLE_S)
    await shop.take_control()
    await shop.take_control(BEN)
    lately = later(services, IDLE_S / 2)
    written = Event(MessageSent(message_id="m", agent="7", text="Hi"), "agent:7", ANN)
    await Log(shop.pipe, now_ms=lambda: lately).append(ACME, Append(events=[written]))
    assert await release_idle(services, ACME, later(services, IDLE_S + 1)) == 1
    assert (await shop.log.control(ACME, ANN)).agent == "7"
    assert (await shop.log.control(ACME, BEN)).agent == ""


async def test_whoever_does_it_and_however_often_a_conversation_is_handed_back_once(shop: Workshop) -> None:
    services = shop.services(agent_idle_s=IDLE_S)
    await shop.take_control()
    planned = later(services, IDLE_S + 1)
    released = await asyncio.gather(*(release_idle(services, ACME, planned) for _ in range(10)))
    assert sorted(released)[-2:] == [0, 1]
    await shop.take_control()
    assert await release_idle(services, ACME, services.now_ms()) == 0
    assert (await shop.log.control(ACME, ANN)).agent == "7"


# Ticks


async def at_once(services: Services, org: OrgId, planned_ms: int = 0) -> int:
    return 0


async def test_of_several_workers_one_does_the_job_for_every_organization(shop: Workshop, pipe: Pipe) -> None:
    done: list[tuple[str, OrgId, int]] = []

    def job(who: str) -> Job:
        async def note(services: Services, org: OrgId, planned_ms: int) -> None:
            done.append((who, org, planned_ms))

        return Job("note", 10, at_once, note)

    for name in ("acme", "other"):
        await Organizations(pipe).ensure(name, name)
    services = shop.services()
    await asyncio.gather(*(timers(pipe, services, who, job(who)).tick(job(who)) for who in ("one", "two", "three")))
    assert [org for _, org, _ in done] == ["acme", "other"]
    assert len({(who, planned) for who, _, planned in done}) == 1
    assert all(planned % 10_000 == 0 for _, _, planned in done)


async def test_a_job_that_cannot_reach_one_organization_is_done_for_the_others(shop: Workshop, pipe: Pipe) -> None:
    done: list[OrgId] = []

    async def fail_for_acme(services: Services, org: OrgId, planned_ms: int) -> None:
        if org == ACME:
            raise StoreError("the archive is missing")
        done.append(org)

    for name in ("acme", "other"):
        await Organizations(pipe).ensure(name, name)
    job = Job("fail", 10, at_once, fail_for_acme)
    await timers(pipe, shop.services(), "one", job).tick(job)
    assert done == ["other"]


async def test_a_tick_looks_at_what_was_written_to_and_at_what_is_due(shop: Workshop, pipe: Pipe) -> None:
    """However many organizations there are."""
    looked: list[OrgId] = []
    done: list[OrgId] = []
    dues: dict[OrgId, int | None] = {}

    async def due(services: Services, org: OrgId) -> int | None:
        looked.append(org)
        return dues.get(org)

    async def do(services: Services, org: OrgId, planned_ms: int) -> None:
        done.append(org)

    async def ticked() -> tuple[list[OrgId], list[OrgId]]:
        looked.clear()
        done.clear()
        await jobs.tick(job)
        return sorted(looked), sorted(done)

    others = [OrgId(f"other-{n}") for n in range(5)]
    for name in (ACME, *others):
        await Organizations(pipe).ensure(name, name)
    clock = [0.0]
    services = replace(shop.services(), now_ms=lambda: int(clock[0] * 1_000))
    job = Job("note", 10, due, do)
    jobs = timers(pipe, services, "one", job)
    assert await ticked() == ([ACME, *others], []), "at first everything"
    assert await ticked() == ([], []), "and then nothing that nobody has written to"
    await shop.say("Hello")
    dues[ACME] = 20_000
    assert await ticked() == ([ACME], [])
    clock[0] = 10.0
    assert await ticked() == ([], []), "it is not due yet"
    clock[0] = 20.0
    assert await ticked() == ([ACME], [ACME])
    assert await ticked() == ([ACME], [ACME]), "it is due until there is nothing to do any more"
    dues[ACME] = None
    assert await ticked() == ([ACME], [])
    assert await ticked() == ([], [])


async def test_bells_that_were_missed_make_a_tick_look_at_all_who_may_have_rung_them(
    shop: Workshop, pipe: Pipe
) -> None:
    looked: list[OrgId] = []

    async def due(services: Services, org: OrgId) -> int | None:
        looked.append(org)
        return None

    neighbour = next(org for n in range(10_000) if keys.shard_of(org := OrgId(f"o{n}")) == keys.shard_of(ACME))
    for name in (ACME, neighbour, OrgId("elsewhere")):
        await Organizations(pipe).ensure(name, name)
    await shop.say("Hello")
    job = Job("note", 10, due, at_once)
    jobs = timers(pipe, shop.services(), "one", job)
    for lose in ("", "XTRIM", "DEL"):
        await jobs.tick(job)
        await shop.say("Hello again")
        if lose:
            await pipe.call(lose, keys.bell(keys.shard_of(ACME)), *(("MAXLEN", 1) if lose == "XTRIM" else ()))
        looked.clear()
        await jobs.tick(job)
        assert sorted(looked) == (sorted([ACME, neighbour]) if lose else [ACME])


async def test_what_failed_is_looked_at_again_with_the_next_tick(shop: Workshop, pipe: Pipe) -> None:
    looked = 0

    async def due(services: Services, org: OrgId) -> int | None:
        nonlocal looked
        looked += 1
        if looked == 1:
            raise StoreError("the archive is missing")
        return None

    await Organizations(pipe).ensure(ACME, "Acme")
    job = Job("note", 10, due, at_once)
    jobs = timers(pipe, shop.services(), "one", job)
    for _ in range(3):
        await jobs.tick(job)
    assert looked == 2


async def test_jobs_tick_until_the_worker_ends(shop: Workshop, pipe: Pipe) -> None:
    ticked = asyncio.Event()

    async def tick(services: Services, org: OrgId, planned_ms: int) -> None:
        ticked.set()

    await Organizations(pipe).ensure("acme", "Acme")
    running = asyncio.create_task(timers(pipe, shop.services(), "one", Job("tick", 1, at_once, tick)).run())
    async with asyncio.timeout(5):
        await ticked.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_jobs_tick_on_when_the_clock_is_set_back() -> None:
    scheduler = AsyncIOScheduler(timezone=UTC)
    interval = timedelta(seconds=10)
    scheduler.add_job(lambda: None, IntervalTrigger(seconds=10, timezone=UTC), id="tick")
    scheduler.start()
    try:
        planned = scheduler.get_job("tick").next_run_time
        follow_clock(scheduler)
        assert scheduler.get_job("tick").next_run_time == planned
        scheduler.modify_job("tick", next_run_time=planned + timedelta(hours=1))  # how a step back looks from here
        follow_clock(scheduler)
        assert scheduler.get_job("tick").next_run_time <= datetime.now(UTC) + interval
    finally:
        scheduler.shutdown(wait=False)


def test_jobs_have_names_of_their_own() -> None:
    assert len({job.name for job in JOBS}) == len(JOBS)


# Calls that nobody reports on


async def test_a_call_whose_end_nobody_reports_is_ended_once(shop: Workshop) -> None:
    services = shop.services()
    begun = CallInitiated(call_sid="CA1", direction="outbound", provider="elevenlabs")
    await shop.put(Event(begun, "provider:elevenlabs", ANN))
    over = CallInitiated(call_sid="CA2", direction="inbound", provider="twilio")
    await shop.put(Event(over, "provider:twilio", BEN))
    await shop.put(Event(CallEnded(call_sid="CA2", provider="twilio", outcome="completed"), "provider:twilio", BEN))
    assert await end_silent(services, ACME, later(services, LONGEST_MS / 1_000 - 60)) == 0
    assert await end_silent(services, ACME, later(services, LONGEST_MS / 1_000 + 60)) == 1
    assert await end_silent(services, ACME, later(services, LONGEST_MS / 1_000 + 360)) == 0
    facts = await shop.log.read(ACME, ORIGIN, deltas=False)
    assert codec.decode(facts[-1]) == CallEnded(call_sid="CA1", provider="nobody", outcome="unknown")
    assert facts[-1].run == next(event for event in facts if event.type == "call.initiated").position
