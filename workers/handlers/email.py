"""Sends an email: intent, attempt, outcome. What may already have left is never sent again: no mail server can be
asked what became of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from functools import partial

from eventstore import codec
from eventstore.events.emails import EmailFailed, EmailRequested, EmailSent, EmailStarted, EmailUncertain
from eventstore.schema import Event
from eventstore.telemetry import EFFECTS
from projections import moments
from workers.clients.sms import Fate, NotSent, Refused, Sent, Unknown
from workers.clients.smtp import OutgoingEmail, Smtp, server_of
from workers.errors import Overtaken
from workers.retry import Backoff, Policy
from workers.work import Done, Handler, Work

POLICY = Policy(max_attempts=3, on_exhausted="fail", backoff=Backoff(2_000, 30_000))
TRIES = 5
BETWEEN_TRIES = Backoff(1_000, 16_000)
"""Only the process that was turned away knows that nothing left; it alone may try again."""
ACTOR = "system:email"


async def handle(work: Work, between_tries: Backoff) -> Done:
    request = _request(work)
    if await _began(work):
        return _uncertain(request, "sending began, and its outcome was lost with the worker")
    settings = await work.services.providers.of(work.org)
    try:
        server = Smtp(server_of(settings.smtp_url, settings.mail_from)) if settings.smtp_url else None
    except ValueError as error:
        return _failed(request, "MISCONFIGURED", str(error))
    try:
        return await _send(work, server, between_tries)
    except Overtaken:
        return _failed(request, "CANCELLED", "a person took the conversation before this left")


async def _began(work: Work) -> bool:
    """Whether an earlier attempt may have sent it: it left no outcome, or this item would be done."""
    assert work.item.conversation is not None
    since = [
        codec.decode(event)
        for event in await work.log.read_conversation(work.org, work.item.conversation, work.item.position)
    ]
    intent = _request(work).intent_id
    return any(isinstance(body, EmailStarted) and body.intent_id == intent for body in since)


async def _send(work: Work, server: Smtp | None, between_tries: Backoff) -> Done:
    """Tries again only while nothing has left, asking each time whether a person has taken the conversation."""
    request, fate = _request(work), NotSent("not tried")
    for attempt in range(1, TRIES + 1):
        started = EmailStarted(intent_id=request.intent_id, attempt=attempt)
        await work.append(Event(started, ACTOR), epoch=request.epoch)
        if server is None:
            return _sent(request, None)
        tried = await server.send(_outgoing(work))
        EFFECTS.labels("email", type(tried).__name__.lower()).inc()
        if not isinstance(tried, NotSent):
            return _ended(request, tried)
        fate = tried
        await asyncio.sleep(between_tries.delay_ms(attempt, random.random()) / 1_000)
    return _ended(request, fate)


def _ended(request: EmailRequested, fate: Fate) -> Done:
    match fate:
        case Sent():
            return _sent(request, fate)
        case Refused(code=code):
            return _failed(request, code, f"refused by the mail server: {code}")
        case NotSent(why=why):
            return _failed(request, "UNREACHABLE", f"the mail server took no email: {why}")
        case Unknown(why=why):
            return _uncertain(request, f"the mail server did not say whether it took the email: {why}")


def _sent(request: EmailRequested, sent: Sent | None) -> Done:
    """Without a server the intent itself is the email: the outbox."""
    event = EmailSent(
        intent_id=request.intent_id,
        message_id=request.message_id,
        provider="smtp" if sent else "outbox",
        provider_id=sent.provider_id if sent else None,
    )
    return Done([Event(event, ACTOR)])


def _failed(request: EmailRequested, code: str, detail: str) -> Done:
    failure = EmailFailed(intent_id=request.intent_id, message_id=request.message_id, code=code, detail=detail)
    return Done([Event(failure, ACTOR)])


def _uncertain(request: EmailRequested, detail: str) -> Done:
    EFFECTS.labels("email", "uncertain").inc()
    event = EmailUncertain(intent_id=request.intent_id, message_id=request.message_id, detail=detail)
    return Done([Event(event, ACTOR)])


def _outgoing(work: Work) -> OutgoingEmail:
    request = _request(work)
    written = moments.from_ms(work.item.position.ms)
    return OutgoingEmail(request.intent_id, request.to, request.subject, request.text, request.html, written)


def _request(work: Work) -> EmailRequested:
    assert isinstance(work.body, EmailRequested)
    return work.body


async def failed(work: Work, error: str) -> Sequence[Event]:
    """Given up: uncertain if any attempt began, failed if none did."""
    if await _began(work):
        return _uncertain(_request(work), "sending began and its outcome could not be learnt").events
    return _failed(_request(work), "GAVE_UP", "the email could not be sent").events


def handler(policy: Policy = POLICY, between_tries: Backoff = BETWEEN_TRIES) -> Handler:
    return Handler(EmailRequested, partial(handle, between_tries=between_tries), policy, failed)


HANDLER = handler()
