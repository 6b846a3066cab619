"""Calendars on the organization's log: what is free, and who gets it."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from eventstore.append import Append, Appended, VersionConflict
from eventstore.errors import StoreError
from eventstore.events.calendars import AppointmentBooked
from eventstore.log import Log
from eventstore.schema import Event, OrgId
from projections import calendars, moments, slots
from projections.calendars import CALENDARS, Calendar
from projections.engine import Engine
from projections.slots import Hours, Span
from projections.tool_arguments import CreateAppointment, GetFreeSlots
from workers.crm.backend import Appointment, Origin
from workers.tool_call import Refusal

LONGEST_RANGE = timedelta(days=31)
"""Of one question for free slots; GoHighLevel's limit too."""
MAX_RACES = 64
"""Bookings of others in the same calendar that one booking gives way to before it gives up."""


class EmbeddedCalendars:
    """All bookings of a calendar are one conversation of the log, and a booking is appended only if the version is
    still the one at which it found its time free: of two for one slot exactly one wins, whoever runs them."""

    def __init__(self, log: Log, engine: Engine) -> None:
        self._log = log
        self._engine = engine

    async def free_slots(self, org: OrgId, query: GetFreeSlots, now: datetime, home: str) -> dict[str, list[str]]:
        """`home` is the location's time zone."""
        model = await self._engine.level(org, CALENDARS)
        calendar = _known(await calendars.by_id(model, query.calendar_id), query.calendar_id)
        hours = calendar.in_zone(home)
        local = moments.zone(query.timezone) if query.timezone else hours.local
        asked = span_of(query, local)
        future = Span(max(asked.starts, now), max(asked.ends, now))
        taken = [each.span for each in await calendars.booked(model, calendar.id, future)]
        found: dict[str, list[str]] = {day.isoformat(): [] for day in slots.days_of(asked, local)}
        for moment in slots.free(hours, taken, future):
            shown = moments.shown(moments.to_ms(moment), local)
            found[shown[:10]].append(shown)
        return found

    async def book(self, org: OrgId, new: CreateAppointment, origin: Origin, now: datetime, home: str) -> Appointment:
        for _ in range(MAX_RACES):
            stream = calendars.stream_of(new.calendar_id)
            version = await self._log.version(org, stream)
            model = await self._engine.level(org, CALENDARS)
            calendar = _known(await calendars.by_id(model, new.calendar_id), new.calendar_id)
            hours = calendar.in_zone(home)
            local = moments.zone(new.timezone) if new.timezone else hours.local
            if (own := await calendars.appointment(model, origin.id)) is not None:
                return _shown(own, local)
            wanted = _wanted(new, hours, local, now)
            if await calendars.booked(model, calendar.id, wanted):
                raise Refusal("SLOT_TAKEN", f"{new.start_time} is taken", 409)
            booked = _booked(origin.id, new, calendar, wanted)
            event = Event(booked, origin.actor, stream, origin.run, origin.cause)
            outcome = await self._log.append(org, Append(events=[event], expected=version))
            if not isinstance(outcome, Appended | VersionConflict):
                raise StoreError(f"booking in {calendar.id} of {org} was answered {outcome!r}")
        raise StoreError(f"booking in {new.calendar_id} of {org} lost {MAX_RACES} races at version {version}")


def span_of(query: GetFreeSlots, local: ZoneInfo) -> Span:
    """The time that was asked for. Raises Refusal for one that is empty or too long."""
    try:
        asked = Span(moments.start(query.start_date, local), moments.end(query.end_date, local))
    except ValueError as error:
        raise Refusal("INVALID_ARGUMENTS", str(error), 422) from None
    if not asked.starts < asked.ends:
        raise Refusal(
            "INVALID_ARGUMENTS", f"endDate: {query.end_date!r} is not after startDate {query.start_date!r}", 422
        )
    if asked.ends - asked.starts > LONGEST_RANGE + timedelta(hours=1):  # October has an hour more
        raise Refusal("INVALID_ARGUMENTS", f"endDate: at most {LONGEST_RANGE.days} days after startDate", 422)
    return asked


def time_of(name: str, text: str, local: ZoneInfo) -> datetime:
    """A time of day, not just a date. Raises Refusal."""
    try:
        if isinstance(moments.parse(text), datetime):
            return moments.start(text, local)
    except ValueError as error:
        raise Refusal("INVALID_ARGUMENTS", f"{name}: {error}", 422) from None
    raise Refusal("INVALID_ARGUMENTS", f"{name}: expected a time of day too, got {text!r}", 422)


def _wanted(new: CreateAppointment, hours: Hours, local: ZoneInfo, now: datetime) -> Span:
    starts = time_of("startTime", new.start_time, local)
    wanted = Span(starts, time_of("endTime", new.end_time, local) if new.end_time else starts + hours.slot)
    if not wanted.starts < wanted.ends:
        raise Refusal("INVALID_ARGUMENTS", f"endTime: {new.end_time!r} is not after startTime {new.start_time!r}", 422)
    if wanted.starts < now:
        raise Refusal("INVALID_ARGUMENTS", f"startTime: {new.start_time!r} has passed", 422)
    if not slots.is_open(hours, wanted):
        raise Refusal(
            "OUTSIDE_HOURS", f"The calendar is closed at {new.start_time}, or before the appointment ends", 409
        )
    return wanted


def _known(calendar: Calendar | None, calendar_id: str | None) -> Calendar:
    if calendar is None:
        raise Refusal("NOT_FOUND", f"There is no calendar {calendar_id!r}", 404)
    return calendar


def _booked(appointment_id: str, new: CreateAppointment, calendar: Calendar, wanted: Span) -> AppointmentBooked:
    return AppointmentBooked(
        appointment_id=appointment_id,
        calendar_id=calendar.id,
        contact_id=new.contact_id,
        starts_ms=moments.to_ms(wanted.starts),
        ends_ms=moments.to_ms(wanted.ends),
        title=new.title,
    )


def _shown(appointment: calendars.Appointment, local: ZoneInfo) -> Appointment:
    return Appointment(
        id=appointment.id,
        calendar_id=appointment.calendar,
        contact_id=appointment.contact,
        start_time=moments.shown(appointment.starts_ms, local),
        end_time=moments.shown(appointment.ends_ms, local),
        title=appointment.title,
    )
