"""The API surfaces, one file each: a dialect never sees another dialect's requests, nor a worker."""

from __future__ import annotations

from collections.abc import Callable

from edges.dialects import (
    conversation_feed,
    health_agent,
    health_threads,
    human_control,
    loan_chat,
    native,
    native_assistants,
    native_consumers,
    native_conversations,
    native_crm,
    native_dead_letters,
    native_inputs,
    native_keys,
    native_pages,
    native_runs,
    native_tickets,
    native_usage,
    native_work,
    outbound_call,
    staff_chat,
    tool_stream,
)
from edges.ring import Dialect
from edges.wire import WEBSOCKET, Wire
from eventstore.schema import Recorded

DIALECTS = (
    native,
    native_pages,
    native_inputs,
    native_runs,
    native_consumers,
    native_keys,
    native_tickets,
    native_usage,
    native_assistants,
    native_crm,
    native_conversations,
    native_dead_letters,
    native_work,
    staff_chat,
    health_agent,
    health_threads,
    loan_chat,
    outbound_call,
    conversation_feed,
    human_control,
    tool_stream,
)
"""Each has `ROUTES`."""

RUN_DIALECTS: dict[str, Callable[[Wire, Recorded], Dialect]] = {
    "native": lambda wire, root: native_runs.NATIVE_RUN,
    "tools": tool_stream.run_dialect,
    "staff": lambda wire, root: staff_chat.STAFF,
    "health": health_agent.run_dialect,
    "loan": lambda wire, root: loan_chat.LOAN_SOCKET if wire is WEBSOCKET else loan_chat.LOAN,
}
"""How a run can be shown, by the name in `?dialect=`; a message's `source` is the name of the one it came by."""
