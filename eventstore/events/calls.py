"""Voice calls: asked for, seen, reported on, said, over. One call has one `call_sid` whoever tells of it.

A `call_sid` is Twilio's CallSid; for calls that no telephone carries, the provider's own id.
"""

from __future__ import annotations

from typing import Literal

from eventstore.schema import Body, Personal

Direction = Literal["inbound", "outbound"]
Provider = Literal["twilio", "elevenlabs", "vapi", "outbox", "client", "nobody"]


class CallRequested(Body, frozen=True, kw_only=True, tag="call.requested"):
    """The intent to call a customer. `epoch` is the control epoch it was asked for in: it ends when a person takes
    the conversation."""

    call_id: str
    epoch: int
    lead: str | None = None
    to: Personal[str]


class CallStarted(Body, frozen=True, kw_only=True, tag="call.started"):
    """The provider is being asked to call: from here on it may ring."""

    call_id: str
    attempt: int = 1


class CallInitiated(Body, frozen=True, kw_only=True, tag="call.initiated"):
    """The call exists: written once per call, by whoever hears of it first.

    `call_id` is that of the request that it fulfils. Without any provider (`outbox`) the event itself is the call.
    """

    call_sid: str
    direction: Direction
    provider: Provider
    call_id: str | None = None
    number: str | None = None
    customer: Personal[str] = ""


class CallContextGiven(Body, frozen=True, kw_only=True, tag="call.context_given"):
    """What a voice agent was told about its caller before it spoke."""

    call_sid: str
    provider: Provider
    variables: Personal[dict[str, str]]


class CallStatusReported(Body, frozen=True, kw_only=True, tag="call.status_reported"):
    """A provider's report as it came; order is not guaranteed, so readers go by `sequence` and never backwards."""

    call_sid: str
    provider: Provider
    status: str
    sequence: int | None = None
    duration_s: int | None = None
    report: Personal[dict[str, str] | None] = None


class CallTurnRecorded(Body, frozen=True, kw_only=True, tag="call.turn_recorded"):
    """What one side said: a message of the conversation, with channel voice, that wants no answer any more."""

    call_sid: str
    message_id: str
    role: Literal["user", "assistant"]
    at_s: float | None = None
    text: Personal[str]


class CallEnded(Body, frozen=True, kw_only=True, tag="call.ended"):
    """Written once per call, by whoever reports the end first; `outcome` is completed, busy, no-answer, failed,
    canceled or outbox, and unknown where nobody reports any. `reason` is the provider's own word for it."""

    call_sid: str
    provider: Provider
    outcome: str
    duration_s: int | None = None
    reason: str | None = None
    summary: Personal[str | None] = None


class CallSummarized(Body, frozen=True, kw_only=True, tag="call.summarized"):
    """The summary of a call whose end somebody else had reported before."""

    call_sid: str
    provider: Provider
    duration_s: int | None = None
    summary: Personal[str]


class CallFailed(Body, frozen=True, kw_only=True, tag="call.failed"):
    """The request came to no call that we know of. Code UNCERTAIN: the provider was asked and its answer lost, so
    that it may have rung; it is never asked again."""

    call_id: str
    code: str
    detail: str


TYPES = (
    CallRequested,
    CallStarted,
    CallInitiated,
    CallContextGiven,
    CallStatusReported,
    CallTurnRecorded,
    CallEnded,
    CallSummarized,
    CallFailed,
)
