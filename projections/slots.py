"""When a calendar is open and which of its slots are free: pure arithmetic over moments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

from eventstore.events.calendars import Opening


class Span(NamedTuple):
    """From one moment to another, both in UTC; the end is outside."""

    starts: datetime
    ends: datetime

    def overlaps(self, other: Span) -> bool:
        return self.starts < other.ends and other.starts < self.ends


class Hours(NamedTuple):
    """When a calendar is open, by whose clock, and how long one visit takes."""

    openings: Sequence[Opening]
    local: ZoneInfo
    slot: timedelta

    def spans(self, days: Iterable[date]) -> Iterator[Span]:
        """Openings as moments, so that a day on which the clock changes is an hour shorter or longer where it is."""
        for day in days:
            for opening in self.openings:
                if day.weekday() in opening.weekdays:
                    yield Span(_at(day, opening.opens, self.local), _at(day, opening.closes, self.local))


def check(openings: Sequence[Opening]) -> None:
    """Raises ValueError, with the value, for openings that make no sense."""
    for opening in openings:
        if not set(opening.weekdays) <= set(range(7)):
            raise ValueError(f"weekdays are 0 (Monday) to 6, got {opening.weekdays}")
        if not timedelta(0) <= _of_day(opening.opens) < _of_day(opening.closes) <= timedelta(days=1):
            raise ValueError(f"an opening ends after it begins, on the same day, got {opening.opens}-{opening.closes}")


def free(hours: Hours, taken: Sequence[Span], within: Span) -> list[datetime]:
    """Starts of the slots that lie whole in `within` and overlap nothing that is taken, in order."""
    found: set[datetime] = set()
    for opening in hours.spans(days_of(within, hours.local)):
        for starts, ends in pairwise(_steps(opening, hours.slot)):
            if within.starts <= starts and ends <= within.ends:
                found.add(starts)
    return [starts for starts in sorted(found) if not any(Span(starts, starts + hours.slot).overlaps(t) for t in taken)]


def is_open(hours: Hours, wanted: Span) -> bool:
    """Whether the calendar is open all that time."""
    days = days_of(wanted, hours.local)
    return any(opening.starts <= wanted.starts and wanted.ends <= opening.ends for opening in hours.spans(days))


def days_of(span: Span, local: ZoneInfo) -> list[date]:
    """Every day that a local clock shows in that time."""
    first, last = span.starts.astimezone(local).date(), (span.ends - timedelta.resolution).astimezone(local).date()
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def _steps(opening: Span, slot: timedelta) -> Iterator[datetime]:
    moment = opening.starts
    while moment <= opening.ends:
        yield moment
        moment += slot


def _at(day: date, clock: str, local: ZoneInfo) -> datetime:
    """A time of day on the local clock; one that the clock leaves out is as long after midnight as without it."""
    wall = datetime(day.year, day.month, day.day) + _of_day(clock)
    return wall.replace(tzinfo=local).astimezone(UTC)


def _of_day(clock: str) -> timedelta:
    hours, _, minutes = clock.partition(":")
    return timedelta(hours=int(hours), minutes=int(minutes))
