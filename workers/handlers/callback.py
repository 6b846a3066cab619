"""Posts a run's answer to the client's own URL: again over hours while it fails, then it is a dead letter."""

from __future__ import annotations

from collections.abc import Sequence

from eventstore.events.callbacks import (
    CallbackDeadLettered,
    CallbackDelivered,
    CallbackFailed,
    CallbackRequested,
    CallbackStarted,
)
from eventstore.schema import Event
from eventstore.telemetry import EFFECTS
from workers.callbacks import ACTOR, payload
from workers.clients.callback import Delivery
from workers.errors import TryAgain
from workers.retry import Policy, Schedule
from workers.work import Done, Handler, Work

PAUSES = Schedule((5, 300, 1_800, 7_200, 18_000, 36_000))
"""Between attempts, in seconds, as Standard Webhooks suggests: 5 s, 5 min, 30 min, 2 h, 5 h, 10 h."""


async def handle(work: Work) -> Done:
    """Repeated freely: the receiver knows a repetition by its id, and what is posted never changes."""
    request, attempt = _request(work), work.attempts
    await work.append(Event(CallbackStarted(callback=_id(work), attempt=attempt), ACTOR))
    run = await work.log.read_run(work.org, work.run, deltas=False)
    secret = await work.services.providers.callback_secret(work.org)
    delivery = Delivery(_id(work), request.url, payload(run), secret)
    answer = await work.services.callbacks.post(delivery, work.services.now_ms() // 1_000)
    if answer.is_accepted and answer.status is not None:
        EFFECTS.labels("callback", "delivered").inc()
        return Done([Event(CallbackDelivered(callback=_id(work), attempt=attempt, status=answer.status), ACTOR)])
    EFFECTS.labels("callback", "failed").inc()
    failed = CallbackFailed(callback=_id(work), attempt=attempt, status=answer.status, error=answer.error)
    if answer.is_final:
        return Done([Event(failed, ACTOR), _given_up(work, answer.error)])
    await work.append(Event(failed, ACTOR))
    raise TryAgain(answer.error, answer.after_s)


def _request(work: Work) -> CallbackRequested:
    assert isinstance(work.body, CallbackRequested)
    return work.body


def _id(work: Work) -> str:
    return _request(work).redelivers or str(work.item.position)


def _given_up(work: Work, error: str) -> Event:
    EFFECTS.labels("callback", "dead_lettered").inc()
    return Event(CallbackDeadLettered(callback=_id(work), attempts=work.attempts, error=error), ACTOR)


async def failed(work: Work, error: str) -> Sequence[Event]:
    return [_given_up(work, error.removeprefix("TryAgain: "))]


def handler(pauses: Schedule = PAUSES) -> Handler:
    policy = Policy(max_attempts=len(pauses.pauses_s) + 1, on_exhausted="fail", backoff=pauses)
    return Handler(CallbackRequested, handle, policy, failed)


HANDLER = handler()
