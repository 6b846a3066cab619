"""An outgoing text message: intent, attempt, outcome, and what the carrier reports."""

from __future__ import annotations

from typing import Literal

from eventstore.schema import Body, Personal


class SmsRequested(Body, frozen=True, kw_only=True, tag="sms.requested"):
    """The intent to send. `intent_id` names it at the provider (status callback) and in every later event.

    `agent_name` is that of the human agent who wrote it.
    """

    intent_id: str
    message_id: str
    sent_by: Literal["assistant", "agent", "tool"]
    from_number: str | None = None
    epoch: int | None = None
    to: Personal[str]
    text: Personal[str]
    agent_name: Personal[str] = ""


class SmsStarted(Body, frozen=True, kw_only=True, tag="sms.started"):
    intent_id: str
    attempt: int = 1


class SmsSent(Body, frozen=True, kw_only=True, tag="sms.sent"):
    """`provider` is `twilio`, or `outbox` when no provider is configured and the event itself is the message."""

    intent_id: str
    message_id: str
    sent_by: Literal["assistant", "agent", "tool"]
    provider: Literal["twilio", "outbox"]
    provider_id: str | None = None
    status: str = "queued"
    to: Personal[str]
    text: Personal[str]


class SmsFailed(Body, frozen=True, kw_only=True, tag="sms.failed"):
    intent_id: str
    message_id: str
    code: str
    detail: str


class SmsUncertain(Body, frozen=True, kw_only=True, tag="sms.uncertain"):
    """Sending began and its outcome could not be learnt; shown to a person, never sent again blindly."""

    intent_id: str
    message_id: str
    detail: str


class SmsStatusReported(Body, frozen=True, kw_only=True, tag="sms.status_reported"):
    """A carrier's report; order is not guaranteed, so readers rank `status` instead of taking the last."""

    provider_id: str
    status: str
    intent_id: str | None = None
    error_code: str | None = None
    provider: Personal[dict[str, str] | None] = None


class SmsStatusChanged(Body, frozen=True, kw_only=True, tag="sms.status_changed"):
    """A report that says more of a message of ours than those before it: statuses of one message never go back."""

    message_id: str
    intent_id: str
    status: str
    error_code: str | None = None


TYPES = (SmsRequested, SmsStarted, SmsSent, SmsFailed, SmsUncertain, SmsStatusReported, SmsStatusChanged)
