"""The embedded CRM: when the business can be visited, and who comes when."""

from __future__ import annotations

import msgspec

from eventstore.schema import Body, Personal


class Opening(msgspec.Struct, frozen=True):
    """Open on these weekdays (0 is Monday) between two times of the calendar's own clock, `HH:MM`; `24:00` is
    midnight at the day's end."""

    weekdays: list[int]
    opens: str
    closes: str


class CalendarConfigured(Body, frozen=True, kw_only=True, tag="calendar.configured"):
    """The whole configuration of one calendar from now on. `timezone` is an IANA name; None is the location's."""

    calendar_id: str
    name: str
    timezone: str | None = None
    slot_minutes: int = 30
    hours: list[Opening] = []


class AppointmentBooked(Body, frozen=True, kw_only=True, tag="appointment.booked"):
    """Times are Unix milliseconds: an appointment is a moment, whatever clocks on walls are made to show."""

    appointment_id: str
    calendar_id: str
    contact_id: str
    starts_ms: int
    ends_ms: int
    title: Personal[str] = ""


TYPES = (CalendarConfigured, AppointmentBooked)
