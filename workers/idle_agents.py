"""Hands conversations back whose agent has been idle for too long."""

from __future__ import annotations

from eventstore.append import Idempotency, fingerprint
from eventstore.schema import ConversationId, OrgId
from projections import control, conversations
from projections.control import Release, Released
from projections.conversations import CONVERSATIONS
from workers.work import Services

AT_ONCE = 200


async def due(services: Services, org: OrgId) -> int | None:
    """When the agent who has been idle for longest has been so for too long."""
    held = await conversations.held(await services.engine.level(org, CONVERSATIONS), 1)
    return held[0].control.active_ms + int(services.agent_idle_s * 1_000) if held else None


async def release_idle(services: Services, org: OrgId, planned_ms: int) -> int:
    """How many. Of one whose agent writes meanwhile nothing is recorded: its version is not the expected one."""
    before_ms = planned_ms - int(services.agent_idle_s * 1_000)
    model = await services.engine.level(org, CONVERSATIONS)
    idle = [each for each in await conversations.held(model, AT_ONCE) if each.control.active_ms <= before_ms]
    return sum([await _release(services, org, ConversationId(each.id), planned_ms, before_ms) for each in idle])


async def _release(
    services: Services, org: OrgId, conversation: ConversationId, planned_ms: int, before_ms: int
) -> bool:
    version = await services.log.version(org, conversation)
    document = await (await services.engine.level(org, CONVERSATIONS)).get(conversation)
    if document is None or not document.control.holder or document.control.active_ms > before_ms:
        return False
    release = Release(document.control.holder, document.control.agent_name, "idle")
    once = fingerprint("timer", "idle-agents", str(planned_ms), conversation)
    outcome = await control.release(
        services.log, org, conversation, release, expected=version, idempotency=Idempotency(once, fingerprint(once))
    )
    return isinstance(outcome, Released)
