"""Where a subscription starts: what the client asks for, and whether the log can honour it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

import msgspec
from aiohttp import web

from edges.errors import ApiError
from eventstore.append import DELTA_RETENTION_MS
from eventstore.collect import Page, Scope
from eventstore.log import Bounds, Kind, Log
from eventstore.schema import ORIGIN, OrgId, Position
from eventstore.telemetry import GAPS

_RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"([Tt ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?)?"
    r"([Zz]|[-+ ][0-9]{2}:[0-9]{2})?"
)
"""`datetime` reads more, `2025112000123` for one: a mistaken position must not become some time."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Requested(NamedTuple):
    """What a request asks for: a position it has seen (`resumes`), or one that names a moment."""

    text: str
    position: Position
    resumes: bool


class Gap(NamedTuple):
    """A position that cannot be honoured; `resume` is the watermark just below `first_available`."""

    reason: Literal["trimmed", "unknown", "ahead"]
    requested: str
    first_available: Position | None
    resume: Position

    def data(self, **extra: str) -> bytes:
        first = str(self.first_available) if self.first_available is not None else None
        body = {"type": "gap", "reason": self.reason, "requested": self.requested, "first_available": first}
        return msgspec.json.encode(body | extra)


class Start(NamedTuple):
    """Events after `position` are sent; `gap` goes first where the request could not be honoured.

    `resumed` is a request that names a place and was honoured; `seen` says that the client has been there itself,
    `is_delta` that it is no fact. `pages` may hold the first page, complete up to its cut: whoever shows it takes it
    out, for a start lasts as long as its stream.
    """

    position: Position
    gap: Gap | None = None
    resumed: bool = False
    seen: bool = False
    is_delta: bool = False
    pages: list[Page] = []  # noqa: RUF012 - only one that was handed in is written to

    @property
    def returns(self) -> bool:
        """A client that comes back to where it was: who asks for everything, or for a time, does not."""
        return self.seen and self.position > ORIGIN


def last_seen(request: web.Request) -> Requested | None:
    """From `Last-Event-ID`, else `last_event_id`: what the client was sent last. Malformed: 400."""
    for source, text in (
        ("Last-Event-ID", request.headers.get("Last-Event-ID")),
        ("last_event_id", request.query.get("last_event_id")),
    ):
        if text:
            return Requested(text, parse_position(source, text), resumes=True)
    return None


def requested(request: web.Request) -> Requested | None:
    """What the client was sent last, else `after`; None means from now on. Malformed: 400."""
    if (seen := last_seen(request)) is not None:
        return seen
    after = request.query.get("after", "").strip()
    return parse_after("after", after) if after else None


def parse_after(name: str, text: str) -> Requested | None:
    """`0`, a position, or an RFC 3339 time; None for `now`. Malformed: 400."""
    if text == "now":
        return None
    if text == "0":
        return Requested(text, ORIGIN, resumes=True)
    if "-" in text and text.replace("-", "").isdigit() and text.count("-") == 1:
        return Requested(text, parse_position(name, text), resumes=True)
    return Requested(text, _moment(name, text), resumes=False)


def parse_position(source: str, text: str) -> Position:
    """A position that the client calls `source`; `0` is the beginning. Malformed: 400."""
    if text.strip() == "0":
        return ORIGIN
    try:
        return Position.parse(text.strip())
    except ValueError as error:
        raise ApiError(400, "MALFORMED_POSITION", f"{source}: {error}") from None


def _moment(name: str, text: str) -> Position:
    """RFC 3339; a `+` that became a space in the query is forgiven."""
    try:
        if (found := _RFC3339.fullmatch(text)) is None:
            raise ValueError(text)
        moment = datetime.fromisoformat(f"{found[1]}{found[2] or ''}{(found[3] or '').replace(' ', '+')}".upper())
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return Position(max(0, (moment - _EPOCH) // timedelta(milliseconds=1)), 0).before()
    except (ValueError, OverflowError):
        raise ApiError(
            400, "MALFORMED_POSITION", f"{name}: expected 0, now, a position or an RFC 3339 time, got {text[:80]!r}"
        ) from None


def moment(name: str, text: str) -> Position:
    """The last position of a moment: itself, or all of an RFC 3339 time's millisecond. Malformed: 400."""
    if text.replace("-", "").isdigit() and text.count("-") == 1:
        return parse_position(name, text)
    begin = _moment(name, text)
    return Position(begin.ms + 2, 0).before()


async def stands_at(log: Log, org: OrgId, start: Start) -> Position | None:
    """The fact a new subscriber stands at; one that resumes after a delta has its position already."""
    if start.seen:
        return None if start.is_delta else start.position
    before = await log.read_back(org, Position(start.position.ms, start.position.seq + 1), count=1)
    return before[0].position if before else start.position


async def start(log: Log, org: OrgId, wanted: Requested | None, scope: Scope | None = None) -> Start:
    """Where to begin. Never silently somewhere else: what cannot be honoured becomes a gap.

    With a scope, what it has after that place is read in the same call.
    """
    if wanted is None:
        return Start((await log.bounds(org)).clock)
    if not wanted.resumes and wanted.position > (clock := (await log.bounds(org)).clock):
        return Start(clock)
    bounds: Bounds | None
    pages = list[Page]()
    if scope is None:
        bounds, kind = await log.look_at(org, wanted.position)
    else:
        bounds, kind, page = await log.look_ahead(scope, wanted.position)
        pages.append(page)
    reason = None if bounds is None else _refusal(bounds, kind, wanted.position, exact=wanted.resumes)
    if reason is None:
        return Start(wanted.position, None, True, wanted.resumes, kind == "delta", pages)
    GAPS.labels(reason).inc()
    gap = await gap_from_start(log, org, wanted.text, reason)
    return Start(gap.resume, gap)


async def gap_from_start(log: Log, org: OrgId, asked: str, reason: Literal["trimmed", "unknown", "ahead"]) -> Gap:
    bounds = await log.bounds(org)
    return Gap(reason, asked, bounds.first, bounds.first.before() if bounds.first else bounds.clock)


async def survives(log: Log, org: OrgId, position: Position) -> bool:
    """Whether a position that was shown is still one of this log."""
    bounds, kind = await log.look_at(org, position)
    return _refusal(bounds, kind, position, exact=True) in (None, "trimmed")


def unknown(name: str, position: Position | str) -> ApiError:
    """What is acknowledged must have been sent: a mistaken position would skip what lies before it."""
    return ApiError(422, "UNKNOWN_POSITION", f"{name}: {position} is no position of this log")


def _refusal(
    bounds: Bounds, kind: Kind | None, position: Position, *, exact: bool
) -> Literal["trimmed", "unknown", "ahead"] | None:
    if exact and position > bounds.clock:
        return "ahead"
    first, is_whole = bounds.first, bounds.first_number == 1
    if position in (bounds.clock, bounds.trimmed, first.before() if first else None):
        return None
    if first and is_whole and (position == ORIGIN or (position < first and not exact)):
        return None
    gone = bounds.trimmed or first
    if gone is None or position < gone:
        return "unknown" if is_whole else "trimmed"
    if not exact or kind is not None:
        return None
    was_delta = position.ms < bounds.clock.ms - DELTA_RETENTION_MS  # older deltas are gone: a point on the clock
    return None if was_delta else "unknown"
