"""Rate limits per credential: ordinary requests, and opens of streams from a bucket of their own.

Not for webhooks. Every answer of a limited request tells what is left
(`RateLimit-*`, and the IETF draft's `RateLimit`, `RateLimit-Policy`): `add_headers` on `on_response_prepare`.
"""

from __future__ import annotations

from typing import Literal

from aiohttp import web

from edges.app_keys import CAPS, LIMITS, QUOTA
from edges.auth import Caller, require
from edges.errors import ApiError, ComeBackLater
from edges.open_streams import STREAMS
from eventstore.errors import WritesRefused
from eventstore.limits import Budget

Bucket = Literal["requests", "opens"]
KEPT_FOR_RETURNS = 20
"""One slot in so many."""

BUDGET: web.RequestKey[tuple[Bucket, Budget] | None] = web.RequestKey("budget", tuple)


async def admit(request: web.Request, *scopes: str) -> Caller:
    """Who has one of these scopes, and has not asked too much; 401, 403 or 429."""
    caller = await require(request, *scopes)
    await charge(request, caller)
    return caller


async def charge(request: web.Request, caller: Caller) -> None:
    """Counts an ordinary request, or one WebSocket message; raises 429 beyond the limit."""
    if not caller.limited or not request.app[QUOTA].requests:
        request[BUDGET] = None
        return
    budget = await _spend(request, caller, "requests")
    if not budget.allowed:
        raise _too_many(request, "requests", budget)


async def charge_open(request: web.Request, caller: Caller, *, free: bool = False, subscription: bool = False) -> None:
    """Counts the opening of a stream. Free with a valid resume position: a client must be able to return.

    Beyond the limit raises 429; for a `subscription` (a GET that starts no work) read as `text/event-stream`
    ComeBackLater, which the error middleware turns into 200, `retry:` and an abort (CONTRACT 0.5).
    """
    check_room(request, caller, returns=free, subscription=subscription)
    if free or not request.app[QUOTA].opens:
        return
    budget = await _spend(request, caller, "opens")
    if not budget.allowed:
        raise _refusal(request, _too_many(request, "opens", budget), returning=subscription)


def check_room(request: web.Request, caller: Caller, *, returns: bool = False, subscription: bool = False) -> None:
    """Before a stream opens, and before the work starts that it shows: 503, or ComeBackLater, where there is no room.

    The process keeps some of its room for a client that `returns`, which has a place on the log to lose.
    """
    streams, caps = request.app[STREAMS], request.app[CAPS]
    room = caps.process if returns else caps.process - caps.process // KEPT_FOR_RETURNS
    if streams.draining:
        why = ApiError(503, "DRAINING", "this process is about to stop; another one answers", {"Retry-After": "1"})
    elif len(streams) >= room:
        why = _no_room("as many streams are open here as there is room for")
    elif streams.of(caller.org) >= caps.streams:
        why = _no_room(f"the organization has {caps.streams} streams open")
    else:
        return
    raise _refusal(request, why, returning=subscription or returns)


def _no_room(message: str) -> ApiError:
    return ApiError(503, "TOO_MANY_STREAMS", message, {"Retry-After": "15"})


def _refusal(request: web.Request, error: ApiError, *, returning: bool) -> ApiError | ComeBackLater:
    """An EventSource that may come back is told when; every other client reads the error."""
    is_event_source = request.method == "GET" and "text/event-stream" in request.headers.get("Accept", "")
    return ComeBackLater(error.code) if returning and is_event_source else error


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """A signal of the application: streams are prepared inside their handlers, where no middleware reaches."""
    if (charged := request.get(BUDGET)) is not None:
        response.headers.update(headers_of(request.app[QUOTA].window_s, *charged))


def headers_of(window_s: int, bucket: Bucket, budget: Budget) -> dict[str, str]:
    return {
        "RateLimit-Limit": str(budget.limit),
        "RateLimit-Remaining": str(budget.remaining),
        "RateLimit-Reset": str(budget.reset_s),
        "RateLimit-Policy": f'"{bucket}";q={budget.limit};w={window_s}',
        "RateLimit": f'"{bucket}";r={budget.remaining};t={budget.reset_s}',
    }


async def _spend(request: web.Request, caller: Caller, bucket: Bucket) -> Budget:
    budget = await spend(request.app, caller, bucket)
    request[BUDGET] = (bucket, budget)
    return budget


async def spend(app: web.Application, caller: Caller, bucket: Bucket) -> Budget:
    """Counts one; nothing is counted if it is not allowed."""
    quota, limits = app[QUOTA], app[LIMITS]
    limit = quota.requests if bucket == "requests" else quota.opens
    try:
        return await limits.spend(caller.org, bucket, caller.credential_id, limit, window_s=quota.window_s)
    except WritesRefused:  # reads go on, and nothing that costs more can be started now
        return Budget(True, limit, limit, quota.window_s)


def _too_many(request: web.Request, bucket: Bucket, budget: Budget) -> ApiError:
    what = "requests" if bucket == "requests" else "streams opened"
    minutes = request.app[QUOTA].window_s / 60
    message = f"more than {budget.limit} {what} in {minutes:g} minutes; try again in {budget.reset_s} s"
    return ApiError(429, "RATE_LIMITED", message, {"Retry-After": str(budget.reset_s)})
