"""Answers posted to where a client asked for them: intent, attempts, outcome."""

from __future__ import annotations

from eventstore.schema import Body, Hidden


class CallbackRequested(Body, frozen=True, kw_only=True, tag="callback.requested"):
    """The run is over and its answer is to be posted. Its position is the webhook's id, so that repetitions are known
    as such; `redelivers` is the id of the dead letter that is tried once more, under its own id."""

    redelivers: str | None = None
    url: Hidden[str]


class CallbackStarted(Body, frozen=True, kw_only=True, tag="callback.started"):
    callback: str
    attempt: int


class CallbackDelivered(Body, frozen=True, kw_only=True, tag="callback.delivered"):
    """The receiver answered with a 2xx `status`."""

    callback: str
    attempt: int
    status: int


class CallbackFailed(Body, frozen=True, kw_only=True, tag="callback.failed"):
    """One attempt. `status` is None without an answer; `error` quotes nothing that the receiver sent."""

    callback: str
    attempt: int
    status: int | None = None
    error: str


class CallbackDeadLettered(Body, frozen=True, kw_only=True, tag="callback.dead_lettered"):
    """Given up, until somebody asks for it to be delivered again."""

    callback: str
    attempts: int
    error: str


TYPES = (CallbackRequested, CallbackStarted, CallbackDelivered, CallbackFailed, CallbackDeadLettered)
