"""Free slots and appointments on the log: each slot is given once, and every clock shows its own time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from eventstore import codec
from eventstore.events.calendars import AppointmentBooked, CalendarConfigured, Opening
from eventstore.schema import ORIGIN, Event
from projections import calendars
from tests.support.store import ACME, Store
from tests.support.tool_context import context_of, embedded, refused
from workers import tools
from workers.crm import EmbeddedCrm, seed_demo
from workers.tool_call import Refusal
from workers.tools.call import ToolContext

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
DAY = {"startDate": "2026-03-03", "endDate": "2026-03-03"}
WEEKDAYS = [0, 1, 2, 3, 4]


@pytest.fixture
async def context(store: Store, crm: EmbeddedCrm) -> ToolContext:
    await seed_demo(store.log, ACME)
    return context_of(store, crm, now=NOW)


async def configure(store: Store, calendar: CalendarConfigured) -> None:
    calendars.check(calendar)
    await store.write(Event(calendar, "system:test", calendars.stream_of(calendar.calendar_id)))


async def slots(context: ToolContext, **raw: Any) -> dict[str, list[str]]:
    found = await tools.run("get_free_slots", raw, context)
    return {day: entry["slots"] for day, entry in found.data.items()}


async def book(context: ToolContext, start: str, **raw: Any) -> dict[str, Any]:
    outcome = await tools.run("create_appointment", {"contactId": "contact_123", "startTime": start, **raw}, context)
    data: dict[str, Any] = outcome.data
    return data


async def booked(store: Store) -> list[AppointmentBooked]:
    bodies = [codec.decode(each) for each in await store.log.read(ACME, ORIGIN, deltas=False)]
    return [body for body in bodies if isinstance(body, AppointmentBooked)]


async def test_everybody_has_a_calendar_that_is_open_by_day(context: ToolContext) -> None:
    found = await slots(context, **DAY)
    assert list(found) == ["2026-03-03"]
    assert len(found["2026-03-03"]) == 16
    assert found["2026-03-03"][0] == "2026-03-03T09:00:00+00:00"
    assert found["2026-03-03"][-1] == "2026-03-03T16:30:00+00:00"


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-03-03", "2026-03-03"),
        ("2026-03-03T00:00:00Z", "2026-03-04T00:00:00Z"),
        ("2026-03-03T00:00:00", "2026-03-03T23:59:59"),
        (1_772_496_000_000, 1_772_582_400_000),
        ("1772496000000", "1772582400000"),
    ],
)
async def test_days_are_asked_for_in_every_form(context: ToolContext, start: object, end: object) -> None:
    assert await slots(context, startDate=start, endDate=end) == await slots(context, **DAY)


async def test_what_has_passed_is_not_free(context: ToolContext) -> None:
    found = await slots(context, startDate="2026-03-01", endDate="2026-03-02")
    assert found["2026-03-01"] == []
    assert found["2026-03-02"][0] == "2026-03-02T12:00:00+00:00"


async def test_an_asker_elsewhere_sees_the_same_slots_by_their_own_clock_and_day(
    store: Store, context: ToolContext
) -> None:
    await configure(store, CalendarConfigured(
        calendar_id="default", name="Late", timezone="America/Los_Angeles", slot_minutes=60,
        hours=[Opening(WEEKDAYS, "14:00", "18:00")],
    ))  # fmt: skip
    found = await slots(context, startDate="2026-03-03", endDate="2026-03-04", timezone="Europe/Berlin")
    assert found == {
        "2026-03-03": ["2026-03-03T00:00:00+01:00", "2026-03-03T01:00:00+01:00", "2026-03-03T02:00:00+01:00",
                       "2026-03-03T23:00:00+01:00"],
        "2026-03-04": ["2026-03-04T00:00:00+01:00", "2026-03-04T01:00:00+01:00", "2026-03-04T02:00:00+01:00",
                       "2026-03-04T23:00:00+01:00"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("weekend", "before", "after"),
    [
        (("2026-03-07", "2026-03-08"), "2026-03-07T09:00:00-05:00", "2026-03-08T09:00:00-04:00"),
        (("2026-10-31", "2026-11-01"), "2026-10-31T09:00:00-04:00", "2026-11-01T09:00:00-05:00"),
    ],
)
async def test_a_change_of_clock_changes_the_offset_and_not_the_hour(
    store: Store, weekend: tuple[str, str], before: str, after: str
) -> None:
    crm = embedded(store, "America/New_York")
    found = await slots(context_of(store, crm, now=NOW), startDate=weekend[0], endDate=weekend[1])
    assert [found[day][0] for day in weekend] == [before, after]
    assert [len(found[day]) for day in weekend] == [16, 16]


async def test_an_appointment_takes_its_slot(store: Store, context: ToolContext) -> None:
    appointment = await book(context, "2026-03-03T10:00:00", title=" Check-up ", timezone="Europe/Berlin")
    assert appointment == {
        "id": context.new_id("appointment"),
        "calendarId": "default",
        "contactId": "contact_123",
        "startTime": "2026-03-03T10:00:00+01:00",
        "endTime": "2026-03-03T10:30:00+01:00",
        "title": "Check-up",
        "appointmentStatus": "confirmed",
    }
    free = (await slots(context, **DAY))["2026-03-03"]
    assert "2026-03-03T09:00:00+00:00" not in free
    assert len(free) == 15
    (event,) = await booked(store)
    assert event.ends_ms - event.starts_ms == 30 * 60_000


async def test_a_retry_finds_its_own_appointment(store: Store, context: ToolContext) -> None:
    first = await book(context, "2026-03-03T10:00:00Z")
    assert await book(context, "2026-03-03T10:00:00Z") == first
    assert len(await booked(store)) == 1


async def test_a_slot_is_taken_once(store: Store, crm: EmbeddedCrm, context: ToolContext) -> None:
    await book(context, "2026-03-03T10:00:00Z")
    other = context_of(store, crm, "call_2", now=NOW)
    raw = {"contactId": "contact_124", "startTime": "2026-03-03T10:15:00Z"}
    assert (await refused("create_appointment", raw, other))[:2] == ("SLOT_TAKEN", 409)


async def test_of_simultaneous_bookings_of_one_slot_exactly_one_wins(store: Store) -> None:
    """Each with a backend of its own, as workers on different machines have."""
    await seed_demo(store.log, ACME)

    async def attempt(number: int) -> str:
        context = context_of(store, embedded(store), f"call_{number}", now=NOW)
        try:
            return str((await book(context, "2026-03-03T10:00:00Z"))["id"])
        except Refusal as refusal:
            return refusal.code

    ended = await asyncio.gather(*(attempt(number) for number in range(12)))
    assert sorted(ended)[:11] == ["SLOT_TAKEN"] * 11
    (event,) = await booked(store)
    assert event.appointment_id in ended


async def test_simultaneous_bookings_of_different_slots_all_succeed(store: Store) -> None:
    await seed_demo(store.log, ACME)
    starts = [f"2026-03-03T{hour:02d}:{half}:00Z" for hour in range(9, 13) for half in ("00", "30")]
    await asyncio.gather(
        *(book(context_of(store, embedded(store), f"call_{start}", now=NOW), start) for start in starts)
    )
    assert len({event.starts_ms for event in await booked(store)}) == len(starts)


@pytest.mark.parametrize(
    ("raw", "code", "says"),
    [
        ({"startTime": "2026-03-03T17:00:00Z"}, "OUTSIDE_HOURS", "closed at 2026-03-03T17:00:00Z"),
        ({"startTime": "2026-03-03T16:45:00Z"}, "OUTSIDE_HOURS", "before the appointment ends"),
        ({"startTime": "2026-03-02T11:30:00Z"}, "INVALID_ARGUMENTS", "'2026-03-02T11:30:00Z' has passed"),
        ({"startTime": "2026-03-03"}, "INVALID_ARGUMENTS", "expected a time of day too, got '2026-03-03'"),
        ({"startTime": "2026-03-03T10:00:00Z", "endTime": "2026-03-03T10:00:00Z"}, "INVALID_ARGUMENTS", "is not after"),
        ({"startTime": "2026-03-29T02:30:00", "timezone": "Europe/Berlin"}, "INVALID_ARGUMENTS", "leaves out"),
        ({"startTime": "2026-03-03T10:00:00Z", "timezone": "Mars"}, "INVALID_ARGUMENTS", "not a time zone"),
        ({"startTime": "2026-03-03T10:00:00Z", "calendarId": "nails"}, "NOT_FOUND", "no calendar 'nails'"),
        ({"startTime": "2026-03-03T10:00:00Z", "contactId": "nobody"}, "NOT_FOUND", "Contact not found"),
    ],
)
async def test_what_cannot_be_booked_is_refused_and_leaves_no_event(
    store: Store, context: ToolContext, raw: dict[str, Any], code: str, says: str
) -> None:
    found, _, message = await refused("create_appointment", {"contactId": "contact_123", **raw}, context)
    assert (found, says in message) == (code, True), message
    assert await booked(store) == []


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"startDate": "2026-03-04", "endDate": "2026-03-03"}, "'2026-03-03' is not after startDate '2026-03-04'"),
        ({"startDate": "2026-03-01", "endDate": "2026-04-01"}, "at most 31 days"),
        ({"startDate": "soon", "endDate": "2026-04-01"}, "startDate: not a date"),
        ({"startDate": "2026-03-01"}, "endDate is required"),
    ],
)
async def test_what_cannot_be_asked_is_refused(context: ToolContext, raw: dict[str, Any], says: str) -> None:
    code, status, message = await refused("get_free_slots", raw, context)
    assert (code, status) == ("INVALID_ARGUMENTS", 422)
    assert says in message


async def test_a_month_with_an_hour_more_is_not_too_long(store: Store) -> None:
    context = context_of(store, embedded(store, "Europe/Berlin"), now=NOW)
    assert len(await slots(context, startDate="2026-10-01", endDate="2026-10-31")) == 31


async def test_an_organizations_own_calendars_have_hours_of_their_own(store: Store, context: ToolContext) -> None:
    for calendar in ("default", "evenings"):
        await configure(store, CalendarConfigured(
            calendar_id=calendar, name=calendar, slot_minutes=45,
            hours=[Opening([1], "18:00", "20:00")] if calendar == "evenings" else [],
        ))  # fmt: skip
    assert await slots(context, **DAY) == {"2026-03-03": []}
    evening = await slots(context, **DAY, calendarId="evenings")
    assert evening == {"2026-03-03": ["2026-03-03T18:00:00+00:00", "2026-03-03T18:45:00+00:00"]}
    await book(context, "2026-03-03T18:45:00Z", calendarId="evenings")
    assert len((await slots(context, **DAY, calendarId="evenings"))["2026-03-03"]) == 1


@pytest.mark.parametrize(
    "fields", [{"timezone": "Mars"}, {"slot_minutes": 0}, {"hours": [Opening([0], "10:00", "09:00")]}]
)
def test_a_calendar_that_makes_no_sense_is_noticed(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"time zone|slot|opening"):
        calendars.check(CalendarConfigured(calendar_id="x", name="X", **fields))
