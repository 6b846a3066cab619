"""What is done at times, and how often. A job that was missed is done with the next tick."""

from __future__ import annotations

from eventstore.schema import OrgId
from workers import idle_agents, session_expiry, silent_calls
from workers.timers import Job
from workers.work import Services


async def _end_sessions(services: Services, org: OrgId, planned_ms: int) -> int:
    return await session_expiry.end_expired(services.log, services.engine, org, planned_ms / 1_000)


JOBS: tuple[Job, ...] = (
    Job("idle-agents", 10, idle_agents.due, idle_agents.release_idle),
    Job("session-expiry", 60, session_expiry.due, _end_sessions),
    Job("silent-calls", 300, silent_calls.due, silent_calls.end_silent),
)
