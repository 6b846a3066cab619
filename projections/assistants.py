"""The assistants of an organization: those every organization starts with, and what it configured since."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from eventstore import codec
from eventstore.events.assistants import AssistantConfigured, Kind
from eventstore.log import Log
from eventstore.schema import ConversationId, OrgId, Position
from projections import assistant_prompts as prompts
from projections import tool_catalog
from projections.engine import Engine, ReadModel
from projections.projection import Fact, Projection

STREAM = ConversationId("assistants:")
"""The conversation of all configurations: its version is what a new one compares, because they name one another."""
MAX_ASSISTANTS = 200
MAX_TEAM = 16
"""Assistants that one answer can involve."""
MAX_DEPTH = 2
"""A member may have members of its own, and those none."""


class Assistant(msgspec.Struct, frozen=True):
    """`tools` are names from the catalogue; `members` are assistants it may delegate to; `model` None: the default.

    `configured` is the position of the configuration, "" as predefined.
    """

    id: str
    name: str
    kind: Kind
    prompt: str
    model: str | None = None
    tools: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    configured: str = ""


PREDEFINED: tuple[Assistant, ...] = (
    Assistant(
        "assistant",
        "Assistant",
        "telephony",
        prompts.TELEPHONY,
        tools=(
            "search_contacts", "get_contact_by_phone", "create_contact", "send_sms", "get_location", "get_free_slots",
            "create_appointment",
        ),
    ),
    Assistant(
        "staff_id",
        "Staff assistant",
        "staff",
        prompts.STAFF,
        tools=("search_contacts", "get_contact_by_phone", "create_contact", "send_sms", "send_email", "get_location"),
    ),
    Assistant(
        "front-desk",
        "Front desk",
        "staff",
        prompts.FRONT_DESK,
        tools=("search_contacts", "create_contact", "get_free_slots", "create_appointment", "get_location"),
    ),
    Assistant(
        "account-manager",
        "Account manager",
        "staff",
        prompts.ACCOUNT_MANAGER,
        tools=("search_contacts", "create_opportunity", "update_opportunity_status", "send_sms", "send_email"),
    ),
    Assistant("health-agent", "Health agent", "health", prompts.HEALTH),
    Assistant(
        "loan-sales",
        "Loan sales assistant",
        "loan",
        prompts.LOAN_SALES,
        tools=("fetch_preapproved_offer",),
        members=("sales", "verification", "underwriting", "sanction"),
    ),
    Assistant("sales", "Loan sales", "member", prompts.SALES, tools=("fetch_preapproved_offer", "create_opportunity")),
    Assistant("verification", "Verification", "member", prompts.VERIFICATION, tools=("verify_kyc",)),
    Assistant(
        "underwriting", "Underwriting", "member", prompts.UNDERWRITING, tools=("get_credit_score", "underwrite_loan")
    ),
    Assistant("sanction", "Sanction", "member", prompts.SANCTION, tools=("generate_sanction_letter",)),
)  # fmt: skip
"""The documents' assistants."""

_PREDEFINED = {assistant.id: assistant for assistant in PREDEFINED}


def _touches(event: Fact) -> tuple[str, ...]:
    return (event.body.assistant,) if isinstance(event.body, AssistantConfigured) else ()


def evolve(state: Assistant | None, event: Fact) -> Assistant | None:
    return as_configured(event.body, str(event.position)) if isinstance(event.body, AssistantConfigured) else state


def as_configured(new: AssistantConfigured, at: str = "") -> Assistant:
    tools, members = tuple(new.tools), tuple(new.members)
    return Assistant(new.assistant, new.name, new.kind, new.prompt, new.model, tools, members, at)


ASSISTANTS = Projection("assistants", 2, Assistant, _touches, evolve, lambda assistant: {"all"})


async def find(engine: Engine, org: OrgId, assistant: str) -> Assistant | None:
    """The assistant as it is configured now; None if there is no such one."""
    return (await _get(await engine.level(org, ASSISTANTS), [assistant])).get(assistant)


async def every(engine: Engine, org: OrgId) -> dict[str, Assistant]:
    """All by id: the predefined ones first, then the organization's own."""
    model = await engine.level(org, ASSISTANTS)
    return await _get(model, [*_PREDEFINED, *await model.keys_with("all", MAX_ASSISTANTS)])


async def team(engine: Engine, org: OrgId, assistant: str) -> dict[str, Assistant]:
    """The assistant and everybody it can delegate to, by id; empty if there is no such assistant."""
    model = await engine.level(org, ASSISTANTS)
    found: dict[str, Assistant] = {}
    wanted = [assistant]
    while wanted:
        joined = await _get(model, wanted)
        found |= joined
        wanted = [member for each in joined.values() for member in each.members if member not in found]
    return found


async def team_as_of(log: Log, engine: Engine, org: OrgId, configured: Mapping[str, str]) -> dict[str, Assistant]:
    """The assistants as they were configured at these positions ("": as predefined).

    A configuration that the log no longer holds is replaced by today's.
    """
    found: dict[str, Assistant] = {}
    for assistant, at in configured.items():
        event = await log.at(org, Position.parse(at)) if at else None
        body = codec.decode(event) if event else None
        if isinstance(body, AssistantConfigured):
            found[assistant] = as_configured(body, at)
        elif known := _PREDEFINED.get(assistant) if not at else await find(engine, org, assistant):
            found[assistant] = known
    return found


async def _get(model: ReadModel[Assistant], ids: Iterable[str]) -> dict[str, Assistant]:
    wanted = list(dict.fromkeys(ids))
    configured = await model.get_many(wanted)
    known = {assistant: configured.get(assistant) or _PREDEFINED.get(assistant) for assistant in wanted}
    return {assistant: each for assistant, each in known.items() if each is not None}


def faults(new: Assistant, others: Mapping[str, Assistant]) -> list[str]:
    """Why the organization cannot have this assistant beside the others, in words for people."""
    everyone = {**others, new.id: new}
    found = [f"tools: there is no tool {tool!r}" for tool in new.tools if tool_catalog.find(tool) is None]
    found += [f"members: there is no assistant {member!r}" for member in new.members if member not in everyone]
    if len(everyone) > MAX_ASSISTANTS:
        found.append(f"an organization has at most {MAX_ASSISTANTS} assistants")
    return found or _team_faults(new.id, everyone)


def _team_faults(changed: str, everyone: Mapping[str, Assistant]) -> list[str]:
    for leader in everyone:
        team = {leader}
        for chain in _chains(everyone, (leader,)):
            team.update(chain)
            if changed in chain and len(set(chain)) < len(chain):
                return [f"members: an assistant would delegate to itself: {' > '.join(chain)}"]
            if changed in chain and len(chain) > MAX_DEPTH + 1:
                return [f"members: at most {MAX_DEPTH} levels below an assistant: {' > '.join(chain)}"]
        if changed in team and len(team) > MAX_TEAM:
            return [f"members: {leader} would have a team of {len(team)}, at most {MAX_TEAM} are possible"]
    return []


def _chains(everyone: Mapping[str, Assistant], chain: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Every way of delegation down from the end of the chain, as far as is allowed and one step further."""
    members = everyone[chain[-1]].members if len(chain) <= MAX_DEPTH + 1 else ()
    if not members or chain[-1] in chain[:-1]:
        yield chain
        return
    for member in members:
        yield from _chains(everyone, (*chain, member))
