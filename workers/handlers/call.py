"""Calls a customer: intent, attempt, outcome. A telephone that may have rung is never rung again by itself.

What becomes of the call its provider reports; a run ends with the call, or here if there is none.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from functools import partial
from typing import Literal, cast

from eventstore import codec
from eventstore.append import Append
from eventstore.events.calls import CallEnded, CallFailed, CallInitiated, CallRequested, CallStarted
from eventstore.schema import Event
from eventstore.telemetry import EFFECTS
from projections import caller
from projections.calls import Told, beginning
from workers.clients.calls import CallFate, CallProvider, Placed, Ring
from workers.clients.sms import NotSent, Refused, Unknown
from workers.errors import Overtaken, TryAgain
from workers.retry import Backoff, Policy
from workers.work import Done, Handler, Work, stamped

POLICY = Policy(max_attempts=6, on_exhausted="fail", backoff=Backoff(4_000, 60_000))
TRIES = 3
BETWEEN_TRIES = Backoff(1_000, 8_000)
"""Only while it is certain that nothing rang."""
LOOKS = 3
"""Attempts that look for a call before its fate is called uncertain: its first report may be on its way."""
ACTOR = "system:call"
Known = Literal["nothing", "asked", "placed"]


async def handle(work: Work, between_tries: Backoff) -> Done:
    request = work.body
    assert isinstance(request, CallRequested)
    match await _known(work):
        case "placed":
            return Done()
        case "asked" if work.attempts < LOOKS:
            raise TryAgain("nobody has reported the call yet")
        case "asked":
            return _uncertain(request)
    if work.holder:
        return _failed(request, "HELD", "a person holds the conversation")
    assert work.item.conversation is not None
    if not await work.services.may_reach(work.org, "calls", work.item.conversation):
        EFFECTS.labels("call", "limited").inc()
        return _failed(request, "RATE_LIMITED", "too many calls in too short a time")
    try:
        return await _place(work, request, between_tries)
    except Overtaken:
        return _failed(request, "HELD", "a person took the conversation before anybody was called")


async def _known(work: Work) -> Known:
    """What the run knows of earlier attempts."""
    known: Known = "nothing"
    for event in await work.log.read_run(work.org, work.run, deltas=False):
        match codec.decode(event):
            case CallInitiated():
                return "placed"
            case CallStarted():
                known = "asked"
    return known


async def _place(work: Work, request: CallRequested, between_tries: Backoff) -> Done:
    """Tries again only while nothing certainly rang, asking each time whether the assistant may still speak."""
    provider = await work.services.calls(work.org)
    ring = Ring(request.to, await _variables(work, request))
    fate = cast("CallFate", NotSent("not tried"))
    for attempt in range(1, TRIES + 1):
        await work.append(Event(CallStarted(call_id=request.call_id, attempt=attempt), ACTOR), epoch=request.epoch)
        if provider is None:
            return await _to_outbox(work, request)
        fate = await _call(provider, ring)
        if not isinstance(fate, NotSent):
            break
        await asyncio.sleep(between_tries.delay_ms(attempt, random.random()) / 1_000)
    return await _ended(work, request, fate)


async def _call(provider: CallProvider, ring: Ring) -> CallFate:
    fate = await provider.call(ring)
    EFFECTS.labels("call", type(fate).__name__.lower()).inc()
    return fate


async def _variables(work: Work, request: CallRequested) -> dict[str, str]:
    assert work.item.conversation is not None
    name = await work.services.name_of(work.org)
    return await caller.known(work.services.engine, work.org, name, work.item.conversation, request.to)


async def _ended(work: Work, request: CallRequested, fate: CallFate) -> Done:
    match fate:
        case Placed(provider=provider, call_sid=sid, number=number):
            if sid is not None:
                await _begin(work, request, Told(sid, provider, "outbound", "", number, request.to))
            return Done()
        case Refused(code=code, status=status):
            return _failed(request, code, f"refused by the provider with error {code} (HTTP {status})")
        case NotSent(why=why):
            return _failed(request, "UNREACHABLE", f"the provider could not be reached: {why}")
        case Unknown(why=why):
            raise TryAgain(f"unknown whether the call was placed: {why}")


async def _begin(work: Work, request: CallRequested, told: Told) -> None:
    """Once for the call, like every report of it: the provider's own may have been here first. By its name and not by
    the lane, because it is true whoever holds that."""
    keyed = beginning(told, request.call_id)
    events = [stamped(Event(body, ACTOR), work.item) for body in keyed.bodies]
    await work.log.append(work.org, Append(events=events, idempotency=keyed.key))


async def _to_outbox(work: Work, request: CallRequested) -> Done:
    """Without a provider the events themselves are the call."""
    sid = f"outbox:{request.call_id}"
    await _begin(work, request, Told(sid, "outbox", "outbound", "", None, request.to))
    return Done([Event(CallEnded(call_sid=sid, provider="outbox", outcome="outbox", duration_s=0), ACTOR)])


def _failed(request: CallRequested, code: str, detail: str) -> Done:
    return Done([Event(CallFailed(call_id=request.call_id, code=code, detail=detail), ACTOR)])


def _uncertain(request: CallRequested) -> Done:
    EFFECTS.labels("call", "uncertain").inc()
    return _failed(request, "UNCERTAIN", "the provider was asked to call, and nobody has reported a call")


async def failed(work: Work, error: str) -> Sequence[Event]:
    """Given up: uncertain if any attempt began, failed if none did; nothing if the call is known."""
    request = work.body
    assert isinstance(request, CallRequested)
    match await _known(work):
        case "placed":
            return []
        case "asked":
            return _uncertain(request).events
    return _failed(request, "GAVE_UP", "nobody could be called").events


def handler(policy: Policy = POLICY, between_tries: Backoff = BETWEEN_TRIES) -> Handler:
    return Handler(CallRequested, partial(handle, between_tries=between_tries), policy, failed)


HANDLER = handler()
