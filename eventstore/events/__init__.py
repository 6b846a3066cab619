"""Every event type of the log, one family per file."""

from __future__ import annotations

from eventstore.events import (
    assistants,
    calendars,
    callbacks,
    calls,
    contacts,
    control,
    custom,
    emails,
    loans,
    members,
    memory,
    messages,
    opportunities,
    replies,
    runs,
    sessions,
    sms,
    tools,
    work,
)
from eventstore.events.custom import Custom
from eventstore.schema import Body

FAMILIES = (
    messages,
    replies,
    members,
    tools,
    control,
    contacts,
    calendars,
    opportunities,
    loans,
    sms,
    emails,
    calls,
    callbacks,
    memory,
    assistants,
    runs,
    sessions,
    work,
)

TYPES: tuple[type[Body], ...] = tuple(body for family in FAMILIES for body in family.TYPES)

DELTA_TYPES = frozenset({"reply.delta"})
"""Types that live on the token stream: no number, no version, trimmed early."""

TERMINAL_TYPES = frozenset(
    {
        "reply.completed",
        "reply.failed",
        "reply.cancelled",
        "reply.deferred",
        "call.ended",
        "call.failed",
        "session.created",
        "session.refreshed",
        "session.failed",
    }
)
"""A run ends with one of these, or with `tool.completed|failed` when a tool call is its root."""

__all__ = ["DELTA_TYPES", "FAMILIES", "TERMINAL_TYPES", "TYPES", "Custom", "contacts", "control", "custom"]
