"""What is done at times rather than for events: one of all workers does it, and doing it twice changes nothing.

APScheduler only ticks. A lease keeps workers out of each other's way, and is a hint; what has to be right carries an
idempotency key with the planned time, or is harmless by itself. A tick costs what has happened since the last one: an
organization is looked at when it has been written to, and when the time comes that was found then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from eventstore import keys
from eventstore.bells import Bells
from eventstore.errors import StoreError
from eventstore.leases import Lease, Leases
from eventstore.organizations import Organizations
from eventstore.schema import OrgId
from workers.work import Services

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATE_IS_FINE = {"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
"""By default a tick that is a second late is dropped."""
CLOCK_CHECK_S = 1.0

logger = structlog.get_logger()


class Job(NamedTuple):
    """`due` tells when there is something to do for an organization as it is now (epoch ms; None: never). When that
    is over, `run` is called with the planned time in ms, a multiple of `every_s`."""

    name: str
    every_s: int
    due: Callable[[Services, OrgId], Awaitable[int | None]]
    run: Callable[[Services, OrgId, int], Awaitable[object]]


class Agenda(NamedTuple):
    """What this process knows of a job: `due` times by organization, and what has rung since they were found. A process
    that knows nothing looks at everything."""

    bells: Bells
    due: dict[OrgId, int]


class Timers:
    def __init__(self, services: Services, organizations: Organizations, leases: Leases, jobs: Sequence[Job]) -> None:
        self._services = services
        self._organizations = organizations
        self._leases = leases
        self._jobs = jobs
        self._agendas = {job.name: Agenda(Bells(services.log.pipe), {}) for job in jobs}

    async def run(self) -> None:
        """Until cancelled; a job that is under way is then broken off."""
        scheduler = AsyncIOScheduler(timezone=UTC, job_defaults=LATE_IS_FINE)
        for job in self._jobs:
            trigger = IntervalTrigger(seconds=job.every_s, start_date=EPOCH, timezone=UTC)
            scheduler.add_job(self.tick, trigger, args=[job], id=job.name)
        scheduler.start()
        try:
            while True:
                await asyncio.sleep(CLOCK_CHECK_S)
                follow_clock(scheduler)
        finally:
            scheduler.shutdown(wait=False)
            await asyncio.sleep(0)  # it ends in a callback of the loop

    async def tick(self, job: Job) -> None:
        """Does the job for every organization that it is due for, unless another worker is at it."""
        now_ms = self._services.now_ms()
        planned_ms = now_ms - now_ms % (job.every_s * 1_000)
        try:
            if (lease := await self._leases.acquire(f"timer:{job.name}")) is not None:
                await self._lead(job, lease, planned_ms)
        except StoreError as error:
            logger.warning("a job was not done", job=job.name, error=str(error))

    async def _lead(self, job: Job, lease: Lease, planned_ms: int) -> None:
        due = self._agendas[job.name].due
        for org in await self._changed(self._agendas[job.name].bells):
            due[org] = 0
        for org in [org for org, at in due.items() if at <= planned_ms]:
            if not await self._leases.renew(lease):
                return
            try:
                await self._look(job, org, planned_ms)
            except StoreError as error:
                logger.warning("a job was not done", job=job.name, organization=org, error=str(error))

    async def _look(self, job: Job, org: OrgId, planned_ms: int) -> None:
        """What fails is looked at again with the next tick; what is done has rung by then."""
        due = self._agendas[job.name].due
        if (at := await job.due(self._services, org)) is None:
            del due[org]
            return
        due[org] = at
        if at <= planned_ms:
            await job.run(self._services, org, planned_ms)

    async def _changed(self, bells: Bells) -> Sequence[OrgId]:
        rung = await bells.rung()
        if not rung.unheard:
            return sorted(rung.organizations)
        every = [organization.id for organization in await self._organizations.list()]
        return [org for org in every if org in rung.organizations or keys.shard_of(org) in rung.unheard]


def follow_clock(scheduler: AsyncIOScheduler) -> None:
    """Plans anew what is further ahead than a job's own interval: the scheduler plans by the wall clock, and where that
    was set back an hour it would sleep for one."""
    now = datetime.now(UTC)
    for job in scheduler.get_jobs():
        if job.next_run_time - now > job.trigger.interval:
            job.reschedule(job.trigger)
