"""What an organization has used, by day (UTC): for its bill, and for whoever wonders about one."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from msgspec.structs import replace

from eventstore.events.calls import CallEnded, CallInitiated
from eventstore.events.replies import ReplyCompleted, Usage
from eventstore.events.sms import SmsSent
from eventstore.schema import Position
from projections.projection import Fact, Projection

STARTS_RUN = frozenset({"message.received", "tool.requested", "call.requested"})


class DayUsage(msgspec.Struct, frozen=True):
    """`events` are facts. Tokens and `cost_usd` are those of answers that were completed; a model whose price is not
    known costs nothing here. `sms` and `calls` are those that were sent and that came about."""

    day: str
    events: int = 0
    runs: int = 0
    replies: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_write_tokens: int = 0
    cache_read_tokens: int = 0
    cost_usd: float = 0.0
    sms: int = 0
    calls: int = 0
    call_seconds: int = 0


def day_of(position: Position) -> str:
    return datetime.fromtimestamp(position.ms / 1_000, UTC).date().isoformat()


def touches(event: Fact) -> tuple[str, ...]:
    return (day_of(event.position),)


def evolve(used: DayUsage | None, event: Fact) -> DayUsage:
    used = used or DayUsage(day_of(event.position))
    starts = event.recorded.run == event.position and event.recorded.type in STARTS_RUN
    used = replace(used, events=used.events + 1, runs=used.runs + starts)
    match event.body:
        case ReplyCompleted(usage=usage):
            return _answered(used, usage or Usage())
        case SmsSent():
            return replace(used, sms=used.sms + 1)
        case CallInitiated():
            return replace(used, calls=used.calls + 1)
        case CallEnded(duration_s=int(duration_s)):
            return replace(used, call_seconds=used.call_seconds + duration_s)
    return used


def _answered(used: DayUsage, usage: Usage) -> DayUsage:
    return replace(
        used,
        replies=used.replies + 1,
        input_tokens=used.input_tokens + usage.input_tokens,
        output_tokens=used.output_tokens + usage.output_tokens,
        cache_write_tokens=used.cache_write_tokens + usage.cache_write_tokens,
        cache_read_tokens=used.cache_read_tokens + usage.cache_read_tokens,
        cost_usd=round(used.cost_usd + (usage.cost_usd or 0.0), 9),
    )


def total(days: list[DayUsage]) -> dict[str, float]:
    """Of all these days."""
    names = [name for name in DayUsage.__struct_fields__ if name != "day"]
    return {name: round(sum(getattr(day, name) for day in days), 9) for name in names}


USAGE: Projection[DayUsage] = Projection("usage", 1, DayUsage, touches, evolve)
