"""What is done at times, and how often. A job that was missed is done with the next tick."""

from __future__ import annotations

from eventstore.schema import OrgId
from workers.idle_agents import release_idle
from workers.session_expiry import end_expired
from workers.silent_calls import end_silent
from workers.timers import Job
from workers.work import Services


async def _end_sessions(services: Services, org: OrgId, planned_ms: int) -> int:
    return await end_expired(services.log, services.engine, org, planned_ms / 1_000)


JOBS: tuple[Job, ...] = (
    Job("idle-agents", 10, release_idle),
    Job("session-expiry", 60, _end_sessions),
    Job("silent-calls", 300, end_silent),
)
