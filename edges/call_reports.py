"""What producers tell of calls, recorded: each fact of a call once, whoever tells it and however often."""

from __future__ import annotations

import time

from aiohttp import web

from edges.app_keys import ENGINE, LOG
from edges.errors import POSITION
from edges.intake import Accepted, record
from eventstore.append import Append
from eventstore.errors import StoreError
from eventstore.organizations import Organization, conversation_id
from eventstore.schema import ConversationId, Event, Position
from projections import caller, calls
from projections.calls import CALLS, Call, Keyed, Told

REQUEST_AGE_MS = 3_600_000
"""How far back a call's own request is looked for."""
LOOKS = 2
"""What a second look leaves to tell can only be one's own repetition."""


async def tell(request: web.Request, organization: Organization, told: Told) -> bool:
    """Whether any of it was news. Who was told meanwhile what this one wanted to tell looks again at what is left: of
    two who report the end at once, the second may still have the summary."""
    is_new = False
    for _ in range(LOOKS):
        call, has_begun = await begin(request, organization, told)
        added = [await add(request, organization, told, call, keyed) for keyed in calls.news(told, call)]
        is_new = is_new or has_begun or not all(accepted.replayed for accepted in added)
        if not any(accepted.replayed for accepted in added):
            break
    if not is_new:
        await request.app[LOG].confirm(organization.id)
    return is_new


async def begin(request: web.Request, organization: Organization, told: Told) -> tuple[Call, bool]:
    """The call that is told of, and whether it was not known before."""
    engine = request.app[ENGINE]
    known = await (await engine.level(organization.id, CALLS)).get(told.sid)
    if known is not None:
        return known, False
    conversation = conversation_id(organization.pepper, told.address)
    asked = await _open_request(request, organization, conversation) if told.direction == "outbound" else None
    beginning = calls.beginning(told, asked.call_id if asked else None)
    run = asked.run if asked else None
    accepted = await _record(request, organization, told, conversation, beginning, run)
    call = await (await engine.level(organization.id, CALLS)).get(told.sid)
    if call is None:
        raise StoreError(f"call {told.sid} of {organization.id} has begun at {accepted.run}, and is in no read model")
    return call, not accepted.replayed


async def add(request: web.Request, organization: Organization, told: Told, call: Call, keyed: Keyed) -> Accepted:
    """One more fact of a call, in its run and in its conversation."""
    conversation = ConversationId(call.conversation)
    return await _record(request, organization, told, conversation, keyed, Position.parse(call.run))


async def variables(request: web.Request, organization: Organization, told: Told) -> dict[str, str]:
    """What is known of the customer before this call."""
    conversation = conversation_id(organization.pepper, told.address)
    return await caller.known(request.app[ENGINE], organization.id, organization.name, conversation, told.phone)


async def _open_request(
    request: web.Request, organization: Organization, conversation: ConversationId
) -> calls.Open | None:
    since = Position(int(time.time() * 1_000) - REQUEST_AGE_MS, 0)
    return calls.open_request(await request.app[LOG].read_conversation(organization.id, conversation, since))


async def _record(
    request: web.Request,
    organization: Organization,
    told: Told,
    conversation: ConversationId,
    keyed: Keyed,
    run: Position | None,
) -> Accepted:
    events = [Event(body, f"provider:{told.provider}", conversation, run) for body in keyed.bodies]
    own = conversation_id(organization.pepper, told.address)
    addresses = {own: told.address} if own == conversation else {}
    append = Append(events=events, idempotency=keyed.key, addresses=addresses)
    accepted = await record(request.app[LOG], organization.id, append)
    request[POSITION] = accepted.positions[-1]
    return accepted
