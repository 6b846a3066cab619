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

DELTAS: frozenset[type[Body]] = frozenset({replies.ReplyDelta})
"""What lives on the token stream: no number, no version, trimmed early."""
DELTA_TYPES = frozenset(str(body.__struct_config__.tag) for body in DELTAS)

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

__all__ = ["DELTAS", "DELTA_TYPES", "FAMILIES", "TERMINAL_TYPES", "TYPES", "Custom", "contacts", "control", "custom"]
