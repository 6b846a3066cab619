"""Says how far a text of ours has come: reports arrive in any order, and what is told never goes back.

https://www.twilio.com/docs/messaging/guides/outbound-message-status-in-status-callbacks
"""

from __future__ import annotations

from collections.abc import Sequence

from eventstore.events.sms import SmsStatusChanged, SmsStatusReported
from eventstore.schema import Event
from projections.conversations import CONVERSATIONS, Delivery
from workers.errors import TryAgain
from workers.retry import Backoff, Policy
from workers.work import Done, Handler, Work

POLICY = Policy(max_attempts=10, on_exhausted="park", backoff=Backoff(200, 10_000))
"""Nobody waits for a report, and none comes twice: it is better kept for a person than given up."""
LOOKS = 3
"""A report may be here before `sms.sent` is; what no text of ours is found for by then is not about one."""
ACTOR = "system:sms"

_ORDER = (
    ("accepted",), ("scheduled",), ("queued",), ("sending",), ("sent",),
    ("delivered", "undelivered", "failed", "canceled"), ("read",),
)  # fmt: skip
RANKS = {status: rank for rank, statuses in enumerate(_ORDER, 1) for status in statuses}


async def handle(work: Work) -> Done:
    report = work.body
    assert isinstance(report, SmsStatusReported)
    assert work.item.conversation is not None
    document = await (await work.services.engine.level(work.org, CONVERSATIONS)).get(work.item.conversation)
    if (found := _reported(report, document.deliveries if document else {})) is None:
        if work.attempts < LOOKS:
            raise TryAgain("no text of ours has been sent that this report is about")
        return Done()
    intent, delivery = found
    if RANKS.get(report.status, 0) <= RANKS.get(delivery.status, 0):
        return Done()
    changed = SmsStatusChanged(
        message_id=delivery.message_id, intent_id=intent, status=report.status, error_code=report.error_code
    )
    return Done([Event(changed, ACTOR)])


def _reported(report: SmsStatusReported, deliveries: dict[str, Delivery]) -> tuple[str, Delivery] | None:
    """By our own id, which the callback's address carries, else by the provider's."""
    if report.intent_id in deliveries:
        return report.intent_id, deliveries[report.intent_id]
    return next(((intent, each) for intent, each in deliveries.items() if each.provider_id == report.provider_id), None)


async def failed(work: Work, error: str) -> Sequence[Event]:
    return ()


HANDLER = Handler(SmsStatusReported, handle, POLICY, failed)
