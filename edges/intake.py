"""One input becomes one append: idempotent where the producer names its input, and refused in words of HTTP."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec
from aiohttp import web

from edges.app_keys import CAPS, LOG
from edges.auth import Caller
from edges.errors import POSITION, ApiError, of_store
from eventstore.append import (
    IDEMPOTENCY_TTL_MS,
    Append,
    Appended,
    Backlog,
    Control,
    Duplicate,
    Fenced,
    HeldBy,
    Idempotency,
    KeyReused,
    Outcome,
    VersionConflict,
    fingerprint,
)
from eventstore.errors import StoreError, StoreUnavailable
from eventstore.log import Log
from eventstore.schema import ConversationId, Event, OrgId, Position

MAX_KEY_LENGTH = 255
BACKLOG_RETRY_S = 5
BROKE_WITHIN_S = 0.3
"""Longer than this and Redis is not there: the answer is due within a second."""


Refused = KeyReused | HeldBy | Fenced | VersionConflict | Backlog


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """What a client sends. `raw` is what makes two inputs with one key the same: the body, or a GET's arguments.

    `route` and the credential are part of the key. `key` None is the one that the request carries, if any. `control`
    says who must hold the conversation for it.
    """

    events: Sequence[Event]
    raw: bytes
    route: str
    key: str | None = None
    ttl_ms: int = IDEMPOTENCY_TTL_MS
    expected: int | Literal["exists", "absent"] | None = None
    control: Control | None = None
    addresses: dict[ConversationId, str] = {}


class Accepted(NamedTuple):
    """On the log. `run` is the run of the first event; `replayed`: an earlier request had written it."""

    run: Position
    positions: list[Position]
    versions: list[int | None]
    replayed: bool = False

    @property
    def headers(self) -> dict[str, str]:
        return {"Idempotency-Replayed": "true"} if self.replayed else {}


async def accept(request: web.Request, caller: Caller, given: Input) -> Accepted:
    """Appends a client's input; ApiError says why not (409, 422, 503)."""
    accepted = await write(request.app, caller, given, given.key or client_key(request))
    request[POSITION] = accepted.positions[-1]
    return accepted


async def write(app: web.Application, caller: Caller, given: Input, key: str | None) -> Accepted:
    """The same for an input whose key is known."""
    append = Append(
        events=given.events,
        idempotency=None if key is None else idempotent(caller, given.route, key, given.raw, given.ttl_ms),
        expected=given.expected,
        control=given.control,
        addresses=given.addresses,
        max_pending=app[CAPS].pending,
    )
    return await record(app[LOG], caller.org, append)


def idempotent(caller: Caller, route: str, key: str, raw: bytes, ttl_ms: int = IDEMPOTENCY_TTL_MS) -> Idempotency:
    """A client's own name for an input: its credential and the route are part of it."""
    return Idempotency(fingerprint("client", caller.credential_id, route, key), fingerprint(raw), ttl_ms)


def client_key(request: web.Request) -> str | None:
    """`Idempotency-Key`, or `?idempotency_key=` for clients that cannot send headers."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        key = request.query.get("idempotency_key")
    if key is not None and not (0 < len(key) <= MAX_KEY_LENGTH and key.isprintable()):  # as what is no UTF-8 is not
        message = f"Idempotency-Key: expected 1 to {MAX_KEY_LENGTH} printable characters, got {len(key)}"
        raise ApiError(400, "BAD_IDEMPOTENCY_KEY", message)
    return key


def webhook_key(source: str, event_id: str) -> Idempotency:
    """By the provider's own id alone: its retries differ in headers and in fields (fallbacks add some), and an id that
    a verified provider has used names the same thing for ever."""
    return Idempotency(fingerprint("webhook", source, event_id), fingerprint(event_id))


async def record(log: Log, org: OrgId, append: Append) -> Accepted:
    """Appends; every outcome but success is an ApiError."""
    begun = time.monotonic()
    try:
        outcome = await log.append(org, append)
    except StoreError as error:
        outcome = await _again(log, org, append, error, begun)
    if isinstance(outcome, (Appended, Duplicate)):
        run, positions = append.events[0].run, outcome.positions
        run = run if isinstance(run, Position) else positions[0]
        return Accepted(run, positions, outcome.versions, isinstance(outcome, Duplicate))
    if isinstance(outcome, VersionConflict):
        message = f"expected_version: expected {append.expected}, the conversation is at {outcome.actual}"
        raise ApiError(409, "VERSION_CONFLICT", message, members={"version": outcome.actual})
    raise refusal(outcome)


async def _again(log: Log, org: OrgId, append: Append, failure: StoreError, begun: float) -> Outcome:
    """A keyed append whose reply was lost is sent once more, at once, on a new connection: the key makes that harmless,
    and a producer that does not retry (Twilio, on a 5xx) would lose its event to a connection that merely broke.
    """
    keyed = append.idempotency is not None
    if keyed and isinstance(failure, StoreUnavailable) and time.monotonic() - begun <= BROKE_WITHIN_S:
        try:
            return await log.append(org, append)
        except StoreError as error:
            failure = error
    if (shown := of_store(failure)).status == 503:
        raise shown from failure
    raise failure


def refusal(outcome: Refused) -> ApiError:
    """Why an append was not written, in words of HTTP."""
    match outcome:
        case KeyReused():
            message = "this Idempotency-Key was used with another body within the last 24 hours"
            return ApiError(422, "IDEMPOTENCY_KEY_REUSED", message)
        case HeldBy(agent=agent):
            message = f"the conversation is held by {agent}" if agent else "nobody holds the conversation"
            return ApiError(409, "HELD", message)
        case Fenced(why=why):
            return ApiError(409, "FENCED", f"the conversation has changed hands meanwhile ({why})")
        case VersionConflict():
            return ApiError(503, "BUSY", "the conversation is being written to; try again", {"Retry-After": "1"})
        case Backlog():
            message = "the organization has as much on its log, or unfinished, as is taken in; try again later"
            return ApiError(503, "BACKLOG", message, {"Retry-After": str(BACKLOG_RETRY_S)})
