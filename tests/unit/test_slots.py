"""What is free is arithmetic over moments: hours of a local clock, whoever asks, and on the days the clock changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from eventstore.events.calendars import Opening
from projections import slots
from projections.slots import Hours, Span

EVERY_DAY = [0, 1, 2, 3, 4, 5, 6]
NEW_YORK = ZoneInfo("America/New_York")


def hours(*openings: Opening, zone: str = "UTC", minutes: int = 60) -> Hours:
    return Hours(openings, ZoneInfo(zone), timedelta(minutes=minutes))


def span(starts: str, ends: str) -> Span:
    first, last = (datetime.fromisoformat(text) for text in (starts, ends))
    return Span(first.astimezone(UTC), last.astimezone(UTC))


def shown(found: list[datetime], zone: ZoneInfo) -> list[str]:
    return [moment.astimezone(zone).strftime("%d %H:%M%z") for moment in found]


def test_slots_fill_the_opening_and_the_last_one_ends_before_it_closes() -> None:
    calendar = hours(Opening(EVERY_DAY, "09:00", "11:45"), minutes=45)
    found = slots.free(calendar, [], span("2026-06-01T00:00Z", "2026-06-02T00:00Z"))
    assert shown(found, ZoneInfo("UTC")) == ["01 09:00+0000", "01 09:45+0000", "01 10:30+0000"]


def test_weekdays_without_opening_have_no_slots() -> None:
    weekdays = hours(Opening([0, 1, 2, 3, 4], "09:00", "10:00"))
    found = slots.free(weekdays, [], span("2026-06-05T00:00Z", "2026-06-09T00:00Z"))
    assert [moment.day for moment in found] == [5, 8], "Friday and Monday"


def test_what_is_taken_takes_every_slot_that_it_overlaps_and_no_other() -> None:
    calendar = hours(Opening(EVERY_DAY, "09:00", "14:00"))
    taken = [span("2026-06-01T10:30Z", "2026-06-01T11:30Z"), span("2026-06-01T13:00Z", "2026-06-01T14:00Z")]
    found = slots.free(calendar, taken, span("2026-06-01T00:00Z", "2026-06-02T00:00Z"))
    assert [moment.hour for moment in found] == [9, 12]


def test_only_whole_slots_within_the_asked_time_count() -> None:
    calendar = hours(Opening(EVERY_DAY, "09:00", "13:00"))
    found = slots.free(calendar, [], span("2026-06-01T09:30Z", "2026-06-01T12:30Z"))
    assert [moment.hour for moment in found] == [10, 11]


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        # Clocks go from 02:00 to 03:00: the hour between is no slot.
        ("08", ["08 00:00-0500", "08 01:00-0500", "08 03:00-0400", "08 04:00-0400"]),
        ("09", ["09 00:00-0400", "09 01:00-0400", "09 02:00-0400", "09 03:00-0400", "09 04:00-0400"]),
    ],
)
def test_the_hour_that_spring_leaves_out_is_no_slot(day: str, expected: list[str]) -> None:
    night = hours(Opening(EVERY_DAY, "00:00", "05:00"), zone="America/New_York")
    within = span(f"2026-03-{day}T04:00Z", f"2026-03-{day}T23:00Z")
    assert shown(slots.free(night, [], within), NEW_YORK) == expected


def test_the_hour_that_autumn_repeats_is_two_slots() -> None:
    night = hours(Opening(EVERY_DAY, "00:00", "03:00"), zone="America/New_York")
    found = slots.free(night, [], span("2026-11-01T00:00:00-04:00", "2026-11-02T00:00:00-05:00"))
    assert shown(found, NEW_YORK) == ["01 00:00-0400", "01 01:00-0400", "01 01:00-0500", "01 02:00-0500"]


def test_working_hours_keep_their_time_of_day_when_the_clock_changes() -> None:
    calendar = hours(Opening(EVERY_DAY, "09:00", "10:00"), zone="America/New_York")
    found = slots.free(calendar, [], span("2026-10-31T00:00:00-04:00", "2026-11-02T00:00:00-05:00"))
    assert shown(found, NEW_YORK) == ["31 09:00-0400", "01 09:00-0500"]
    assert found[1] - found[0] == timedelta(hours=25)


def test_an_evening_is_open_until_the_days_end() -> None:
    calendar = hours(Opening(EVERY_DAY, "22:00", "24:00"), zone="America/New_York")
    found = slots.free(calendar, [], span("2026-11-01T00:00:00-04:00", "2026-11-02T00:00:00-05:00"))
    assert shown(found, NEW_YORK) == ["01 22:00-0500", "01 23:00-0500"]


def test_an_appointment_fits_only_whole() -> None:
    calendar = hours(Opening(EVERY_DAY, "09:00", "12:00"), Opening(EVERY_DAY, "13:00", "17:00"))
    assert slots.is_open(calendar, span("2026-06-01T09:10Z", "2026-06-01T12:00Z"))
    assert not slots.is_open(calendar, span("2026-06-01T11:30Z", "2026-06-01T13:30Z"))
    assert not slots.is_open(calendar, span("2026-06-01T16:30Z", "2026-06-01T17:01Z"))


@pytest.mark.parametrize(
    "opening",
    [
        Opening([7], "09:00", "10:00"),
        Opening([0], "10:00", "10:00"),
        Opening([0], "11:00", "10:00"),
        Opening([0], "09:00", "24:01"),
        Opening([0], "nine", "10:00"),
    ],
)
def test_openings_that_make_no_sense_are_refused(opening: Opening) -> None:
    with pytest.raises(ValueError, match=r"weekdays|opening|invalid literal"):
        slots.check([opening])
