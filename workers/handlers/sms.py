"""Sends a text message: intent, attempt, outcome. What may already have left is looked for, never just sent again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, cast

from eventstore import codec
from eventstore.events.sms import (
    SmsFailed,
    SmsRequested,
    SmsSent,
    SmsStarted,
    SmsStatusReported,
    SmsUncertain,
)
from eventstore.schema import Event, Position, Recorded
from eventstore.telemetry import EFFECTS
from workers.clients.sms import Fate, NotSent, Outgoing, Refused, Sent, SmsProvider, Unknown
from workers.errors import Overtaken, TryAgain
from workers.retry import Backoff, Policy
from workers.work import Done, Handler, Work

POLICY = Policy(max_attempts=6, on_exhausted="fail", backoff=Backoff(4_000, 60_000))
TRIES = 5
BETWEEN_TRIES = Backoff(1_000, 8_000)
"""Only the process that was refused a connection knows that nothing left; it alone may repeat without looking."""
LOOKS = 3
"""Attempts that look for a message before its fate is called uncertain: the provider may be slow to list it."""
LOOK_BACK_MS = 3_600_000
"""Before the intent: enough to know which equal messages at the provider belong to earlier ones."""
ACTOR = "system:sms"


class Past(NamedTuple):
    """What the conversation knows of this intent. `known` are the messages that have left for other intents."""

    starts: int
    started_ms: int | None
    reported: SmsStatusReported | None
    known: frozenset[str]


async def handle(work: Work, between_tries: Backoff) -> Done:
    request = work.body
    assert isinstance(request, SmsRequested)
    past = await _past(work, request)
    provider = await work.services.sms(work.org)
    if past.started_ms is not None and provider is not None:
        return await _find_out(work, provider, request, past)
    if not await work.services.accepts_sms(work.org, request.to.removeprefix("whatsapp:")):
        return _failed(request, "OPTED_OUT", "the recipient has opted out of text messages")
    assert work.item.conversation is not None
    if not await work.services.may_reach(work.org, "sms", work.item.conversation):
        EFFECTS.labels("sms", "limited").inc()
        return _failed(request, "RATE_LIMITED", "too many text messages in too short a time")
    try:
        return await _send(work, provider, past.starts, between_tries)
    except Overtaken:
        return _failed(request, "CANCELLED", "a person took the conversation before this left")


async def _past(work: Work, request: SmsRequested) -> Past:
    assert work.item.conversation is not None
    after = Position(max(0, work.item.position.ms - LOOK_BACK_MS), 0)
    return look_back(await work.log.read_conversation(work.org, work.item.conversation, after), request)


def look_back(history: Sequence[Recorded], request: SmsRequested) -> Past:
    starts, started_ms, reported, known = 0, None, None, set[str]()
    for event in history:
        match codec.decode(event):
            case SmsStarted(intent_id=intent) if intent == request.intent_id:
                starts, started_ms = starts + 1, started_ms or event.position.ms
            case SmsStatusReported(intent_id=intent) as report if intent == request.intent_id:
                reported = report
            case SmsSent(provider_id=str(provider_id)):
                known.add(provider_id)
    return Past(starts, started_ms, reported, frozenset(known))


async def _find_out(work: Work, provider: SmsProvider, request: SmsRequested, past: Past) -> Done:
    """An earlier attempt began and left no outcome: whether it came through is for the provider to say."""
    assert past.started_ms is not None
    if past.reported is not None:
        return _sent(request, Sent(past.reported.provider_id, past.reported.status))
    match await provider.find(_outgoing(request), since_ms=past.started_ms, known=past.known):
        case Sent() as found:
            EFFECTS.labels("sms", "found").inc()
            return _sent(request, found)
        case Unknown(why=why):
            raise TryAgain(f"the provider could not be asked: {why}")
    if work.attempts < LOOKS:
        raise TryAgain("the provider has no such message yet")
    return _uncertain(request, "sending began, and the provider has no such message")


async def _send(work: Work, provider: SmsProvider | None, starts: int, between_tries: Backoff) -> Done:
    """Tries again only while nothing certainly left, asking each time whether the assistant may still speak."""
    request, fate = work.body, cast("Fate", NotSent("not tried"))
    assert isinstance(request, SmsRequested)
    for attempt in range(1, TRIES + 1):
        started = SmsStarted(intent_id=request.intent_id, attempt=starts + attempt)
        await work.append(Event(started, ACTOR), epoch=request.epoch)
        if provider is None:
            return _sent(request, None)
        fate = await provider.send(_outgoing(request))
        EFFECTS.labels("sms", type(fate).__name__.lower()).inc()
        if not isinstance(fate, NotSent):
            break
        await asyncio.sleep(between_tries.delay_ms(attempt, random.random()) / 1_000)
    return _ended(request, fate)


def _ended(request: SmsRequested, fate: Fate) -> Done:
    match fate:
        case Sent():
            return _sent(request, fate)
        case Refused(code=code, status=status):
            return _failed(request, code, f"refused by the provider with error {code} (HTTP {status})")
        case NotSent(why=why):
            return _failed(request, "UNREACHABLE", f"the provider could not be reached: {why}")
        case Unknown(why=why):
            raise TryAgain(f"unknown whether the message left: {why}")


def _sent(request: SmsRequested, sent: Sent | None) -> Done:
    """Without a provider the event itself is the message: the outbox."""
    event = SmsSent(
        intent_id=request.intent_id,
        message_id=request.message_id,
        sent_by=request.sent_by,
        provider="twilio" if sent else "outbox",
        provider_id=sent.provider_id if sent else None,
        status=sent.status if sent else "sent",
        to=request.to,
        text=request.text,
    )
    return Done([Event(event, ACTOR)])


def _failed(request: SmsRequested, code: str, detail: str) -> Done:
    failure = SmsFailed(intent_id=request.intent_id, message_id=request.message_id, code=code, detail=detail)
    return Done([Event(failure, ACTOR)])


def _uncertain(request: SmsRequested, detail: str) -> Done:
    EFFECTS.labels("sms", "uncertain").inc()
    event = SmsUncertain(intent_id=request.intent_id, message_id=request.message_id, detail=detail)
    return Done([Event(event, ACTOR)])


def _outgoing(request: SmsRequested) -> Outgoing:
    return Outgoing(request.intent_id, request.to, request.text, request.from_number)


async def failed(work: Work, error: str) -> Sequence[Event]:
    """Given up: uncertain if any attempt began, failed if none did."""
    request = work.body
    assert isinstance(request, SmsRequested)
    if (await _past(work, request)).started_ms is not None:
        return _uncertain(request, "sending began and its outcome could not be learnt").events
    return _failed(request, "GAVE_UP", "the message could not be sent").events


def handler(policy: Policy = POLICY, between_tries: Backoff = BETWEEN_TRIES) -> Handler:
    return Handler(SmsRequested, partial(handle, between_tries=between_tries), policy, failed)


HANDLER = handler()
