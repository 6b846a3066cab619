"""Ends sessions whose time is over: nobody uses them as they are, and this makes it a fact that clients can follow."""

from __future__ import annotations

from eventstore.append import Append, Idempotency, fingerprint
from eventstore.events.sessions import SessionEnded
from eventstore.log import Log
from eventstore.schema import ConversationId, Event, OrgId
from projections.engine import Engine
from projections.sessions import SESSIONS, Session, next_to_end, run_out
from workers.work import Services

GRACE_S = 60
"""A refresh that was asked for in time may still be on its way."""
AT_ONCE = 200
ACTOR = "system:sessions"


async def due(services: Services, org: OrgId) -> int | None:
    """When the session that ends first is to be ended, in ms."""
    first = await next_to_end(await services.engine.level(org, SESSIONS))
    return (first.expires_at + GRACE_S) * 1_000 if first is not None else None


async def end_expired(log: Log, engine: Engine, org: OrgId, now_s: float) -> int:
    """How many there were, `AT_ONCE` at most. Any number of processes may do this at any time."""
    expired = await run_out(await engine.level(org, SESSIONS), now_s - GRACE_S, AT_ONCE)
    for session in expired:
        await log.append(org, _end(session))
    return len(expired)


def _end(session: Session) -> Append:
    once = fingerprint("session.expired", session.id, str(session.expires_at))
    ended = SessionEnded(session_id=session.id, reason="expired")
    return Append(
        events=[Event(ended, ACTOR, ConversationId(session.owner))], idempotency=Idempotency(once, fingerprint(once))
    )
