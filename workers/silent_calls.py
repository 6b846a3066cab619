"""Ends calls of which nobody has reported the end: their runs would never be over."""

from __future__ import annotations

from datetime import datetime

from eventstore.append import Append, Appended
from eventstore.schema import ConversationId, Event, OrgId, Position
from projections import calls
from projections.calls import CALLS, Call
from projections.projection import timestamp
from workers.work import Services

LONGEST_MS = 6 * 3_600_000
"""Twilio ends a call after four hours; its report may be late. https://www.twilio.com/docs/voice/api/call-resource"""
AT_ONCE = 200
ACTOR = "system:calls"


async def due(services: Services, org: OrgId) -> int | None:
    """When the oldest call of which no end is known cannot be under way any more."""
    oldest = await calls.unended(await services.engine.level(org, CALLS), 1)
    return int(datetime.fromisoformat(oldest[0].started_at).timestamp() * 1_000) + LONGEST_MS if oldest else None


async def end_silent(services: Services, org: OrgId, planned_ms: int) -> int:
    """How many. A report that comes at the same moment wins or loses by the key that all ends of a call share."""
    before = timestamp(Position(planned_ms - LONGEST_MS, 0))
    open_calls = await calls.unended(await services.engine.level(org, CALLS), AT_ONCE)
    return sum([await _end(services, org, call) for call in open_calls if call.started_at < before])


async def _end(services: Services, org: OrgId, call: Call) -> bool:
    key, [body] = calls.unheard(call)
    event = Event(body, ACTOR, ConversationId(call.conversation), Position.parse(call.run))
    return isinstance(await services.log.append(org, Append(events=[event], idempotency=key)), Appended)
