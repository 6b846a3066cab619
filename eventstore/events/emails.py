"""An outgoing email: intent, attempt, outcome."""

from __future__ import annotations

from typing import Literal

from eventstore.schema import Body, Personal


class EmailRequested(Body, frozen=True, kw_only=True, tag="email.requested"):
    """The intent to send. The email's Message-ID is made of `intent_id`, so that two copies can be told to be one.

    `text` or `html` is set, or both: then they are alternatives.
    """

    intent_id: str
    message_id: str
    epoch: int | None = None
    to: Personal[str]
    subject: Personal[str]
    text: Personal[str | None] = None
    html: Personal[str | None] = None


class EmailStarted(Body, frozen=True, kw_only=True, tag="email.started"):
    intent_id: str
    attempt: int = 1


class EmailSent(Body, frozen=True, kw_only=True, tag="email.sent"):
    """`provider` is `smtp`, or `outbox` when no server is configured and the intent itself is the email."""

    intent_id: str
    message_id: str
    provider: Literal["smtp", "outbox"]
    provider_id: str | None = None


class EmailFailed(Body, frozen=True, kw_only=True, tag="email.failed"):
    intent_id: str
    message_id: str
    code: str
    detail: str


class EmailUncertain(Body, frozen=True, kw_only=True, tag="email.uncertain"):
    """Sending began and its outcome could not be learnt; shown to a person, never sent again blindly."""

    intent_id: str
    message_id: str
    detail: str


TYPES = (EmailRequested, EmailStarted, EmailSent, EmailFailed, EmailUncertain)
