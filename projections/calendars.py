"""The embedded CRM's calendars and their appointments."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import msgspec

from eventstore.events.calendars import AppointmentBooked, CalendarConfigured, Opening
from eventstore.schema import ConversationId
from projections import moments, slots
from projections.engine import ReadModel
from projections.projection import Fact, Projection
from projections.slots import Hours, Span

DEFAULT = "default"
DAY_MS = 86_400_000
LONGEST_DAYS = 3
"""Days of the index that one appointment may be found under; none is longer than an opening, which is one day's."""
BOOKED_A_DAY = 1_000
MOST = 1_000
"""Calendars that are listed."""


class Calendar(msgspec.Struct, frozen=True, omit_defaults=True, tag="calendar"):
    """`timezone` None is the location's."""

    id: str
    name: str
    timezone: str | None = None
    slot_minutes: int = 30
    hours: tuple[Opening, ...] = ()

    def in_zone(self, location: str) -> Hours:
        return Hours(self.hours, moments.zone(self.timezone or location), timedelta(minutes=self.slot_minutes))


PREDEFINED = Calendar(DEFAULT, "Appointments", hours=(Opening([0, 1, 2, 3, 4, 5, 6], "09:00", "17:00"),))
"""The calendar that every organization has until it configures its own: open every day, because nobody has said when
it is closed."""


class Appointment(msgspec.Struct, frozen=True, omit_defaults=True, tag="appointment"):
    """Times in Unix milliseconds."""

    id: str
    calendar: str
    contact: str
    starts_ms: int
    ends_ms: int
    title: str = ""

    @property
    def span(self) -> Span:
        return Span(moments.from_ms(self.starts_ms), moments.from_ms(self.ends_ms))


Document = Calendar | Appointment


def touches(event: Fact) -> tuple[str, ...]:
    match event.body:
        case CalendarConfigured(calendar_id=calendar):
            return (f"calendar:{calendar}",)
        case AppointmentBooked(appointment_id=appointment):
            return (f"appointment:{appointment}",)
    return ()


def evolve(document: Document | None, event: Fact) -> Document | None:
    match event.body, document:
        case CalendarConfigured() as now, _:
            return Calendar(now.calendar_id, now.name, now.timezone, now.slot_minutes, tuple(now.hours))
        case AppointmentBooked() as booked, None:
            return Appointment(
                booked.appointment_id,
                booked.calendar_id,
                booked.contact_id,
                booked.starts_ms,
                booked.ends_ms,
                booked.title,
            )
    return document


def terms(document: Document) -> set[str]:
    """Appointments by every day, of Universal Time, that they touch."""
    if isinstance(document, Calendar):
        return {"calendar"}
    first = document.starts_ms // DAY_MS
    last = min((document.ends_ms - 1) // DAY_MS, first + LONGEST_DAYS - 1)
    return {_day_term(document.calendar, day) for day in range(first, last + 1)}


def _day_term(calendar: str, day: int) -> str:
    return f"day:{calendar.replace(chr(0), '')}:{day}"


def stream_of(calendar_id: str | None) -> ConversationId:
    """The conversation that all events of a calendar belong to."""
    return ConversationId(f"calendar:{calendar_id or DEFAULT}")


def check(calendar: CalendarConfigured) -> None:
    """Raises ValueError, with the value, for hours or a time zone that make no sense."""
    slots.check(calendar.hours)
    if calendar.timezone is not None:
        moments.zone(calendar.timezone)
    if not 5 <= calendar.slot_minutes <= 24 * 60:
        raise ValueError(f"a slot lasts 5 minutes to a day, got {calendar.slot_minutes} minutes")


CALENDARS: Projection[Document] = Projection("calendars", 2, Document, touches, evolve, terms)


async def by_id(model: ReadModel[Document], calendar_id: str | None) -> Calendar | None:
    """The organization's own, or the predefined one in the place of a default that was never configured."""
    document = await model.get(f"calendar:{calendar_id or DEFAULT}")
    if isinstance(document, Calendar):
        return document
    return PREDEFINED if calendar_id in (None, DEFAULT) else None


async def every(model: ReadModel[Document]) -> list[Calendar]:
    """By id, the predefined default among them until it is configured."""
    own = {each.id: each for each in await model.with_term("calendar", MOST) if isinstance(each, Calendar)}
    return [calendar for _, calendar in sorted(({DEFAULT: PREDEFINED} | own).items())]


async def appointment(model: ReadModel[Document], appointment_id: str) -> Appointment | None:
    document = await model.get(f"appointment:{appointment_id}")
    return document if isinstance(document, Appointment) else None


async def booked(model: ReadModel[Document], calendar: str, within: Span) -> list[Appointment]:
    """The appointments that overlap a time, by their beginning."""
    days = range(moments.to_ms(within.starts) // DAY_MS, moments.to_ms(within.ends) // DAY_MS + 1)
    keys = [key for day in days for key in await model.keys_with(_day_term(calendar, day), BOOKED_A_DAY)]
    documents = await model.get_many(list(dict.fromkeys(keys)))
    return _overlapping(documents.values(), within)


def _overlapping(documents: Iterable[Document], within: Span) -> list[Appointment]:
    found = [each for each in documents if isinstance(each, Appointment) and each.span.overlaps(within)]
    return sorted(found, key=lambda each: each.starts_ms)
