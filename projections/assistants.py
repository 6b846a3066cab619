"""The assistants of an organization: those every organization starts with, and what it configured since."""

from __future__ import annotations

import msgspec

from eventstore.events.assistants import AssistantConfigured, Kind
from eventstore.schema import OrgId
from projections.engine import Engine
from projections.projection import Fact, Projection


class Assistant(msgspec.Struct, frozen=True):
    """`tools` are names from the catalogue; `members` are assistants it may delegate to; `model` None: the default."""

    id: str
    name: str
    kind: Kind
    prompt: str
    model: str | None = None
    tools: tuple[str, ...] = ()
    members: tuple[str, ...] = ()


PREDEFINED: tuple[Assistant, ...] = (
    Assistant(
        "assistant",
        "Assistant",
        "telephony",
        "You talk to the organization's customers by text message.",
        tools=("search_contacts", "get_contact_by_phone", "create_contact", "send_sms", "get_location"),
    ),
    Assistant("staff_id", "Staff assistant", "staff", "You help the organization's staff with their work."),
    Assistant("health-agent", "Health agent", "health", "You give general health advice."),
    Assistant("loan-sales", "Loan sales assistant", "loan", "You lead a team that sells personal loans."),
)
"""The documents' assistants."""


def _touches(event: Fact) -> tuple[str, ...]:
    return (event.body.assistant,) if isinstance(event.body, AssistantConfigured) else ()


def evolve(state: Assistant | None, event: Fact) -> Assistant | None:
    match event.body:
        case AssistantConfigured() as new:
            return Assistant(
                new.assistant, new.name, new.kind, new.prompt, new.model, tuple(new.tools), tuple(new.members)
            )
    return state


ASSISTANTS = Projection("assistants", 1, Assistant, _touches, evolve, lambda assistant: {"all"})


async def find(engine: Engine, org: OrgId, assistant: str) -> Assistant | None:
    """The assistant as it is configured now; None if there is no such one."""
    configured = await (await engine.level(org, ASSISTANTS)).get(assistant)
    return configured or next((known for known in PREDEFINED if known.id == assistant), None)
