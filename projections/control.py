"""Who speaks in a conversation: the assistant, or the one agent who took it over.

The rule is the pure decider below. `take` and `release` have the append script enforce it as a compare-and-set, in
the same step that records the event, so that of two agents exactly one succeeds.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec
from msgspec.structs import replace

from eventstore.append import (
    Append,
    Appended,
    Backlog,
    Control,
    Duplicate,
    HeldBy,
    Idempotency,
    KeyReused,
    Outcome,
    VersionConflict,
)
from eventstore.errors import StoreError
from eventstore.events.control import ControlReleased, ControlTaken
from eventstore.events.messages import MessageSent
from eventstore.events.sms import SmsRequested
from eventstore.log import Log
from eventstore.schema import ConversationId, Event, OrgId, Position
from projections.projection import Fact


class ControlState(msgspec.Struct, frozen=True, omit_defaults=True):
    """`holder` "" means that the assistant speaks. `epoch` counts the changes and fences writers of earlier ones.

    `active_ms` is when the holder took the conversation or wrote last.
    """

    holder: str = ""
    agent_name: str = ""
    since: str = ""
    epoch: int = 0
    active_ms: int = 0


INITIAL = ControlState()


class Take(NamedTuple):
    agent: str
    agent_name: str = ""


class Release(NamedTuple):
    agent: str
    agent_name: str = ""
    reason: Literal["left", "idle"] = "left"


Decision = list[ControlTaken | ControlReleased] | HeldBy


def decide(state: ControlState, command: Take | Release) -> Decision:
    """The events to record (none if it is theirs already), or who holds it instead ("" when nobody does)."""
    match command:
        case Take(agent, name) if not state.holder:
            return [ControlTaken(agent=agent, agent_name=name)]
        case Take(agent) if state.holder == agent:
            return []
        case Release(agent, name, reason) if state.holder == agent:
            return [ControlReleased(agent=agent, agent_name=name, reason=reason)]
    return HeldBy(state.holder, state.epoch)


def evolve(state: ControlState, event: Fact) -> ControlState:
    match event.body:
        case ControlTaken(agent=agent, agent_name=name):
            return ControlState(agent, name, event.at, state.epoch + 1, event.position.ms)
        case ControlReleased():
            return ControlState(epoch=state.epoch + 1)
        case MessageSent() | SmsRequested(sent_by="agent") if state.holder:
            return replace(state, active_ms=event.position.ms)
    return state


class Taken(NamedTuple):
    position: Position
    epoch: int


class AlreadyTheirs(NamedTuple):
    """The same agent again: nothing was recorded."""

    epoch: int


class Released(NamedTuple):
    position: Position
    epoch: int


Refused = HeldBy | VersionConflict | Backlog | KeyReused


async def take(
    log: Log,
    org: OrgId,
    conversation: ConversationId,
    command: Take,
    *,
    address: str = "",
    idempotency: Idempotency | None = None,
) -> Taken | AlreadyTheirs | Duplicate | Refused:
    """Gives the conversation to the agent, if it is free. `address` is what the id of a new conversation stands for.

    After StoreUnavailable it may be called again: whoever has it already keeps it.
    """
    agent, name = command
    outcome = await log.append(
        org,
        Append(
            events=[Event(ControlTaken(agent=agent, agent_name=name), f"agent:{agent}", conversation)],
            control=Control("take", agent),
            addresses={conversation: address} if address else {},
            idempotency=idempotency,
        ),
    )
    match outcome:
        case Appended(positions=[position], epoch=epoch):
            return Taken(position, epoch)
        case HeldBy(agent=holder, epoch=epoch) if holder == agent:
            await log.confirm(org)
            return AlreadyTheirs(epoch)
    return _refused(org, conversation, outcome)


async def release(
    log: Log,
    org: OrgId,
    conversation: ConversationId,
    command: Release,
    *,
    expected: int | None = None,
    idempotency: Idempotency | None = None,
) -> Released | Duplicate | Refused:
    """Hands the conversation back. The event is work of the conversation's lane: what is still open gets answered.

    With `expected` only if the conversation is still at this version.
    """
    agent, name, reason = command
    outcome = await log.append(
        org,
        Append(
            events=[
                Event(
                    ControlReleased(agent=agent, agent_name=name, reason=reason),
                    f"agent:{agent}" if reason == "left" else "system:control",
                    conversation,
                    lane=conversation,
                )
            ],
            control=Control("release", agent),
            expected=expected,
            idempotency=idempotency,
        ),
    )
    match outcome:
        case Appended(positions=[position], epoch=epoch):
            return Released(position, epoch)
    return _refused(org, conversation, outcome)


def _refused(org: OrgId, conversation: ConversationId, outcome: Outcome) -> Duplicate | Refused:
    if isinstance(outcome, Duplicate | Refused):
        return outcome
    raise StoreError(f"a control append of {conversation}, organization {org}, was answered {outcome!r}")
