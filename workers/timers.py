"""What is done at times rather than for events: one of all workers does it, and doing it twice changes nothing.

A lease keeps workers out of each other's way, and is a hint; what has to be right carries an idempotency key with the
planned time, or is harmless by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import structlog

from eventstore.errors import StoreError
from eventstore.leases import Lease, Leases
from eventstore.organizations import Organizations
from eventstore.schema import OrgId
from workers.work import Services

logger = structlog.get_logger()


class Job(NamedTuple):
    """`run` is called for each organization with the planned time in ms, a multiple of `every_s`."""

    name: str
    every_s: int
    run: Callable[[Services, OrgId, int], Awaitable[object]]


class Timers:
    def __init__(self, services: Services, organizations: Organizations, leases: Leases, jobs: Sequence[Job]) -> None:
        self._services = services
        self._organizations = organizations
        self._leases = leases
        self._jobs = jobs

    async def run(self) -> None:
        """Until cancelled; a job that is under way is then broken off."""
        async with asyncio.TaskGroup() as group:
            for job in self._jobs:
                group.create_task(self._repeat(job), name=f"job {job.name}")

    async def _repeat(self, job: Job) -> None:
        """Pauses never last longer than `every_s`: a wall clock that is set back must not hold up what comes next."""
        while True:
            await asyncio.sleep(job.every_s - self._services.now_ms() / 1_000 % job.every_s)
            await self.tick(job)

    async def tick(self, job: Job) -> None:
        """Does the job for every organization, unless another worker is at it."""
        now_ms = self._services.now_ms()
        planned_ms = now_ms - now_ms % (job.every_s * 1_000)
        try:
            if (lease := await self._leases.acquire(f"timer:{job.name}")) is not None:
                await self._lead(job, lease, planned_ms)
        except StoreError as error:
            logger.warning("a job was not done", job=job.name, error=str(error))

    async def _lead(self, job: Job, lease: Lease, planned_ms: int) -> None:
        for organization in await self._organizations.list():
            if not await self._leases.renew(lease):
                return
            try:
                await job.run(self._services, organization.id, planned_ms)
            except StoreError as error:
                logger.warning("a job was not done", job=job.name, organization=organization.id, error=str(error))
