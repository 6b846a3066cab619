"""The API surfaces, one file each: a dialect never sees another dialect's requests, nor a worker."""

from __future__ import annotations

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

RUN_DIALECTS = {
    "native": native_runs.run_dialect,
    "tools": tool_stream.run_dialect,
    "staff": staff_chat.run_dialect,
    "health": health_agent.run_dialect,
    "loan": loan_chat.run_dialect,
}
"""How a run can be shown, by the name in `?dialect=`; a message's `source` is the name of the one it came by."""
