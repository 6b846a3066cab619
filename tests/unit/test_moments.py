"""Dates and times of clients become moments, also where a clock is changed."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from projections import moments

BERLIN, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-21", "2026-11-20T23:00"),
        ("2026-11-21T10:00:00", "2026-11-21T09:00"),
        ("2026-11-21T10:00:00Z", "2026-11-21T10:00"),
        ("2026-11-21t10:00:00z", "2026-11-21T10:00"),
        ("2026-11-21T10:00:00-08:00", "2026-11-21T18:00"),
        ("2026-11-21T10:00:00.250+05:30", "2026-11-21T04:30:00.250"),
        ("2026-11-21T10:00:00 05:30", "2026-11-21T04:30"),  # a + that was not quoted in a query
        ("1795255200000", "2026-11-21T10:00"),
        ("1795255200000.0", "2026-11-21T10:00"),
        ("2026-03-29", "2026-03-28T23:00"),
        ("2026-03-30", "2026-03-29T22:00"),
        ("2026-10-25T02:30:00", "2026-10-25T00:30"),  # the first of two half past two
    ],
)
def test_a_moment_is_read_by_the_local_clock_unless_it_says_otherwise(text: str, expected: str) -> None:
    assert moments.start(text, BERLIN) == utc(expected)


def test_a_date_reaches_to_its_end() -> None:
    assert moments.end("2026-10-25", BERLIN) == utc("2026-10-25T23:00"), "a day of 25 hours"
    assert moments.end("2026-10-25T12:00:00Z", BERLIN) == utc("2026-10-25T12:00")


def test_a_time_that_the_clock_leaves_out_is_refused() -> None:
    with pytest.raises(ValueError, match="Europe/Berlin leaves out 2026-03-29T02:30:00"):
        moments.start("2026-03-29T02:30:00", BERLIN)
    assert moments.start("2026-03-29T02:30:00", NEW_YORK) == utc("2026-03-29T06:30")


@pytest.mark.parametrize(
    "text", ["", "tomorrow", "2026-13-01", "2026-02-30", "1795255200", "9" * 15, "0001-01-01", "9999-12-31", "10:00"]
)
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a date, an RFC 3339 time or epoch milliseconds"):
        moments.parse(text)


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../etc/passwd", "/etc/passwd", "Europe", "a\0b", "EST5\n"])
def test_what_is_no_time_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a time zone"):
        moments.zone(name)


def test_a_moment_is_shown_with_the_offset_of_its_day() -> None:
    assert moments.shown(1_795_255_200_000, NEW_YORK) == "2026-11-21T05:00:00-05:00"
    assert moments.shown(1_783_951_200_000, NEW_YORK) == "2026-07-13T10:00:00-04:00"
